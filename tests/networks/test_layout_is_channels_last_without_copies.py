"""Convolutions see the activations' own memory: torch is handed channels_last views, whatever the batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vcut.layers import Conv, FrameNorm, GroupNorm, TemporalConv, UpsamplingConv


class Seen(TorchDispatchMode):
    """Records the operators that run, and whether convolution inputs are channels_last."""

    def __init__(self) -> None:
        self.operators: list[str] = []
        self.channels_last: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.append(func.overloadpacket.__name__)
        if "convolution" in self.operators[-1]:
            self.channels_last.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("f", [1, 5])
def test_convolutions_copy_nothing(b: int, f: int) -> None:
    x = torch.randn(b, f, 6, 8, 16)
    for layer in (Conv(16, 24, 3, padding=1), Conv(16, 16, 3, stride=2, padding=1), TemporalConv(16, 24)):
        with torch.no_grad(), Seen() as seen:
            y = layer(x)
        assert seen.channels_last == [True]
        assert not {"clone", "copy_", "contiguous", "_to_copy"} & set(seen.operators), seen.operators
        assert y.is_contiguous()


@pytest.mark.parametrize("b", [1, 2])
@torch.no_grad()
def test_upsampling_copies_nothing(b: int) -> None:
    """As trained, in one part."""
    layer, x = UpsamplingConv(8, 12), torch.randn(b, 3, 2, 4, 8)
    with Seen() as seen:
        y = layer(x)
    assert seen.channels_last == [True]
    assert not {"clone", "copy_", "contiguous", "_to_copy"} & set(seen.operators), seen.operators
    assert y.is_contiguous()


@torch.no_grad()
def test_upsampling_repeats_every_pixel_of_every_frame() -> None:
    layer, x = UpsamplingConv(8, 12), torch.randn(2, 3, 2, 4, 8)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(0, 1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(repeated, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected.permute(0, 2, 3, 1).unflatten(0, (2, 3)))


@torch.no_grad()
def test_temporal_convolution_is_the_three_dimensional_one() -> None:
    layer = TemporalConv(8, 12).double()
    x = torch.randn(2, 5, 3, 4, 8, dtype=torch.float64)
    expected = torch.nn.functional.conv3d(
        x.permute(0, 4, 1, 2, 3), layer.weight[..., None], layer.bias, padding=(1, 0, 0)
    )
    torch.testing.assert_close(layer(x), expected.permute(0, 2, 3, 4, 1), rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_group_norm_is_torchs(dtype: torch.dtype) -> None:
    """In half precision it is computed in float32 and rounded once, as the official GroupNorm32."""
    norm = GroupNorm(4, 16, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (torch.randn(2, 3, 5, 7, 16, dtype=torch.float64) * 3 + 100).to(dtype)  # far from 0: no cancellation
    exact = torch.float64 if dtype is torch.float64 else torch.float32
    expected = torch.nn.functional.group_norm(
        x.to(exact).permute(0, 4, 1, 2, 3), 4, norm.weight.to(exact), norm.bias.to(exact), norm.eps
    ).permute(0, 2, 3, 4, 1)
    got = norm.to(dtype)(x) if dtype is torch.float64 else norm(x)
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(got.to(exact), expected, rtol=tolerance, atol=tolerance)
    assert got.dtype == dtype


@torch.no_grad()
def test_frame_norm_sees_one_frame_and_group_norm_one_clip() -> None:
    x = torch.randn(2, 3, 4, 5, 8)
    frame, clip = FrameNorm(4, 8), GroupNorm(4, 8)
    other = x.clone()
    other[:, 1] += 5 * torch.randn(2, 4, 5, 8)
    assert torch.equal(frame(x)[:, 0], frame(other)[:, 0])
    assert not torch.equal(clip(x)[:, 0], clip(other)[:, 0])
    other = x.clone()
    other[1] += 5 * torch.randn(3, 4, 5, 8)
    assert torch.equal(clip(x)[0], clip(other)[0])
