"""Compiling a UNet block by block."""

from __future__ import annotations

from torch import nn

from vcut.unet.resnet import SpatioTemporalResnet
from vcut.unet.transformer import Block


def compile_blocks(unet: nn.Module, backend: str = "inductor") -> None:
    """Let each resnet and each transformer block of ``unet`` be compiled when it is called.

    Blocks of one shape share their code, so there is less to trace than in the whole.
    """
    for module in unet.modules():
        if isinstance(module, SpatioTemporalResnet | Block):
            module.compile(backend=backend, dynamic=False)
