"""A sweep's folder, made without a model: each frame of its clips says in its colours which one it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sweep_samples import describe

from vcut import media
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record

FRAMES, FPS, SIDE = 12, 8, 64
SEED = 2**62 + 1  # a double would round it
SETTINGS = ("baseline", "c17", "c10")
MEASURES = (
    {"name": "psnr", "label": "PSNR", "better": "higher", "of": "baseline", "unit": "dB"},
    {"name": "flicker", "label": "Flicker", "better": "lower", "of": "pixels"},
)


def grey(frame: int) -> int:
    """The grey, 0 to 255, of a frame's upper half."""
    return 20 + 18 * frame


def frame_of(level: float) -> int:
    """The frame whose upper half has this grey."""
    frame = round((level - 20) / 18)
    assert abs(level - grey(frame)) < 7, f"{level} is no frame's grey"
    return frame


def clip(setting: int, frames: int = FRAMES) -> torch.Tensor:
    """Frames [f, 3, 64, 64]: the number above, below a colour of the setting."""
    made = torch.zeros(frames, 3, SIDE, SIDE)
    for n in range(frames):
        made[n, :, : SIDE // 2] = grey(n) / 255
    made[:, setting % 3, SIDE // 2 :] = 0.8
    return made


def write_sweep(
    out: Path,
    names: Sequence[str] = ("disc", "ring", "star"),
    settings: Sequence[str] = SETTINGS,
    indices: Sequence[int] = (0,),
) -> list[Record]:
    """Write clips and the manifest; return its records."""
    out.mkdir(parents=True, exist_ok=True)
    for number, setting in enumerate(settings):
        (out / setting).mkdir(exist_ok=True)
        for name in names:
            for index in indices:
                media.write(clip(number), out / setting / f"{name}-{index}.mp4", FPS)
                manifest.append(out / "manifest.jsonl", record(out, setting, name, index))
    manifest.write_sweep(out, describe(settings))
    return manifest.read(out)


def record(out: Path, setting: str, name: str, index: int) -> Record:
    """A line of the manifest, of a clip that is there."""
    file = f"{setting}/{name}-{index}.mp4"
    return Record(
        setting=setting,
        name=name,
        index=index,
        file=file,
        image=f"pictures/{name}.png",
        image_sha256="0" * 64,
        seed=SEED + index,
        preset="baseline" if setting == "baseline" else "vcut",
        settings={} if setting == "baseline" else {"cut": 17},
        model="tiny",
        weights_sha256="0" * 64,
        versions={"vcut": "0", "torch": "0", "python": "0"},
        device="cpu",
        frames=FRAMES,
        height=SIDE,
        width=SIDE,
        fps=FPS,
        seconds=2.0 if setting == "baseline" else 1.5,
        bytes=(out / file).stat().st_size,
        file_sha256=manifest.file_sha256(out / file),
        frames_sha256="0" * 64,
    )


def write_scores(out: Path, values: dict[tuple[str, str, int], dict[str, float]]) -> None:
    """Write scores.json; ``values`` are the scores of a clip by setting, name and index."""
    records = manifest.read(out)
    summary: dict[str, Any] = {}
    for setting in dict.fromkeys(each.setting for each in records):
        summary[setting] = {}
        for measure in MEASURES:
            own = [
                s[measure["name"]]
                for (of, _, _), s in values.items()
                if of == setting and measure["name"] in s
            ]
            if not own:
                continue
            mean = sum(own) / len(own)
            cell: dict[str, Any] = {"mean": mean, "low": mean - 0.4, "high": mean + 0.4, "images": len(own)}
            if setting != "baseline" and measure["name"] == "flicker":
                cell["difference"] = {"mean": -0.5, "low": -0.9, "high": -0.1, "clips_for_0.3": 41.2}
            summary[setting][measure["name"]] = cell
    clips = [
        {
            "setting": r.setting,
            "name": r.name,
            "index": r.index,
            "file": r.file,
            "scores": values.get(r.key, {}),
        }
        for r in records
    ]
    settings = list(summary)
    text = {
        "baseline": "baseline",
        "measures": MEASURES,
        "settings": settings,
        "summary": summary,
        "clips": clips,
    }
    (out / "scores.json").write_text(json.dumps(text))
