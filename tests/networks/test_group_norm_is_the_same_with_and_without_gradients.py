"""A group norm takes other ways with and without recorded gradients, and for small items; all give the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vcut.kernels import norm as kernels
from vcut.kernels.norm import normalised
from vcut.layers import FrameNorm, GroupNorm

LARGE_MEAN = 50.0


def norm(kind: type[GroupNorm], dtype: torch.dtype) -> GroupNorm:
    torch.manual_seed(0)
    made = kind(4, 12, 1e-5).to(dtype)
    torch.nn.init.normal_(made.weight)
    torch.nn.init.normal_(made.bias)
    return made


def activations(dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (LARGE_MEAN + torch.randn(2, 3, 4, 6, 12, generator=g)).to(dtype)


@pytest.mark.parametrize("kind", [GroupNorm, FrameNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_changes_neither_values_nor_layout(kind: type[GroupNorm], dtype: torch.dtype) -> None:
    made, x = norm(kind, dtype), activations(dtype)
    recorded = made(x)
    with torch.no_grad():
        plain = made(x)
    assert recorded.requires_grad
    assert recorded.dtype == plain.dtype == dtype
    assert recorded.stride() == plain.stride() == x.stride()
    # bfloat16 is rounded once, so a value may come out as its neighbour
    torch.testing.assert_close(
        recorded.detach(), plain, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4
    )


def test_gradients_are_those_of_the_formula() -> None:
    made = norm(GroupNorm, torch.float64)
    found, wanted = (activations(torch.float64).requires_grad_() for _ in range(2))
    towards = torch.randn(found.shape, dtype=torch.float64)
    (made(found) * towards).sum().backward()
    tokens = normalised(wanted.flatten(1, -2), made._merged, made.weight, made.bias, made.eps)
    (tokens.view(wanted.shape) * towards).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("kind", [GroupNorm, FrameNorm])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("small", [0, kernels.SMALL])
def test_small_items_and_large_ones_are_normalised_alike(
    kind: type[GroupNorm], dtype: torch.dtype, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "SMALL", small)
    made, x = norm(kind, dtype), activations(dtype)
    items = x.double().flatten(0, 1) if kind is FrameNorm else x.double()
    wanted = torch.nn.functional.group_norm(
        items.flatten(1, -2).mT, made.num_groups, made.weight.double(), made.bias.double(), made.eps
    ).mT.reshape(x.shape)
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-3}[dtype]
    found = made(x)
    assert (found.dtype, found.stride()) == (dtype, x.stride())
    assert (found.double() - wanted).abs().max() <= limit * wanted.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    ("tokens", "channels"), [(1, 1280), (60, 1280), (256, 64), (1024, 64), (4096, 32), (4097, 32)]
)
def test_no_item_depends_on_the_number_of_others(tokens: int, channels: int) -> None:
    made = GroupNorm(32, channels)
    x = torch.randn(14, tokens, channels)
    together = made(x)
    for number in (1, 2, 9):
        assert torch.equal(made(x[:number]), together[:number])
