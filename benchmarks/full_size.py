"""One UNet call at the published size, to the end: how long, and how much memory.

    python -m benchmarks.full_size [--form vcut] [--batch 1] [--dtype bfloat16]

vcut alone, since peers may not fit. A run, after a small call that loads the code and the weights. *vcut cost says*
is what :mod:`vcut.analysis.memory` counts without computing; it counts in the parts of a GPU, which are larger than
the CPU's. A CPU without bfloat16 arithmetic is given float32.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import command
from benchmarks.report import Row, Section
from benchmarks.rounds import Entry, alternate, workers
from benchmarks.unet_call import FORMS, MODULE, Call, entry_notes, flop, matrix_peak, small_call
from benchmarks.weights import DTYPES, configuration, write_part
from vcut.analysis.counting import build_unet, unet_call
from vcut.analysis.memory import peak_bytes
from vcut.config import PRESETS, SVDConfig
from vcut.kernels import runtime


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels; ``form`` is the name of a preset."""

    model: str = "svd-xt"
    dtype: str = "bfloat16"
    form: str = "lossless"
    frames: int = 25
    height: int = 576
    width: int = 1024
    batch: int = 2


FULL = Settings()
QUICK = Settings("tiny", "float32", frames=2, height=64, width=64)


def run(settings: Settings, folder: Path) -> Section:
    """Measure one call."""
    if runtime.is_emulated(DTYPES[settings.dtype]):
        settings = dataclasses.replace(settings, dtype="float32")
    config = configuration(settings.model)
    stride = config.vae.stride
    grid = (settings.height // stride, settings.width // stride)
    call = Call(settings.frames, *grid, settings.batch, settings.form)
    small = small_call(config, call.form)
    path = write_part(folder, config, "unet", settings.dtype)
    with ExitStack() as stack:
        calls = [dataclasses.asdict(each) for each in (call, small)]
        build = {"path": str(path), "model": settings.model, "calls": calls}
        processes, _ = workers(stack, MODULE, {"vcut": build})
        worker = processes["vcut"]
        best = matrix_peak(worker, settings.dtype, settings.model)
        entry = Entry(worker, call.variant, warm_up=small.variant, trim=True)
        case = f"{settings.frames} frames of {settings.width}x{settings.height}"
        command.progress(f"one whole call of the UNet: {case}, {settings.dtype}")
        alternate([entry], rounds=1, minutes=0)
        best = max(best, matrix_peak(worker, settings.dtype, settings.model))
        threads = str(worker.settings["threads"])
    if not np.isfinite(entry.result()).all():
        raise RuntimeError("the call gave NaN or infinity")
    row = Row(
        f"{case}, {settings.dtype}, batch {settings.batch}",
        FORMS[settings.form],
        entry.seconds,
        peak=entry.peak,
        flop=flop(config, call, published=False),
        attainable=best,
        details={"vcut cost says, GiB": counted_peak(config, call, settings.dtype) / 2**30},
    )
    notes = (
        f"{settings.model}; the weights are {path_size(path) / 2**30:.2f} GiB more.",
        *entry_notes([entry]),
    )
    return Section("full_size", "One call at the published size", (row,), notes, machine={"threads": threads})


def counted_peak(config: SVDConfig, call: Call, dtype: str) -> int:
    """Bytes of live tensors at the peak of ``call``, counted on the meta device."""
    form = PRESETS[call.form]
    unet = build_unet(dataclasses.replace(config.unet, tca=form.tca, sca=form.sca)).to(DTYPES[dtype])
    return peak_bytes(unet_call(unet, call.batch, call.frames, call.height, call.width))


def path_size(folder: Path) -> int:
    """Bytes of the weights in ``folder``."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


if __name__ == "__main__":
    command.main("full_size")
