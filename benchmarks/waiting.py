"""Threads that wait for the next layer: asleep, as torch has them, or with layers of their own.

    python -m benchmarks.waiting [--calls 1x64x64 4x128x128] [--rounds 3]

A layer is shared among OpenMP's threads, which then wait for the next one. A thread that sleeps must be woken, which
takes longer than a small layer. As torch has them, threads stay awake for some milliseconds: they keep a core from
everyone else, and where a neighbour has a core, all wait for it at every layer.

A clip is the README's first command as a whole, ``vcut generate``; *as the command chooses* is what it does by
itself: two threads that share no layer compute half of it each (:mod:`vcut.parallel.threads`). A call is one of a
UNet of the published width: its lossless form, packed, on both branches. Each is measured on an idle machine and
beside a process that keeps one core busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import unet
from benchmarks.harness import command
from benchmarks.harness.report import Found, Row
from benchmarks.harness.rounds import ROOT, Entry, Worker, alternate, difference, entry_notes
from benchmarks.harness.weights import configuration, write_part

PICTURE = ROOT / "examples" / "cross.png"


@dataclass(frozen=True)
class Settings:
    """Calls, each frames x width x height in pixels; ``steps`` are the clips', ``minutes`` are for each call."""

    model: str = "svd-xt"
    calls: tuple[str, ...] = ("1x64x64", "4x128x128")
    steps: int = 25
    rounds: int = 3
    minutes: float = 10.0


def environments(threads: int) -> dict[str, dict[str, str]]:
    """Settings of OpenMP by their names in the report."""
    several = {"OMP_NUM_THREADS": str(threads)}
    return {
        f"{threads} threads, asleep while they wait": {**several, "OMP_WAIT_POLICY": "PASSIVE"},
        f"{threads} threads, as torch has them": several,
        "one thread": {"OMP_NUM_THREADS": "1"},
    }


def run(settings: Settings, folder: Path) -> Found:
    """Measure clips, then calls, each on an idle and on a busy machine."""
    chosen = environments(torch.get_num_threads())
    rows = _clips("a clip of the model in the box, idle", chosen, settings)
    with busy():
        rows += _clips("a clip of the model in the box, beside a busy core", chosen, settings)
    calls, notes = _calls(chosen, settings, folder)
    return Found([*rows, *calls], notes)


def _clips(case: str, environments: Mapping[str, Mapping[str, str]], settings: Settings) -> list[Row]:
    """Seconds of whole commands, in turn. Those with an environment start behind where the command sets its own."""
    started = "import sys; from vcut.cli import main; sys.exit(main(sys.argv[1:]))"
    ways: dict[str, tuple[list[str], dict[str, str]]] = {"as the command chooses": (["-m", "vcut"], {})}
    ways |= {name: (["-c", started], dict(environment)) for name, environment in environments.items()}
    clean = {key: text for key, text in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="vcut-bench-") as place:
        words = ["generate", str(PICTURE), "-o", f"{place}/clip.gif", "--overwrite", "--quiet"]
        words += ["--steps", str(settings.steps), "--seed", "0"]
        for number in range(settings.rounds):
            for name, (start, environment) in ways.items():
                begin = time.perf_counter()
                subprocess.run(
                    [sys.executable, *start, *words], check=True, cwd=ROOT, env=clean | environment
                )
                seconds[name].append(time.perf_counter() - begin)
                command.progress(f"{case}, round {number + 1}: {name}: {seconds[name][-1]:.2f} s")
    return [Row(case, name, found) for name, found in seconds.items()]


@contextmanager
def busy() -> Iterator[None]:
    """Keep one core busy by another process."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


def _calls(
    environments: Mapping[str, Mapping[str, str]], settings: Settings, folder: Path
) -> tuple[list[Row], list[str]]:
    """Rows of every call with every environment, each of which has a process."""
    config = configuration(settings.model)
    path = write_part(folder, config, "unet", "float32")
    calls = {text: unet.call_on(text, config, unet.CALLERS["lossless"], 2) for text in settings.calls}
    rows: list[Row] = []
    measured: list[Entry] = []
    with ExitStack() as stack:
        processes = {}
        for name, environment in environments.items():
            worker = processes[name] = stack.enter_context(Worker("vcut", unet.MODULE, environment))
            worker.settings = worker.receive()
            worker.ask("build", **unet.to_build(path, settings.model, list(calls.values())))
        for text, call in calls.items():
            frames, size = text.split("x", 1)
            for beside, context in (("idle", nullcontext()), ("beside a busy core", busy())):
                entries = {name: Entry(worker, call.variant) for name, worker in processes.items()}
                with context:
                    alternate(list(entries.values()), rounds=settings.rounds, minutes=settings.minutes)
                case = f"{settings.model}, 2 x {frames} frames of {size}, {beside}"
                first = next(iter(entries.values())).result()
                rows += [
                    Row(case, name, entry.seconds, difference=difference(entry.result(), first))
                    for name, entry in entries.items()
                ]
                measured += entries.values()
    return rows, entry_notes(measured)


CHAPTERS = {
    "waiting": command.Chapter(
        "Threads that wait", run, Settings(), Settings("tiny", ("2x64x64",), steps=2, rounds=1, minutes=1.0)
    )
}


if __name__ == "__main__":
    command.main("waiting")
