"""The loop of a sweep: clips come in as they are finished, each gets its record and a word to the user.

Who makes them is another matter: this process, one after the other, or workers of Ray (:mod:`vcut.sweeps.ray`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from vcut.errors import NotFiniteError, VcutError
from vcut.sweeps import manifest
from vcut.sweeps.clip import Maker, Outcome
from vcut.sweeps.manifest import Record
from vcut.sweeps.runner import Say
from vcut.sweeps.sweep import Task
from weights_tools.outputs import remove_leftovers

BAR = "{percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} clips, {elapsed} gone{postfix}"
"""Bar of a sweep, as tqdm takes it."""


def one_by_one(tasks: Iterable[Task], make: Maker) -> Iterator[tuple[Task, Outcome]]:
    """Yield each task with what came of it, made here, in this order."""
    for task in tasks:
        yield task, make(task)


def gather(
    tasks: Sequence[Task],
    outcomes: Iterable[tuple[Task, Outcome]],
    file: Path,
    *,
    complete: int = 0,
    say: Say,
    warn: Say,
    bar: bool = False,
) -> list[str]:
    """Append the record of each clip of ``tasks`` to the manifest ``file``, as it is finished.

    Args:
        tasks: clips to make.
        outcomes: makes them: :func:`one_by_one`, or :func:`vcut.sweeps.ray.handed_out`.
        file: the manifest in the sweep's folder, which no other process writes: :func:`manifest.alone`.
        complete: clips that are there already, for the count.
        say: takes a line for each clip, if there is no bar.
        warn: takes a line for each picture that cannot be read, and for each clip whose numbers overflow.
        bar: show a bar on stderr instead of the lines.

    Returns:
        The clips that are missing for such a fault; all others were made.

    Raises:
        VcutError: the disk is full, the folder cannot be written, memory is short, or the numbers of the first clip
            overflow, as those of all would. What is done stays done.
    """
    unreadable: set[Path] = set()
    missing: list[str] = []
    made, total, begun = 0, complete + len(tasks), time.perf_counter()
    work, left, out = 0, sum(map(work_of, tasks)), file.parent
    with tqdm(total=total, initial=complete, bar_format=BAR, disable=not bar) as shown:
        try:
            for folder in (out, *out.glob("*/"), *out.glob("*/latents/")):
                remove_leftovers(folder)
            for number, (task, outcome) in enumerate(outcomes, complete + 1):
                left -= work_of(task)
                if isinstance(outcome, Record):
                    manifest.append(file, outcome)
                    made, work = made + 1, work + work_of(task)
                    # workers side by side, loading and writing are in the time that has gone by
                    seconds = (time.perf_counter() - begun) / work * left
                    until = f"about {duration(seconds)} left"
                    shown.set_postfix_str(until, refresh=False)
                    shown.update(number - shown.n)
                    if not bar:
                        so_far = f"{number} of {total}" + (f", {until}" if left else "")
                        say(f"made     {outcome.file} in {outcome.seconds:.1f} s; {so_far}")
                    continue
                overflow = isinstance(outcome, NotFiniteError)
                if overflow and not made:
                    raise outcome
                missing.append(task.file)
                if overflow or task.image not in unreadable:
                    warn(f"skipped {task.file}: {outcome}")
                if not overflow:
                    unreadable.add(task.image)
        except (KeyboardInterrupt, VcutError, OSError) as error:
            safe = f"{complete + made} of {total} clips are safe in {out}, and the same command goes on from there"
            if isinstance(error, KeyboardInterrupt):
                warn(safe)
                raise
            raise VcutError(f"{error}; {safe}") from error
    return missing


def work_of(task: Task) -> int:
    """Work of a clip, for the estimate: passes of the UNet times numbers in the latents."""
    return task.run.passes.passes * math.prod(task.run.latent)


def duration(seconds: float) -> str:
    """A time in the two units that matter: 3 h 20 min."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 99:
        return f"{seconds:.0f} s"
    if minutes < 99:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
