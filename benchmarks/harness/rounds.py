"""Processes that take turns: all warm up, then rounds A B C A B C, so that a slow minute falls on everyone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]


class WorkerError(RuntimeError):
    """A worker could not do what it was asked."""


class Worker:
    """A contender's process; see :mod:`benchmarks.harness.worker`. Leaving the ``with`` block kills it."""

    def __init__(self, contender: str, module: str, environment: Mapping[str, str] | None = None) -> None:
        self.contender = contender
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.worker", contender, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        self.settings: dict[str, Any] = {}

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """:meth:`send` a command and :meth:`receive` the answer."""
        self.send(do, **command)
        return self.receive()

    def send(self, do: str, **command: Any) -> None:
        """Give a command and do not wait."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerError: the worker failed at what it was told, or died.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._died()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _died(self) -> None:
        raise WorkerError(f"the process of {self.contender} ended with {self._process.wait()}")


def workers(
    stack: ExitStack,
    module: str,
    builds: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, str] | None = None,
) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    """Start a worker for each contender, until ``stack`` closes, and let all build side by side.

    Each has the ``environment`` beside that of this process.

    Returns the workers, and what each answered to ``builds[contender]``.
    """
    found = {name: stack.enter_context(Worker(name, module, environment)) for name in builds}
    for name, worker in found.items():
        worker.send("build", **builds[name])
    for worker in found.values():
        worker.settings = worker.receive()
    return found, {name: worker.receive() for name, worker in found.items()}


def alone(contender: str, module: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call the function ``name`` of ``module`` in a fresh worker, and return its result."""
    with Worker(contender, module) as worker:
        worker.settings = worker.receive()
        return worker.ask("call", function=f"{module}:{name}", arguments=dict(arguments))


@dataclass
class Entry:
    """A variant of a worker that takes part, and what was measured of it.

    ``warm_up`` is the variant run first, by default the same. The peak of memory is the warm-up's, which starts from
    an allocator that keeps nothing: to have it so in every round would be counted as time. With ``trim`` it is so in
    every round, for long runs, and theirs is the peak. If an ``optional`` entry fails, ``error`` says why, and the
    others go on.
    """

    worker: Worker
    variant: str
    warm_up: str | None = None
    trim: bool = False
    optional: bool = False
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    disk_faults: int = 0
    output: NDArray[np.float32] | None = None
    error: str | None = None

    def result(self) -> NDArray[np.float32]:
        """Output of its last run."""
        assert self.output is not None
        return self.output


def alternate(entries: Sequence[Entry], *, rounds: int, minutes: float) -> int:
    """Warm every entry up, then run all of them in turn, ``rounds`` times or until ``minutes`` have passed.

    One round is run in any case (unless ``rounds`` is 0), and none is begun that would not end in time. Returns the
    number of rounds.
    """
    begin = time.monotonic()
    for entry in entries:
        _run(entry, entry.warm_up or entry.variant, "warm-up", trim=True)
    done = 0
    while done < rounds:
        start = time.monotonic()
        done += 1
        for entry in entries:
            _run(entry, entry.variant, f"round {done}", trim=entry.trim)
        now = time.monotonic()
        if now - begin + (now - start) > 60 * minutes:
            break
    return done


def _run(entry: Entry, variant: str, label: str, *, trim: bool) -> None:
    if entry.error is not None:
        return
    with tempfile.TemporaryDirectory(prefix="vcut-bench-") as folder:
        output = Path(folder) / "output.npy"
        try:
            reply = entry.worker.ask("run", variant=variant, output=str(output), trim=trim)
        except WorkerError as error:
            if not entry.optional:
                raise
            entry.error = str(error)
            return
        entry.output = np.load(output)
    if label != "warm-up":
        entry.seconds.append(reply["seconds"])
        entry.disk_faults += reply["disk_faults"]
    if reply["peak"] is not None and (label != "warm-up" or not entry.trim):
        entry.peak = max(entry.peak or 0, reply["peak"])
    print(f"{label}: {entry.worker.contender}, {variant}: {reply['seconds']:.2f} s", file=sys.stderr)


def entry_notes(entries: Sequence[Entry]) -> list[str]:
    """A warning if weights had to be read from the disk while the clock ran."""
    faults = sum(entry.disk_faults for entry in entries)
    return [f"{faults} pages were read from the disk within measured runs."] if faults else []


def difference(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[float, float]:
    """The largest difference over the largest expected value, and the norm of the difference over the norm."""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    if a.shape != b.shape:
        raise ValueError(f"outputs of the shapes {a.shape} and {b.shape} cannot be compared")
    return (
        float(np.abs(a - b).max() / np.abs(b).max()),
        float(np.linalg.norm(a - b) / np.linalg.norm(b)),
    )
