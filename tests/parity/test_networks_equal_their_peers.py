"""UNet, VAE and CLIP equal diffusers' and transformers' modules holding the same weights, in float64."""

from __future__ import annotations

import dataclasses

import peers
import pytest
import torch
from goldens_io import relative_error
from micro import SMALL

from vcut.clip import CLIPVisionEncoder
from vcut.config import Level
from vcut.unet import UNet
from vcut.vae import VAE

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "change",
    [
        dict(),
        dict(layers=2, levels=(Level(32, 2), Level(64, 4), Level(96, 4, attention=False))),
        dict(levels=(Level(64, 2),)),
    ],
    ids=["tiny", "two layers, no attention below", "one level"],
)
@pytest.mark.parametrize("tokens", [1, 3])
@torch.no_grad()
def test_unet(change: dict[str, object], tokens: int) -> None:
    config = dataclasses.replace(
        SMALL, unet=dataclasses.replace(SMALL.unet, diffusers_norm_eps=True, **change)
    )
    ours = peers.seeded(UNet, config.unet).double()
    theirs = peers.with_weights_of(peers.unet(config), ours, "unet")
    torch.manual_seed(1)
    x = torch.randn(2, 5, 8, 8, 12, dtype=torch.float64)
    context = torch.randn(2, tokens, config.unet.context_dim, dtype=torch.float64)
    ids = torch.tensor([[6.0, 127.0, 0.02], [11.0, 30.0, 0.1]], dtype=torch.float64)
    c_noise = torch.tensor([1.6, 1.6], dtype=torch.float64)  # diffusers takes one for the batch
    expected = theirs(x, c_noise[0], context, ids).sample
    assert relative_error(ours(x, c_noise, context, ids), expected) < 1e-12


@torch.no_grad()
def test_vae_both_ways() -> None:
    ours = peers.seeded(VAE, SMALL.vae).double()
    theirs = peers.with_weights_of(peers.vae(SMALL), ours, "vae")
    torch.manual_seed(1)
    pixels = torch.rand(2, 3, 32, 48, dtype=torch.float64) * 2 - 1
    assert relative_error(ours.encode(pixels), theirs.encode(pixels).latent_dist.mode()) < 1e-12
    latents = torch.randn(2, 3, 4, 4, 6, dtype=torch.float64)
    expected = theirs.decode(latents.flatten(0, 1), num_frames=3).sample
    assert relative_error(ours.decode(latents).flatten(0, 1), expected) < 1e-12


@torch.no_grad()
def test_clip() -> None:
    ours = peers.seeded(CLIPVisionEncoder, SMALL.clip).double()
    theirs = peers.with_weights_of(peers.clip(SMALL), ours, "clip")
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    assert relative_error(ours(pixels), theirs(pixels).image_embeds) < 1e-12
