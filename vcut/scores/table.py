"""The tables of a report: quality, other scores, differences to the baseline, latency, each beside the paper.

The paper's quality figures are known here in words alone (:data:`PAPER_SAYS`), its latencies in numbers. What it
prints for a single score is not known, and left out.
"""

from __future__ import annotations

from typing import Literal

from vcut.analysis.paper_tables import CUTS, PRINTED_SECONDS
from vcut.analysis.text_table import Table
from vcut.config import PRESETS
from vcut.scores.cache import Measure
from vcut.scores.report import DIFFERENCE, Report
from vcut.scores.vbench import DIMENSIONS
from vcut.settings import Settings
from vcut.sweeps.manifest import Record

PAPER_SAYS = {10: "4 to 8 points lower", 17: "within 0.3 points", 20: "within 0.3 points"}
"""Consistency and quality scores against no cut, by cut step of 25: what the paper's Table IV comes to."""

QUALITY = "Quality, in the columns of the paper's Tables I and IV"

MEANS = "Means over images with 95 % intervals."
FILLED = f"{MEANS} In points. VBench fills every column: vcut score --vbench-files."
OURS = "[1] VBench's formula computed here (vbench_style), not by VBench."
COMPRESSED = (
    "PSNR and SSIM are of the compressed clips: frames that differ in the last bit alone come to about 45 to 50 dB. "
    "Smaller differences show in the latents (vcut sweep --keep-latents)."
)
PAIRED = f"Paired: same image, same seed. {MEANS}"
NEEDED = (
    f"[1] Clips of a setting that it takes to see a difference of {DIFFERENCE} points in 8 of 10 such sweeps: "
    "((1.96 + 0.84) s / 0.3)^2 + 1.92 images, s the deviation of the images' differences."
)
TABLE_IV = "[2] Table IV, consistency and quality at this cut against no cut, of SVD and SVD-XT."
RATIOS = (
    "[1] Table IV: the ratio at this cut on an A10, of SVD-XT or, if the paper has it, of the model itself."
)


def tables(report: Report) -> list[Table]:
    """The tables to print."""
    seen = {measure.name for measure in report.measures}
    columns = {}
    for name, (label, ours) in DIMENSIONS.items():
        # VBench's own where it was run, else ours of the same formula
        is_ours = ours in seen and f"vbench_{name}" not in seen
        columns[f"{label} [1]" if is_ours else label] = ours if is_ours else f"vbench_{name}"
    placed = {each for name, (_, ours) in DIMENSIONS.items() for each in (f"vbench_{name}", ours)}
    others = {_head(measure): measure.name for measure in report.measures if measure.name not in placed}
    found = [_means(report, QUALITY, columns, (FILLED, OURS))]
    if others:
        found.append(_means(report, "Other scores", others, (MEANS, COMPRESSED)))
    if any(cell.difference for cell in report.cells.values()):
        found.append(_differences(report))
    return [*found, _latency(report)]


def cut_of(record: Record) -> int | None:
    """First step without guidance of a clip; None if there is none, or it is not known, or not one of 25 steps."""
    settings, preset = Settings.from_dict(record.settings), PRESETS.get(record.preset)
    cut = (preset.cut_step(25) if preset else None) if settings.cut == "preset" else settings.cut
    return cut if settings.steps == 25 and cut != 26 else None


def _means(report: Report, title: str, heads: dict[str, str], notes: tuple[str, ...]) -> Table:
    """A row for each setting, a column for each measure, by its title."""
    rows = ((each, *(_text(report, each, name) for name in heads.values())) for each in report.settings)
    return Table(title, ("", *heads), tuple(rows), notes)


def _differences(report: Report) -> Table:
    """Paired differences to the baseline, and the clips it takes to see 0.3 points."""
    others = {setting: clips for setting, clips in report.settings.items() if setting != report.baseline}
    rows = []
    for measure in report.measures:
        row = [_head(measure)]
        for setting in others:
            cell = report.cells.get((setting, measure.name))
            needed = cell.clips_needed if cell and measure.unit == "points" else None
            row += [_text(report, setting, measure.name, "+"), "" if needed is None else f"{needed:,}"]
        if any(row[1:]):
            rows.append(tuple(row))
    notes = [PAIRED, NEEDED]
    said = [PAPER_SAYS.get(cut_of(clips[0]) or 0, "") for clips in others.values()]
    if any(said):
        rows.append(("the paper, quality [2]", *(text for each in said for text in (each, ""))))
        notes.append(TABLE_IV)
    head = ("", *(text for setting in others for text in (setting, f"clips for {DIFFERENCE} [1]")))
    return Table(f"Differences to {report.baseline}", head, tuple(rows), tuple(notes))


def _latency(report: Report) -> Table:
    """Seconds a clip, and the paper's ratio at the same cut."""
    settings = report.settings
    mean = {name: sum(clip.seconds for clip in clips) / len(clips) for name, clips in settings.items()}
    rows = []
    for setting, clips in settings.items():
        uncut, *printed = PRINTED_SECONDS.get(clips[0].model, PRINTED_SECONDS["svd-xt"])
        at = dict(zip(CUTS, printed, strict=True)).get(cut_of(clips[0]) or 0)
        # a clip of less than a millisecond has 0
        ratios = mean[report.baseline] and mean[setting] / mean[report.baseline], at and at / uncut
        rows.append((setting, f"{mean[setting]:.2f}", *(f"{ratio:.2f}" if ratio else "" for ratio in ratios)))
    devices = ", ".join(dict.fromkeys(record.device for record, _ in report.clips))
    title = f"Latency of a clip on {devices}"
    return Table(title, ("", "s", "ratio", "paper [1]"), tuple(rows), (RATIOS,))


def _head(measure: Measure) -> str:
    unit = f", {measure.unit}" if measure.unit not in ("", "points") else ""
    return f"{measure.label}{unit} ({measure.of})"


def _text(report: Report, setting: str, name: str, sign: Literal["", "+"] = "") -> str:
    """Mean and half the interval of a measure, with a sign those of its difference; empty if there are none."""
    cell = report.cells.get((setting, name))
    value = cell and (cell.difference if sign else cell.value)
    if not value:
        return ""
    digits = 2 if next(measure.unit for measure in report.measures if measure.name == name) else 4
    half = "" if value.half is None else f" ± {value.half:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{half}"
