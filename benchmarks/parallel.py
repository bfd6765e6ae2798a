"""One clip over several processes: what a call exchanges, what GPUs would gain, and what two processes gain here.

    python -m benchmarks.parallel                      # tables on paper, at the published size; takes no weights
    python -m benchmarks.parallel --measure [--dtype float32] [--weights FOLDER] [--rounds 3]

The measurement starts two processes of one thread each, on random weights at full width: in bfloat16 packed as the
command packs them, 4 GB each; in float32 plain, as they lie in the file, which both map. Rank 0 runs each part alone,
while the other sleeps, and then together with it, in turns. A clip is 16 guided calls, 9 cut calls and one decoding.
Beside the seconds on the clock stand those that rank 0 spent on a CPU: on a machine that has other things to do they
say what an idle one would need, but for the time in which one waits for the other.
"""

from __future__ import annotations

import argparse
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
from benchmarks import roofline
from benchmarks.harness.command import progress, weights_folder
from benchmarks.harness.report import machine
from benchmarks.harness.rounds import ROOT
from benchmarks.harness.weights import configuration, write_model
from benchmarks.trace import Kernel
from vcut import parallel
from vcut.conditioning import Conditioning
from vcut.config import PRESETS, SVD, SVD_XT, SVDConfig, UNetConfig
from vcut.parallel import Team
from vcut.pipeline import Pipeline
from vcut.settings import Run, Settings, resolve

LATENCY = 30e-6
"""Seconds that a collective takes besides its bytes."""


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind in one machine, and bytes a second that each sends and receives at once over ``link``."""

    gpu: str
    link: str
    bandwidth: float

    def __str__(self) -> str:
        return f"{self.gpu}, {self.link}"


MACHINES = (
    Machine("A10", "PCIe 4", 20e9),
    Machine("RTX 4090", "PCIe 4", 20e9),
    Machine("A100 80 GB", "PCIe 4", 20e9),
    Machine("A100 80 GB", "NVLink 3", 240e9),
    Machine("H100", "NVLink 4", 360e9),
)
"""Machines to predict for. Collectives are taken to reach less than PCIe 4's 32 GB/s and NVLink's 300 and 450."""


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


Calls = Callable[[int, int], list[Kernel]]
"""Kernels of a call on a number of branches and of frames."""


def traced(config: SVDConfig) -> Calls:
    """The calls of preset vcut, each traced once. All temporal layers count as those of a rank's own frames.

    That leaves out that a rank has all frames of a few pixels instead: a little attention more.
    """
    return functools.cache(functools.partial(roofline.our_call, config, "vcut"))


def seconds(
    calls: Calls, config: SVDConfig, on: Machine, efficiency: float, team: Team, branches: int
) -> float:
    """Predicted seconds of a call on ``branches`` by the rank of ``team`` with the most frames."""
    compute = roofline.GPUS[on.gpu].seconds(calls(branches, team.shares(config.frames)[0])) / efficiency
    if team.size == 1:
        return compute
    height, width = config.height // config.vae.stride, config.width // config.vae.stride
    sent = traffic(config.unet, team, branches, config.frames, height, width)
    return compute + (sent.activations + sent.moments) / on.bandwidth + sent.collectives * LATENCY


def gain(calls: Calls, config: SVDConfig, on: Machine, efficiency: float, ranks: int) -> float:
    """Predicted seconds of the 25 steps of preset vcut on one GPU over those on ``ranks``."""
    guided = PRESETS["vcut"].cut_step(25) - 1
    call = functools.partial(seconds, calls, config, on, efficiency)
    alone, all_of_them = Team(1, 0), Team(ranks, 0)
    both = call(all_of_them, 2) if ranks % 2 else call(Team(ranks // 2, 0), 1)
    one = guided * call(alone, 2) + (25 - guided) * call(alone, 1)
    return one / (guided * both + (25 - guided) * call(all_of_them, 1))


def predicted() -> None:
    """Print what a call exchanges and what machines would gain."""
    _, efficiency = roofline.paper_table(roofline.Peer(SVD_XT))
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
        calls = traced(config)
        for on in MACHINES:
            gains = (f"{gain(calls, config, on, efficiency, n):.2f}" for n in (2, 3, 4, 8))
            print(f"| {on} | " + " | ".join(gains) + " |")
        print()


PARTS = ("guided call", "cut call", "decoding")


def measure(args: argparse.Namespace) -> None:
    """Start two processes, and print what they found."""
    with weights_folder(args.weights) as folder:
        model = write_model(folder, configuration(args.model), args.dtype)
        words = [
            "--nproc-per-node",
            "2",
            "-m",
            "benchmarks.parallel",
            "--model",
            str(model),
            "--rounds",
            str(args.rounds),
            "--dtype",
            args.dtype,
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
        f"{args.frames} frames of {args.width}x{args.height}, {args.dtype}, one thread a process; {machine()}\n"
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
    dtype = getattr(torch, args.dtype)
    pack = dtype != torch.float32  # two packed copies in float32 would take 18 GB
    load = functools.partial(vcut.load, args.model, dtype=dtype, vae_dtype=dtype, device="cpu", pack=pack)
    parallel.together(functools.partial(_lead, args, load), load, device="cpu")


def _lead(
    args: argparse.Namespace, load: Callable[[], Pipeline], share: Callable[[Pipeline], Pipeline]
) -> None:
    vcut.runtime.keep_large_blocks()
    alone = load()
    pipes = {"alone": alone, "together": share(alone)}
    found: dict[str, list[tuple[float, float]]] = {}
    # First everything once at a small size, to warm up.
    for height, width in [(64, 64), *[(args.height, args.width)] * args.rounds]:
        size = Settings(steps=1, frames=args.frames, height=height, width=width)
        runs = {
            part: resolve(size.replace(cut=1 if part == "cut call" else 2), alone.config, alone.preset)
            for part in PARTS
        }
        conditioning, noise, _ = alone.prepare(runs["decoding"], torch.rand(3, height, width))
        for part, (who, pipe) in itertools.product(PARTS, pipes.items()):
            task = _task(pipe, part, runs[part], conditioning, noise)
            begun, cpu = time.perf_counter(), time.process_time()
            task()
            spent = time.perf_counter() - begun, time.process_time() - cpu
            progress(f"{width}x{height}: {part}, {who}: {spent[0]:.2f} s, CPU {spent[1]:.2f} s")
            if height == args.height:
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
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
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
