"""Draw pictures of the world: the first frames of held-out scenes, large. ``examples/`` has one of each kind.

python -m training.example examples
python -m training.example pictures --each 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

from einops import rearrange
from PIL import Image

from training import world
from training.config import HELD_OUT_SEED
from vcut.config import TINY
from weights_tools.outputs import replacing

SIDE = 128


def named(name: str) -> world.Scenes | None:
    """The held-out scene of this name, as one clip of motion bucket 127: ``disc``, ``disc-1``, ``disc-2``, ..."""
    kind, _, number = name.partition("-")
    if kind not in world.KINDS or not (number or "0").isdecimal():
        return None
    drawn = world.draw(64, HELD_OUT_SEED, TINY.width).asked(motion_bucket=127, fps=TINY.fps)
    chosen = (drawn.kind[:, 0] == world.KINDS.index(kind)).nonzero().squeeze(1)
    scene = drawn[chosen[int(number or 0) :][:1]]
    return scene if len(scene) else None


def main() -> None:
    """Write pictures of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=1, metavar="N", help="pictures of each kind (default: 1)")
    arguments = parser.parse_args()
    folder = arguments.folder
    names = [f"{kind}-{i}" if i else kind for kind in world.KINDS for i in range(arguments.each)]
    scenes = {name: named(name) for name in names}
    for name, scene in scenes.items():
        if scene is None:
            parser.error(f"there is no scene {name}: ask for fewer, --each")
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in scenes.items():
        assert scene is not None
        pixels = world.render(scene, 1, SIDE)[0, 0]
        picture = rearrange((pixels * 255).round().byte(), "c h w -> h w c").numpy()
        with replacing(folder / f"{name}.png", overwrite=True) as part:
            Image.fromarray(picture).save(part)


if __name__ == "__main__":
    main()
