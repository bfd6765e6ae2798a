"""How the small model is trained: a synthetic world, the three networks, export and evaluation.

Not installed with the wheel. Run from the repository: ``python -m training.vae``, ``training.clip``,
``training.unet``, ``training.export``, ``training.evaluate``.
"""
