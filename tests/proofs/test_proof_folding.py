"""Claim 3. One folded matrix gives what the two did: (W_o W_v) e + b_o = W_o (W_v e) + b_o, up to rounding.

The bound is worst-case and componentwise (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), with
u the unit roundoff of the dtype, u_a of the accumulator (float32 or wider) and gamma_k = k u_a / (1 - k u_a):

    |two-step - folded| <= (growth(d) growth(c) - 1 + growth(d) growth_64(c) - 1) (|W_o| |W_v| |e| + |b_o|)
    growth(k) = (1 + u)^2 (1 + gamma_{k+1})         a sum of k products and a bias, stored

and what is too small for the dtype adds its smallest number.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vcut.analysis.audit import rounding
from vcut.unet.attention import CrossAttention, LinearCrossAttention
from weights_tools.fold import fold

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SIZES = [(32, 2, 64), (320, 5, 1024), (1280, 20, 1024)]
PREFIX = "transformer.spatial.0.cross."
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def layer(channels: int, heads: int, context_dim: int, dtype: torch.dtype, seed: int = 0) -> CrossAttention:
    torch.manual_seed(seed)
    return CrossAttention(channels, heads, context_dim).to(dtype).requires_grad_(False)


def folded(attention: CrossAttention) -> LinearCrossAttention:
    """The module's own fold, which gives the bits of the function that converts checkpoints."""
    linear = attention.fold()
    for name, tensor in folded_as_in_files(attention).state_dict().items():
        assert torch.equal(tensor, linear.state_dict()[name])
    linear.linear.weight.requires_grad_(False)
    return linear


def folded_as_in_files(attention: CrossAttention) -> LinearCrossAttention:
    state = fold(
        {PREFIX + name: w for name, w in attention.state_dict().items()}, tca=False, sca="linear_cached"
    )
    linear = LinearCrossAttention(*attention.to_v.weight.shape).to(attention.to_v.weight.dtype)
    linear.load_state_dict({name.removeprefix(PREFIX): w for name, w in state.items()})
    return linear


def two_steps(attention: CrossAttention, embedding: Tensor) -> Tensor:
    return attention.to_out(attention.to_v(embedding))


def worst_case(attention: CrossAttention, embedding: Tensor) -> Tensor:
    dtype = embedding.dtype
    info = torch.finfo(dtype)
    u = info.eps / 2
    u_a = min(u, torch.finfo(torch.float32).eps / 2)
    u_64 = torch.finfo(torch.float64).eps / 2

    def growth(terms: int, accumulator: float = u_a) -> float:
        k = terms + 1
        return (1 + u) ** 2 * (1 + k * accumulator / (1 - k * accumulator))

    c, d = attention.to_v.weight.shape
    w_o, w_v, b_o, e = (
        t.double().abs()
        for t in (attention.to_out.weight, attention.to_v.weight, attention.to_out.bias, embedding)
    )
    terms = e @ w_v.T @ w_o.T + b_o
    smallest = info.smallest_normal * info.eps
    underflow = smallest * (2 + w_o.sum(1) + e.sum(-1, keepdim=True))
    return (growth(d) * growth(c) - 1 + growth(d) * growth(c, u_64) - 1) * terms + underflow


@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_folded_equals_two_steps_within_the_worst_case_of_rounding(
    size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    attention = layer(*size, dtype)
    embedding = torch.randn(4, 1, 1, size[2]).to(dtype)
    two, one = two_steps(attention, embedding), folded(attention).cache(embedding)
    assert ((two.double() - one.double()).abs() <= worst_case(attention, embedding)).all()


@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention_equals_the_folded_form_at_every_pixel(
    size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """The whole layer, softmax included, for any x; f = 3 frames of 6 pixels."""
    attention = layer(*size, dtype)
    x, embedding = torch.randn(2, 3, 6, size[0]).to(dtype), torch.randn(2, 1, 1, size[2]).to(dtype)
    out = attention(x, attention.cache(embedding))
    one = folded(attention).cache(embedding).expand_as(out)
    assert ((out.double() - one.double()).abs() <= worst_case(attention, embedding)).all()


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float64, 2e-13), (torch.float32, 6e-5), (torch.bfloat16, 0.064), (torch.float16, 0.009)],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_of_the_largest_value_it_is_what_the_audit_allows(
    size: tuple[int, int, int], dtype: torch.dtype, bound: float
) -> None:
    """The audit's bound expects rounding to be random; here with a factor of 4 to spare, and more than u / 16."""
    attention = layer(*size, dtype)
    embedding = torch.randn(8, 1, 1, size[2]).to(dtype)
    two, one = two_steps(attention, embedding).double(), folded(attention).cache(embedding).double()
    error = float((two - one).abs().max() / one.abs().max())
    allowed = rounding(dtype, size[0], size[2])
    assert allowed < bound
    assert torch.finfo(dtype).eps / 32 < error < allowed / 4


@every_dtype
def test_a_change_of_one_row_breaks_the_bound_in_its_channel_alone(dtype: torch.dtype) -> None:
    attention = layer(32, 2, 64, dtype)
    embedding = torch.randn(4, 1, 1, 64).to(dtype)
    linear = folded(attention)
    linear.linear.weight[3] += 1
    difference = (two_steps(attention, embedding).double() - linear.cache(embedding).double()).abs()
    broken = (difference > worst_case(attention, embedding)).flatten(0, 2)
    assert broken.any(dim=0).nonzero().flatten().tolist() == [3]


@every_dtype
def test_the_product_is_taken_in_float64_and_rounded_once(dtype: torch.dtype) -> None:
    attention = layer(32, 2, 64, dtype)
    exact = attention.to_out.weight.double() @ attention.to_v.weight.double()
    assert torch.equal(folded(attention).linear.weight, exact.to(dtype))


@every_dtype
def test_the_unconditional_context_gives_the_output_bias_exactly(dtype: torch.dtype) -> None:
    """W 0 = 0: what guidance calls 'no image' is the bias, in both forms, whatever the queries."""
    attention = layer(320, 5, 1024, dtype)
    zero = torch.zeros(2, 1, 1, 1024, dtype=dtype)
    out = attention(torch.randn(2, 3, 4, 320).to(dtype), attention.cache(zero))
    assert attention.to_out.bias.abs().max() > 0
    assert torch.equal(out, attention.to_out.bias.expand_as(out))
    assert torch.equal(folded(attention).cache(zero), attention.to_out.bias.expand(2, 1, 1, -1))
