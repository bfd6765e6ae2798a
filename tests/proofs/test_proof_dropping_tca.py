"""Claim 5. Dropping temporal cross-attention subtracts one constant vector at one point of each temporal block.

At that point, and per clip, the stream with TCA is the stream without it plus L(e), bit for bit: the same vector at
every frame and pixel. Behind it come a LayerNorm and a feed-forward, so the output changes by more than a constant.
'linear_cached' adds the vector back: lossless.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from proof_models import SIXTEEN, inputs, random_unet
from torch import Tensor

from vcut.unet import UNet, fold
from vcut.unet.attention import Cached
from vcut.unet.transformer import Block


def temporal_block(unet: UNet, index: int) -> Block:
    return [block for t in unet.transformers() for block in t.temporal][index]


def point_of_addition(block: Block, x: Tensor, cached: Cached) -> Tensor:
    """The stream behind the cross-attention: what the last LayerNorm is given."""
    seen: list[Tensor] = []
    with block.ff_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        block(x, cached)
    (stream,) = seen
    return stream.view_as(x)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("index", [0, 5, 6, 15])
def test_the_stream_with_it_is_the_stream_without_it_plus_one_vector_per_clip(index: int) -> None:
    unet, embedding = random_unet(), inputs().context
    lossless, dropped = (fold(unet, tca=tca, sca=True) for tca in ("linear_cached", False))
    block, linear_block, bare_block = (temporal_block(u, index) for u in (unet, lossless, dropped))
    x = torch.randn(2, 3, 10, block.attn_norm.normalized_shape[0], dtype=torch.float64)

    without = point_of_addition(bare_block, x, None)
    vector = lossless.cache_context(embedding, frames=3).blocks[index].temporal
    assert isinstance(vector, Tensor)
    assert vector.shape == (2, 1, 1, x.shape[-1])
    assert not torch.equal(vector[0], vector[1])
    assert torch.equal(point_of_addition(linear_block, x, vector), without + vector)

    keys = unet.cache_context(embedding, frames=3).blocks[index].temporal
    torch.testing.assert_close(point_of_addition(block, x, keys), without + vector, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(block(x, keys), linear_block(x, vector), rtol=1e-13, atol=1e-13)


@torch.no_grad()
def test_behind_that_point_the_change_is_not_constant() -> None:
    unet, embedding = random_unet("linear_cached", True), inputs().context
    block, bare = temporal_block(unet, 0), temporal_block(fold(unet, tca=False, sca=True), 0)
    x = torch.randn(2, 3, 10, 16, dtype=torch.float64)
    change = block(x, unet.cache_context(embedding, frames=3).blocks[0].temporal) - bare(x, None)
    assert (change - change[:, :1, :1]).abs().max() > 1e-2


@torch.no_grad()
def test_with_the_unconditional_context_the_vector_is_the_output_bias() -> None:
    """So dropping TCA changes the unconditional pass too: by b_o, as if W e were zero."""
    unet = random_unet("linear_cached", "linear_cached")
    context = unet.cache_context(torch.zeros_like(inputs().context), frames=3)
    for transformer, (spatial, temporal) in zip(unet.transformers(), context.blocks, strict=True):
        for blocks, vector in ((transformer.spatial, spatial), (transformer.temporal, temporal)):
            (block,) = blocks
            assert torch.equal(vector, block.cross.linear.bias.expand_as(vector))


@torch.no_grad()
def test_dropping_it_is_lossless_only_if_what_it_added_was_zero() -> None:
    unet, args = random_unet(), inputs()
    assert (fold(unet, tca=False, sca=True)(*args) - unet(*args)).abs().max() > 1e-3
    for transformer in unet.transformers():
        for block in transformer.temporal:
            block.cross.to_out.weight.zero_()
            block.cross.to_out.bias.zero_()
    assert torch.equal(fold(unet, tca=False, sca=True)(*args), unet(*args))


@torch.no_grad()
def test_the_lossless_form_changes_nothing_at_any_depth() -> None:
    config = dataclasses.replace(SIXTEEN, depth=2)
    unet, args = random_unet(config=config), inputs()
    lossless = fold(unet, tca="linear_cached", sca="linear_cached")
    torch.testing.assert_close(lossless(*args), unet(*args), rtol=1e-11, atol=1e-12)
