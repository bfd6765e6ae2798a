"""The counter agrees with counts by hand, with real tensors, and with itself; and it takes no memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from micro import SMALL
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vcut.analysis import counting
from vcut.analysis.counting import PARTS, Count, build_unet, macs, on_meta, total, unet_call, unet_counts
from vcut.clip import CLIPVisionEncoder
from vcut.config import Level, Mode, UNetConfig
from vcut.errors import VcutError
from vcut.layers import Conv, TemporalConv
from vcut.unet import UNet
from vcut.unet.attention import CrossAttention, SelfAttention
from vcut.unet.transformer import Block
from vcut.vae import VAE

MODES: list[tuple[Mode, Mode]] = list(itertools.product((True, "linear_cached", False), repeat=2))
B, F, H, W = 2, 3, 8, 12  # of the tiny UNet, latents


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def tiny(tca: Mode, sca: Mode) -> UNetConfig:
    levels = (Level(32, 2), Level(64, 4))
    return UNetConfig(levels=levels, layers=1, context_dim=64, time_id_dim=32, tca=tca, sca=sca)


def test_a_linear_layer_costs_rows_times_weights() -> None:
    linear = nn.Linear(5, 7, device="meta")
    assert macs(lambda: linear(on_meta(2, 3, 5))) == Count(layers=2 * 3 * 5 * 7)


def test_convolutions_cost_outputs_times_kernel() -> None:
    with torch.device("meta"):
        stride_2, over_time = Conv(5, 7, 3, stride=2, padding=1), TemporalConv(5, 7)
    x = on_meta(B, F, H, W, 5)
    assert macs(lambda: stride_2(x)) == Count(layers=B * F * (H // 2) * (W // 2) * 7 * 5 * 9)
    assert macs(lambda: over_time(x)) == Count(layers=B * F * H * W * 7 * 5 * 3)


@pytest.mark.parametrize("axis", ["space", "time"])
def test_self_attention_costs_four_projections_and_two_products(axis: Any) -> None:
    c, n = 32, H * W
    with torch.device("meta"):
        attention = SelfAttention(c, 4, axis)
    groups, length = (B * F, n) if axis == "space" else (B * n, F)
    assert macs(lambda: attention(on_meta(B, F, n, c))) == Count(
        layers=4 * B * F * n * c * c, products=2 * groups * length * length * c
    )


def test_cross_attention_costs_two_projections_and_two_products_with_each_token() -> None:
    c, d, n, tokens = 32, 48, H * W, 3
    with torch.device("meta"):
        attention = CrossAttention(c, 4, d)
    cached = attention.cache(on_meta(B, 1, tokens, d))
    count = macs(lambda: attention(on_meta(B, F, n, c), cached))
    assert count == Count(layers=2 * B * F * n * c * c, products=2 * B * F * n * tokens * c)


@pytest.mark.slow
@pytest.mark.parametrize(("tca", "sca"), MODES)
def test_every_mode_costs_on_real_tensors_what_the_meta_device_said(tca: Mode, sca: Mode) -> None:
    config = tiny(tca, sca)
    unet = UNet(config)
    embedding = torch.randn(B, 1, config.context_dim)
    context = unet.cache_context(embedding, F)
    x, ids = torch.randn(B, F, 8, H, W), torch.randn(B, 3)
    counts = unet_counts(config, F, H, W)
    assert macs(lambda: unet(x, torch.zeros(B), context, ids)) == counts.call(B)
    assert macs(lambda: unet.cache_context(embedding, F)) == counts.context * B + counts.positions
    assert counts.parameters == counting.parameters(unet)


@pytest.mark.slow
@pytest.mark.parametrize("clips", [1, 2, 5])
def test_a_call_on_several_clips_is_counted_from_one(clips: int) -> None:
    config = tiny(True, True)
    direct = macs(unet_call(build_unet(config), clips, F, H, W))
    assert direct == unet_counts(config, F, H, W).call(clips)


def test_vae_and_clip_cost_the_same_on_real_tensors_in_chunks_or_not() -> None:
    vae, clip = VAE(SMALL.vae), CLIPVisionEncoder(SMALL.clip)
    encoder, decoder = counting.vae_networks(SMALL.vae, F, 64, 32)
    z = torch.randn(1, F, 4, 8, 4)
    assert macs(lambda: vae.encode(torch.zeros(1, 3, 64, 32))) == encoder.macs
    assert macs(lambda: vae.decode(z)) == macs(lambda: vae.decode(z, chunk=2)) == decoder.macs
    assert encoder.parameters + decoder.parameters == counting.parameters(vae)
    one = counting.clip_network(SMALL.clip)
    pixels = torch.zeros(1, 3, SMALL.clip.image_size, SMALL.clip.image_size)
    assert macs(lambda: clip(pixels)) == one.macs
    assert one.parameters == counting.parameters(clip)


@pytest.mark.slow
@pytest.mark.parametrize(("tca", "sca"), MODES)
def test_parts_sum_to_the_whole_and_cross_attention_is_there_only_as_softmax(tca: Mode, sca: Mode) -> None:
    config = tiny(tca, sca)
    counts = unet_counts(config, F, H, W)
    parts = {part.name: part for part in counts.parts}
    assert tuple(parts) == PARTS
    whole = macs(unet_call(build_unet(config), 1, F, H, W))
    assert total(part.macs for part in counts.parts) == whole
    assert (parts["temporal cross-attention"].macs.total > 0) == (tca is True)
    assert (parts["spatial cross-attention"].macs.total > 0) == (sca is True)
    assert all(part.macs.total for name, part in parts.items() if "cross" not in name)
    assert all(part.parameters for name, part in parts.items() if "cross" not in name)


def rename_all(blocks: nn.Module) -> None:
    """Give every layer of every transformer block another name, in the same order."""
    for block in blocks.modules():
        if isinstance(block, Block):
            layers = {f"layer_{i}": layer for i, layer in enumerate(block._modules.values())}
            block._modules.clear()
            block._modules.update(layers)


@pytest.mark.parametrize(("tca", "sca"), MODES)
def test_a_renamed_attribute_stays_in_its_part(tca: Mode, sca: Mode) -> None:
    unet = build_unet(tiny(tca, sca))
    before = counting.parts_of(unet)
    rename_all(unet)
    assert counting.parts_of(unet) == before
    assert len({id(module) for module, part in before.items() if part == "temporal self-attention"}) > 1


def test_a_layer_of_a_block_that_belongs_to_no_part_is_an_error() -> None:
    unet = build_unet(tiny(True, True))
    next(unet.transformers()).temporal[0].register_module("gate", nn.Linear(32, 32, device="meta"))
    with pytest.raises(VcutError, match="a transformer block has a Linear, which belongs to no part"):
        counting.parts_of(unet)


def test_attention_outside_of_the_blocks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attending(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2, 3)
            return self.conv(nn.functional.scaled_dot_product_attention(rows, rows, rows).view(x.shape))

    def with_attention(config: UNetConfig) -> UNet:
        unet = build_unet(config)
        unet.conv_out = Attending(unet.conv_out)  # type: ignore[assignment]
        return unet

    monkeypatch.setattr(counting, "build_unet", with_attention)
    counting._softmax_call.cache_clear()
    with pytest.raises(VcutError, match="attention that belongs to none of its parts"):
        unet_counts.__wrapped__(tiny(True, True), F, H, W)


def test_published_repeats_are_the_rows_that_the_paper_s_code_adds() -> None:
    """Closed forms: 32 channels at full size, 64 at half; one transformer going down, one in the middle, two up."""
    config = tiny(True, True)
    at = [(32, 1), (64, 2), (64, 2), (64, 2), (64, 2), (32, 1), (32, 1)]
    resnets = [32, 64, 64, 64, 64, 64, 32, 32]  # going down, in the middle, going up
    d, embedding = 64, 4 * 32
    per_pixel = sum(2 * d * c * (H // s) * (W // s) for c, s in at)
    per_frame = sum(2 * d * c * F for c, _ in at)
    emb = sum(2 * embedding * c * (F - 1) for c in resnets)  # a spatial and a temporal resnet each
    repeats = dict(unet_counts(config, F, H, W).repeats)
    assert [count.total for count in repeats.values()] == [per_pixel, per_frame, emb]


def test_temporal_attention_alone_grows_with_the_square_of_the_frames() -> None:
    few, many = (unet_counts(tiny(True, True), f, H, W) for f in (F, 4 * F))
    for a, b in zip(few.parts, many.parts, strict=True):
        factor = 16 if a.name == "temporal self-attention" else 4
        assert b.macs.products == factor * a.macs.products
        embeddings = a.name in ("2D resnets", "temporal resnets", "other")  # some rows are per clip
        assert b.macs.layers == 4 * a.macs.layers or (embeddings and b.macs.layers < 4 * a.macs.layers)


class _RealBytes(TorchDispatchMode):
    """Adds up the bytes of every result that is not on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and not t.is_meta:
                self.total += t.untyped_storage().nbytes()
        return result


def test_counting_a_large_unet_allocates_nothing() -> None:
    config = UNetConfig(levels=(Level(1280, 20),), layers=1)
    counting._softmax_call.cache_clear()
    with _RealBytes() as real:
        probe = torch.zeros(10)
        counts = unet_counts.__wrapped__(config, 25, 72, 128)
    assert counts.parameters > 200e6  # and activations of gigabytes
    assert probe.nbytes <= real.total < 100_000
