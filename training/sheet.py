"""A contact sheet of held-out clips: the true future above, the generated one below, pair by pair.

python -m training.sheet tiny.safetensors sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

import vcut
from training import world
from training.config import HELD_OUT_SEED, settings
from training.evaluate import first_frames
from weights_tools.atomic import replacing


def sheet(true: Tensor, made: Tensor, zoom: int) -> Image.Image:
    """One picture of clips ``[n, f, 3, s, s]`` in 0..1: two rows for every clip, frames from left to right."""
    rows = rearrange(torch.stack([true, made]), "two n f c h w -> (n two h) (f w) c")
    picture = Image.fromarray((rows.clamp(0, 1) * 255).round().byte().numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def main() -> None:
    """Generate and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--preset", default="baseline")
    parser.add_argument("--zoom", type=int, default=2)
    arguments = parser.parse_args()
    settings()
    model = vcut.load(arguments.model, preset=arguments.preset)
    scenes = world.draw(64, HELD_OUT_SEED)[: arguments.clips].asked(motion_bucket=127, fps=7)
    made = model.generate(first_frames(scenes, model.config.width), seed=0, fps=7, motion_bucket=127)
    true = world.render(scenes, model.config.frames, model.config.width)
    with replacing(arguments.output, overwrite=True) as part:
        sheet(true, made, arguments.zoom).save(part)


if __name__ == "__main__":
    main()
