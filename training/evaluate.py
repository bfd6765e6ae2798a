"""Judge a trained model on held-out pictures against their true future.

Every row shows the same clips from the same seeds: 25 steps, guidance 1 to 3, the model's own fps, motion bucket 127.
The table is printed in Markdown; ``--json`` keeps the numbers. ``experiments.better_cut`` has the cuts.

    python -m training.evaluate tiny.safetensors --json evaluation.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

import vcut
from training import measure, recognise, world
from training.config import HELD_OUT_SEED, settings
from vcut.config import Mode
from vcut.pipeline import Pipeline
from vcut.sampling import Ramp
from vcut.settings import Settings
from weights_tools.outputs import replacing

SPEEDS = (32, 64, 127, 191)
"""Motion buckets at which the speed of the shapes is measured."""

NO_CUT = Settings(cut=None)


@dataclass(frozen=True)
class Row:
    """One row of the table: a form of the model, and the settings of its runs."""

    name: str
    tca: Mode
    sca: Mode
    settings: Settings = NO_CUT


def rows() -> list[Row]:
    """The rows of the table: the published model first, its forms, and the paper's figure 2 in numbers."""

    def embedding(steps: Iterable[int]) -> Settings:
        return Settings(cut=None, embedding=tuple(steps))

    return [
        Row("baseline", True, True),
        Row("lossless", "linear_cached", "linear_cached"),
        Row("tca=False, no cut", False, "linear_cached"),
        Row("guidance 1: one pass a step", True, True, Settings(cut=None, guidance=Ramp(1.0, 1.0))),
        Row("embedding at steps 1 to 8 only", True, True, embedding(range(1, 9))),
        Row("embedding at 18 to 25 only", True, True, embedding(range(18, 26))),
        Row("embedding at none", True, True, embedding(())),
    ]


def first_frames(scenes: world.Scenes, side: int) -> list[Tensor]:
    """Pictures that the clips are made from, [3, s, s] in 0..1 each."""
    return list(world.render(scenes, 1, side)[:, 0])


def generate(model: Pipeline, row: Row, scenes: world.Scenes, batch: int) -> Tensor:
    """Clips ``[n, f, 3, s, s]`` of scenes that all ask for one speed and rate."""
    pictures = first_frames(scenes, model.config.width)
    settings = row.settings.replace(fps=int(scenes.fps[0]), motion_bucket=int(scenes.motion_bucket[0]))
    parts = []
    for i in range(0, len(pictures), batch):
        part = pictures[i : i + batch]
        parts.append(model.generate(part, settings=settings.replace(seed=range(i, i + len(part)))))
    return torch.cat(parts)


def time_ratios(path: Path, scenes: world.Scenes, table: Sequence[Row], rounds: int) -> list[float]:
    """Ratio of each row's time to the first row's: the median over rounds in which every row runs once, in turn.

    Times are CPU seconds, which other work on the machine changes little. The embedding's steps do not change a row's
    time, so rows that differ in nothing else share one measurement.
    """

    def costs(row: Row) -> tuple[Any, ...]:
        return row.tca, row.sca, row.settings.guidance

    models = {costs(row): vcut.load(path, preset="baseline", tca=row.tca, sca=row.sca) for row in table}
    first = {costs(row): row for row in reversed(table)}
    ratios: dict[Any, list[float]] = {key: [] for key in models}
    # The first round is a warm-up.
    for i in range(rounds + 1):
        seconds = {}
        for key, row in first.items():
            start = time.process_time()
            generate(models[key], row, scenes, len(scenes))
            seconds[key] = time.process_time() - start
        for key in models:
            if i:
                ratios[key].append(seconds[key] / seconds[costs(table[0])])
    return [statistics.median(ratios[costs(row)]) for row in table]


def compare(
    path: Path, scenes: world.Scenes, classifier: nn.Module, table: Sequence[Row], batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Records of the rows: quality, time over the first row's time, distance from the first row."""
    records: list[dict[str, Any]] = []
    reference: Tensor | None = None
    ratios = time_ratios(path, scenes[:4], table, rounds)
    for row, ratio in zip(table, ratios, strict=True):
        model = vcut.load(path, preset="baseline", tca=row.tca, sca=row.sca)
        frames = generate(model, row, scenes, batch)
        reference = frames if reference is None else reference
        records.append(
            {
                "row": row.name,
                **measure.quality(frames, scenes, model.clip, classifier).means(),
                "time_ratio": ratio,
                "largest_difference": (frames - reference).abs().max().item(),
                "psnr_to_baseline": measure.psnr(frames, reference).mean().item(),
            }
        )
        print(markdown_row(records[-1]), flush=True)
    return records


def controls(scenes: world.Scenes, model: Pipeline, classifier: nn.Module) -> list[dict[str, Any]]:
    """Records of the controls: the truth, the VAE's own error, and clips that know nothing."""
    count, side = model.config.frames, model.config.width
    truth = world.render(scenes, count, side)
    latents = model.vae.encode(rearrange(truth, "n f c h w -> (n f) c h w") * 2 - 1)
    latents = rearrange(latents, "(n f) z h w -> n f z h w", n=len(truth))
    decoded = ((model.vae.decode(latents) + 1) / 2).clamp(0, 1)
    shown = {
        "the true clips": truth,
        "the VAE's reconstruction": decoded,
        "control: static clip": measure.static_control(scenes, count, side),
    }
    records: list[dict[str, Any]] = [
        {"row": name, **measure.quality(clips, scenes, model.clip, classifier).means()}
        for name, clips in shown.items()
    ]
    anywhere = measure.random_direction_errors(scenes, count)[measure.is_kind(scenes, *world.MOVING)]
    anywhere_record = {
        "row": "control: random direction",
        "position": 100 * anywhere.mean().item(),
        "position_last": 100 * anywhere[:, -1].mean().item(),
    }
    return [*records, anywhere_record]


def speeds(model: Pipeline, scenes: world.Scenes, batch: int) -> list[dict[str, float]]:
    """Measured and true speed of drifting and orbiting shapes, in % of the width per frame, by motion bucket."""
    chosen = measure.is_kind(scenes, "disc", "ring")
    scenes = scenes[chosen.any(1)]
    chosen = measure.is_kind(scenes, "disc", "ring")
    row = Row("baseline", True, True)
    found = []
    for bucket in SPEEDS:
        asked = scenes.asked(motion_bucket=bucket)
        frames = generate(model, row, asked, batch)
        truth = world.render(asked, *frames.shape[1::3])
        seen, true = (
            100 * measure.path_length(world.see(clips, asked).position)[chosen].nanmean().item()
            for clips in (frames, truth)
        )
        found.append({"motion_bucket": bucket, "measured": seen, "true": true})
    return found


def without_nan(value: Any) -> Any:
    """The same nested value with None for each NaN, such as the angle in clips without bars."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


COLUMNS = (
    ("position", "position error %", ".2f"),
    ("position_last", "at the last frame %", ".2f"),
    ("lost", "lost frames", ".0f"),
    ("turn", "angle error", ".1f"),
    ("growth", "radius error", ".3f"),
    ("kind", "kind recognised %", ".1f"),
    ("psnr", "PSNR dB", ".2f"),
    ("consistency", "consistency", ".2f"),
    ("to_picture", "to the picture", ".2f"),
    ("flicker", "flicker", ".2f"),
    ("time_ratio", "time ratio", ".2f"),
    ("largest_difference", "largest difference", ".1e"),
)


def markdown_row(record: dict[str, Any]) -> str:
    """One line of the table in Markdown."""
    cells = [format(record[key], spec) if key in record else "" for key, _, spec in COLUMNS]
    return f"| {record['row']} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table, the controls and the speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="of timing, on 4 clips")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings()
    with torch.inference_mode():
        model = vcut.load(arguments.model, preset="baseline")
        config = model.config
        scenes = world.draw(arguments.clips, HELD_OUT_SEED, config.width)
        scenes = scenes.asked(motion_bucket=127, fps=config.fps)
        classifier = recognise.classifier(config.frames, config.width)
        print("| " + " | ".join(["", *(title for _, title, _ in COLUMNS)]) + " |")
        print("|---" * (len(COLUMNS) + 1) + "|")
        result: dict[str, Any] = {"controls": controls(scenes, model, classifier)}
        for record in result["controls"]:
            print(markdown_row(record), flush=True)
        result["speeds"] = speeds(model, scenes, arguments.batch)
        result["rows"] = compare(
            arguments.model, scenes, classifier, rows(), arguments.batch, arguments.rounds
        )
    print("\n| motion bucket | measured, % of the width per frame | true |\n|---|---|---|")
    for speed in result["speeds"]:
        print(f"| {speed['motion_bucket']} | {speed['measured']:.2f} | {speed['true']:.2f} |")
    if arguments.json:
        with replacing(arguments.json, overwrite=True) as part:
            part.write_text(json.dumps(without_nan(result), indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
