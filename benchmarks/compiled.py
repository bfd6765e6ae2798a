"""One call of vcut's UNet with plain weights, packed, and through ``torch.compile``, with what compiling takes.

    python -m benchmarks.compiled [--dtype float32] [--frames 4 --height 128 --width 128] [--rounds 3]

vcut alone, the lossless form, in one process with the settings that the command makes. *compiling* is the first call
less a later one. Compiled code holds for the shapes that it was made for; packed weights cannot be compiled.
"""

from __future__ import annotations

import dataclasses
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import command, unet_call
from benchmarks.report import Row, Section
from benchmarks.rounds import Entry, alternate, difference, workers
from benchmarks.unet_call import Call, flop, inputs, matrix_peak
from benchmarks.weights import DTYPES, configuration, write_part
from benchmarks.worker import Built
from vcut.config import PRESETS
from vcut.kernels import runtime
from vcut.layers import pack
from vcut.unet import fold

MODULE = "benchmarks.compiled"
WAYS = ("plain", "packed", "compiled")
FORM = "lossless"


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels."""

    model: str = "svd-xt"
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    frames: int = 4
    height: int = 128
    width: int = 128
    batch: int = 2
    rounds: int = 3
    minutes: float = 10.0  # for each dtype


FULL = Settings()
QUICK = Settings("tiny", ("float32",), frames=2, height=64, width=64, rounds=1, minutes=5.0)


def run(settings: Settings, folder: Path) -> Section:
    """Measure the dtypes one after the other."""
    rows: list[Row] = []
    missing: dict[str, str] = {}
    threads = "?"
    for dtype in settings.dtype:
        if runtime.is_emulated(DTYPES[dtype]):
            missing[dtype] = "this CPU has no such arithmetic"
            continue
        found, threads = _of_dtype(settings, dtype, folder)
        rows += found
    notes = (f"{settings.model}, form {FORM}",)
    return Section(
        "compiled", "torch.compile", tuple(rows), notes=notes, missing=missing, machine={"threads": threads}
    )


def _of_dtype(settings: Settings, dtype: str, folder: Path) -> tuple[list[Row], str]:
    config = configuration(settings.model)
    stride = config.vae.stride
    call = Call(
        settings.frames, settings.height // stride, settings.width // stride, settings.batch, form=FORM
    )
    case = f"{dtype}, {settings.batch} x {settings.frames} frames of {settings.width}x{settings.height}"
    command.progress(f"compiled: {case}")
    path = write_part(folder, config, "unet", dtype)
    with ExitStack() as stack:
        build = {"path": str(path), "model": settings.model, "call": dataclasses.asdict(call)}
        processes, _ = workers(stack, MODULE, {"vcut": build})
        worker = processes["vcut"]
        first = worker.ask("run", variant="compiled", output=None, trim=False)["seconds"]
        entries = {way: Entry(worker, way) for way in WAYS}
        alternate(list(entries.values()), rounds=settings.rounds, minutes=settings.minutes)
        best = matrix_peak(worker, dtype, settings.model)
        threads = str(worker.settings["threads"])
    expected = entries["plain"].result()
    rows = []
    for way, entry in entries.items():
        compiling = max(0.0, first - statistics.median(entry.seconds)) if way == "compiled" else 0.0
        rows.append(
            Row(
                case,
                f"vcut, {way}",
                entry.seconds,
                peak=entry.peak,
                flop=flop(config, call, published=False),
                attainable=best,
                difference=difference(entry.result(), expected),
                details={"compiling, s": compiling},
            )
        )
    return rows, threads


def build(contender: str, *, path: str, model: str, call: dict[str, Any]) -> Built:
    """In a worker: the same call three ways."""
    config, wanted = configuration(model), Call(**call)
    trained = unet_call.load(Path(path), config)
    form = PRESETS[wanted.form]
    unets = {way: fold(trained, tca=form.tca, sca=form.sca) for way in WAYS}
    pack(unets["packed"])
    unets["compiled"].compile()
    x, c_noise, embedding, time_ids = inputs(config, wanted, trained.dtype)
    context = unets["plain"].cache_context(embedding, wanted.frames)
    return {way: partial(unet, x, c_noise, context, time_ids) for way, unet in unets.items()}, {}


if __name__ == "__main__":
    command.main("compiled")
