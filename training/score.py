"""Add the error against the true future to the scores of a sweep whose pictures are of the world.

    python -m training.example pictures --each 2
    vcut sweep pictures -o OUT
    python -m training.score OUT
    vcut score OUT

A clip whose picture is no first frame of :mod:`training.example` is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from training import measure, world
from training.example import named
from vcut import media
from vcut.scores import cache
from vcut.scores.cache import Measure
from vcut.settings import Settings
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record

MEASURES = (
    Measure("future_position_error", "Position error", "lower", "true future", "% of the width"),
    Measure("future_psnr", "PSNR", "higher", "true future", "dB"),
)


def scores(out: Path, record: Record, scene: world.Scenes) -> dict[str, float]:
    """Scores of a clip of ``scene``; the position's is left out where the shape stays in its place."""
    bucket = Settings.from_dict(record.settings).motion_bucket
    scene = scene.asked(fps=record.fps, motion_bucket=127 if bucket is None else bucket)
    frames = media.read(out / record.file)[0][None]
    truth = world.render(scene, frames.shape[1], frames.shape[-1])
    found = {"future_psnr": measure.psnr(frames[:, 1:], truth[:, 1:]).item()}
    if world.KINDS[int(scene.kind[0, 0])] in world.MOVING:
        seen, true = (world.see(clip, scene).position for clip in (frames, truth))
        found["future_position_error"] = 100 * measure.position_errors(seen, true).nanmean().item()
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Score the clips that are not scored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of a sweep")
    out = parser.parse_args(argv).out
    file = out / cache.FOLDER / "future.jsonl"
    known = [(record, scene) for record in manifest.read(out) if (scene := named(record.name)) is not None]
    cache.announce(file, MEASURES)
    done = cache.read(file).scores
    for record, scene in known:
        source = f"{record.name}, {record.fps} fps"
        if (record.file_sha256, source) not in done:
            cache.append(file, record.file_sha256, source, scores(out, record, scene))
    print(f"{file}: the future of {len(known)} clips")


if __name__ == "__main__":
    main()
