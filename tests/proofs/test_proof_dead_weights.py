"""Claim 7. W_q, W_k and the LayerNorm before them are dead: no output depends on them, no gradient reaches them.

The gradient of the one logit is p (dP - sum p dP) with p = 1, that is dP - dP. Where a kernel computes the two by
the same sum (MATH), it is zero bit for bit. Fused kernels compute the first as dO . v and the second as dO . o, two
sums of equal terms in different orders, and leave their rounding: the gradient is zero to a bound, and an optimiser
that divides by the gradient's own size makes steps of it.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_models import BACKENDS, inputs, random_unet
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vcut.unet import UNet, UNetConfig
from vcut.unet.attention import CrossAttention

DEAD = ("to_q.weight", "to_k.weight", "norm.weight", "norm.bias")


def is_dead(name: str) -> bool:
    block, _, leaf = name.partition(".cross.")
    return bool(block) and leaf in DEAD


def gradients(unet: UNet, backend: SDPBackend, tokens: int = 1) -> dict[str, Tensor]:
    args = inputs(tokens=tokens)
    with sdpa_kernel(backend):
        out = unet(*args)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
        (out * weights).sum().backward()
    return {name: p.grad for name, p in unet.named_parameters() if p.grad is not None}


def test_their_gradients_are_exactly_zero_and_all_others_are_not() -> None:
    unet = random_unet()
    grads = gradients(unet, SDPBackend.MATH)
    dead = [name for name in grads if is_dead(name)]
    assert len(dead) == (16 + 16) * len(DEAD)
    assert grads.keys() == dict(unet.named_parameters()).keys()
    for name, grad in grads.items():
        assert (torch.count_nonzero(grad) == 0) == is_dead(name), name


def test_with_two_tokens_every_parameter_is_alive() -> None:
    for name, grad in gradients(random_unet(), SDPBackend.MATH, tokens=2).items():
        assert torch.count_nonzero(grad) > 0, name


@torch.no_grad()
def test_any_other_values_of_them_give_the_same_output_bit_for_bit() -> None:
    unet, args = random_unet(), inputs()
    expected = unet(*args)
    for name, parameter in unet.named_parameters():
        if is_dead(name):
            parameter.normal_(std=3)
    assert torch.equal(unet(*args), expected)


@torch.no_grad()
@pytest.mark.parametrize("leaf", ["to_v.weight", "to_out.weight", "to_out.bias"])
def test_a_change_of_any_other_weight_of_the_layer_shows(leaf: str) -> None:
    unet, args = random_unet(), inputs()
    expected = unet(*args)
    for kind in ("spatial", "temporal"):
        weight = unet.get_parameter(f"mid.transformer.{kind}.0.cross.{leaf}")
        weight.flatten()[0] += 0.1
        changed = unet(*args)
        assert (changed - expected).abs().max() > 1e-9
        expected = changed


FUSED = [backend for backend in BACKENDS if backend != SDPBackend.MATH]


@pytest.mark.skipif(not FUSED, reason="torch has no fused attention on this machine")
@pytest.mark.parametrize("backend", FUSED, ids=lambda b: b.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@settings(deadline=None, max_examples=25)
@given(queries=st.integers(1, 100), size=st.sampled_from([8, 16, 64]), seed=st.integers(0, 999))
def test_in_fused_kernels_they_are_zero_up_to_the_rounding_of_two_equal_sums(
    backend: SDPBackend, dtype: torch.dtype, queries: int, size: int, seed: int
) -> None:
    """Of e terms each: |dP - delta| <= 2 gamma_e |dO| . |v|, gamma_e = e u / (1 - e u), u the accumulator's.

    Times the key over sqrt(e) it is a query's gradient; times the queries, summed over them, the key's.
    """
    g = torch.Generator().manual_seed(seed)
    shapes = {"q": (2, 3, queries, size), "k": (2, 3, 1, size), "v": (2, 3, 1, size)}
    q, k, v = (torch.randn(s, generator=g).to(dtype).requires_grad_() for s in shapes.values())
    upstream = torch.randn(shapes["q"], generator=g).to(dtype)
    with sdpa_kernel(backend):
        F.scaled_dot_product_attention(q, k, v).backward(upstream)

    u = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) / 2
    gamma = size * u / (1 - size * u)
    spread = (
        2 * gamma * (upstream.double().abs() @ v.double().abs().mT) / math.sqrt(size)
    )  # [2, 3, queries, 1]
    info = torch.finfo(dtype)
    slack = 1 + 4 * info.eps + 2 * queries * u  # storing the product, summing it over the queries
    least = info.smallest_normal * info.eps  # what a gradient too small for the type rounds to
    assert q.grad is not None
    assert k.grad is not None
    assert (q.grad.abs() <= slack * spread * k.double().abs() + least).all()
    assert (k.grad.abs() <= slack * (spread * q.double().abs()).sum(2, keepdim=True) + least).all()


@pytest.mark.skipif(SDPBackend.FLASH_ATTENTION not in FUSED, reason="the fused kernel is not there")
def test_adam_walks_the_dead_weights_along_that_rounding_noise() -> None:
    """Steps of the learning rate's size, to no effect. Fold, or freeze them, before fine-tuning."""
    torch.manual_seed(0)
    layer = CrossAttention(64, 2, 16)
    x, embedding, target = torch.randn(2, 3, 20, 64), torch.randn(2, 1, 1, 16), torch.randn(2, 3, 20, 64)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        (layer(x, layer.cache(embedding)) * target).sum().backward()
    optimiser.step()
    moved = (layer.to_q.weight - before["to_q.weight"]).abs().mean()
    assert moved > 0.1 * 1e-3
    with torch.no_grad():
        expected = layer(x, layer.cache(embedding))
        layer.to_q.weight.copy_(before["to_q.weight"])
        layer.to_k.weight.copy_(before["to_k.weight"])
        assert torch.equal(layer(x, layer.cache(embedding)), expected)


def test_there_are_50_million_of_them_and_folding_drops_75() -> None:
    """Beside them the c x c matrix of each W_o W_v goes; the paper's form drops temporal cross-attention too."""
    with torch.device("meta"):
        unet, lossless, paper = (
            UNet(UNetConfig(tca=tca, sca=sca))  # type: ignore[arg-type]
            for tca, sca in ((True, True), ("linear_cached", "linear_cached"), (False, "linear_cached"))
        )

    def count(model: UNet) -> int:
        return sum(p.numel() for p in model.parameters())

    assert sum(p.numel() for name, p in unet.named_parameters() if is_dead(name)) == 50_389_760
    assert count(unet) - count(lossless) == 75_170_560
    assert count(unet) - count(paper) == 87_962_560
