"""One call of the UNet: vcut beside diffusers, by dtype.

    python -m benchmarks.unet_call [--dtype float32] [--frames 14 --height 192 --width 320] [--rounds 3]

A call takes both branches of guidance as one batch, or one branch as after the cut. vcut's calls are given a cached
context, as in a run, where it is made once; diffusers projects the context in every call. GFLOP/s count what each
computes by itself (:mod:`vcut.analysis.counting`) but for zeros around maps (:mod:`benchmarks.padding`); the share of
the peak is of what this machine makes of large matrix products, measured in the same rounds
(:mod:`benchmarks.matrix_peak`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import command
from benchmarks.padding import padding_macs
from benchmarks.report import Row, Section
from benchmarks.rounds import Entry, Worker, alternate, difference, workers
from benchmarks.weights import configuration, write_part
from benchmarks.worker import CONTENDERS, Built
from vcut.analysis.counting import build_unet, unet_call, unet_counts
from vcut.config import PRESETS, SVDConfig
from vcut.kernels import runtime
from vcut.layers import pack
from vcut.unet import UNet, fold
from weights_tools.checkpoint import open_checkpoint

MODULE = "benchmarks.unet_call"
FORMS = {"baseline": "vcut, baseline", "lossless": "vcut, lossless", "vcut": "vcut, cut form"}
"""Presets, and what the report calls them."""


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels. ``emulated`` is frames, height and width in bfloat16 on a CPU that has no such arithmetic."""

    model: str = "svd-xt"
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    frames: int = 14
    height: int = 192
    width: int = 320
    batch: int = 2
    emulated: tuple[int, ...] = (2, 64, 128)
    rounds: int = 3
    minutes: float = 17.0  # for each dtype


FULL = Settings()
QUICK = Settings("tiny", frames=2, height=64, width=64, emulated=(2, 64, 64), rounds=1, minutes=1.0)


@dataclass(frozen=True)
class Call:
    """A call on ``batch`` clips of ``frames`` latents ``height`` x ``width``; ``form`` is the name of a preset."""

    frames: int
    height: int
    width: int
    batch: int = 2
    form: str = "baseline"

    @property
    def variant(self) -> str:
        """Its name in a worker."""
        return f"{self.form} {self.batch}x{self.frames}x{self.height}x{self.width}"


def run(settings: Settings, folder: Path) -> Section:
    """Measure the dtypes one after the other."""
    config = configuration(settings.model)
    parts = [_of_dtype(settings, config, dtype, folder) for dtype in settings.dtype]
    return Section(
        "unet_call",
        "One call of the UNet",
        tuple(row for rows, _, _ in parts for row in rows),
        notes=(settings.model, *(note for _, notes, _ in parts for note in notes)),
        machine={"threads": parts[0][2]},
    )


def _of_dtype(
    settings: Settings, config: SVDConfig, dtype: str, folder: Path
) -> tuple[list[Row], list[str], str]:
    """Rows, notes and the number of threads."""
    size, notes = (settings.frames, settings.height, settings.width), []
    if runtime.is_emulated(getattr(torch, dtype)):
        frames, height, width = settings.emulated
        size = (frames, height, width)
        notes.append("This CPU has no bfloat16 arithmetic: torch emulates it, and the clip is smaller there.")
    frames, height, width = size
    case = f"{dtype}, {settings.batch} x {frames} frames of {width}x{height}"
    command.progress(f"one call of the UNet: {case}")

    latents = (frames, height // config.vae.stride, width // config.vae.stride)
    both = Call(*latents, settings.batch)
    contenders = {
        CONTENDERS["diffusers"]: ("diffusers", both),
        CONTENDERS["diffusers-same"]: ("diffusers-same", both),
        **{label: ("vcut", dataclasses.replace(both, form=form)) for form, label in FORMS.items()},
        f"{FORMS['vcut']}, one branch": ("vcut", dataclasses.replace(both, form="vcut", batch=1)),
    }
    path = write_part(folder, config, "unet", dtype)
    with ExitStack() as stack:
        builds = {
            name: {
                "path": str(path),
                "model": settings.model,
                "calls": [
                    dataclasses.asdict(each)
                    for who, call in contenders.values()
                    if who == name
                    for each in (call, small_call(config, call.form))
                ],
            }
            for name in CONTENDERS
        }
        processes, _ = workers(stack, MODULE, builds)
        entries = [
            Entry(processes[who], call.variant, warm_up=small_call(config, call.form).variant, trim=True)
            for who, call in contenders.values()
        ]
        best: list[float] = []

        def peak() -> None:
            best.append(matrix_peak(processes["vcut"], dtype, settings.model))

        alternate(entries, rounds=settings.rounds, minutes=settings.minutes, between=peak)
        peak()
        threads = str(processes["vcut"].settings["threads"])

    notes.append(f"The matrix peak in {dtype} is {max(best):.0f} GFLOP/s.")
    expected = entries[0].result()
    if dtype != "float32":
        expected = _in_float32(settings.model, config, both, folder)
        notes.append(f"In {dtype}, the difference is from diffusers in float32.")
    rows = []
    for (label, (who, call)), entry in zip(contenders.items(), entries, strict=True):
        got = entry.result()
        rows.append(
            Row(
                case,
                label,
                entry.seconds,
                peak=entry.peak,
                flop=flop(config, call, published=who != "vcut"),
                attainable=max(best),
                difference=difference(got, expected[-len(got) :]),
            )
        )
    return rows, [*notes, *entry_notes(entries)], threads


def _in_float32(model: str, config: SVDConfig, call: Call, folder: Path) -> NDArray[np.float32]:
    """What diffusers computes from the unrounded weights."""
    path = write_part(folder, config, "unet", "float32")
    with ExitStack() as stack:
        build = {"path": str(path), "model": model, "calls": [dataclasses.asdict(call)]}
        processes, _ = workers(stack, MODULE, {"diffusers": build})
        entry = Entry(processes["diffusers"], call.variant)
        alternate([entry], rounds=0, minutes=0)
    return entry.result()


def small_call(config: SVDConfig, form: str) -> Call:
    """The smallest call of a form: it touches the weights and loads the code."""
    return Call(1, config.unet.stride, config.unet.stride, 1, form)


def matrix_peak(worker: Worker, dtype: str, model: str) -> float:
    """GFLOP/s of the best product, in the process of ``worker``."""
    arguments = {"dtype": dtype, "seconds": 0.02 if model == "tiny" else 0.3}
    return max(worker.ask("call", function="benchmarks.matrix_peak:measure", arguments=arguments).values())


def entry_notes(entries: Sequence[Entry]) -> list[str]:
    """A warning if weights had to be read from the disk while the clock ran."""
    faults = sum(entry.disk_faults for entry in entries)
    return [f"{faults} pages were read from the disk within measured runs."] if faults else []


def flop(config: SVDConfig, call: Call, *, published: bool) -> int:
    """Operations of a call, as the published code computes it or as vcut does, but for zeros around maps."""
    form = PRESETS[call.form]
    unet = dataclasses.replace(config.unet, tca=form.tca, sca=form.sca)
    size = (call.frames, call.height, call.width)
    counted = unet_counts(unet, *size).call(call.batch, published=published).total
    return 2 * (counted - call.batch * padding_macs(unet_call(build_unet(unet), 1, *size)))


def build(contender: str, *, path: str, model: str, calls: Sequence[dict[str, Any]]) -> Built:
    """In a worker: the calls, ready to run. A small call has then touched the weights and loaded the code."""
    config = configuration(model)
    wanted = [Call(**call) for call in calls]
    ready: Callable[[Call], Callable[[], Tensor]]
    if contender == "vcut":
        trained = load(Path(path), config)
        forms = {
            name: fold(trained, tca=form.tca, sca=form.sca)
            for name, form in PRESETS.items()
            if name in {call.form for call in wanted}
        }
        pack(*forms.values())

        def ready(call: Call) -> Callable[[], Tensor]:
            return _our_call(forms[call.form], config, call)

    else:
        from benchmarks import peers

        ready = partial(_their_call, peers.unet(Path(path)), config)

    with torch.no_grad():
        for form in {call.form for call in wanted}:
            ready(small_call(config, form))()
        return {call.variant: ready(call) for call in wanted}, {}


def load(path: Path, config: SVDConfig) -> UNet:
    """The UNet of vcut, as trained, mapped from the folder ``path``."""
    with torch.device("meta"):
        unet = UNet(config.unet)
    unet.load_state_dict(open_checkpoint(path).read("unet"), strict=True, assign=True)
    return unet.eval().requires_grad_(False)


def inputs(config: SVDConfig, call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents ``[b, f, c, h, w]``, c_noise, embeddings ``[b, 1, d]`` and time ids ``[b, 3]``.

    A call on one clip is given the last of a pair.
    """
    draw = torch.Generator().manual_seed(0)
    clips = max(2, call.batch)
    x = torch.randn(clips, call.frames, config.unet.in_channels, call.height, call.width, generator=draw)
    embedding = torch.randn(clips, 1, config.unet.context_dim, generator=draw)
    time_ids = torch.tensor([[6.0, 127.0, 0.02]] * clips)
    own = slice(clips - call.batch, None)
    return x[own].to(dtype), torch.tensor(0.5), embedding[own].to(dtype), time_ids[own].to(dtype)


def _our_call(unet: UNet, config: SVDConfig, call: Call) -> Callable[[], Tensor]:
    x, c_noise, embedding, time_ids = inputs(config, call, unet.dtype)
    return partial(unet, x, c_noise, unet.cache_context(embedding, call.frames), time_ids)


def _their_call(unet: Any, config: SVDConfig, call: Call) -> Callable[[], Tensor]:
    x, c_noise, embedding, time_ids = inputs(config, call, unet.dtype)
    return lambda: unet(x, c_noise, embedding, time_ids, return_dict=False)[0]


if __name__ == "__main__":
    command.main("unet_call")
