"""The loop of a sweep: clips come in as they are finished, each gets its record and a word to the user.

Who makes them is another matter: this process, one after the other, or workers of Ray (:mod:`vcut.sweeps.ray`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Pace:
    """Seconds that clips took so far, by setting, and what follows for those that are left.

    A setting of which no clip was made yet is priced by its passes of the UNet. Workers side by side, loading and
    writing are priced by the time that has really gone by.
    """

    def __init__(self, tasks: Sequence[Task], clock: Callable[[], float] = time.perf_counter) -> None:
        self.left = Counter(task.setting for task in tasks)
        self.made: Counter[str] = Counter()
        self._passes = {task.setting: task.run.passes.passes for task in tasks}
        self._seconds = dict.fromkeys(self.left, 0.0)
        self._clock, self._begun = clock, clock()

    def add(self, setting: str, seconds: float) -> None:
        """Count a clip that was made."""
        self.made[setting] += 1
        self._seconds[setting] += seconds

    def remaining(self) -> float:
        """Seconds for the clips that are left; at least one must have been made."""
        generating = sum(self._seconds.values())
        a_pass = generating / sum(self._passes[setting] * clips for setting, clips in self.made.items())
        a_clip = {
            setting: self._seconds[setting] / self.made[setting] if self.made[setting] else passes * a_pass
            for setting, passes in self._passes.items()
        }
        left = sum(clips * a_clip[setting] for setting, clips in self.left.items())
        return left * (self._clock() - self._begun) / max(generating, 1e-6)


def gather(
    tasks: Sequence[Task],
    outcomes: Iterable[tuple[Task, Outcome]],
    out: Path,
    *,
    complete: int = 0,
    name: str = "manifest.jsonl",
    say: Say,
    warn: Say,
    bar: bool = False,
) -> list[str]:
    """Append the record of each clip of ``tasks`` to the manifest ``name`` in ``out``, as it is finished.

    Args:
        tasks: clips to make.
        outcomes: makes them: :func:`one_by_one`, or :func:`vcut.sweeps.ray.handed_out`.
        out: the sweep's folder.
        complete: clips that are there already, for the count.
        name: the manifest, which no other process writes.
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
    total = complete + len(tasks)
    with (
        manifest.alone(out / name) as file,
        tqdm(total=total, initial=complete, bar_format=BAR, disable=not bar) as shown,
    ):
        pace = Pace(tasks)
        try:
            for folder in (out, *out.glob("*/"), *out.glob("*/latents/")):
                remove_leftovers(folder)
            for task, outcome in outcomes:
                pace.left[task.setting] -= 1
                if isinstance(outcome, Record):
                    manifest.append(file, outcome)
                    pace.add(task.setting, outcome.seconds)
                    left = pace.left.total()
                    until = f"about {_duration(pace.remaining())} left"
                    shown.set_postfix_str(until, refresh=False)
                    shown.update(total - left - shown.n)
                    if not bar:
                        so_far = f"{total - left} of {total}" + (f", {until}" if left else "")
                        say(f"made     {outcome.file} in {outcome.seconds:.1f} s; {so_far}")
                    continue
                if isinstance(outcome, NotFiniteError) and not pace.made.total():
                    raise outcome
                missing.append(task.file)
                if isinstance(outcome, NotFiniteError) or task.image not in unreadable:
                    warn(f"skipped {task.file}: {outcome}")
                if not isinstance(outcome, NotFiniteError):
                    unreadable.add(task.image)
        except KeyboardInterrupt:
            warn(_safe(complete + pace.made.total(), total, out))
            raise
        except (VcutError, OSError) as error:
            raise VcutError(f"{error}; {_safe(complete + pace.made.total(), total, out)}") from error
    return missing


def one_by_one(tasks: Iterable[Task], make: Maker) -> Iterator[tuple[Task, Outcome]]:
    """Yield each task with what came of it, made here, in this order."""
    for task in tasks:
        yield task, make(task)


def _safe(made: int, total: int, out: Path) -> str:
    return f"{made} of {total} clips are safe in {out}, and the same command goes on from there"


def _duration(seconds: float) -> str:
    """A time in the two units that matter: 3 h 20 min."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 99:
        return f"{seconds:.0f} s"
    if minutes < 99:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
