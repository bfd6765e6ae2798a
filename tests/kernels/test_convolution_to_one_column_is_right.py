"""A strided convolution whose result is one column wide, where oneDNN's bfloat16 kernel for AMX fails."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from vcut.layers.conv import Conv
from vcut.layers.packing import pack

LIMIT = {torch.float32: 1e-5, torch.bfloat16: 0.01}
"""Relative to the largest number: sums of 288 products in float32, and results rounded to the dtype."""

every_width = pytest.mark.parametrize("width", [1, 2])
every_dtype = pytest.mark.parametrize("dtype", LIMIT, ids=str)


def case(width: int, dtype: torch.dtype, height: int = 16) -> tuple[Conv, Tensor]:
    torch.manual_seed(0)
    return Conv(32, 32, 3, stride=2, padding=1).to(dtype), torch.randn(16, 3, height, width, 32).to(dtype)


def reference(conv: Conv, x: Tensor) -> Tensor:
    """The same in float64, by torch."""
    exact = torch.nn.Conv2d(32, 32, 3, stride=2, padding=1).double()
    exact.load_state_dict(conv.state_dict())
    return exact(x.double().flatten(0, 1).movedim(-1, 1)).movedim(1, -1).unflatten(0, (16, 3))


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual.double() - expected).abs().max() / expected.abs().max())


@every_width
@every_dtype
@pytest.mark.parametrize("height", [2, 4, 16])
@torch.no_grad()
def test_with_the_weight_as_trained_and_packed(width: int, dtype: torch.dtype, height: int) -> None:
    conv, x = case(width, dtype, height)
    conv.requires_grad_(False)
    network = torch.nn.Sequential(copy.deepcopy(conv))
    pack(network)  # where this CPU has a packed form of it
    for layer in (conv, network[0]):
        out = layer(x)
        assert out.shape == (16, 3, height // 2, 1, 32)
        assert out.is_contiguous()
        assert error(out, reference(conv, x)) < LIMIT[dtype]


@every_width
@every_dtype
def test_the_gradient(width: int, dtype: torch.dtype) -> None:
    conv, x = case(width, dtype)
    x.requires_grad_()
    conv(x).square().sum().backward()
    exact = x.detach().double().requires_grad_()
    reference(conv, exact).square().sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    assert error(x.grad, exact.grad) < 2 * LIMIT[dtype]
