"""Train the autoencoder: pictures first, then the decoder's temporal layers on clips.

The image stage trains a shallow autoencoder without temporal layers on single frames. The clip stage grows it to full
depth, where every new block adds nothing yet, and trains the decoder alone. So the latents do not change, and the
UNet can learn them at the same time.

    python -m training.vae runs/vae
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from training import world
from training.common import Recipe, averaged, averaged_steps, finish, process_group, train
from training.config import SHALLOW, TRAIN_SEED, settings
from vcut.config import TINY, VAEConfig
from vcut.vae import VAE

IMAGES = Recipe(steps=1350, batch=8, lr=2e-3, lr_end=3e-5, weight_decay=0.0, ema=0.995)
CLIPS = Recipe(steps=300, batch=2, lr=5e-4, lr_end=2e-5, weight_decay=0.0, ema=0.98)
KL = 5e-4

Draw = Callable[[Generator, int], tuple[Tensor, Tensor]]
SQUARES, GRADIENT = 5.0, 0.25


def difference(found: Tensor, wanted: Tensor) -> Tensor:
    """Sum of L1, L2 and L1 of the gradients of ``[..., h, w, 3]``.

    L2 is there for small areas that are far off, such as a shape.
    """
    loss = (found - wanted).abs().mean() + SQUARES * (found - wanted).square().mean()
    for axis in (-2, -3):
        loss = loss + GRADIENT * (found.diff(dim=axis) - wanted.diff(dim=axis)).abs().mean()
    return loss


class ImageObjective(nn.Module):
    """Loss of reconstruction through a sampled latent, with a small pull towards the unit normal."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.vae = VAE(config)
        assert self.vae.post_quant_conv is not None
        # The temporal decoder has no such convolution, so this one stays the identity.
        nn.init.dirac_(self.vae.post_quant_conv.weight)
        nn.init.zeros_(self.vae.post_quant_conv.bias)  # type: ignore[arg-type]
        self.vae.post_quant_conv.requires_grad_(False)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Loss of a batch: pictures [b, H, W, 3] in -1..1, unit noise [b, h, w, z]."""
        pictures, noise = batch
        x = rearrange(pictures, "b h w c -> b 1 h w c")
        mean, log_var = self.vae.quant_conv(self.vae.encoder(x)).chunk(2, dim=-1)
        log_var = log_var.clamp(-20, 10)
        z = mean + torch.exp(0.5 * log_var) * rearrange(noise, "b h w c -> b 1 h w c")
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return difference(self.vae.decoder(z), x) + KL * kl


class ClipObjective(nn.Module):
    """Loss of whole clips that the temporal decoder reconstructs from the frozen encoder's means."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Loss of a batch: clips [b, f, H, W, 3] in -1..1, noise [b, f, h, w, z] as large as a sampler's errors."""
        clips, noise = batch
        with torch.no_grad():
            mean = self.vae.quant_conv(self.vae.encoder(clips)).chunk(2, dim=-1)[0]
        return difference(self.vae.decoder(mean + noise), clips)


def grown(shallow: VAE, config: VAEConfig) -> VAE:
    """A deeper VAE with temporal layers that computes exactly what ``shallow`` does.

    Every new residual block, in space or in time, has a last convolution of zeros and adds nothing yet.

    Raises:
        ValueError: ``config`` does not contain ``shallow``.
    """
    vae = VAE(config)
    state = {k: v for k, v in shallow.state_dict().items() if not k.startswith("post_quant_conv")}
    new, unknown = vae.load_state_dict(state, strict=False)
    if unknown or not all(re.search(r"resnets|\.temporal\.|mix_factor|conv_out_time", name) for name in new):
        raise ValueError(f"{config} does not contain the trained autoencoder: {unknown or new}")
    parameters = dict(vae.named_parameters())
    for name in new:
        if ".conv_2." in name:
            nn.init.zeros_(parameters[name])
    assert vae.decoder.conv_out_time is not None
    nn.init.dirac_(vae.decoder.conv_out_time.weight)
    nn.init.zeros_(parameters["decoder.conv_out_time.bias"])
    return vae


def pictures(clips: Tensor, stride: int, z: int) -> Draw:
    """A function that draws frames of ``clips [n, f, s, s, 3]`` in bytes, and the noise of their latents."""
    n, f, side, _, _ = clips.shape

    def draw(g: Generator, size: int) -> tuple[Tensor, Tensor]:
        clip = torch.randint(n, (size,), generator=g)
        frame = torch.randint(f, (size,), generator=g)
        noise = torch.randn(size, side // stride, side // stride, z, generator=g)
        return to_float(clips[clip, frame]), noise

    return draw


def whole_clips(clips: Tensor, stride: int, z: int, noise: float) -> Draw:
    """A function that draws whole clips, and the noise that is added to their latents."""
    n, f, side, _, _ = clips.shape

    def draw(g: Generator, size: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(n, (size,), generator=g)
        shape = (size, f, side // stride, side // stride, z)
        return to_float(clips[chosen]), noise * torch.randn(shape, generator=g)

    return draw


def to_float(pixels: Tensor) -> Tensor:
    """Scale bytes to -1..1."""
    return pixels.float() / 127.5 - 1


def train_images(folder: Path, clips: int = 4096, recipe: Recipe = IMAGES) -> VAE:
    """Train the image stage, and return the averaged shallow autoencoder."""
    objective = ImageObjective(SHALLOW)
    if averaged_steps(folder) < recipe.steps:
        _, pixels = world.clips(clips, seed=TRAIN_SEED, frames=TINY.frames, side=TINY.width)
        train(objective, pictures(pixels, SHALLOW.stride, SHALLOW.latent_channels), recipe, folder)
    objective.load_state_dict(averaged(folder))
    return objective.vae


def train_clips(vae: VAE, folder: Path, clips: int = 512, recipe: Recipe = CLIPS) -> VAE:
    """Train the clip stage, and return the averaged autoencoder."""
    objective = ClipObjective(vae)
    if averaged_steps(folder) < recipe.steps:
        _, pixels = world.clips(clips, seed=TRAIN_SEED, frames=TINY.frames, side=TINY.width)
        draw = whole_clips(pixels, TINY.vae.stride, TINY.vae.latent_channels, noise=0.1)
        train(objective, draw, recipe, folder)
    objective.load_state_dict(averaged(folder))
    return objective.vae


def main() -> None:
    """Train both stages, and resume each where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stage", choices=("images", "both"), default="both")
    parser.add_argument("--steps", type=int, default=IMAGES.steps, help="of the image stage")
    parser.add_argument("--clip-steps", type=int, default=CLIPS.steps)
    parser.add_argument("--clips", type=int, default=4096, help="to draw pictures from")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    settings()
    torch.manual_seed(IMAGES.seed)
    with process_group():
        recipe = dataclasses.replace(IMAGES, steps=arguments.steps, bf16=arguments.bf16)
        shallow = train_images(arguments.folder / "images", arguments.clips, recipe)
        finish(shallow, arguments.folder / "images")
        vae = grown(shallow, TINY.vae)
        if arguments.stage != "images":
            recipe = dataclasses.replace(CLIPS, steps=arguments.clip_steps, bf16=arguments.bf16)
            vae = train_clips(vae, arguments.folder / "clips", recipe=recipe)
    finish(vae, arguments.folder)


if __name__ == "__main__":
    main()
