"""Scores on the disk: a file of JSON lines for each group of measures, which any program may write.

``OUT/scores/<group>.jsonl`` holds two kinds of lines::

    {"measures": [{"name": "psnr", "label": "PSNR", "better": "higher", "of": "baseline", "unit": "dB"}]}
    {"file_sha256": "..", "source": "..", "scores": {"psnr": 31.2}}

A score belongs to a clip's content, not to its name. ``source`` is what else it depends on, such as the weights of an
encoder. Of several lines of one clip and source the last counts; a line that a kill cut off counts as not written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vcut.errors import ConfigError
from vcut.sweeps import json_lines
from weights_tools.outputs import make_folder

FOLDER = "scores"
"""Folder of the files in that of a sweep."""

Scores = dict[str, float | list[float]]
"""Value of each measure. A list is a curve, one value a frame."""


@dataclass(frozen=True)
class Measure:
    """A score of one clip, and how a reader is told of it."""

    name: str
    label: str
    better: Literal["higher", "lower"]
    # what sees or compares
    of: str
    # "points" are hundredths
    unit: str = "points"


@dataclass(frozen=True)
class Cached:
    """Content of one file: its measures by name, and scores by the clip's hash and the source."""

    measures: dict[str, Measure]
    scores: dict[tuple[str, str], Scores]


def read(path: Path) -> Cached:
    """Read a file of scores; one that is not there holds nothing.

    Raises:
        ConfigError: a line is JSON, but neither of the two kinds.
    """
    found = Cached({}, {})
    for number, data in json_lines.read(path) if path.exists() else ():
        try:
            if "measures" in data:
                measures = [json_lines.typed(Measure, said) for said in data["measures"]]
                found.measures.update({measure.name: measure for measure in measures})
                continue
            key = data["file_sha256"], data["source"]
            # the last one counts, and comes last
            found.scores.pop(key, None)
            found.scores[key] = _checked(data["scores"])
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(f"{path}, line {number} is no score of a clip: {error!r}") from error
    return found


def announce(path: Path, measures: Sequence[Measure]) -> None:
    """Write what the scores of a file mean, unless it says so already."""
    make_folder(path.parent)
    if any(read(path).measures.get(measure.name) != measure for measure in measures):
        json_lines.append(path, {"measures": [dataclasses.asdict(measure) for measure in measures]})


def append(path: Path, file_sha256: str, source: str, scores: Mapping[str, Any]) -> None:
    """Add the scores of one clip; on return they are on the disk.

    Raises:
        ConfigError: a score is NaN or infinite.
    """
    try:
        line = {"file_sha256": file_sha256, "source": source, "scores": _checked(scores)}
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    json_lines.append(path, line)


def _checked(scores: Mapping[str, Any]) -> Scores:
    for name, value in scores.items():
        if not all(math.isfinite(number) for number in (value if isinstance(value, list) else [value])):
            raise ValueError(f"the score {name} of a clip is {value}, expected a number")
    return dict(scores)
