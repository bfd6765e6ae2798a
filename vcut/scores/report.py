"""All scores of a sweep as one value: means over images, paired differences to the baseline, and their files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vcut.scores.cache import Measure, Scores
from vcut.scores.statistics import Estimate, estimate, image_means, images_needed, paired_differences
from vcut.sweeps.manifest import Record

DIFFERENCE = 0.3
"""Points within which the paper finds its scores unchanged at c = 17 and 20."""


@dataclass(frozen=True)
class Cell:
    """One measure of one setting: its mean, and that of its paired differences to the baseline."""

    value: Estimate
    difference: Estimate | None
    # clips of each image, on average
    clips: float

    @property
    def clips_needed(self) -> int | None:
        """Clips of a setting in which a difference of :data:`DIFFERENCE` would be seen."""
        if self.difference is None or self.difference.deviation is None:
            return None
        return round(images_needed(self.difference.deviation, DIFFERENCE) * self.clips)

    def to_dict(self) -> dict[str, Any]:
        """The cell as plain JSON values."""
        said = self.value.to_dict()
        if self.difference is not None:
            said["difference"] = {**self.difference.to_dict(), f"clips_for_{DIFFERENCE}": self.clips_needed}
        return said


@dataclass(frozen=True)
class Report:
    """All scores of a sweep. ``cells`` are by setting and name of the measure."""

    baseline: str
    measures: tuple[Measure, ...]
    clips: tuple[tuple[Record, Scores], ...]
    cells: dict[tuple[str, str], Cell]

    @property
    def settings(self) -> dict[str, list[Record]]:
        """Clips of each setting, in the sweep's order."""
        settings: dict[str, list[Record]] = {}
        for record, _ in self.clips:
            settings.setdefault(record.setting, []).append(record)
        return settings

    def json(self) -> str:
        """Everything, as JSON. Curves, one value a frame, stand apart from the scores of a clip."""
        summary: dict[str, dict[str, Any]] = {setting: {} for setting in self.settings}
        for (setting, name), cell in self.cells.items():
            summary[setting][name] = cell.to_dict()
        clips = []
        for record, scores in self.clips:
            said: dict[str, Any] = {key: getattr(record, key) for key in ("setting", "name", "index", "file")}
            for kind, is_curve in (("scores", False), ("curves", True)):
                said[kind] = {name: x for name, x in scores.items() if isinstance(x, list) == is_curve}
            clips.append(said)
        whole = {
            "baseline": self.baseline,
            "measures": [dataclasses.asdict(measure) for measure in self.measures],
            "settings": list(self.settings),
            "summary": summary,
            "clips": clips,
        }
        return json.dumps(whole, indent=1, allow_nan=False) + "\n"

    def csv(self) -> str:
        """One line a clip, one column a measure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        about = ("setting", "name", "index", "file", "seed", "seconds")
        names = [measure.name for measure in self.measures]
        writer.writerow([*about, *names])
        for record, scores in self.clips:
            own = [getattr(record, key) for key in about]
            writer.writerow([*own, *(scores.get(name, "") for name in names)])
        return text.getvalue()


def report(baseline: str, measures: Sequence[Measure], clips: Sequence[tuple[Record, Scores]]) -> Report:
    """Put the scores of all clips together. Curves are left alone."""
    values: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for record, scores in clips:
        for measure in measures:
            if isinstance(score := scores.get(measure.name), float | int):
                values.setdefault((record.setting, measure.name), {})[record.name, record.index] = score
    cells = {}
    for (setting, name), by_clip in values.items():
        mean = estimate(image_means((image, score) for (image, _), score in by_clip.items()))
        assert mean is not None
        pairs = paired_differences(by_clip, values.get((baseline, name), {})) if setting != baseline else []
        cells[setting, name] = Cell(mean, estimate(image_means(pairs)), len(by_clip) / mean.images)
    return Report(baseline, tuple(measures), tuple(clips), cells)
