"""The tables of a report: quality, other scores, differences to the baseline, latency, each beside the paper.

The paper's quality figures are known here in words alone (:data:`PAPER_SAYS`), its latencies in numbers. What it
prints for a single score is not known, and left out.
"""

from __future__ import annotations

from vcut.analysis.paper_tables import CUTS, PRINTED_SECONDS
from vcut.analysis.text_table import Table
from vcut.config import PRESETS
from vcut.scores.cache import Measure
from vcut.scores.report import DIFFERENCE, Report
from vcut.scores.statistics import Estimate
from vcut.settings import Settings
from vcut.sweeps.manifest import Record

PAPER_SAYS = {10: "4 to 8 points lower", 17: "within 0.3 points", 20: "within 0.3 points"}
"""Consistency and quality scores against no cut, by cut step of 25: what the paper's Table IV comes to."""

COLUMNS = {
    "Video-image subject": ("vbench_i2v_subject", "video_image_subject_consistency_vbench_style"),
    "Video-image background": ("vbench_i2v_background", "video_image_background_consistency_vbench_style"),
    "Subject consistency": ("vbench_subject_consistency", "subject_consistency_vbench_style"),
    "Background consistency": ("vbench_background_consistency", "background_consistency_vbench_style"),
    "Motion smoothness": ("vbench_motion_smoothness",),
    "Dynamic degree": ("vbench_dynamic_degree",),
    "Aesthetic quality": ("vbench_aesthetic_quality",),
    "Imaging quality": ("vbench_imaging_quality",),
    "Temporal flickering": ("vbench_temporal_flickering", "temporal_flicker_vbench_style"),
}
"""Columns of the quality table: VBench's own measure, and ours of the same formula."""

MEANS = "Means over images with 95 % intervals."

COMPRESSED = (
    "PSNR and SSIM are of the compressed clips: frames that differ in the last bit alone come to about 45 to 50 dB. "
    "Smaller differences show in the latents (vcut sweep --keep-latents)."
)


def tables(report: Report) -> list[Table]:
    """The tables to print."""
    placed = {name for names in COLUMNS.values() for name in names}
    others = [measure for measure in report.measures if measure.name not in placed]
    found = [_quality(report)]
    if others:
        heads = {_head(measure): measure.name for measure in others}
        found.append(_means(report, "Other scores", heads, (MEANS, COMPRESSED)))
    if any(cell.difference for cell in report.cells.values()):
        found.append(_differences(report))
    return [*found, _latency(report)]


def cut_of(record: Record) -> int | None:
    """First step without guidance of a clip; None if there is none, or it is not known, or not one of 25 steps."""
    settings, preset = Settings.from_dict(record.settings), PRESETS.get(record.preset)
    cut = (preset.cut_step(25) if preset else None) if settings.cut == "preset" else settings.cut
    return cut if settings.steps == 25 and cut != 26 else None


def _quality(report: Report) -> Table:
    """The paper's columns, filled by VBench where it was run, else by ours of the same formula."""
    seen = {measure.name for measure in report.measures}
    heads = {}
    for title, (vbench, *ours) in COLUMNS.items():
        own = next((name for name in ours if vbench not in seen and name in seen), None)
        heads[f"{title} [1]" if own else title] = own or vbench
    notes = (
        f"{MEANS} In points. VBench fills every column: vcut score --vbench-files.",
        "[1] VBench's formula computed here (vbench_style), not by VBench.",
    )
    return _means(report, "Quality, in the columns of the paper's Tables I and IV", heads, notes)


def _means(report: Report, title: str, heads: dict[str, str], notes: tuple[str, ...]) -> Table:
    """A row for each setting, a column for each measure, by its title."""
    digits = {measure.name: _digits(measure) for measure in report.measures}
    rows = []
    for setting in report.settings:
        cells = {name: report.cells.get((setting, name)) for name in heads.values()}
        rows.append(
            (setting, *(_written(cell.value, digits[name]) if cell else "" for name, cell in cells.items()))
        )
    return Table(title, ("", *heads), tuple(rows), notes)


def _differences(report: Report) -> Table:
    """Paired differences to the baseline, and the clips it takes to see 0.3 points."""
    others = {setting: clips for setting, clips in report.settings.items() if setting != report.baseline}
    rows = []
    for measure in report.measures:
        cells = [report.cells.get((setting, measure.name)) for setting in others]
        if not any(cell and cell.difference for cell in cells):
            continue
        row = [_head(measure)]
        for cell in cells:
            needed = cell.clips_needed if cell and measure.unit == "points" else None
            row += [
                _written(cell.difference, f"+{_digits(measure)}") if cell else "",
                "" if needed is None else f"{needed:,}",
            ]
        rows.append(tuple(row))
    said = [PAPER_SAYS.get(cut_of(clips[0]) or 0, "") for clips in others.values()]
    if any(said):
        rows.append(("the paper, quality [2]", *(text for each in said for text in (each, ""))))
    notes = [
        f"Paired: same image, same seed. {MEANS}",
        f"[1] Clips of a setting that it takes to see a difference of {DIFFERENCE} points in 8 of 10 such sweeps: "
        "((1.96 + 0.84) s / 0.3)^2 + 1.92 images, s the deviation of the images' differences.",
        "[2] Table IV, consistency and quality at this cut against no cut, of SVD and SVD-XT.",
    ]
    head = ("", *(text for setting in others for text in (setting, f"clips for {DIFFERENCE} [1]")))
    title = f"Differences to {report.baseline}"
    return Table(title, head, tuple(rows), tuple(notes if any(said) else notes[:2]))


def _latency(report: Report) -> Table:
    """Seconds a clip, and the paper's ratio at the same cut."""
    mean = {
        setting: sum(clip.seconds for clip in clips) / len(clips)
        for setting, clips in report.settings.items()
    }
    devices = ", ".join(dict.fromkeys(record.device for record, _ in report.clips))
    return Table(
        f"Latency of a clip on {devices}",
        ("", "s", "ratio", "paper [1]"),
        tuple(
            (
                setting,
                f"{mean[setting]:.2f}",
                f"{mean[setting] / mean[report.baseline]:.2f}",
                _printed(clips[0]),
            )
            for setting, clips in report.settings.items()
        ),
        (
            "[1] Table IV: the ratio at this cut on an A10, of SVD-XT or, if the paper has it, of the model itself.",
        ),
    )


def _printed(record: Record) -> str:
    uncut, *seconds = PRINTED_SECONDS.get(record.model, PRINTED_SECONDS["svd-xt"])
    return next(
        (f"{at / uncut:.2f}" for cut, at in zip(CUTS, seconds, strict=True) if cut == cut_of(record)), ""
    )


def _head(measure: Measure) -> str:
    unit = f", {measure.unit}" if measure.unit not in ("", "points") else ""
    return f"{measure.label}{unit} ({measure.of})"


def _digits(measure: Measure) -> str:
    return ".2f" if measure.unit else ".4f"


def _written(value: Estimate | None, digits: str) -> str:
    if value is None:
        return ""
    return f"{value.mean:{digits}}" + ("" if value.half is None else f" ± {value.half:{digits.strip('+')}}")
