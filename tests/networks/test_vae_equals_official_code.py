"""The autoencoder reproduces the official code in float64, from either published layout."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from goldens_io import hash_weights, load, relative_error
from torch import Tensor

from vcut.vae import VAE, VAEConfig
from weights_tools.remap import from_layout, to_layout

TINY = VAEConfig(channels=(32, 64, 32, 32))
CH64 = VAEConfig(channels=(64, 128, 256, 256))
EXACT = 1e-9
FLOAT32 = 1e-4  # some 100 layers, each rounding at 6e-8; 5e-6 is what happens, the official code has 2e-6


def build(config: VAEConfig, state: dict[str, Tensor]) -> VAE:
    vae = VAE(config)
    vae.load_state_dict(state)
    return vae.double().requires_grad_(False)


def tiny_sgm() -> dict[str, Tensor]:
    return from_layout(load("vae_tiny_sgm_weights"), "vae", "sgm")


def tiny_diffusers() -> dict[str, Tensor]:
    return from_layout(load("vae_tiny_hf_weights"), "vae", "diffusers")


def by_rule() -> dict[str, Tensor]:
    with torch.device("meta"):
        names = to_layout(VAE(CH64).state_dict(), "vae", "sgm")
    return from_layout(hash_weights({name: tensor.shape for name, tensor in names.items()}), "vae", "sgm")


CASES = {
    "tiny, sgm": (TINY, tiny_sgm, "vae_tiny_io"),
    "tiny, diffusers": (TINY, tiny_diffusers, "vae_tiny_io"),
    "64 channels": (CH64, by_rule, "vae_hash_ch64_io"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[VAE, dict[str, Tensor]]:
    config, weights, io = CASES[request.param]
    return build(config, weights()), load(io)


def test_moments_and_mode_of_two_pictures(case: tuple[VAE, dict[str, Tensor]]) -> None:
    vae, io = case
    assert relative_error(vae.moments(io["in.x"]), io["moments.f64"]) < EXACT
    assert relative_error(vae.encode(io["in.x"]), io["mode.f64"]) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "golden"), [(3, "dec_t3.f64"), (6, "dec_t6.f64"), (1, "dec_t1.f64")])
def test_decoding_clips_of_every_length(
    case: tuple[VAE, dict[str, Tensor]], frames: int, golden: str
) -> None:
    """``dec_t3`` is a batch of two clips, ``dec_t6`` the same latents as one."""
    vae, io = case
    latents = io["in.z"][: len(io[golden])].unflatten(0, (-1, frames))
    assert relative_error(vae.decode(latents).flatten(0, 1), io[golden]) < EXACT


def test_float32_stays_near_float64(case: tuple[VAE, dict[str, Tensor]]) -> None:
    vae, io = case
    single = VAE(vae.config)
    single.load_state_dict(vae.state_dict())
    single.requires_grad_(False)
    moments = single.moments(io["in.x"])
    decoded = single.decode(io["in.z"].unflatten(0, (2, 3))).flatten(0, 1)
    assert moments.dtype is decoded.dtype is torch.float32
    for precision in ("f64", "f32"):
        assert relative_error(moments, io[f"moments.{precision}"]) < FLOAT32
        assert relative_error(decoded, io[f"dec_t3.{precision}"]) < FLOAT32


@pytest.mark.parametrize("name", ["tiny", "64 channels"])
def test_the_image_decoder_is_the_same_without_temporal_layers(name: str) -> None:
    config, weights, file = CASES["tiny, sgm" if name == "tiny" else name]
    io = load(file)
    temporal = to_layout(weights(), "vae", "sgm")
    image = {
        key: tensor
        for key, tensor in temporal.items()
        if not any(part in key for part in ("time_stack", "mix_factor", "time_mix_conv"))
    }
    image |= {key: io[key] for key in io if key.startswith("post_quant_conv")}
    vae = build(dataclasses.replace(config, temporal=False), from_layout(image, "vae", "sgm"))
    assert relative_error(vae.decode(io["in.z"][None, :2])[0], io["dec_image.f64"]) < EXACT
    assert relative_error(vae.moments(io["in.x"]), io["moments.f64"]) < EXACT


def test_norms_have_the_official_epsilons() -> None:
    """1e-5 in the temporal resnets, 1e-6 elsewhere: too small a difference to see in a picture."""
    eps = {name: m.eps for name, m in VAE(TINY).named_modules() if isinstance(m, torch.nn.GroupNorm)}
    assert set(eps.values()) == {1e-5, 1e-6}
    assert {name: value for name, value in eps.items() if value == 1e-5} == {
        name: 1e-5 for name in eps if ".temporal." in name
    }
