"""Sheets of held-out clips: each clip is a strip of frames from left to right, and strips lie one above the other.

There are three figures. ``truth`` shows the true future, and the clip made from its first frame. ``presets`` shows
baseline, and vcut from the same seed, as figure 3 of the paper. ``embedding`` shows the true future, then clips that
received the image embedding at every step, in the first third only, in the last third only, and at none, as figure 2.

    python -m training.sheet tiny sheet.png --figure truth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

import vcut
from training import world
from training.config import HELD_OUT_SEED, settings
from training.evaluate import first_frames
from vcut.config import PRESETS
from weights_tools.outputs import replacing

FIGURES = ("truth", "presets", "embedding")
STEPS = 25
WINDOWS = (None, range(1, 9), range(18, 26), ())
"""The steps that receive the embedding, counted from 1; None is all."""


def strips(rows: Sequence[Tensor], zoom: int) -> Image.Image:
    """One picture of several versions of the same clips ``[n, f, 3, s, s]`` in 0..1, grouped by clip."""
    lines = [rearrange(clips, "n f c h w -> n h (f w) c") for clips in rows]
    gap = torch.ones_like(lines[0][:, :2])
    groups = torch.cat([*lines, gap], dim=1).flatten(0, 1)
    picture = Image.fromarray((groups.clamp(0, 1) * 255).round().byte().numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def figure(name: str, model: str | Path, clips: int) -> list[Tensor]:
    """The versions of the first held-out clips that a figure shows, all from seed 0 and motion bucket 127."""
    config = vcut.load(model).config
    scenes = world.draw(64, HELD_OUT_SEED, config.width)[:clips].asked(motion_bucket=127, fps=config.fps)
    images = first_frames(scenes, config.width)

    def made(preset: str, **options: Any) -> Tensor:
        pipe = vcut.load(model, preset=PRESETS[preset])
        return pipe.generate(images, seed=0, fps=config.fps, motion_bucket=127, steps=STEPS, **options)

    truth = world.render(scenes, config.frames, config.width)
    if name == "truth":
        return [truth, made("baseline")]
    if name == "presets":
        return [made("baseline"), made("vcut")]
    return [truth, *(made("baseline", embedding=window) for window in WINDOWS)]


def main() -> None:
    """Generate the clips and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="tiny, or a file")
    parser.add_argument("output", type=Path)
    parser.add_argument("--figure", choices=FIGURES, default="truth")
    parser.add_argument("--clips", type=int, default=6, help="at most 64")
    parser.add_argument("--zoom", type=int, default=3)
    arguments = parser.parse_args()
    settings()
    rows = figure(arguments.figure, arguments.model, arguments.clips)
    with replacing(arguments.output, overwrite=True) as part:
        strips(rows, arguments.zoom).save(part)


if __name__ == "__main__":
    main()
