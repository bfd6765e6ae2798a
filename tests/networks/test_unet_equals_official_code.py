"""The UNet reproduces the official code in float64, from either published layout, two contexts in a batch.

Sinusoids are float32 in the official code, and the last bit of a float32 exp, cos or sin depends on the math library
and on the CPU that it runs on. That bit moves the output by up to 1e-8. So the tests at 1e-12 take the sinusoids that
the goldens were made with, and others compare the UNet's own sinusoids with those.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any
from unittest import mock

import pytest
import torch
from goldens_io import config, hash_weights, load, relative_error
from torch import Tensor

from vcut.unet import Level, UNet, UNetConfig
from vcut.unet.embedding import sinusoid
from weights_tools.remap import from_layout, to_layout

FRAMES = 3
TINY = UNetConfig(
    levels=(Level(32, 2), Level(64, 4), Level(32, 2), Level(32, 2, attention=False)),
    context_dim=40,
    time_id_dim=32,
)
MC32 = dataclasses.replace(
    TINY, levels=(Level(32, 2), Level(64, 4), Level(128, 8), Level(128, 8, attention=False))
)
MC64 = dataclasses.replace(
    TINY, levels=(Level(64, 2), Level(128, 4), Level(256, 8), Level(256, 8, attention=False))
)
FILES = {
    "unet_tiny_io": TINY,
    "unet_hash_mc32_io": MC32,
    "unet_hash_mc64_io": MC64,
}


def build(config: UNetConfig, state: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> UNet:
    with torch.device("meta"):
        unet = UNet(config)
    unet.load_state_dict(state, assign=True)
    return unet.to(dtype)


def weights(file: str) -> dict[str, Tensor]:
    """In vcut names, from the sgm layout."""
    if file == "unet_tiny_io":
        source = load("unet_tiny_sgm_weights")
    else:
        with torch.device("meta"):
            names = to_layout(UNet(FILES[file]).state_dict(), "unet", "sgm")
        source = hash_weights({name: tuple(tensor.shape) for name, tensor in names.items()})
    return from_layout({k: v.to(torch.float32) for k, v in source.items()}, "unet", "sgm")


def per_clip(flat: Tensor) -> Tensor:
    """``[(b f), ...] -> [b, f, ...]``."""
    return flat.unflatten(0, (-1, FRAMES))


def stored_sinusoid(values: Tensor, dim: int) -> Tensor:
    """The goldens' sinusoids of ``values``. A value that the official code did not embed at this width is a fault."""
    table = load("unet_sinusoids")
    matches = values.float().unsqueeze(-1) == table[f"values.{dim}"]
    assert matches.sum(-1).eq(1).all(), f"{values} at width {dim}"
    return table[f"sinusoid.{dim}"][matches.int().argmax(-1)]


def run_with_its_own_sinusoids(unet: UNet, io: dict[str, Tensor], context: Tensor) -> Tensor:
    x = per_clip(io["in.x"]).to(unet.dtype)
    c_noise = per_clip(io["in.timesteps"])[:, 0].to(unet.dtype)
    ids = io["in.added_time_ids"].to(unet.dtype)
    with torch.no_grad():
        return unet(x, c_noise, context.to(unet.dtype), ids).flatten(0, 1)


def run(unet: UNet, io: dict[str, Tensor], context: Tensor) -> Tensor:
    """The UNet's output with the goldens' sinusoids."""
    with (
        mock.patch("vcut.unet.model.sinusoid", stored_sinusoid),
        mock.patch("vcut.unet.transformer.sinusoid", stored_sinusoid),
    ):
        return run_with_its_own_sinusoids(unet, io, context)


@pytest.fixture(scope="module", params=FILES)
def case(request: pytest.FixtureRequest) -> tuple[str, UNet, dict[str, Tensor]]:
    return request.param, build(FILES[request.param], weights(request.param)), load(request.param)


def test_inputs_differ_between_the_clips_of_the_batch(case: Any) -> None:
    _, _, io = case
    for name in ("in.x", "in.timesteps", "in.added_time_ids", "in.context", "in.context_2tok"):
        first, second = io[name].chunk(2)
        assert not torch.equal(first, second)


def test_one_token(case: Any) -> None:
    _, unet, io = case
    assert relative_error(run(unet, io, per_clip(io["in.context"])[:, 0]), io["out.f64"]) < 1e-12


def test_two_tokens(case: Any) -> None:
    """The final word (mc64): here every tensor of the UNet has a gradient."""
    _, unet, io = case
    assert relative_error(run(unet, io, per_clip(io["in.context_2tok"])[:, 0]), io["out_2tok.f64"]) < 1e-12


def test_a_context_per_frame(case: Any) -> None:
    """Spatial cross-attention uses each frame's, temporal cross-attention the first frame's."""
    _, unet, io = case
    assert relative_error(run(unet, io, per_clip(io["in.context_perframe"])), io["out_perframe.f64"]) < 1e-12


@pytest.mark.slow
def test_diffusers_as_shipped_is_one_field_away(case: Any) -> None:
    """It runs most resnet norms at eps 1e-6; the official 1e-5 differs from it by 1e-4, so the field matters."""
    file, unet, io = case
    other = build(dataclasses.replace(FILES[file], diffusers_norm_eps=True), unet.state_dict())
    for context, out in (
        ("in.context", "out_diffusers_stock"),
        ("in.context_2tok", "out_2tok_diffusers_stock"),
    ):
        tokens = per_clip(io[context])[:, 0]
        assert relative_error(run(other, io, tokens), io[f"{out}.f64"]) < 1e-12
        assert relative_error(run(unet, io, tokens), io[f"{out}.f64"]) > 1e-6


def test_its_own_sinusoids_move_the_output_by_their_last_bit_alone(case: Any) -> None:
    """Measured: 0 to 1.4e-9 with MKL's three kinds of kernels, 5e-9 with correctly rounded functions."""
    _, unet, io = case
    out = run_with_its_own_sinusoids(unet, io, per_clip(io["in.context"])[:, 0])
    assert relative_error(out, io["out.f64"]) < 1e-7


@pytest.mark.parametrize("dim", [32, 64, 128, 256])
def test_sinusoids_are_the_official_ones_up_to_the_last_bit_of_each_function(dim: int) -> None:
    """Of two libraries each is within one unit in the last place: of exp, and of cos and sin.

    Two such frequencies differ by 2 * 2^-23 of themselves. Their products with a value, rounded, differ by
    3 * 2^-23 of the angle. So do their cosines and sines at most, and 2 * 2^-24 more by their own last bits.
    """
    table = load("unet_sinusoids")
    values, expected = table[f"values.{dim}"], table[f"sinusoid.{dim}"]
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = (values.abs().double().unsqueeze(-1) * frequencies).repeat(1, 2)
    difference = (sinusoid(values, dim).double() - expected.double()).abs()
    assert (difference <= 2**-23 * (1 + 3 * angles)).all()


def test_stored_sinusoids_are_those_in_the_goldens_inputs(case: Any) -> None:
    _, unet, io = case
    ids = stored_sinusoid(io["in.added_time_ids"], unet.config.time_id_dim).flatten(1)
    assert torch.equal(ids.repeat_interleave(FRAMES, dim=0), io["in.y"])


def test_float32_is_as_close_as_the_official_float32(case: Any) -> None:
    """sgm's own float32 is 1e-6 to 3e-6 (absolute) from float64; 1e-5 relative leaves room for other kernels."""
    file, unet, io = case
    single = build(FILES[file], unet.state_dict(), torch.float32)
    out = run_with_its_own_sinusoids(single, io, per_clip(io["in.context"])[:, 0])
    assert relative_error(out, io["out.f64"]) < 1e-5


def test_diffusers_layout_holds_the_same_values() -> None:
    sgm = weights("unet_tiny_io")
    source = {k: v.to(torch.float32) for k, v in load("unet_tiny_hf_weights").items()}
    hf = from_layout(source, "unet", "diffusers")
    assert sgm.keys() == hf.keys()
    for name, value in sgm.items():
        torch.testing.assert_close(hf[name], value, rtol=0, atol=0)


def test_intermediate_activations_match_the_probes() -> None:
    """Mean, deviation and first values of blocks on the way, so that a fault would be localised."""
    unet, io = build(TINY, weights("unet_tiny_io")), load("unet_tiny_io")
    seen: dict[str, Tensor] = {}
    places = {
        "input_blocks.0": unet.conv_in,
        "input_blocks.3": unet.down[0].downsample,
        "middle_block": unet.mid.resnet_2,
        "output_blocks.2": unet.up[1].upsample,
        "output_blocks.11": list(unet.up[3].layers)[2].transformer or unet.conv_out,
        "time_embed": unet.time_embed,
        "label_emb": unet.vector_embed,
    }
    for name, module in places.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    run(unet, io, per_clip(io["in.context"])[:, 0])
    for name in places:
        out = seen[name]
        activation = out.ndim == 5  # else an embedding, which the official code makes once per frame
        out = out.flatten(0, 1).movedim(-1, 1) if activation else out.repeat_interleave(FRAMES, dim=0)
        expected = io[f"probe.{name}"]
        got = torch.cat([out.mean()[None], out.std()[None], out.flatten()[:14]])
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_the_configurations_are_those_of_the_goldens() -> None:
    for file, ours in FILES.items():
        theirs = config(file)["diffusers"]
        assert theirs["block_out_channels"] == [level.channels for level in ours.levels]
        assert theirs["num_attention_heads"] == [level.heads for level in ours.levels]
        assert theirs["cross_attention_dim"] == ours.context_dim
        assert theirs["addition_time_embed_dim"] == ours.time_id_dim
