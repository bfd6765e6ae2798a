"""Four 2x2 convolutions of a map, interleaved, are the 3x3 convolution of the map with its pixels repeated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vcut.kernels import upsampling
from vcut.kernels.onednn import can_pack
from vcut.layers import Packing, UpsamplingConv, packed
from vcut.layers.packing import FourConvolutions


def direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[n, i, j, c] -> [n, 2i, 2j, o]``, as written down."""
    repeated = x.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return F.conv2d(repeated.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d`` of ``[n, i, j, c]``."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_the_taps_are_shared_out() -> None:
    """Every one of the four has all nine taps in it, those that meet the same pixel together."""
    taps = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    quarters = [quarter[0, 0].tolist() for quarter in upsampling.transform(taps)]
    assert quarters == [
        [[1, 2 + 3], [4 + 7, 5 + 6 + 8 + 9]],
        [[1 + 2, 3], [4 + 5 + 7 + 8, 6 + 9]],
        [[1 + 4, 2 + 3 + 5 + 6], [7, 8 + 9]],
        [[1 + 2 + 4 + 5, 3 + 6], [7 + 8, 9]],
    ]


@given(
    shape=st.tuples(*(st.integers(1, most) for most in (3, 6, 6, 4))),
    out_channels=st.integers(1, 4),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_map(shape: tuple[int, int, int, int], out_channels: int, biased: bool, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    weight = torch.randn((out_channels, shape[-1], 3, 3), generator=draw, dtype=torch.float64)
    bias = torch.randn(out_channels, generator=draw, dtype=torch.float64) if biased else None
    got = upsampling.convolve(x, upsampling.transform(weight), bias, convolution)
    assert got.is_contiguous()
    torch.testing.assert_close(got, direct(x, weight, bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "times"), [(torch.float32, 2), (torch.bfloat16, 1.5), (torch.float16, 1.5)]
)
def test_it_loses_about_as_many_digits_as_the_plain_sum(dtype: torch.dtype, times: float) -> None:
    x, weight = torch.randn(1, 8, 8, 128).to(dtype), torch.randn(64, 128, 3, 3).to(dtype)
    exact = direct(x.double(), weight.double(), None)
    got = upsampling.convolve(x, upsampling.transform(weight), None, convolution)
    assert got.dtype == dtype
    assert relative(got, exact) < times * relative(direct(x, weight, None), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "packing", [Packing(filters="blocks"), Packing(filters="plain", upsampling="four")], ids=str
)
@torch.no_grad()
def test_packing_takes_it(dtype: torch.dtype, packing: Packing) -> None:
    plain = UpsamplingConv(24, 32).to(dtype).requires_grad_(False)
    if not can_pack(plain.weight):
        pytest.skip(f"this CPU does not pack {dtype}")
    layer = packed(plain, packing=packing)
    assert isinstance(layer, FourConvolutions)
    x = torch.randn(1, 2, 6, 10, 24, dtype=dtype)
    got = layer(x)
    assert got.is_contiguous()
    assert relative(got, plain(x)) < (1e-6 if dtype == torch.float32 else 0.005)
