"""Layers that the networks are built of.

Shapes: b clips, f frames, h w grid, c channels. Activations are channels-last, ``[b, f, h, w, c]`` in memory, so that
2-D convolutions, per-token linear layers, attention over space or over time and temporal convolutions are all views
of the same memory.
"""

from vcut.kernels.choice import Packing
from vcut.layers.assembly import assembled, check_dtype, device_named, for_inference
from vcut.layers.conv import Conv, TemporalConv, UpsamplingConv
from vcut.layers.linear import GEGLU
from vcut.layers.modules import Modules
from vcut.layers.norm import FrameNorm, GroupNorm
from vcut.layers.packing import is_packed, pack, packed, packed_bytes, packing_of

__all__ = [
    "GEGLU",
    "Conv",
    "FrameNorm",
    "GroupNorm",
    "Modules",
    "Packing",
    "TemporalConv",
    "UpsamplingConv",
    "assembled",
    "check_dtype",
    "device_named",
    "for_inference",
    "is_packed",
    "pack",
    "packed",
    "packed_bytes",
    "packing_of",
]
