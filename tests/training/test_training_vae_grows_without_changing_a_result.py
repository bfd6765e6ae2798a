"""The shallow autoencoder, grown to full depth and given temporal layers, computes what it did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from training import common, vae, world
from vcut.config import VAEConfig
from vcut.vae import VAE

DEEP = VAEConfig(channels=(64, 64, 64), layers=2, latent_channels=4)
SHALLOW = dataclasses.replace(DEEP, layers=0, temporal=False)


def shallow() -> VAE:
    torch.manual_seed(0)
    return vae.ImageObjective(SHALLOW).vae


def test_grown_equals_shallow() -> None:
    small = shallow()
    deep = vae.grown(small, DEEP)
    pictures = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = torch.randn(2, 3, 4, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(deep.moments(pictures), small.moments(pictures), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(deep.decode(latents), small.decode(latents), rtol=1e-5, atol=1e-5)


def test_growing_into_another_architecture_is_refused() -> None:
    with pytest.raises((ValueError, RuntimeError)):
        vae.grown(shallow(), dataclasses.replace(DEEP, channels=(64, 64)))


def test_the_clip_stage_trains_the_decoder_and_leaves_the_latents(tmp_path: Path) -> None:
    objective = vae.ClipObjective(vae.grown(shallow(), DEEP))
    before = {name: p.detach().clone() for name, p in objective.vae.named_parameters()}
    _, clips = world.clips(2, seed=0, frames=3, side=16)
    recipe = common.Recipe(steps=2, batch=1, warmup=0)
    common.train(objective, vae.whole_clips(clips, 4, 4, noise=0.1), recipe, tmp_path, quiet=True)
    for name, p in objective.vae.named_parameters():
        frozen = name.startswith(("encoder", "quant_conv"))
        assert torch.equal(p, before[name]) == frozen, name
