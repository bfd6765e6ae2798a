"""Claim 1. The softmax over one key is exactly 1: exp(s - max) / sum = exp(0) / exp(0) = 1 / 1.

No rounding enters, so it holds bit for bit, in every floating-point type, for every finite logit.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_one_bit_for_bit(weights: torch.Tensor) -> None:
    integers = BITS[weights.element_size()]
    one = torch.ones_like(weights)
    assert torch.equal(weights.view(integers), one.view(integers))


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 64), (torch.float32, 32)], ids=str)
@given(data=st.data(), axis=st.integers(-3, 2))
def test_it_is_one_for_any_finite_logit(
    dtype: torch.dtype, width: Literal[64, 32], data: st.DataObject, axis: int
) -> None:
    """From the subnormals to the largest number, of either sign, along any axis."""
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    logits = torch.tensor(data.draw(st.lists(finite, min_size=1, max_size=6)), dtype=dtype)
    shape = [2, len(logits) // 2] if len(logits) % 2 == 0 else [len(logits), 1]
    one_key = logits.reshape(shape).unsqueeze(axis)
    assert_one_bit_for_bit(torch.softmax(one_key, dim=axis))


@pytest.mark.parametrize(
    ("dtype", "sign"), [*itertools.product([torch.float64, torch.float32], [-1, 1])], ids=str
)
def test_it_is_one_at_the_largest_and_at_the_smallest_number(dtype: torch.dtype, sign: int) -> None:
    info = torch.finfo(dtype)
    extremes = torch.tensor([info.max, info.smallest_normal, info.smallest_normal * info.eps], dtype=dtype)
    assert (extremes > 0).all()
    assert_one_bit_for_bit(torch.softmax(sign * extremes[:, None], dim=-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_it_is_one_for_every_number_that_a_16_bit_type_has(dtype: torch.dtype) -> None:
    """All 65,536 bit patterns but infinity and NaN."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    finite = numbers[torch.isfinite(numbers)]
    assert len(finite) > 60_000
    assert_one_bit_for_bit(torch.softmax(finite[:, None], dim=-1))


@every_dtype
@given(value=st.floats(-1e4, 1e4), mask=st.floats(-1e4, 1e4))
def test_a_finite_mask_changes_nothing(dtype: torch.dtype, value: float, mask: float) -> None:
    """An additive mask is one more finite term of the logit."""
    masked = torch.tensor([value], dtype=dtype) + torch.tensor([mask], dtype=dtype)
    assert_one_bit_for_bit(torch.softmax(masked, dim=-1))


@every_dtype
def test_a_negative_zero_and_a_zero_give_one(dtype: torch.dtype) -> None:
    assert_one_bit_for_bit(torch.softmax(torch.tensor([[0.0], [-0.0]], dtype=dtype), dim=-1))


@every_dtype
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_infinite_logit_gives_nan_and_nan_stays_nan(dtype: torch.dtype, value: float) -> None:
    """inf - inf is NaN. So the claim needs finite logits: |q k| must not overflow."""
    assert torch.softmax(torch.tensor([value], dtype=dtype), dim=-1).isnan().all()


@every_dtype
def test_with_two_keys_it_is_not_one(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.3, 0.2]], dtype=dtype)
    assert (torch.softmax(logits, dim=-1) - 1).abs().min() > 0.4
