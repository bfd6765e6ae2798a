"""The report's figure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.report import Row, Section

SHADES = {
    "diffusers": ("#9aa5b1", "#52606d"),
    "vcut": ("#8ecae6", "#3d8fb5", "#1d5f85", "#0b3954"),
    "": ("#e4b363", "#c8553d"),
}
"""Greys for diffusers, blues for vcut, warm colours for everyone else."""


def plot(sections: Sequence[Section], path: Path) -> None:
    """Bars of seconds for each case, with the spread; curves over the frames and over the size of the clip."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[Callable[[Any], None]] = []
    for section in sections:
        if section.name == "scaling":
            panels += _curves(section.rows)
            continue
        if section.name in ("shares", "waiting"):  # operators and threads, no contenders
            continue
        for case in dict.fromkeys(row.case for row in section.rows):
            rows = [row for row in section.rows if row.case == case]
            if len(rows) > 1:
                panels.append(partial(_bars, title=f"{section.title}: {case}", rows=rows))
    columns = 2
    lines = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(12, 3 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for i, draw in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, i)
        axes.tick_params(labelsize=8)
        draw(axes)
    figure.savefig(path, dpi=110)


def _bars(axes: Any, title: str, rows: Sequence[Row]) -> None:
    medians = [row.median for row in rows]
    below = [row.median - min(row.seconds) for row in rows]
    above = [max(row.seconds) - row.median for row in rows]
    names = [row.contender for row in rows]
    axes.barh(names, medians, xerr=(below, above), color=_colours(names), ecolor="#222222")
    axes.bar_label(axes.containers[-1], [f" {median:.2f}" for median in medians], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"{title}, seconds", fontsize=8)


def _curves(rows: Sequence[Row]) -> list[Callable[[Any], None]]:
    """Panels of the time over the frames at the size that has most of them, and over the size."""
    clips = {}
    for row in rows:
        if found := re.search(r"(\d+) frames of (\d+)x(\d+)", row.case):
            clips[row.case] = (int(found[1]), int(found[2]) * int(found[3]))
    if not clips:
        return []
    size = Counter(pixels for _, pixels in clips.values()).most_common(1)[0][0]
    frames = Counter(count for count, _ in clips.values()).most_common(1)[0][0]
    over_frames = {case: count for case, (count, pixels) in clips.items() if pixels == size}
    over_size = {case: pixels for case, (count, pixels) in clips.items() if count == frames}

    def panel(xs: dict[str, int], title: str, label: str) -> Callable[[Any], None]:
        def draw(axes: Any) -> None:
            names = list(dict.fromkeys(row.contender for row in rows))
            for name, colour in zip(names, _colours(names), strict=True):
                points = sorted((xs[r.case], r.median) for r in rows if r.contender == name and r.case in xs)
                axes.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            axes.set_xlabel(label, fontsize=8)
            axes.set_title(f"One call of the UNet: {title}, seconds", fontsize=8)
            axes.legend(fontsize=8)

        return draw

    return [
        panel(over_frames, f"{size} pixels a frame", "frames"),
        panel(over_size, f"{frames} frames", "pixels of a frame"),
    ]


def _colours(names: Sequence[str]) -> list[str]:
    used: Counter[str] = Counter()
    colours = []
    for name in names:
        family = next(family for family in SHADES if name.startswith(family))
        colours.append(SHADES[family][used[family] % len(SHADES[family])])
        used[family] += 1
    return colours
