"""Measurements of vcut beside diffusers: ``python -m benchmarks``, or one by one, ``python -m benchmarks.unet_call``.

Nothing here is installed with vcut. ``pip install -e ".[bench]"`` has what these scripts need.
"""
