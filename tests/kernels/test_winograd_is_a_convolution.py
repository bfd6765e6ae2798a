"""Minimal filtering gives the convolution: exactly in rationals, to rounding in floats, for every map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vcut.kernels import winograd
from vcut.kernels.onednn import can_pack
from vcut.kernels.winograd import UPSAMPLED, WHOLE, Axes, Filtering, minimal
from vcut.layers import Conv, Packing, TemporalConv, UpsamplingConv, packed
from vcut.layers.packing import MORE, WinogradConv, WinogradTemporalConv, WinogradUpsampling

TILES = sorted(winograd.POINTS)
FILTERINGS = [*map(minimal, TILES), UPSAMPLED]
WAYS = [
    *((one, one) for one in FILTERINGS),
    *((minimal(tile), WHOLE) for tile in TILES),
    (WHOLE, minimal(2)),
    (UPSAMPLED, WHOLE),
]


def direct(x: Tensor, weight: Tensor, bias: Tensor | None, axes: Axes) -> Tensor:
    """``[n, i, j, c] -> [n, i', j', o]``, as torch has it."""
    repeated = [2 if way is UPSAMPLED else 1 for way in axes]
    maps = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=tuple(map(float, repeated)))
    padding = [way.margin for way in axes]
    return F.conv2d(maps, weight, bias, padding=padding).permute(0, 2, 3, 1)


def drawn(out_channels: int, channels: int, axes: Axes, draw: torch.Generator | None = None) -> Tensor:
    """Filters that ``axes`` serve, in float64."""
    taps = [len(way.filters[0]) for way in axes]
    return torch.randn((out_channels, channels, *taps), generator=draw, dtype=torch.float64)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("way", FILTERINGS, ids=["2", "4", "upsampled"])
def test_one_axis_is_the_sum_of_three_products(way: Filtering) -> None:
    """``A^T [(G g) * (B^T d)]`` of unit vectors: 1 where the tap meets the value, 0 elsewhere."""
    matrices = (torch.tensor(m, dtype=torch.float64) for m in (way.outputs, way.filters, way.inputs))
    got = torch.einsum("rp,pk,pd->rkd", *matrices)
    result, tap, value = torch.meshgrid(*map(torch.arange, got.shape), indexing="ij")
    met = result + tap if way is not UPSAMPLED else (result + tap + 1) // 2
    torch.testing.assert_close(got, (met == value).double(), rtol=0, atol=1e-15)


@given(
    axes=st.sampled_from(WAYS),
    shape=st.tuples(*(st.integers(1, most) for most in (3, 11, 11, 4))),
    out_channels=st.integers(1, 4),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_map(
    axes: Axes, shape: tuple[int, int, int, int], out_channels: int, biased: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    weight = drawn(out_channels, shape[-1], axes, draw)
    bias = torch.randn(out_channels, generator=draw, dtype=torch.float64) if biased else None
    got = winograd.convolve(x, [winograd.transform(weight, axes)], bias, axes)
    assert got.is_contiguous()
    torch.testing.assert_close(got, direct(x, weight, bias, axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("band_bytes", [1, 5_000, 40_000])
@pytest.mark.parametrize("axes", WAYS)
def test_bands_change_nothing(axes: Axes, band_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 13, 9, 4, dtype=torch.float64), drawn(5, 4, axes)
    monkeypatch.setattr(winograd, "BAND_BYTES", band_bytes)
    got = winograd.convolve(x, [winograd.transform(weight, axes)], None, axes)
    torch.testing.assert_close(got, direct(x, weight, None, axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("axes", "most"),
    [
        ((minimal(2), minimal(2)), 1e-6),
        ((minimal(4), minimal(4)), 4e-6),
        ((minimal(4), WHOLE), 2e-6),
        ((UPSAMPLED, UPSAMPLED), 2e-6),
    ],
)
def test_float32_loses_about_as_many_digits_as_a_plain_sum(axes: Axes, most: float) -> None:
    x, weight = torch.randn(2, 16, 16, 256), drawn(64, 256, axes).float()
    exact = direct(x.double(), weight.double(), None, axes)
    got = winograd.convolve(x, [winograd.transform(weight, axes)], None, axes)
    assert relative(direct(x, weight, None, axes), exact) < 1e-6
    assert relative(got, exact) < most


@pytest.mark.parametrize(
    ("kind", "form"),
    [(Conv, WinogradConv), (TemporalConv, WinogradTemporalConv), (UpsamplingConv, WinogradUpsampling)],
)
@pytest.mark.parametrize(
    ("channels", "filtered"), [((128, 256), True), ((128, 704), True), ((64, 256), False)]
)
@torch.no_grad()
def test_packing_takes_it_where_channels_are_many(
    kind: Any,
    form: type[WinogradConv],
    channels: tuple[int, int],
    filtered: bool,
) -> None:
    plain = Conv(*channels, 3, padding=1) if kind is Conv else kind(*channels)
    if not can_pack(plain.requires_grad_(False).weight):
        pytest.skip("this CPU does not pack float32")
    layer = packed(plain, packing=Packing(filters="blocks"))
    filtered = filtered and (
        kind is not TemporalConv or min(channels) >= MORE
    )  # the plain sum has its blocks
    assert isinstance(layer, form) == filtered
    if kind is Conv and filtered:
        products = sum(len(weight) if weight.ndim == 3 else 1 for weight in layer.weights)
        assert products == (36 if channels[1] <= 640 else 16)
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
    for tile in TILES:
        axes = minimal(tile), minimal(tile)
        exact = direct(x.double(), weight.double(), None, axes)
        got = winograd.convolve(x, [winograd.transform(weight, axes)], None, axes)
        assert relative(got, exact) > 2 * relative(direct(x, weight, None, axes), exact)
