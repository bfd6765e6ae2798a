"""Tables, figure and JSON of the search: means with intervals over scenes, paired differences, the Pareto front."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.better_cut.candidates import PEERS, PLAIN
from experiments.better_cut.times import interval
from vcut.analysis.text_table import Table
from vcut.scores.statistics import Estimate, estimate
from weights_tools.outputs import replacing


@dataclass(frozen=True)
class Measure:
    """A score: its key, its head, how it is written, and which way is better (1 higher, -1 lower, 0 neither)."""

    key: str
    head: str
    digits: int
    better: int


MEASURES = (
    Measure("position", "position error %", 2, -1),
    Measure("position_last", "at the last frame %", 2, -1),
    Measure("turn", "angle error", 1, -1),
    Measure("growth", "radius error", 3, -1),
    Measure("kind", "kind recognised %", 1, 1),
    Measure("psnr", "PSNR to the future dB", 2, 1),
    Measure("consistency", "consistency", 2, 0),
    Measure("to_picture", "to the picture", 2, 0),
    Measure("fidelity", "PSNR to the baseline dB", 2, 1),
)
ERRORS = tuple(measure for measure in MEASURES if measure.better and measure.key != "fidelity")
"""Measures against the true future."""

PANELS = ("position_last", "psnr", "fidelity")
"""Measures that the figure shows."""


@dataclass(frozen=True)
class Found:
    """Scores of one candidate by clip, its seconds over the baseline's round by round, and its passes of the UNet."""

    name: str
    group: str
    scores: Mapping[str, Tensor]
    ratios: Sequence[float]
    passes: float

    @property
    def time(self) -> float:
        """Median ratio of seconds; where nothing was timed, passes over the published run's 50."""
        return interval(self.ratios)[0] if self.ratios else self.passes / 50

    def mean(self, key: str) -> Estimate | None:
        """Mean of a measure over the clips that it applies to."""
        return estimate(_values(self.scores[key]))

    def difference(self, other: Found, key: str) -> Estimate | None:
        """Mean paired difference to another candidate's clips."""
        return estimate(_values(self.scores[key] - other.scores[key]))


def _values(scores: Tensor) -> list[float]:
    return [value for value in scores.tolist() if not math.isnan(value)]


def worse(measure: Measure, difference: Estimate | None) -> bool:
    """Whether the whole interval of a difference lies on the worse side."""
    if difference is None or difference.low is None or difference.high is None:
        return False
    return (difference.high if measure.better > 0 else -difference.low) < 0


def front(found: Sequence[Found], measure: Measure) -> list[Found]:
    """Candidates that no other beats in time without losing in the mean of ``measure``, by time."""
    best, kept = -math.inf, []
    for each in sorted(found, key=lambda each: (each.time, -_value(each, measure))):
        if _value(each, measure) > best:
            best = _value(each, measure)
            kept.append(each)
    return kept


def _value(each: Found, measure: Measure) -> float:
    mean = each.mean(measure.key)
    return -math.inf if mean is None else mean.mean * measure.better


def tables(found: Sequence[Found], quality: str, cost: str) -> tuple[Table, Table]:
    """Means, and paired differences to the candidate ``quality``, with ``cost`` as the limit of time.

    In the second a difference whose interval lies on the worse side is bold.
    """
    by_name = {each.name: each for each in found}
    on_front = {each.name for measure in MEASURES if measure.key in PANELS for each in front(found, measure)}
    means = tuple(
        (
            f"**{each.name}**" if each.name in on_front else each.name,
            _time(each),
            f"{each.passes:g}",
            *(_cell(each.mean(m.key), m.digits) for m in MEASURES),
        )
        for each in found
    )
    rows = []
    for each in found if quality in by_name else ():
        cells, holds = [], True
        for m in MEASURES:
            difference = each.difference(by_name[quality], m.key)
            lost = m in ERRORS and worse(m, difference)
            holds = holds and not lost
            text = _cell(difference, m.digits, sign=True)
            cells.append(f"**{text}**" if lost else text)
        fast = cost in by_name and each.time <= by_name[cost].time
        rows.append((each.name, f"{each.time:.2f}", "yes" if holds and fast else "", *cells))
    heads = tuple(m.head for m in MEASURES)
    return (
        Table("Means over scenes, with 95 % intervals", ("", "time", "passes", *heads), means),
        Table(f"Differences to {quality}, paired by scene", ("", "time", "found", *heads), tuple(rows)),
    )


SHARE = 0.8
"""Part of a peer's time that the winner may take at equal error."""


def beside_peers(found: Sequence[Found], winner: str) -> tuple[Table, ...]:
    """The table of the candidate ``winner`` beside each peer, and what it comes to; none where they were not timed.

    Peers run in diffusers, the winner in vcut, so their times differ by the implementation as well. The last column
    leaves that out: there each time is over that of the published model in the same implementation.
    """
    best = next((each for each in found if each.name == winner and each.ratios), None)
    others = [each for each in found if each.group == PEERS and each.ratios]
    if best is None or not others:
        return ()
    plain = next((each.time for each in others if each.name == PLAIN), math.nan)
    rows = []
    for each in others:
        (_, low, high), (_, least, most) = interval(best.ratios), interval(each.ratios)
        share = best.time / each.time
        lost, won = (
            [m.head for m in ERRORS if worse(m, a.difference(b, m.key))]
            for a, b in ((best, each), (each, best))
        )
        holds = not lost and share <= SHARE
        rows.append(
            (
                each.name,
                "yes" if holds else "",
                f"{share:.2f} ({low / most:.2f} to {high / least:.2f})",
                ", ".join(lost),
                ", ".join(won),
                f"{share * plain:.2f}",
            )
        )
    against = [row[0] for row in rows if not row[1]]
    verdict = f"It holds beside {', '.join(row[0] for row in rows if row[1]) or 'none'}" + (
        f", not beside {', '.join(against)}." if against else "."
    )
    head = (
        "",
        "holds",
        "time over the peer's",
        "winner loses in",
        "peer loses in",
        "each over its own baseline's",
    )
    note = f"Asked for: at equal error, seen to lose in none, at most {SHARE:g} of the peer's time. {verdict}"
    return (Table(f"{winner}, beside the peers", head, tuple(rows), (note,)),)


def _time(each: Found) -> str:
    if not each.ratios:
        return ""
    median, low, high = interval(each.ratios)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _cell(value: Estimate | None, digits: int, *, sign: bool = False) -> str:
    if value is None:
        return ""
    text = f"{value.mean:{'+' if sign else ''}.{digits}f}"
    return text if value.half is None else f"{text} ± {value.half:.{digits}f}"


def save(found: Sequence[Found], told: Mapping[str, Any], texts: Sequence[Table], out: Path) -> None:
    """Write ``better-cut.json`` and ``.md`` into ``out``, and the figure if matplotlib is there."""
    rows = [
        {
            "name": each.name,
            "group": each.group,
            "time": dict(zip(("median", "low", "high"), interval(each.ratios), strict=True))
            if each.ratios
            else None,
            "passes": each.passes,
            "scores": {m.key: None if (e := each.mean(m.key)) is None else vars(e) for m in MEASURES},
        }
        for each in found
    ]
    with replacing(out / "better-cut.json", overwrite=True) as part:
        part.write_text(json.dumps({**told, "candidates": rows}, indent=1, allow_nan=False) + "\n")
    with replacing(out / "better-cut.md", overwrite=True) as part:
        part.write_text("\n\n".join(text.markdown() for text in texts) + "\n")
    draw(found, out / "better-cut.png")


COLOURS = ("#52606d", "#3d8fb5", "#c8553d", "#5a8f3c", "#8e5ea2", "#e4b363", "#0b3954", "#b0558f")


def draw(found: Sequence[Found], path: Path) -> None:
    """Draw each measure of :data:`PANELS` over time and over passes, with intervals and the front over time."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no figure: pip install matplotlib")
        return
    figure = Figure(figsize=(16, 9), layout="constrained")
    FigureCanvasAgg(figure)
    colour = dict(zip(dict.fromkeys(each.group for each in found), COLOURS * 9, strict=False))
    number = {each.name: str(i + 1) for i, each in enumerate(found)}
    over = "time, the baseline's is 1" if all(each.ratios for each in found) else "passes over 50 (not timed)"
    axes = figure.subplots(2, len(PANELS), squeeze=False)
    off: set[str] = set()
    for column, measure in enumerate(m for m in MEASURES if m.key in PANELS):
        # the baseline's distance from itself would hide all others
        shown = [each for each in found if measure.key != "fidelity" or _value(each, measure) < 99]
        off |= _failures(shown, measure)
        shown = [each for each in shown if each.name not in off]
        for axis, label, x_label in (
            (axes[0, column], "time", over),
            (axes[1, column], "passes", "passes of the UNet"),
        ):
            for each in shown:
                mean = each.mean(measure.key)
                if mean is None:
                    continue
                x, hue = getattr(each, label), colour[each.group]
                axis.errorbar(x, mean.mean, mean.half or 0, fmt="o", ms=4, lw=0.4, color=hue, alpha=0.8)
                axis.annotate(
                    number[each.name], (x, mean.mean), (3, 3), textcoords="offset points", fontsize=7
                )
            axis.set_xlabel(x_label)
            axis.set_ylabel(measure.head)
            if measure.better < 0:
                axis.invert_yaxis()
        line = front(shown, measure)
        means = [abs(_value(each, measure)) for each in line]
        axes[0, column].step([each.time for each in line], means, where="post", lw=1, color="#9aa5b1")
    handles = [axes[0, 0].plot([], [], "o", color=hue, label=group)[0] for group, hue in colour.items()]
    names = "   ".join(
        f"{number[each.name]} {each.name}{' (off the scale)' if each.name in off else ''}" for each in found
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)
    figure.supxlabel(_wrapped(names, 230), fontsize=7)
    with replacing(path, overwrite=True) as part:
        figure.savefig(part, dpi=110)


def _failures(found: Sequence[Found], measure: Measure) -> set[str]:
    """Names of those that are ten quartile ranges off the median: on their scale all others would be one line."""
    values = {each.name: value for each in found if math.isfinite(value := _value(each, measure))}
    if len(values) < 4:
        return set()
    first, median, third = statistics.quantiles(values.values(), n=4)
    reach = 10 * (third - first)
    return {name for name, value in values.items() if abs(value - median) > reach > 0}


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_long_words=False))
