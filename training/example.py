"""Draw pictures of the world: the first frames of held-out scenes, large. ``examples/`` has one of each kind.

python -m training.example examples
python -m training.example pictures --each 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from einops import rearrange
from PIL import Image

from training import world
from training.config import HELD_OUT_SEED
from vcut.cli import values
from vcut.config import TINY
from vcut.errors import ConfigError
from weights_tools import command
from weights_tools.outputs import replacing

SIDE = 128


def named(name: str) -> world.Scenes | None:
    """The held-out scene of one shape of this name: ``disc``, ``disc-1``, ``disc-2``, ..., at motion bucket 127."""
    kind, _, number = name.partition("-")
    if kind not in world.KINDS or not (number or "0").isdecimal():
        return None
    drawn = world.draw(192, HELD_OUT_SEED, TINY.width).asked(motion_bucket=127, fps=TINY.fps)
    alone = drawn.present.sum(1) == 1
    chosen = (alone & (drawn.kind[:, 0] == world.KINDS.index(kind))).nonzero().squeeze(1)
    scene = drawn[chosen[int(number or 0) :][:1]]
    return scene if len(scene) else None


def run(args: argparse.Namespace) -> None:
    """Write the pictures that ``args`` ask for, once all of their scenes were found."""
    names = [f"{kind}-{i}" if i else kind for kind in world.KINDS for i in range(args.each)]
    scenes: dict[str, world.Scenes] = {}
    for name in names:
        if (scene := named(name)) is None:
            raise ConfigError(f"there is no scene {name}: ask for fewer, --each")
        scenes[name] = scene
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, scene in scenes.items():
        pixels = world.render(scene, 1, SIDE)[0, 0]
        picture = rearrange((pixels * 255).round().byte(), "c h w -> h w c").numpy()
        with replacing(args.folder / f"{name}.png", overwrite=True) as part:
            Image.fromarray(picture).save(part)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""

    def parser() -> argparse.ArgumentParser:
        made = command.Parser(
            prog="training.example", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
        )
        made.add_argument("folder", type=values.path, help="where the pictures go; it is made if need be")
        says = "pictures of each kind (default: 1)"
        made.add_argument("--each", type=values.count, default=1, metavar="N", help=says)
        made.set_defaults(run=run)
        return made

    return command.run(parser, "training.example", argv)


if __name__ == "__main__":
    sys.exit(main())
