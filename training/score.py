"""Add the error against the true future to the scores of a sweep whose pictures are of the world.

    python -m training.example pictures --each 2
    vcut sweep pictures -o OUT
    python -m training.score OUT
    vcut score OUT

A clip whose picture is no first frame of :mod:`training.example` is left out.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from training import measure, world
from training.example import SIDE, named
from vcut.cli import lines, values
from vcut.errors import ConfigError
from vcut.media import images
from vcut.scores import scoring
from vcut.scores.cache import Measure, Scores
from vcut.scores.groups import Clip, Group
from vcut.settings import Settings
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record
from weights_tools import command

POSITION = Measure("future_position_error", "Position error", "lower", "true future", "% of the width")
PSNR = Measure("future_psnr", "PSNR", "higher", "true future", "dB")


@functools.cache
def scene_of(name: str, image: str) -> world.Scenes | None:
    """The scene of this name, if the picture is the one that :mod:`training.example` draws of it."""
    scene = named(name)
    if scene is None:
        return None
    first = world.render(scene, 1, SIDE)[0, 0]
    # the file has bytes
    return scene if (images.fitted(image, SIDE, SIDE) - first).abs().max() < 1 / 255 else None


def source(record: Record) -> str | None:
    """Name of what the errors depend on besides the clip, None of a picture whose future is not known."""
    return f"{record.name}, {record.fps} fps" if scene_of(record.name, record.image) is not None else None


def score(clip: Clip) -> Scores:
    """Errors of a clip; the position's is left out where the shape stays in its place."""
    record, scene = clip.record, scene_of(clip.record.name, clip.record.image)
    assert scene is not None
    bucket = Settings.from_dict(record.settings).motion_bucket
    scene = scene.asked(fps=record.fps, motion_bucket=127 if bucket is None else bucket)
    frames = clip.frames[None]
    truth = world.render(scene, frames.shape[1], frames.shape[-1])
    found: Scores = {PSNR.name: measure.psnr(frames[:, 1:], truth[:, 1:]).item()}
    if world.KINDS[int(scene.kind[0, 0])] in world.MOVING:
        seen, true = (world.see(each, scene).position for each in (frames, truth))
        found[POSITION.name] = 100 * measure.position_errors(seen, true).nanmean().item()
    return found


FUTURE = Group("future", (POSITION, PSNR), source, score)
"""Both measures, as ``vcut score`` takes a group of them."""


def run(args: argparse.Namespace) -> None:
    """Score the clips that are not scored yet."""
    records = manifest.read(args.out)
    known = [record for record in records if source(record) is not None]
    if not known:
        raise ConfigError(f"{args.out} holds no clips of a sweep of the pictures of training.example")
    failed = scoring.score(args.out, known, [FUTURE], {}, warn=lines.warn)
    print(f"{args.out}: the future of {len(known) - len(failed)} clips")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""

    def parser() -> argparse.ArgumentParser:
        made = command.Parser(
            prog="training.score", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
        )
        made.add_argument("out", type=values.path, help="folder of a sweep")
        made.set_defaults(run=run)
        return made

    return command.run(parser, "training.score", argv)


if __name__ == "__main__":
    sys.exit(main())
