"""Claim 2. Attention to one key returns the value vector itself, in every backend that torch has here.

1 * v is exact, and so is its sum with nothing. The sign of a zero may be lost (0 + -0 = 0), which no comparison and
no sum can see. The bfloat16 instructions of some CPUs (AVX512-BF16, AMX) read subnormal numbers, those below 2^-126,
as zero: then the fused kernel returns zero for them, and the value for all others. Queries and keys do not matter:
the weights of infinite logits are the only way out.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_models import BACKENDS
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vcut.unet.attention import CrossAttention

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def attend(backend: SDPBackend | None, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


KERNELS: list[SDPBackend | None] = [None, *BACKENDS]  # None: whichever torch picks
every_backend = pytest.mark.parametrize("backend", KERNELS, ids=["default", *(b.name for b in BACKENDS)])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def test_there_is_more_than_one_backend_to_try() -> None:
    assert SDPBackend.MATH in BACKENDS


@every_backend
@every_dtype
@settings(deadline=None, max_examples=40)
@given(
    heads=st.integers(1, 4),
    queries=st.integers(1, 70),
    size=st.sampled_from([1, 8, 16, 40, 64]),
    magnitude=st.floats(-4, 4),
    masked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_output_is_the_value_bit_for_bit(
    backend: SDPBackend | None,
    dtype: torch.dtype,
    heads: int,
    queries: int,
    size: int,
    magnitude: float,
    masked: bool,
    seed: int,
) -> None:
    g = torch.Generator().manual_seed(seed)
    q = (torch.randn(2, heads, queries, size, generator=g) * 10**magnitude).clamp(-6e4, 6e4).to(dtype)
    k = (torch.randn(2, heads, 1, size, generator=g) * 10**magnitude).clamp(-6e4, 6e4).to(dtype)
    v = torch.randn(2, heads, 1, size, generator=g).to(dtype)
    info = torch.finfo(dtype)
    v[0, 0, 0, 0] = info.max
    v[1, 0, 0, 0] = info.smallest_normal / 4  # subnormal
    mask = torch.randn(queries, 1, generator=g).to(dtype) if masked else None
    out = attend(backend, q, k, v, mask)
    same = out == v
    if dtype == torch.bfloat16 and backend != SDPBackend.MATH:
        same |= (out == 0) & (v.abs() < info.smallest_normal)
    assert same.all()
    assert torch.equal(out, out[:, :, :1].expand_as(out))  # whatever the query


@every_backend
@every_dtype
def test_a_zero_may_lose_its_sign_and_nothing_else(backend: SDPBackend | None, dtype: torch.dtype) -> None:
    v = torch.tensor([-0.0, 0.0, -1.0, 1.0], dtype=dtype).repeat(2).view(1, 1, 1, 8)
    out = attend(backend, torch.ones(1, 1, 5, 8, dtype=dtype), torch.ones(1, 1, 1, 8, dtype=dtype), v)
    assert torch.equal(out, v.expand_as(out))
    nonzero = v.expand_as(out) != 0
    assert torch.equal(out.signbit()[nonzero], v.expand_as(out).signbit()[nonzero])


@every_backend
@every_dtype
def test_a_key_that_is_masked_out_gives_zero(backend: SDPBackend | None, dtype: torch.dtype) -> None:
    """Torch's own convention for a row without keys; an SVD context is never masked."""
    v = torch.full((1, 1, 1, 8), 3.0, dtype=dtype)
    q = torch.ones(1, 1, 2, 8, dtype=dtype)
    mask = torch.tensor([[True], [False]])
    out = attend(backend, q, torch.ones_like(v), v, mask)
    assert torch.equal(out, torch.tensor([3.0, 0.0], dtype=dtype).view(1, 1, 2, 1).expand_as(out))


@every_backend
@every_dtype
def test_an_infinite_logit_is_the_way_out(backend: SDPBackend | None, dtype: torch.dtype) -> None:
    """Of +infinity nothing is promised but NaN; a NaN query gives NaN or, in fused kernels, 0: never the value."""
    k = v = torch.full((1, 1, 1, 8), 3.0, dtype=dtype)
    for bad in (math.inf, math.nan):
        out = attend(backend, torch.full((1, 1, 2, 8), bad, dtype=dtype), k, v)
        assert (out.isnan() | (out == 0)).all()
    assert attend(backend, torch.full((1, 1, 2, 8), math.inf, dtype=dtype), k, v).isnan().all()


@every_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_logit_may_overflow_from_finite_numbers(backend: SDPBackend | None, dtype: torch.dtype) -> None:
    """So 'finite logits' is a condition on the products, not on q and k alone."""
    big = torch.full((1, 1, 1, 8), torch.finfo(dtype).max, dtype=dtype)
    assert attend(backend, big, big, torch.ones_like(big)).isnan().all()


@every_backend
def test_in_float16_the_logits_cannot_overflow(backend: SDPBackend | None) -> None:
    """They are float32 inside every kernel, and 65504^2 * 64 is far below its largest."""
    big = torch.full((1, 1, 1, 64), torch.finfo(torch.float16).max, dtype=torch.float16)
    v = torch.arange(64, dtype=torch.float16).view(1, 1, 1, 64)
    assert torch.equal(attend(backend, big, big, v), v)


@every_backend
@every_dtype
def test_a_layer_gives_the_same_whatever_its_queries(backend: SDPBackend | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, 4, 12).to(dtype)
    cached = layer.cache(torch.randn(2, 1, 1, 12).to(dtype))
    with torch.no_grad(), contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
        first, second = (layer(torch.randn(2, 3, 10, 32).to(dtype), cached) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])  # but each clip has its own


@every_backend
@every_dtype
def test_with_two_keys_the_queries_matter(backend: SDPBackend | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, 4, 12).to(dtype)
    cached = layer.cache(torch.randn(2, 1, 2, 12).to(dtype))
    with torch.no_grad(), contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
        first, second = (layer(torch.randn(2, 3, 10, 32).to(dtype), cached) for _ in range(2))
    assert (first - second).abs().max() > 1e-2
