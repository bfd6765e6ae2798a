"""As published means as published: the same MACs as torch's counter finds in diffusers' UNet, to the last one."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vcut.analysis.counting import Count, unet_counts
from vcut.config import SVDConfig


@pytest.mark.parity
@pytest.mark.parametrize(("frames", "height", "width"), [(25, 72, 128), (3, 16, 8)])
@torch.no_grad()
def test_one_call_of_the_published_unet(frames: int, height: int, width: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNetSpatioTemporalConditionModel(
            num_frames=frames, num_attention_heads=(5, 10, 20, 20)
        )
        unet = unet.to("meta")
        x, embedding, ids = (
            torch.zeros(2, frames, 8, height, width),
            torch.zeros(2, 1, 1024),
            torch.zeros(2, 3),
        )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(x, torch.zeros((), device="meta"), embedding, ids, return_dict=False)
    by_op = counter.get_flop_counts()["Global"]
    products = sum(flops for op, flops in by_op.items() if op in (torch.ops.aten.bmm, torch.ops.aten.baddbmm))
    published = Count((sum(by_op.values()) - products) // 2, products // 2)
    assert unet_counts(SVDConfig().unet, frames, height, width).call(2, published=True) == published
