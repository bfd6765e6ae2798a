"""Measurements of vcut beside diffusers: ``python -m benchmarks``, or one subject, ``python -m benchmarks.unet``.

Nothing here is installed with vcut. ``pip install -e ".[bench]"`` has what these scripts need.
"""
