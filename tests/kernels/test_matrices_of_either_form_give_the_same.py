"""Products with matrices in oneDNN's blocks and as they are: the same, for few rows and for many."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.kernels import matrices, onednn
from vcut.kernels.choice import Form, Packing
from vcut.layers import Conv, TemporalConv, UpsamplingConv, packed
from vcut.layers.linear import GEGLU
from vcut.layers.packing import StridedConv

pytestmark = pytest.mark.skipif(not onednn.packs(torch.float32), reason="this CPU does not pack float32")


@pytest.fixture(params=["blocks", "plain"])
def packing(request: pytest.FixtureRequest) -> Packing:
    """Either form, whatever this CPU prefers."""
    return Packing(matrices=request.param)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def off(a: Tensor, b: Tensor) -> float:
    """Largest difference over largest value."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


@pytest.mark.parametrize(
    "rows", [(1,), (2, 3), (matrices.FEW - 1,), (matrices.FEW,), (matrices.FEW_GATED, 2)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_linear(rows: tuple[int, ...], biased: bool, packing: Packing) -> None:
    x, weight, bias = torch.randn(*rows, 48), torch.randn(80, 48), torch.randn(80) if biased else None
    form = matrices.arranged(weight, packing)
    assert form.is_mkldnn == (packing.matrices == "blocks")
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert off(matrices.linear(x, form, bias), exact) < 1e-6


@pytest.mark.parametrize("rows", [1, matrices.FEW_GATED - 1, matrices.FEW_GATED, 500])
def test_geglu(rows: int, packing: Packing) -> None:
    layer = GEGLU(48, 96).requires_grad_(False)
    x = torch.randn(2, rows, 48)
    form = packed(layer, packing=packing)
    assert form.weight.is_mkldnn == (packing.matrices == "blocks")
    assert off(form(x), layer.double()(x.double())) < 1e-6


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [1], [0, 1, 3, 4], [0, 2, 4]], ids=str)
def test_products_by_number(numbers: list[int], packing: Packing) -> None:
    values, weights = torch.randn(len(numbers), 7, 12), torch.randn(5, 9, 12)
    out = torch.full((len(numbers), 7, 9), torch.nan)
    matrices.products(values, matrices.all_arranged(weights, packing), numbers, out)
    assert off(out, torch.einsum("pni,poi->pno", values.double(), weights[numbers].double())) < 1e-6


@pytest.mark.parametrize("filters", ["blocks", "plain"])
@pytest.mark.parametrize("size", [(2, 2), (5, 8)])
@pytest.mark.parametrize(
    "layer",
    [
        Conv(640, 640, 3, stride=2, padding=1),
        Conv(128, 128, 3, padding=1),
        Conv(64, 96, 1),
        TemporalConv(128, 128),
        UpsamplingConv(128, 128),
    ],
    ids=str,
)
def test_convolutions(layer: nn.Conv2d, size: tuple[int, int], filters: Form, packing: Packing) -> None:
    """Every form that a CPU may choose, of its filters and of its matrices, is the convolution."""
    layer = layer.float().requires_grad_(False)
    x = torch.randn(1, 3, *size, layer.in_channels)
    form = packed(layer, packing=dataclasses.replace(packing, filters=filters))
    assert isinstance(form, StridedConv) == (layer.stride == (2, 2) and filters == "plain")
    assert off(form(x), layer(x)) < 1e-5
