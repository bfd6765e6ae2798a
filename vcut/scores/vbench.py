"""VBench's image-to-video evaluation: the files and commands that it needs, and its results read back.

VBench lives in an environment of its own, in a checkout of its repository: it is handed files, never imported. Its
facts were read from that repository: ``evaluate_i2v.py``, ``vbench/__init__.py`` and ``vbench2_beta_i2v/utils.py``.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vcut.config import number
from vcut.errors import ConfigError
from vcut.media import images
from vcut.scores import cache
from vcut.scores.cache import Measure
from vcut.sweeps.manifest import Record
from vcut.sweeps.suite import entries as read_entries
from weights_tools.outputs import make_folder, replacing

DIMENSIONS = {
    "i2v_subject": ("Video-image subject", "video_image_subject_consistency_vbench_style"),
    "i2v_background": ("Video-image background", "video_image_background_consistency_vbench_style"),
    "subject_consistency": ("Subject consistency", "subject_consistency_vbench_style"),
    "background_consistency": ("Background consistency", "background_consistency_vbench_style"),
    "motion_smoothness": ("Motion smoothness", ""),
    "dynamic_degree": ("Dynamic degree", ""),
    "aesthetic_quality": ("Aesthetic quality", ""),
    "imaging_quality": ("Imaging quality", ""),
    "temporal_flickering": ("Temporal flickering", "temporal_flicker_vbench_style"),
}
"""VBench's dimensions that a model without text can be scored in: label, and name of our measure of the same kind."""

RATIOS = {"1-1": 1.0, "8-5": 1.6, "7-4": 1.75, "16-9": 16 / 9}
"""Shapes in which VBench keeps its pictures, width over height."""

FOLDER = "vbench"

SCRIPT = """\
#!/bin/sh
# in VBench's own environment, with VBENCH the folder of a checkout of its repository
set -e
cd "${VBENCH:?set it to a checkout of VBench}"
"""


def export(out: Path, records: Sequence[Record], suite: Path | None = None) -> Path:
    """Write what VBench needs to score a sweep, and return the script that runs it.

    ``OUT/vbench/<setting>/videos`` links to the clips and to nothing else: VBench takes the suffix of whatever file
    it finds first for that of all clips. With a suite, its entries that the sweep has clips of go into
    ``full_info.json``, and VBench scores each clip in the dimensions of its entry, against its own pictures. Without
    one, every clip is scored in every dimension, against ``OUT/vbench/images``.

    Args:
        out: folder of the sweep.
        records: its clips.
        suite: VBench's ``vbench2_i2v_full_info.json``, if the sweep was made of its pictures.

    Raises:
        ConfigError: the suite is no such file, or has none of the clips.
        MediaError: a picture that VBench cannot read and that cannot be read here either.
    """
    root = (out / FOLDER).absolute()
    make_folder(root)
    shape = records[0].width / records[0].height
    ratio = min(RATIOS, key=lambda name: abs(RATIOS[name] - shape))
    options = ["--dimension", *DIMENSIONS, "--ratio", ratio]
    if suite is None:
        _write_images(root / "images", records)
        options += ["--mode", "custom_input", "--custom_image_folder", str(root / "images")]
    else:
        entries = _entries(suite, {record.name for record in records})
        _write(root / "full_info.json", json.dumps(entries, indent=1))
        options += ["--full_json_dir", str(root / "full_info.json")]
    lines = [SCRIPT]
    for setting, clips in groupby(records, key=lambda record: record.setting):
        videos, results = root / setting / "videos", root / setting / "results"
        _link(videos, [(out / record.file).absolute() for record in clips])
        places = ["--videos_path", str(videos), "--output_path", str(results)]
        lines.append(shlex.join(["python", "evaluate_i2v.py", *places, *options]) + "\n")
    _write(root / "run.sh", "".join(lines))
    return root / "run.sh"


def read_results(out: Path, results: Path, records: Sequence[Record]) -> int:
    """Put VBench's scores of single clips among those of the sweep, in points, and return how many there are.

    Args:
        out: folder of the sweep.
        results: a file ``*_eval_results.json``.
        records: clips of the sweep; a result belongs to that whose setting and file its path names.

    Raises:
        ConfigError: no such file, no results of VBench, or of clips that the sweep has not.
    """
    clips = {(record.setting, Path(record.file).name): record for record in records}
    lines: list[tuple[Record, str, float]] = []
    for dimension, video, value in _results(results):
        record = next(
            (clips[key] for part in reversed(video.parts) if (key := (part, video.name)) in clips), None
        )
        if record is None:
            raise ConfigError(f"{results}: {dimension} is of {video}, and this sweep has no such clip")
        # of imaging_quality VBench writes the clips' scores in points, though their mean as a share
        lines.append((record, dimension, value if dimension == "imaging_quality" else 100 * value))
    file = out / cache.FOLDER / f"{FOLDER}.jsonl"
    dimensions = dict.fromkeys(dimension for _, dimension, _ in lines)
    cache.announce(
        file,
        [
            Measure(f"vbench_{name}", DIMENSIONS.get(name, (name,))[0], "higher", "VBench")
            for name in dimensions
        ],
    )
    for record, dimension, value in lines:
        cache.append(file, record.file_sha256, dimension, {f"vbench_{dimension}": value})
    return len(lines)


def _results(path: Path) -> list[tuple[str, Path, float]]:
    """Dimension, clip and score of every result in a file."""
    try:
        return [
            (
                dimension,
                Path(each["video_path"]),
                number(f"{dimension} of a clip", float(each["video_results"])),
            )
            for dimension, result in json.loads(path.read_text(encoding="utf-8")).items()
            # after the mean comes, of camera_motion, the mean of each motion, and last the list of clips
            for each in result[-1]
        ]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{path} holds no results of VBench (*_eval_results.json): {error}") from error


def _entries(suite: Path, names: set[str]) -> list[dict[str, Any]]:
    """The entries of a suite that are among ``names``."""
    entries = [entry for entry in read_entries(suite) if entry["prompt_en"] in names]
    if missing := sorted(names - {entry["prompt_en"] for entry in entries}):
        raise ConfigError(
            f"{suite} has no entry {missing[0]!r}, of which the sweep has clips ({len(missing)} such): was the sweep "
            "made of this suite? Without one, every clip is scored against its own picture"
        )
    return entries


def _write_images(folder: Path, records: Sequence[Record]) -> None:
    """Pictures as the model saw them, in RGB: VBench reads no transparency, and no other formats than these."""
    from PIL import Image

    make_folder(folder)
    for record in {record.name: record for record in records}.values():
        pixels = images.fitted(record.image, record.height, record.width, record.settings.get("fit", "crop"))
        with replacing(folder / f"{record.name}.png", overwrite=True) as part:
            Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()).save(part)


def _link(folder: Path, files: Sequence[Path]) -> None:
    """A folder with a link to each file, and without links that lead elsewhere."""
    make_folder(folder)
    for link in folder.iterdir():
        if link.is_symlink():
            link.unlink()
    for file in files:
        (folder / file.name).symlink_to(os.path.relpath(file, folder))


def _write(path: Path, text: str) -> None:
    with replacing(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
