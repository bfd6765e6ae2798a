"""Time and work of the candidates: CPU seconds in rounds in which each runs once, and its UNet calls in MACs."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence

from torch import Tensor
from tqdm import tqdm

from experiments.better_cut.candidates import Candidate
from experiments.better_cut.clips import Bench

CLIPS = 4
"""Clips of a timed run: as many as keep a small model from being bound by Python."""


def rounds(bench: Bench, candidates: Sequence[Candidate], wanted: int) -> dict[str, list[float]]:
    """Seconds of each candidate over those of the baseline in the same round, by name.

    Seconds are the process's own on all cores (CPU time), from pictures to latents: other work on the machine changes
    them little. A round is kept as a line of ``times.jsonl``, so candidates that are new only run with the baseline.
    """
    file = bench.out / "times.jsonl"
    key = [bench.weights, CLIPS]
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = [line for line in done if line["key"] == key]

    def lacking(candidate: Candidate) -> int:
        return wanted - sum(_id(bench, candidate) in line["seconds"] for line in done)

    runs: dict[str, Callable[[], Tensor]] = {}
    total = sum(max(0, lacking(candidate)) for candidate in candidates)
    with tqdm(total=total, desc="timing", unit="run", disable=not total) as bar:
        while now := [candidate for candidate in candidates if lacking(candidate) > 0]:
            seconds = {}
            for candidate in [bench.baseline, *(each for each in now if each is not bench.baseline)]:
                name = _id(bench, candidate)
                if name not in runs:
                    runs[name] = _run(bench, candidate)
                    if candidate is bench.baseline:
                        runs[name]()  # warm-up, of the process: a candidate of its own has little to warm
                start = time.process_time()
                runs[name]()
                seconds[name] = time.process_time() - start
                bar.update()
            done.append({"key": key, "seconds": seconds})
            with file.open("a") as lines:
                lines.write(json.dumps(done[-1]) + "\n")
    return {candidate.name: _ratios(bench, candidate, done) for candidate in candidates}


def _ratios(bench: Bench, candidate: Candidate, done: Sequence[dict[str, dict[str, float]]]) -> list[float]:
    name, base = _id(bench, candidate), _id(bench, bench.baseline)
    return [line["seconds"][name] / line["seconds"][base] for line in done if name in line["seconds"]]


def _run(bench: Bench, candidate: Candidate) -> Callable[[], Tensor]:
    (_, make), scenes = bench.load(candidate), bench.scenes[:CLIPS]
    return lambda: make(scenes, tuple(range(len(scenes))))


def _id(bench: Bench, candidate: Candidate) -> str:
    return bench.path(candidate, "").name


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the ends of an interval that holds the true one with 95 % or more: order statistics, no normality.

    With fewer than six rounds the ends are the extremes, and hold it with less.
    """
    ordered, n = sorted(ratios), len(ratios)
    # largest k with P(fewer than k of n fair coins show heads) <= 2.5 %
    tail, term, k = 0.0, 0.5**n, 0
    while tail + term <= 0.025:
        tail += term
        k += 1
        term *= (n - k + 1) / k
    k = max(0, k - 1)
    return statistics.median(ordered), ordered[k], ordered[n - 1 - k]
