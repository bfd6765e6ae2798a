"""The contexts that a guided clip received when the rows of temporal cross-attention's contexts were out of order.

diffusers before 0.28 repeated the contexts of a batch in rows (n b), and its tokens lay in rows (b n)
(:func:`context_rows`). With one key, what a pixel receives is the constant of the context that it is given. So the
wrong order is a context like any other (:func:`interleaved`), and the model stays as it is.

The script runs a model with the right order, with the old one, and without temporal cross-attention. It prints

* at every resolution, the share of pixels that were given another branch's context;
* at several noise levels, the difference of one guided estimate;
* the difference of whole runs.

    python -m experiments.row_order                       # tiny
    python -m experiments.row_order svd-xt --image photo.jpg --steps 25 --device cuda
    python -m experiments.row_order svd-xt --random --latents 16x32 --frames 3 --steps 4

``--random`` draws the UNet's weights and a conditioning, and loads nothing.

Shapes: b clips, f frames, n = h*w pixels, c channels, d context width.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

import vcut
from vcut import sampling
from vcut.analysis.text_table import Table
from vcut.cli import values
from vcut.conditioning import Conditioning, bind
from vcut.config import CONFIGS, PRESETS
from vcut.errors import ConfigError
from vcut.unet import Context, UNet, fold
from vcut.unet.model import LevelContext
from vcut.unet.transformer import TransformerContext

SIGMAS = (100.0, 10.0, 1.0, 0.1)


def context_rows(clips: int, pixels: int) -> Tensor:
    """Number of the clip whose context each pixel of each clip was given: ``[b, n]``.

    Tokens lay in rows ``(b n)``, contexts in rows ``(n b)``, and row r took context r. So pixel p of clip i,
    which is row ``i n + p``, was given the context of clip ``(i n + p) mod b``.
    """
    return torch.arange(clips * pixels).reshape(clips, pixels) % clips


def interleaved(unet: UNet, embedding: Tensor, height: int, width: int, frames: int) -> Context:
    """Make the context as diffusers before 0.28 handed it to temporal cross-attention.

    It has a vector per pixel in place of one per clip. Spatial cross-attention was right, and so is a batch of one.

    Args:
        unet: with ``tca='linear_cached'``; any mode of sca.
        embedding: ``[b, 1, d]``, for guidance the unconditional clips first.
        height: of the latents.
        width: of the latents.
        frames: as for :meth:`vcut.unet.UNet.cache_context`.

    Raises:
        ConfigError: another form of temporal cross-attention, or more than one token.
    """
    if unet.config.tca != "linear_cached":
        raise ConfigError(
            f"interleaved needs tca='linear_cached', got {unet.config.tca!r}: fold the UNet first"
        )
    context = unet.cache_context(embedding, frames)

    def reordered(transformer: TransformerContext, stride: int) -> TransformerContext:
        """A transformer's context on a map of ``stride`` latents per pixel, along each side."""
        rows = context_rows(context.batch, (height // stride) * (width // stride))
        blocks = []
        for pair in transformer.blocks:
            vector = cast("Tensor", pair.temporal)  # [b, 1, 1, c]
            blocks.append(pair._replace(temporal=vector[rows, 0, 0].unsqueeze(1)))  # [b, 1, n, c]
        return transformer._replace(blocks=tuple(blocks))

    def level(layers: LevelContext, stride: int) -> LevelContext:
        return tuple(None if layer is None else reordered(layer, stride) for layer in layers)

    last = len(context.down) - 1
    return context._replace(
        down=tuple(level(layers, 2**i) for i, layers in enumerate(context.down)),
        mid=reordered(context.mid, 2**last),
        up=tuple(level(layers, 2 ** (last - i)) for i, layers in enumerate(context.up)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
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


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The row order experiment.")
    parser.add_argument("model", nargs="?", default="tiny", help="a name, a folder or a .safetensors file")
    parser.add_argument(
        "--random", action="store_true", help="draw weights and conditioning; model is a name"
    )
    parser.add_argument(
        "--image", type=Path, help="picture that conditions the clip (default: a drawn conditioning)"
    )
    parser.add_argument(
        "--latents", type=values.size, help="width x height of the latents (default: the model's)"
    )
    parser.add_argument("--frames", type=values.count, help="default: the model's")
    parser.add_argument("--steps", type=values.count, default=10)
    parser.add_argument("--seed", type=values.seed, default=0)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


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

    def cache_context(embedding: Tensor, frames: int) -> Context:
        return interleaved(unet, embedding, height, width, frames)

    view = copy.copy(unet)
    vars(view)["cache_context"] = cache_context
    return view


def shares(unet: UNet, height: int, width: int) -> Iterator[tuple[str, ...]]:
    """Share of pixels with another branch's context at each resolution, and whether both branches had the same."""
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
            network = bind(unet, conditioning, sampling.plan(1), noise.shape[1])
            uncond, cond = sampling.precondition(network)(x, sigma, branches)
            guided[name] = sampling.guide(uncond, cond, scale)
        yield f"sigma {sigma:g}", *differences(guided)


@torch.no_grad()
def runs(
    forms: dict[str, UNet], conditioning: Conditioning, noise: Tensor, steps: int
) -> Iterator[tuple[str, ...]]:
    """Whole runs: never cut, as the paper's baseline; and cut where the paper cuts."""
    paper = PRESETS["vcut"].cut_step(steps)
    for label, cut in (("never cut", None), (f"cut at step {paper}", paper)):
        plan = sampling.plan(steps, cut)
        latents = {
            name: sampling.sample(
                sampling.precondition(bind(unet, conditioning, plan, noise.shape[1])),
                noise,
                sampling.karras_sigmas(steps),
                plan,
                sampling.linear(1.0, 3.0),
            )
            for name, unet in forms.items()
        }
        yield label, *differences(latents)


def differences(results: dict[str, Tensor]) -> tuple[str, ...]:
    """Relative differences between the forms, for the columns of ``HEAD``."""
    pairs = (("old", "right"), ("none", "right"), ("none", "old"))
    return tuple(f"{rms(results[a] - results[b]) / rms(results[b]):.3f}" for a, b in pairs)


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


if __name__ == "__main__":
    main()
