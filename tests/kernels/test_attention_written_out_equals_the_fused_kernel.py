"""Attention over few tokens, written out in parts, is what torch's fused kernel computes, and as exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vcut.kernels import parts
from vcut.kernels.attention import LONGEST_WRITTEN_OUT, SHORT, attention


def inputs(shape: tuple[int, ...], dtype: torch.dtype, *, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    """q, k and v ``[b, heads, n, e]`` as views of ``[b, n, heads, e]``, as a projection leaves them."""
    draw = torch.Generator().manual_seed(seed)
    b, heads, n, e = shape
    values = torch.randn(3, b, n, heads, e, generator=draw, dtype=torch.float64) * scale
    return [each.to(dtype).transpose(1, 2) for each in values]


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.sampled_from([4, 8])),
    part_bytes=st.sampled_from([1, 5_000, 60_000, parts.PART_BYTES["cpu"]]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**31),
)
def test_in_any_parts(shape: tuple[int, ...], part_bytes: int, scale: float, seed: int) -> None:
    q, k, v = inputs(shape, torch.float64, scale=scale, seed=seed)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(parts, "PART_BYTES", {"cpu": part_bytes})
        got = attention(q, k, v)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [4, SHORT - 1, SHORT, 25, 60, LONGEST_WRITTEN_OUT])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_it_is_as_exact_as_the_fused_kernel(dtype: torch.dtype, tokens: int, scale: float) -> None:
    q, k, v = inputs((2, 10, tokens, 64), dtype, scale=scale)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert attention(q, k, v).dtype == dtype
    assert error(attention(q, k, v), exact) < 1.2 * error(F.scaled_dot_product_attention(q, k, v), exact)


@pytest.mark.parametrize("tokens", [SHORT - 2, SHORT])
def test_gradients_are_the_same(tokens: int) -> None:
    q, k, v = (each.requires_grad_() for each in inputs((2, 3, tokens, 8), torch.float64))
    upstream = torch.randn(2, 3, tokens, 8, dtype=torch.float64)
    found = torch.autograd.grad(attention(q, k, v), (q, k, v), upstream)
    expected = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), upstream)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
