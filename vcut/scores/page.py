"""The compare page: one HTML file that shows the clips of a sweep's settings side by side, in step.

HTML, style and scripts of the page are in ``web``; :func:`write` puts them into one file with the sweep's clips.
Names enter it as JSON alone, with every ``<`` escaped, and the scripts make text of them.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import math
import os
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vcut import __version__
from vcut.errors import ConfigError, OutputExistsError
from vcut.scores.cache import Measure
from vcut.sweeps import json_lines, manifest
from vcut.sweeps.manifest import Key, Record
from weights_tools.outputs import check_file, replacing

LIMIT = 200_000_000
"""Bytes of the largest page: browsers take seconds to open it, and those of a larger one may give up."""

SCRIPTS = ("scores", "mp4", "clips", "strip", "player", "pairs", "pair", "page")
"""Scripts of the page, each after those whose names it needs when it starts."""

_MARK = b"<!doctype html>\n<!-- made by vcut compare -->"

Values = dict[Key, dict[str, float | None]]


def write(
    out: Path,
    path: Path | None = None,
    *,
    images: Collection[str] = (),
    worst: int | None = None,
    by: str | None = None,
    link: bool = False,
) -> Path:
    """Write the page of the sweep in ``out``.

    Args:
        out: the sweep's folder.
        path: the file to write, by default ``compare.html`` in ``out``. An earlier page is replaced, nothing else.
        images: names of images or patterns (``cat*``), or one number N for the first N images; by default all.
        worst: take this many pairs (the clips of one image and seed), the worst ones by ``by``.
        by: name or label of a measure in scores.json, by default the first.
        link: refer to the clips where they lie, instead of putting them into the page.

    Returns:
        The path written.

    Raises:
        ConfigError: there are no such clips, images or scores, or the page would be larger than :data:`LIMIT`.
        MediaError: a clip of the manifest is missing or was changed.
        OutputExistsError: ``path`` is there and no compare page.
    """
    records, path = manifest.read(out), path or out / "compare.html"
    if not records:
        raise ConfigError(f"{out} has no finished clips: vcut sweep IMAGES -o {out} makes them")
    check_file(path, overwrite=True)
    if path.exists() and not _is_page(path):
        raise OutputExistsError(f"{path} exists already and is no page of vcut compare: choose another name")
    scores, values = _read_scores(out / "scores.json")
    baseline = (
        scores.get("baseline") or next((r for r in records if r.preset == "baseline"), records[0]).setting
    )
    measure = _measure(scores["measures"], by)
    records = _of_images(records, images)
    if worst is not None:
        records = _worst(records, values, measure, baseline, worst)
    _check_clips(out, records, link)
    clips = [_clip(record, f"clip-{i}", values) for i, record in enumerate(records)]
    for clip in clips if link else ():
        place = os.path.relpath((out / clip["file"]).resolve(), path.parent.resolve())
        clip["link"] = quote(os.fsencode(place.replace(os.sep, "/")))
    firsts = {record.setting: record for record in records}
    data = {
        "title": out.resolve().name,
        "made": f"vcut {__version__}",
        "model": Path(records[0].model).name,
        "baseline": baseline,
        "sort": measure and measure["name"],
        "measures": scores["measures"],
        "summary": scores["summary"],
        "settings": [
            {"name": r.setting, "preset": r.preset, "settings": r.settings} for r in firsts.values()
        ],
        "clips": clips,
    }
    head, tail = _template(json.dumps(data)).split(b"<!-- clips -->")
    with replacing(path, overwrite=True) as target, target.open("wb") as file:
        file.write(head)
        for clip in () if link else clips:
            encoded = base64.b64encode((out / clip["file"]).read_bytes())
            file.write(b'<script type="text/plain" id="%s">%s</script>\n' % (clip["id"].encode(), encoded))
        file.write(tail)
    return path


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK


def _read_scores(path: Path) -> tuple[dict[str, Any], Values]:
    """Read what ``vcut score`` wrote, and its scores by clip; none if it did not run. NaN becomes None."""
    if not path.exists():
        return {"measures": [], "summary": {}}, {}
    try:
        scores: dict[str, Any] = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
        for measure in scores["measures"]:
            json_lines.typed(Measure, measure)
        scores["summary"] = {setting: dict(cells) for setting, cells in scores["summary"].items()}
        values = {(c["setting"], c["name"], c["index"]): dict(c["scores"]) for c in scores["clips"]}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not as vcut score writes it ({error!r}): run it again") from error
    return scores, values


def _measure(measures: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any] | None:
    """The measure of this name or label, by default the first if there is one."""
    if name is None:
        return measures[0] if measures else None
    found = next((each for each in measures if name in (each["name"], each["label"])), None)
    if found is None:
        known = ", ".join(measure["name"] for measure in measures) or "none: vcut score comes first"
        raise ConfigError(f"--by {name}: there is no such measure; there are {known}")
    return found


def _of_images(records: list[Record], images: Collection[str]) -> list[Record]:
    """The records of the images that are asked for, all if none is."""
    names = list(dict.fromkeys(record.name for record in records))
    chosen = set() if images else set(names)
    for word in images:
        found = {word} & set(names) or set(fnmatch.filter(names, word))
        if not found and word.isdecimal():
            found = set(names[: int(word)])
        if not found:
            raise ConfigError(
                f"--images {word}: no clip is called so; there are {len(names)}, first {names[0]}"
            )
        chosen |= found
    return [record for record in records if record.name in chosen]


def _worst(
    records: list[Record], values: Values, measure: dict[str, Any] | None, baseline: str, count: int
) -> list[Record]:
    """The records of ``count`` pairs whose worst clip is furthest from the baseline's, or, without that, worst."""
    if measure is None:
        raise ConfigError("--worst needs scores: vcut score comes first")
    sign = -1 if measure["better"] == "higher" else 1
    losses: dict[tuple[str, int], float] = {}
    for record in records:
        pair = record.name, record.index
        value, base = (
            values.get((setting, *pair), {}).get(measure["name"]) for setting in (record.setting, baseline)
        )
        if value is not None and record.setting != baseline:
            losses[pair] = max(losses.get(pair, -math.inf), sign * (value - (base or 0)))
    if not losses:
        raise ConfigError(f"--worst {count}: no clip beside the baseline's has a score of {measure['name']}")
    chosen = sorted(losses, key=lambda pair: -losses[pair])[:count]
    return [record for record in records if (record.name, record.index) in chosen]


def _check_clips(out: Path, records: Sequence[Record], link: bool) -> None:
    size = sum(record.bytes for record in records) * 4 // 3
    if size > LIMIT and not link:
        names = len({record.name for record in records})
        fit = max(1, names * LIMIT // size)
        raise ConfigError(
            f"the page would have {size / 1e6:.0f} MB, and browsers open up to {LIMIT / 1e6:.0f} MB with ease: "
            f"choose clips with --images {fit} or --worst {fit}, or leave them where they are with --link"
        )
    for record in records:
        manifest.check_complete(out, record)


def _clip(record: Record, identifier: str, values: Values) -> dict[str, Any]:
    """Gather what the page knows of one clip."""
    names = ("setting", "name", "index", "file", "image", "frames", "fps", "width", "height", "seconds")
    # JavaScript rounds numbers from 2^53 on
    own = {"id": identifier, "seed": str(record.seed), "scores": values.get(record.key, {}), "link": None}
    return {name: getattr(record, name) for name in names} | own


def _template(data: str) -> bytes:
    """The page around ``data``, JSON in ASCII; its clips go where ``<!-- clips -->`` stands."""
    web = resources.files("vcut.scores") / "web"
    script = "\n".join((web / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    page = (web / "page.html").read_text("utf-8")
    for place, text in (
        ("/* page.css */", (web / "page.css").read_text("utf-8")),
        ("/* page.js */", script),
        ("<!-- data -->", data.replace("<", "\\u003c")),
    ):
        page = page.replace(place, text)
    return page.encode()
