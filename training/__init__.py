"""Training of the small model: a synthetic world, the three networks, export and evaluation.

The wheel does not contain it. Run it from the repository: ``python -m training.vae``, ``training.clip``,
``training.unet``, ``training.export``, ``training.evaluate``.
"""
