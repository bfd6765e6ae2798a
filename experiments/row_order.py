"""What a guided clip received when the rows of temporal cross-attention's context were out of order.

diffusers before 0.28 repeated the contexts of a batch in rows (n b) against tokens in rows (b n)
(``vcut.analysis.audit.context_rows``). This runs a model with the right and with that order and prints, at every
resolution, the share of pixels that were given another branch's context; the difference of one network call at
several noise levels; and the difference of whole clips, with the model without temporal cross-attention beside them.

    python -m experiments.row_order                       # tiny
    python -m experiments.row_order svd-xt --image photo.jpg --steps 25 --device cuda
    python -m experiments.row_order svd-xt --random --latents 16x32 --frames 3 --steps 4

``--random`` draws the UNet's weights and a conditioning, and loads nothing.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import vcut
from vcut import sampling
from vcut.analysis.audit import context_rows, interleaved
from vcut.analysis.text_table import Table
from vcut.cli import values
from vcut.conditioning import Conditioning, bind
from vcut.config import CONFIGS
from vcut.unet import UNet, fold

SIGMAS = (100.0, 10.0, 1.0, 0.1)


def main() -> None:
    args = arguments()
    unet, conditioning, frames = load(args)
    n, _, h, w = conditioning.latents.shape
    draw = torch.Generator().manual_seed(args.seed)
    noise = torch.randn(n, frames, unet.config.out_channels, h, w, generator=draw).to(
        conditioning.latents.device
    )
    forms = {
        "right": unet,
        "old": with_old_rows(unet, h, w),
        "none": fold(unet, tca=False, sca="linear_cached"),
    }

    weights = "drawn weights" if args.random else "its own weights"
    title = f"{args.model}, {weights}, latents {h}x{w}, {frames} frames, {args.steps} steps, seed {args.seed}"
    print(Table(title, ("map", "wrong, uncond", "wrong, cond", "branches alike"), tuple(shares(unet, h, w))))
    print()
    print(Table("One guided estimate D of the clean latents", HEAD, tuple(calls(forms, conditioning, noise))))
    print()
    clips = tuple(runs(forms, conditioning, noise, args.steps))
    print(Table("The latents at the end of a run", HEAD, clips, NOTES))


HEAD = ("relative difference, rms", "old - right", "none - right", "none - old")
NOTES = (
    "right: every clip its own context.  old: the rows of diffusers before 0.28.  none: no temporal cross-attention.",
    "rms of the difference over rms of the second; guidance 1 to 3 over the frames.",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The row order experiment.")
    parser.add_argument("model", nargs="?", default="tiny", help="a name, a folder or a .safetensors file")
    parser.add_argument(
        "--random", action="store_true", help="draw weights and conditioning; model is a name"
    )
    parser.add_argument("--image", type=Path, help="whose conditioning is used (default: drawn)")
    parser.add_argument(
        "--latents", type=values.size, help="width x height of the latents (default: the model's)"
    )
    parser.add_argument("--frames", type=values.count, help="default: the model's")
    parser.add_argument("--steps", type=values.count, default=10)
    parser.add_argument("--seed", type=values.seed, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def load(args: argparse.Namespace) -> tuple[UNet, Conditioning, int]:
    """The lossless UNet, a conditioning for one clip, and the number of frames."""
    if args.random:
        config = CONFIGS[args.model]
        torch.manual_seed(args.seed)
        unet = fold(UNet(config.unet), tca="linear_cached", sca="linear_cached").to(args.device)
    else:
        pipe = vcut.load(args.model, preset="lossless", dtype=torch.float32, device=args.device)
        config, unet = pipe.config, pipe.unet
    stride = config.vae.stride
    width, height = args.latents or (config.width // stride, config.height // stride)
    draw = torch.Generator().manual_seed(args.seed + 1)
    if args.image is not None and not args.random:
        from vcut.media import images

        pixels = images.to_tensor(args.image, height * stride, width * stride)[None].to(args.device)
        with torch.no_grad():
            conditioning = pipe.condition(
                pixels,
                torch.randn(pixels.shape, generator=draw).to(args.device),
                fps=config.fps,
                motion_bucket=config.motion_bucket,
                noise_aug=0.02,
            )
    else:
        conditioning = Conditioning(
            torch.randn(1, 1, config.unet.context_dim, generator=draw).to(args.device),
            torch.randn(1, unet.config.out_channels, height, width, generator=draw).to(args.device),
            torch.tensor([[config.fps - 1.0, config.motion_bucket, 0.02]], device=args.device),
        )
    return unet, conditioning, args.frames or config.frames


def with_old_rows(unet: UNet, height: int, width: int) -> UNet:
    """A view of ``unet``, sharing its weights, whose contexts come in the old order."""
    view = copy.copy(unet)
    view.cache_context = lambda embedding, frames=None: interleaved(  # type: ignore[method-assign]
        unet, embedding, height, width, frames
    )
    return view


def shares(unet: UNet, height: int, width: int) -> Iterator[tuple[str, ...]]:
    for i in range(len(unet.config.levels)):
        h, w = height >> i, width >> i
        rows = context_rows(2, h * w)
        wrong = [(rows[branch] != branch).float().mean().item() for branch in range(2)]
        yield f"{h}x{w}", *(f"{share:.0%}" for share in wrong), str(torch.equal(rows[0], rows[1]))


@torch.no_grad()
def calls(forms: dict[str, UNet], conditioning: Conditioning, noise: Tensor) -> Iterator[tuple[str, ...]]:
    """Guided estimates on pure noise at several levels."""
    scale = sampling.frame_scales(sampling.linear(1.0, 3.0), noise.shape[1])
    branches = (sampling.UNCOND, sampling.COND)
    for sigma in SIGMAS:
        x = noise * (sigma**2 + 1) ** 0.5
        guided = {}
        for name, unet in forms.items():
            uncond, cond = sampling.precondition(bind(unet, conditioning))(x, sigma, branches)
            guided[name] = sampling.guide(uncond, cond, scale)
        yield f"sigma {sigma:g}", *differences(guided)


@torch.no_grad()
def runs(
    forms: dict[str, UNet], conditioning: Conditioning, noise: Tensor, steps: int
) -> Iterator[tuple[str, ...]]:
    """Whole runs: never cut, as the paper's baseline; and cut where the paper cuts."""
    for label, cut in (("never cut", None), ("cut at 16/25", round(steps * 16 / 25) + 1)):
        latents = {
            name: sampling.sample(
                sampling.precondition(bind(unet, conditioning)),
                noise,
                sampling.karras_sigmas(steps),
                sampling.plan(steps, cut),
                sampling.linear(1.0, 3.0),
            )
            for name, unet in forms.items()
        }
        yield label, *differences(latents)


def differences(results: dict[str, Tensor]) -> tuple[str, ...]:
    pairs = (("old", "right"), ("none", "right"), ("none", "old"))
    return tuple(f"{rms(results[a] - results[b]) / rms(results[b]):.3f}" for a, b in pairs)


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


if __name__ == "__main__":
    main()
