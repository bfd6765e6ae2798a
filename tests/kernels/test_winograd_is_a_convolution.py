"""Minimal filtering gives the 3x3 convolution: exactly in rationals, to rounding in floats, for every map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vcut.kernels import winograd
from vcut.kernels.onednn import can_pack
from vcut.layers import Conv, packed
from vcut.layers.packing import WinogradConv

TILES = sorted(winograd.POINTS)


def direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[n, i, j, c] -> [n, i, j, o]``, as torch has it."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("tile", TILES)
def test_one_axis_is_the_sum_of_three_products(tile: int) -> None:
    """``A^T [(G g) * (B^T d)]`` of unit vectors: 1 where the tap meets the value, 0 elsewhere."""
    outputs, filters, inputs = winograd.matrices(tile)
    got = torch.einsum("rp,pk,pd->rkd", outputs, filters, inputs)
    result, tap, value = torch.meshgrid(*map(torch.arange, got.shape), indexing="ij")
    torch.testing.assert_close(got, (result + tap == value).double(), rtol=0, atol=1e-15)


@given(
    tile=st.sampled_from(TILES),
    shape=st.tuples(*(st.integers(1, most) for most in (3, 11, 11, 4))),
    out_channels=st.integers(1, 4),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_map(
    tile: int, shape: tuple[int, int, int, int], out_channels: int, biased: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    weight = torch.randn((out_channels, shape[-1], 3, 3), generator=draw, dtype=torch.float64)
    bias = torch.randn(out_channels, generator=draw, dtype=torch.float64) if biased else None
    got = winograd.convolve(x, list(winograd.transform(weight, tile)), bias)
    assert got.is_contiguous()
    torch.testing.assert_close(got, direct(x, weight, bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("band_bytes", [1, 5_000, 40_000])
@pytest.mark.parametrize("tile", TILES)
def test_bands_change_nothing(tile: int, band_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 13, 9, 4, dtype=torch.float64), torch.randn(5, 4, 3, 3, dtype=torch.float64)
    monkeypatch.setattr(winograd, "BAND_BYTES", band_bytes)
    got = winograd.convolve(x, list(winograd.transform(weight, tile)), None)
    torch.testing.assert_close(got, direct(x, weight, None), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("tile", "most"), [(2, 1e-6), (4, 4e-6)])
def test_float32_loses_about_as_many_digits_as_a_plain_sum(tile: int, most: float) -> None:
    x, weight = torch.randn(2, 16, 16, 256), torch.randn(64, 256, 3, 3)
    exact = direct(x.double(), weight.double(), None)
    got = winograd.convolve(x, list(winograd.transform(weight, tile)), None)
    assert relative(direct(x, weight, None), exact) < 1e-6
    assert relative(got, exact) < most


@pytest.mark.parametrize(("channels", "tile"), [((128, 160), 4), ((128, 656), 2), ((64, 160), None)])
@torch.no_grad()
def test_packing_takes_it_where_channels_are_many(channels: tuple[int, int], tile: int | None) -> None:
    plain = Conv(*channels, 3, padding=1).requires_grad_(False)
    if not can_pack(plain.weight):
        pytest.skip("this CPU does not pack float32")
    layer = packed(plain)
    assert isinstance(layer, WinogradConv) == (tile is not None)
    if tile is not None:
        assert len(layer.weights) == (tile + 2) ** 2
    x = torch.randn(1, 2, 6, 10, channels[0])
    got = layer(x)
    assert got.is_contiguous()
    assert relative(got, plain(x)) < 5e-6


@torch.no_grad()
def test_half_precision_stays_with_the_plain_sum() -> None:
    """Its transformed values would be rounded, which triples the error."""
    conv = Conv(128, 128, 3, padding=1).bfloat16().requires_grad_(False)
    if can_pack(conv.weight):
        assert not isinstance(packed(conv), WinogradConv)
    x, weight = torch.randn(1, 12, 12, 128), torch.randn(128, 128, 3, 3)
    x, weight = (t.bfloat16() for t in (x, weight))
    exact = direct(x.double(), weight.double(), None)
    for tile in TILES:
        got = winograd.convolve(x, list(winograd.transform(weight, tile)), None)
        assert relative(got, exact) > 2 * relative(direct(x, weight, None), exact)
