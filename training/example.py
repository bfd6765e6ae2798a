"""Draw the pictures in ``examples/``: the first frame of one held-out scene of each kind, large.

python -m training.example examples
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


def scenes(kind: str) -> world.Scenes:
    """The first held-out scene of this kind, as one clip of motion bucket 127."""
    drawn = world.draw(64, HELD_OUT_SEED, TINY.width).asked(motion_bucket=127, fps=TINY.fps)
    chosen = (drawn.kind[:, 0] == world.KINDS.index(kind)).nonzero().squeeze(1)
    return drawn[chosen[:1]]


def main() -> None:
    """Write one picture of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for kind in world.KINDS:
        pixels = world.render(scenes(kind), 1, SIDE)[0, 0]
        picture = rearrange((pixels * 255).round().byte(), "c h w -> h w c").numpy()
        with replacing(folder / f"{kind}.png", overwrite=True) as part:
            Image.fromarray(picture).save(part)


if __name__ == "__main__":
    main()
