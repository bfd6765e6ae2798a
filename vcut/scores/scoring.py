"""The loop over the clips of a sweep: what is not scored yet is read once and scored by every group that lacks it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from functools import cache as once
from functools import partial
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from vcut import media
from vcut.errors import ConfigError, MediaError
from vcut.media import images
from vcut.scores import cache
from vcut.scores.cache import Measure, Scores
from vcut.scores.groups import Clip, Group
from vcut.settings import Settings
from vcut.sweeps.manifest import Key, Record, check_complete, file_sha256, line_of
from vcut.sweeps.runner import Say


def score(
    out: Path,
    records: Sequence[Record],
    groups: Sequence[Group],
    baseline: Mapping[tuple[str, int], Record],
    *,
    warn: Say,
    progress: bool = False,
) -> set[Key]:
    """Compute what the files of scores lack, and return the clips that cannot be scored.

    A kill loses at most the clip that is at work. A clip that is damaged or gone, or whose baseline is, is told of
    and stops nothing, also if it was scored before. Of what is scored already sizes are looked at, not hashes.

    Args:
        out: folder of the sweep.
        records: its clips.
        groups: what to compute.
        baseline: clips of the baseline setting, by name and number.
        warn: takes a line for each clip that cannot be scored.
        progress: show a bar.

    Raises:
        ConfigError: a picture that the scores need is gone or another than it was; nothing was computed yet.
    """
    failed: set[Key] = set()

    def is_sound(record: Record, groups: Sequence[Group], hashed: bool) -> bool:
        compared = any(group.needs_reference and group.source(record) is not None for group in groups)
        try:
            _check_clips(out, record, baseline[record.name, record.index] if compared else None, hashed)
        except MediaError as error:
            warn(f"skipped: {error}")
            failed.add(record.key)
        return record.key not in failed

    missing = _missing(out, [record for record in records if is_sound(record, groups, hashed=False)], groups)
    _check_pictures([record for record, lacking in missing if any(group.needs_picture for group in lacking)])
    for group in groups:
        cache.announce(_file(out, group.name), group.measures)
    done: set[tuple[str, str, str | None]] = set()
    bar = tqdm(total=len(missing), desc="scoring", unit="clip", disable=not progress)
    for key, clips in itertools.groupby(missing, key=lambda item: (item[0].name, item[0].index)):
        reference = once(lambda key=key: media.read(out / baseline[key].file)[0])
        for record, groups_lacking in clips:
            bar.update()
            # clips that are equal to the byte, as those of a lossless setting may be, are scored once
            lacking = [group for group in groups_lacking if _scored(record, group) not in done]
            if not lacking or not is_sound(record, lacking, hashed=True):
                continue
            try:
                frames = media.read(out / record.file)[0]
                clip = Clip(record, frames, partial(_picture, out, record), reference)
                for group in lacking:
                    source = group.source(record) or ""
                    cache.append(_file(out, group.name), record.file_sha256, source, group.score(clip))
                    done.add(_scored(record, group))
            except MediaError as error:
                warn(f"skipped: {error}")
                failed.add(record.key)
    bar.close()
    return failed


def collect(
    out: Path, records: Sequence[Record], groups: Sequence[Group], failed: Collection[Key] = ()
) -> tuple[list[Measure], list[tuple[Record, Scores]]]:
    """All scores that a sweep has, and what they mean: of ``groups`` and of every other file in its folder of scores.

    Clips that :func:`score` found to have ``failed`` have none. Of another file the source is not known: of one
    measure of a clip from several sources the last counts.

    Raises:
        ConfigError: a file that cannot be understood.
    """
    files = {path.stem: cache.read(path) for path in sorted((out / cache.FOLDER).glob("*.jsonl"))}
    wanted = {group.name: group for group in groups}
    order = [*(name for name in wanted if name in files), *(name for name in files if name not in wanted)]
    latest: dict[str, Scores] = {}
    for name in order:
        for (clip, _), scores in files[name].scores.items() if name not in wanted else ():
            latest.setdefault(clip, {}).update(scores)
    collected: list[tuple[Record, Scores]] = []
    for record in records:
        found: Scores = {}
        if record.key in failed:
            collected.append((record, found))
            continue
        for name, group in wanted.items():
            key = record.file_sha256, group.source(record) or ""
            found |= files[name].scores.get(key, {}) if name in files else {}
        collected.append((record, found | latest.get(record.file_sha256, {})))
    seen = {name for _, scores in collected for name in scores}
    measures = [measure for name in order for measure in files[name].measures.values()]
    return [measure for measure in measures if measure.name in seen], collected


def _missing(
    out: Path, records: Sequence[Record], groups: Sequence[Group]
) -> list[tuple[Record, list[Group]]]:
    """Clips with the groups that they lack; those of one name and number after each other."""
    done = {group.name: cache.read(_file(out, group.name)).scores for group in groups}

    def lacks(record: Record, group: Group) -> bool:
        source = group.source(record)
        return source is not None and (record.file_sha256, source) not in done[group.name]

    every = [(record, [group for group in groups if lacks(record, group)]) for record in records]
    return sorted((item for item in every if item[1]), key=lambda item: (item[0].name, item[0].index))


def _scored(record: Record, group: Group) -> tuple[str, str, str | None]:
    return group.name, record.file_sha256, group.source(record)


def _check_pictures(records: Sequence[Record]) -> None:
    for record in {record.image: record for record in records}.values():
        if not Path(record.image).is_file():
            raise ConfigError(
                f"{record.image}, the picture of {record.file}, is not there: run this command in the folder in "
                "which the sweep was run, with the pictures where they were"
            )
        if file_sha256(Path(record.image)) != record.image_sha256:
            raise ConfigError(f"{record.image} was changed: the sweep's clips were made from another picture")


def _check_clips(out: Path, record: Record, reference: Record | None, hashed: bool) -> None:
    check_complete(out, record, hashed=hashed)
    if reference is None:
        return
    try:
        check_complete(out, reference, hashed=hashed)
    except MediaError as error:
        raise MediaError(f"{out / record.file}, for {error}") from error


def _picture(out: Path, record: Record) -> Tensor:
    """The picture as the model saw it, ``[3, H, W]`` in 0..1."""
    try:
        fit = Settings.from_dict(record.settings).fit
    except ConfigError as error:
        raise ConfigError(f"{line_of(out, record)}: damaged settings: {error}") from error
    return images.fitted(record.image, record.height, record.width, fit)


def _file(out: Path, group: str) -> Path:
    return out / cache.FOLDER / f"{group}.jsonl"
