"""One clip over several processes: what a call exchanges, what GPUs would gain, and what two processes gain here.

    python -m benchmarks.parallel                      # tables on paper, at the published size; takes no weights
    python -m benchmarks.parallel --measure [--weights FOLDER] [--rounds 3]

The measurement starts two processes of one thread each, on random weights in bfloat16 at full width, packed as the
command packs them: 4 GB each. Rank 0 runs each part alone, while the other sleeps, and then together with it, in
turns. A clip is 16 guided calls, 9 cut calls and one decoding. Beside the seconds on the clock stand those that rank
0 spent on a CPU: on a machine that has other things to do they say what an idle one would need, but for the time in
which one waits for the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import vcut
from benchmarks.harness.command import progress, weights_folder
from benchmarks.harness.report import machine
from benchmarks.harness.rounds import ROOT
from benchmarks.harness.weights import configuration, write_model
from vcut import parallel
from vcut.analysis.counting import unet_counts
from vcut.conditioning import Conditioning
from vcut.config import PRESETS, SVD, SVD_XT, SVDConfig, UNetConfig
from vcut.parallel import Team
from vcut.pipeline import Pipeline
from vcut.settings import Run, Settings, resolve

EFFICIENCY = 0.2
"""Share of its peak that a GPU reaches on these networks in eager mode. The paper's 68.4 s of SVD on an A10 (125
TFLOP/s) and the 50.9 s of SVD-XT that OneDiff reports of an A100 (312), 25 steps each, are 0.21 and 0.20."""

LATENCY = 30e-6
"""Seconds that a collective takes besides its bytes."""


@dataclass(frozen=True)
class Machine:
    """GPUs in one machine: dense TFLOP/s of one in half precision, and GB/s that one sends and receives at once."""

    name: str
    tflops: float
    gigabytes: float


MACHINES = (
    Machine("A10, PCIe 4", 125, 20),
    Machine("RTX 4090, PCIe 4", 165, 20),
    Machine("A100, PCIe 4", 312, 20),
    Machine("A100, NVLink 3", 312, 240),
    Machine("H100, NVLink 4", 989, 360),
)


def temporal_layers(config: UNetConfig, height: int, width: int) -> Iterator[tuple[str, int, int]]:
    """Kind, channels and pixels of every temporal layer of a call on latents ``height`` x ``width``."""
    levels = [(level, (height >> i) * (width >> i)) for i, level in enumerate(config.levels)]
    for level, pixels in levels:
        for _ in range(2 * config.layers + 1):  # going down, and up with one more
            yield "resnet", level.channels, pixels
            if level.attention:
                yield from [("block", level.channels, pixels)] * config.depth
    level, pixels = levels[-1]
    yield from [("resnet", level.channels, pixels)] * 2
    yield from [("block", level.channels, pixels)] * config.depth


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends to others in one call: activations by all-to-all, moments of norms; and how often."""

    activations: int
    moments: int
    collectives: int


def traffic(config: UNetConfig, team: Team, clips: int, frames: int, height: int, width: int) -> Traffic:
    """The traffic of one rank of ``team`` in a call on ``clips``, in half precision.

    Of a temporal layer of n pixels and c channels, a rank of g frames and p pixels sends g (n - p) c numbers before,
    and p (f - g) c after: together about 2 f n c (N - 1) / N^2.
    """
    activations = moments = collectives = 0
    g = team.shares(frames)[team.number]
    for kind, channels, pixels in temporal_layers(config, height, width):
        p = team.shares(pixels)[team.number]
        activations += 2 * clips * channels * (g * (pixels - p) + p * (frames - g))
        collectives += 2 * clips
        if kind == "resnet":  # two norms: counts, means and variances in float32
            moments += 2 * 4 * 3 * clips * channels * (team.size - 1)
            collectives += 2
    return Traffic(activations, moments, collectives)


def seconds(config: SVDConfig, on: Machine, size: int, clips: int, height: int, width: int) -> float:
    """Predicted seconds of a call on ``clips`` branches by a team of ``size``."""
    form = dataclasses.replace(config.unet, tca=PRESETS["vcut"].tca, sca=PRESETS["vcut"].sca)
    flop = 2 * unet_counts(form, config.frames, height, width).call(clips).total
    team = Team(size, 0)
    compute = flop * team.shares(config.frames)[0] / config.frames / (on.tflops * 1e12 * EFFICIENCY)
    if size == 1:
        return compute
    sent = traffic(config.unet, team, clips, config.frames, height, width)
    return compute + (sent.activations + sent.moments) / (on.gigabytes * 1e9) + sent.collectives * LATENCY


def gain(config: SVDConfig, on: Machine, ranks: int, height: int = 72, width: int = 128) -> float:
    """Predicted seconds of the 25 steps of preset vcut on one GPU over those on ``ranks``."""
    guided = PRESETS["vcut"].cut_step(25) - 1
    call = functools.partial(seconds, config, on, height=height, width=width)
    if ranks % 2:
        several = guided * call(ranks, 2) + (25 - guided) * call(ranks, 1)
    else:
        several = guided * call(ranks // 2, 1) + (25 - guided) * call(ranks, 1)
    return (guided * call(1, 2) + (25 - guided) * call(1, 1)) / several


def predicted() -> None:
    """Print what a call exchanges and what machines would gain."""
    for config in (SVD, SVD_XT):
        print(f"{config.name}, {config.frames} frames of 1024x576, half precision\n")
        print(
            "| ranks that share the frames | MB sent by rank 0 in a call on one branch | of it norms | collectives |"
        )
        print("|---|---|---|---|")
        for size in (2, 3, 4, 8):
            sent = traffic(config.unet, Team(size, 0), 1, config.frames, 72, 128)
            print(
                f"| {size} | {sent.activations / 1e6:,.0f} | {sent.moments / 1e6:.1f} | {sent.collectives} |"
            )
        print("\n| predicted gain of 25 steps, preset vcut | 2 | 3 | 4 | 8 |\n|---|---|---|---|---|")
        for on in MACHINES:
            print(f"| {on.name} | " + " | ".join(f"{gain(config, on, n):.2f}" for n in (2, 3, 4, 8)) + " |")
        print()


PARTS = ("guided call", "cut call", "decoding")


def measure(args: argparse.Namespace) -> None:
    """Start two processes, and print what they found."""
    with weights_folder(args.weights) as folder:
        model = write_model(folder, configuration(args.model), "bfloat16")
        words = [
            "--nproc-per-node",
            "2",
            "-m",
            "benchmarks.parallel",
            "--model",
            str(model),
            "--rounds",
            str(args.rounds),
        ]
        words += ["--frames", str(args.frames), "--height", str(args.height), "--width", str(args.width)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *words,
            "--found",
            str(folder / "found.json"),
        ]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        found = json.loads((folder / "found.json").read_text())
    medians = {
        key: [statistics.median(each) for each in zip(*runs, strict=True)] for key, runs in found.items()
    }
    print(
        f"{args.frames} frames of {args.width}x{args.height}, bfloat16, one thread a process; {machine()}\n"
    )
    print(
        "| | alone, s | two, s | gain | alone, CPU s | rank 0 of two, CPU s | ratio |\n|---|---|---|---|---|---|---|"
    )
    times = {"guided call": 16, "cut call": 9, "decoding": 1}
    total = [0.0] * 4
    for part in PARTS:
        row = [*medians[f"{part} alone"], *medians[f"{part} together"]]
        total = [sum_ + times[part] * each for sum_, each in zip(total, row, strict=True)]
        _print(part, row)
    _print("clip: 16 guided, 9 cut, 1", total)


def _print(name: str, row: list[float]) -> None:
    alone, alone_cpu, both, both_cpu = row
    print(
        f"| {name} | {alone:.2f} | {both:.2f} | {alone / both:.2f} | {alone_cpu:.2f} | {both_cpu:.2f} | "
        f"{alone_cpu / both_cpu:.2f} |"
    )


def work(args: argparse.Namespace) -> None:
    """Measure in this process, or serve the one that does."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    load = functools.partial(
        vcut.load, args.model, dtype=torch.bfloat16, vae_dtype=torch.bfloat16, device="cpu", pack=True
    )
    parallel.together(functools.partial(_lead, args, load), load, device="cpu")


def _lead(
    args: argparse.Namespace, load: Callable[[], Pipeline], share: Callable[[Pipeline], Pipeline]
) -> None:
    vcut.runtime.keep_large_blocks()
    alone = load()
    pipes = {"alone": alone, "together": share(alone)}
    size = Settings(steps=1, frames=args.frames, height=args.height, width=args.width)
    runs = {
        part: resolve(size.replace(cut=1 if part == "cut call" else 2), alone.config, alone.preset)
        for part in PARTS
    }
    conditioning, noise, _ = alone.prepare(runs["decoding"], torch.rand(3, args.height, args.width))
    found: dict[str, list[tuple[float, float]]] = {}
    for number, part in itertools.product(range(args.rounds + 1), PARTS):
        for who, pipe in pipes.items():
            task = _task(pipe, part, runs[part], conditioning, noise)
            begun, cpu = time.perf_counter(), time.process_time()
            task()
            spent = time.perf_counter() - begun, time.process_time() - cpu
            progress(f"round {number}: {part}, {who}: {spent[0]:.2f} s, CPU {spent[1]:.2f} s")
            if number:  # the first is to warm up
                found.setdefault(f"{part} {who}", []).append(spent)
    args.found.write_text(json.dumps(found))


def _task(
    pipe: Pipeline, part: str, run: Run, conditioning: Conditioning, noise: Tensor
) -> Callable[[], object]:
    """The part of a run to measure, with all that it needs at hand."""
    if part == "decoding":
        return lambda: pipe.decode(noise, None)
    network = pipe._bound(conditioning, run)
    return lambda: network(noise, 0.5, run.plan[0].branches)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parallel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measure", action="store_true", help="measure two processes against one, here")
    parser.add_argument("--weights", type=Path, help="write the random weights here and keep them")
    parser.add_argument("--model", default="svd", help="default: svd")
    parser.add_argument("--frames", type=int, default=14)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--found", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.found:
        work(args)
    elif args.measure:
        measure(args)
    else:
        predicted()


if __name__ == "__main__":
    main()
