"""The paper's Figure 1: cosine of the first and last frame under two encoders, of a still and of a moving clip.

    python -m experiments.figure_1 still.mp4 moving.mp4
    python -m experiments.figure_1 still.mp4 moving.mp4 --model svd-xt --dino dino.safetensors

The encoders are the model's own CLIP and, with weights that the user has, DINO ViT-B/16 and CLIP ViT-B/32. Without
them the second is HOG (Dalal and Triggs 2005), histograms of oriented gradients: a descriptor of shape and place that
was not learned, and is here to have one that no embedding decides. The figure is a PNG, the table goes to the output.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vcut import media
from vcut.analysis.text_table import Table
from vcut.cli import values
from vcut.errors import ConfigError
from vcut.scores import features, vit
from vcut.scores.features import Encoder
from weights_tools import command
from weights_tools.outputs import check_file, replacing

CELLS, BINS = 8, 9
"""Cells along each side of a frame, and orientations in each, of HOG."""


def hog(frames: Tensor) -> Tensor:
    """Histograms of oriented gradients, ``[T, CELLS^2 BINS]``, of frames ``[T, 3, H, W]`` in 0..1.

    Each pixel votes for the orientation of its gradient, without sign, by the gradient's length; blocks of 2 x 2
    cells are normalised in L2.
    """
    grey = F.pad(frames.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    dx, dy = grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2], grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]
    place = torch.atan2(dy, dx).remainder(math.pi) / math.pi * BINS
    votes = F.one_hot(place.long().clamp_max(BINS - 1), BINS) * torch.hypot(dx, dy)[..., None]
    cells = F.adaptive_avg_pool2d(votes.permute(0, 3, 1, 2), CELLS)
    blocks = torch.stack(
        [cells[:, :, y : y + CELLS - 1, x : x + CELLS - 1] for y in (0, 1) for x in (0, 1)], dim=1
    )
    return F.normalize(blocks.flatten(1, 2), dim=1, eps=1e-3).flatten(1)


def similarities(clips: dict[str, Tensor], encoders: Sequence[Encoder]) -> dict[str, list[float]]:
    """Cosine of the first and the last frame's features, by encoder, for each clip."""
    found = {}
    for encoder in encoders:
        pairs = [encoder.features(frames[[0, -1]]).double() for frames in clips.values()]
        found[encoder.label] = [F.cosine_similarity(first, last, dim=0).item() for first, last in pairs]
    return found


def draw(clips: dict[str, Tensor], found: dict[str, list[float]], path: Path) -> None:
    """Draw the first and the last frame of each clip, and the cosines under them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(clips), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 * len(clips))
    for i, (name, frames) in enumerate(clips.items()):
        for axis, at, when in zip(axes[2 * i : 2 * i + 2], (0, -1), ("first", "last"), strict=True):
            axis.imshow(frames[at].permute(1, 2, 0).numpy())
            axis.set_title(f"{name}, {when}", fontsize=9)
            axis.set_axis_off()
        lines = "\n".join(f"{label}: {cosines[i]:.3f}" for label, cosines in found.items())
        axes[2 * i].text(0, -0.08, lines, transform=axes[2 * i].transAxes, va="top", fontsize=9)
    with replacing(path, overwrite=True) as part:
        figure.savefig(part, dpi=150)


def run(args: argparse.Namespace) -> None:
    """Print the cosines and draw the figure."""
    if args.output.suffix.lower() != ".png":
        raise ConfigError(f"--output {args.output}: the figure is a .png")
    check_file(args.output, overwrite=True)
    device = values.device(args.device)
    clips = {name: media.read(path)[0] for name, path in (("still", args.still), ("moving", args.moving))}
    encoders = [features.own_clip(args.model, "", device)]
    if args.dino:
        encoders += features.from_file(args.dino, vit.DINO, (features.SUBJECT,), device)
    if args.clip_b32:
        encoders += features.from_file(args.clip_b32, vit.CLIP_B32, (features.BACKGROUND,), device)
    if len(encoders) == 1:
        encoders.append(Encoder("HOG", "", hog, torch.device("cpu")))
    found = similarities(clips, encoders)
    rows = tuple((label, *(f"{cosine:.4f}" for cosine in cosines)) for label, cosines in found.items())
    print(Table("Cosine similarity of the first and the last frame", ("encoder", *clips), rows))
    draw(clips, found, args.output)
    print(f"wrote    {args.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""

    def parser() -> argparse.ArgumentParser:
        made = command.Parser(
            prog="figure_1", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
        )
        made.add_argument("still", type=values.path, help="clip in which little moves")
        made.add_argument("moving", type=values.path, help="clip in which much moves")
        made.add_argument("--model", default="tiny", help="whose CLIP is used (default: tiny)")
        made.add_argument("--dino", type=values.path, help="weights of DINO ViT-B/16, .safetensors")
        says = "weights of OpenAI's CLIP ViT-B/32, .safetensors"
        made.add_argument("--clip-b32", type=values.path, help=says)
        made.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
        figure = Path("figure_1.png")
        made.add_argument("-o", "--output", type=values.path, default=figure, help=f"default: {figure}")
        made.set_defaults(run=run)
        return made

    return command.run(parser, "figure_1", argv)


if __name__ == "__main__":
    sys.exit(main())
