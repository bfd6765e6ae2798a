"""One call of the UNet, in six chapters of the report.

    python -m benchmarks.unet                                       # all six
    python -m benchmarks.unet --only unet_call --minutes 20         # vcut's forms beside diffusers
    python -m benchmarks.unet --only scaling --clips 4x256x256      # as the clip grows
    python -m benchmarks.unet --only avx2                           # the same, on a CPU held to AVX2
    python -m benchmarks.unet --only one_thread                     # the same, with one thread
    python -m benchmarks.unet --only full_size --dtype float32      # the published size, to the end
    python -m benchmarks.unet --only compiled --clips 8x128x128     # plain, packed, torch.compile
    python -m benchmarks.unet --only compiled --contenders packed packed:matrices=blocks    # one form or another

A call takes both branches of guidance as one batch, or one branch as after the cut. vcut's calls are given a cached
context, as in a run, where it is made once; diffusers projects the context in every call. *compiling* is the first
call less a later one: compiled code holds for the shapes that it was made for, and packed weights cannot be compiled.
*packed:FORMS* is packed as the command's ``--pack FORMS`` does it, *packed* in the forms of this CPU's instructions.
All contenders lie in memory at once, for SVD-XT in float32 with up to 8.5 GiB of packed weights each.

A contender that is measured alone is shown with the memory that ``vcut cost`` counts. That is counted in the parts of
a GPU, which are larger than a CPU's.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import command
from benchmarks.harness.compiling import compile_blocks
from benchmarks.harness.report import HELD, Found, Row
from benchmarks.harness.rounds import Entry, alternate, difference, entry_notes, workers
from benchmarks.harness.weights import DTYPES, configuration, native, path_size, write_part
from benchmarks.harness.worker import CONTENDERS, Built
from vcut.analysis.counting import build_unet, unet_call, unet_counts
from vcut.analysis.memory import peak_bytes
from vcut.config import PRESETS, SVDConfig, UNetConfig
from vcut.layers import Packing, assembled, pack
from vcut.unet import UNet, fold
from weights_tools.checkpoint import open_checkpoint

MODULE = "benchmarks.unet"
FORMS = {"baseline": "vcut, baseline", "lossless": "vcut, lossless", "vcut": "vcut, cut form"}
"""Presets, and what the report calls them."""

COMPILED = ("compiled", "compiled per block")
"""Ways to compile a network: as a whole, and each of its blocks, of which those of one shape share their code."""


class Caller(NamedTuple):
    """The maker of a call: a process, a preset, and what is done to the weights."""

    label: str
    process: str
    form: str = "baseline"
    way: str = "packed"
    one_branch: bool = False


CALLERS = {
    "diffusers": Caller(CONTENDERS["diffusers"], "diffusers"),
    "diffusers-same": Caller(CONTENDERS["diffusers-same"], "diffusers-same"),
    **{form: Caller(label, "vcut", form) for form, label in FORMS.items()},
    "one-branch": Caller(f"{FORMS['vcut']}, one branch", "vcut", "vcut", one_branch=True),
    **{way: Caller(f"vcut, {way}", "vcut", "lossless", way) for way in ("plain", "packed", *COMPILED)},
}
"""Contenders by the names that ``--contenders`` takes; ``packed:FORMS`` is another."""


def caller_named(name: str) -> Caller:
    """The contender of this name."""
    if name.startswith("packed:"):
        return Caller(f"vcut, {name}", "vcut", "lossless", name)
    return CALLERS[name]


@dataclass(frozen=True)
class Settings:
    """A measurement: what is called, by whom, and how often.

    Attributes:
        contenders: names for :func:`caller_named`; outputs are compared with the first one's.
        clips: each frames x width x height, in pixels.
        emulated: the clip in a dtype that this CPU only emulates; empty leaves the dtype out.
        warm_up: ``same`` warms up with the call itself; ``small``, for long calls, with the smallest clip.
        minutes: for each dtype.
        held: whether all are held to the instructions of AVX2.
        threads: of each process; 0 leaves it to torch.
    """

    contenders: tuple[str, ...]
    clips: tuple[str, ...]
    model: str = "svd-xt"
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    batch: int = 2
    emulated: str = ""
    warm_up: str = "same"
    rounds: int = 3
    minutes: float = 10.0
    held: bool = False
    threads: int = 0


@dataclass(frozen=True)
class Call:
    """A call on ``batch`` clips of ``frames`` latents ``height`` x ``width``; ``form`` is the name of a preset."""

    frames: int
    height: int
    width: int
    batch: int = 2
    form: str = "baseline"
    way: str = "packed"

    @property
    def variant(self) -> str:
        """Name of the call in a worker."""
        way = "" if self.way == "packed" else f"{self.way} "
        return f"{self.form} {way}{self.batch}x{self.frames}x{self.height}x{self.width}"


def run(settings: Settings, folder: Path) -> Found:
    """Measure the dtypes one after the other."""
    own, missing = native(settings.dtype)
    clips = dict.fromkeys(own, settings.clips)
    if settings.emulated:
        clips |= dict.fromkeys(missing, (settings.emulated,))
    rows: list[Row] = []
    notes = [settings.model]
    for dtype, texts in (clips or {"float32": settings.clips}).items():
        found, remarks = _of_dtype(settings, dtype, texts, folder)
        rows += found
        notes += remarks
        if dtype in missing:
            notes.append(f"This CPU only emulates {dtype}: the clip is smaller there.")
    return Found(rows, notes, {dtype: why for dtype, why in missing.items() if dtype not in clips})


class Turn(NamedTuple):
    """One contender's call on one clip, which is given as frames x width x height in pixels."""

    clip: str
    caller: Caller
    call: Call


def _of_dtype(
    settings: Settings, dtype: str, clips: Sequence[str], folder: Path
) -> tuple[list[Row], list[str]]:
    """Rows and notes of one dtype: every contender on every clip."""
    config = configuration(settings.model)
    callers = [caller_named(name) for name in settings.contenders]
    turns = [
        Turn(clip, caller, call_on(clip, config, caller, settings.batch))
        for clip in clips
        for caller in callers
    ]
    path = write_part(folder, config, "unet", dtype)
    entries, compiled = _measured(settings, config, turns, path)

    notes = [f"The weights in {dtype} are {path_size(path) / 2**30:.2f} GiB.", *entry_notes(entries)]
    expected = {clip: entries[i * len(callers)].result() for i, clip in enumerate(clips)}
    if dtype != "float32" and callers[0].process != "vcut":
        expected = _in_float32(settings, config, clips, folder)
        notes.append(f"In {dtype}, the difference is from diffusers in float32.")
    rows = []
    for turn, entry in zip(turns, entries, strict=True):
        row = _row(config, dtype, settings.batch, turn, entry)
        got = entry.result()
        if len(callers) > 1:
            row = dataclasses.replace(row, difference=difference(got, expected[turn.clip][-len(got) :]))
        else:
            row.details["counted by vcut cost, GiB"] = counted_peak(config, turn.call, dtype) / 2**30
        if turn.call in compiled:
            row.details["compiling, s"] = max(0.0, compiled[turn.call] - row.median)
        rows.append(row)
    return rows, notes


def _measured(
    settings: Settings, config: SVDConfig, turns: Sequence[Turn], path: Path
) -> tuple[list[Entry], dict[Call, float]]:
    """Measurements of every turn, and the seconds of each compiled network's first call."""
    calls: dict[str, list[Call]] = {}
    for turn in turns:
        calls.setdefault(turn.caller.process, []).append(turn.call)
    small = settings.warm_up == "small"
    with ExitStack() as stack:
        builds = {name: to_build(path, settings.model, c) for name, c in calls.items()}
        environment = dict(HELD) if settings.held else {}
        if settings.threads:
            environment["OMP_NUM_THREADS"] = str(settings.threads)
        processes, _ = workers(stack, MODULE, builds, environment)
        first = {}
        for _, caller, call in turns:
            if call.way in COMPILED:
                reply = processes[caller.process].ask("run", variant=call.variant, output=None, trim=False)
                first[call] = reply["seconds"]
        entries = [
            Entry(
                processes[caller.process],
                call.variant,
                warm_up=small_call(config, call).variant if small else None,
                trim=small,
            )
            for _, caller, call in turns
        ]
        alternate(entries, rounds=settings.rounds, minutes=settings.minutes)
    return entries, first


def _row(config: SVDConfig, dtype: str, batch: int, turn: Turn, entry: Entry) -> Row:
    """The row of one turn, before it is compared.

    Raises:
        RuntimeError: the call gave NaN or infinity.
    """
    clip, caller, call = turn
    if not np.isfinite(entry.result()).all():
        raise RuntimeError(f"{caller.label} gave NaN or infinity: {clip} in {dtype}")
    frames, size = clip.split("x", 1)
    operations = flop(config, call, published=caller.process != "vcut")
    case = f"{dtype}, {batch} x {frames} frames of {size}"
    return Row(case, caller.label, entry.seconds, peak=entry.peak, flop=operations)


def call_on(clip: str, config: SVDConfig, caller: Caller, batch: int) -> Call:
    """The call of ``caller`` on ``batch`` clips, each given as frames x width x height in pixels."""
    frames, width, height = map(int, clip.split("x"))
    stride = config.vae.stride
    batch = 1 if caller.one_branch else batch
    return Call(frames, height // stride, width // stride, batch, caller.form, caller.way)


def small_call(config: SVDConfig, call: Call) -> Call:
    """The smallest call of the same form: it touches the weights and loads the code."""
    return Call(1, config.unet.stride, config.unet.stride, 1, call.form, call.way)


def _in_float32(
    settings: Settings, config: SVDConfig, clips: Sequence[str], folder: Path
) -> dict[str, NDArray[np.float32]]:
    """Outputs that diffusers computes from the unrounded weights, by clip."""
    path = write_part(folder, config, "unet", "float32")
    calls = [call_on(clip, config, CALLERS["diffusers"], settings.batch) for clip in clips]
    with ExitStack() as stack:
        processes, _ = workers(stack, MODULE, {"diffusers": to_build(path, settings.model, calls)})
        entries = [Entry(processes["diffusers"], call.variant) for call in calls]
        alternate(entries, rounds=0, minutes=0)
    return {clip: entry.result() for clip, entry in zip(clips, entries, strict=True)}


def _form(config: SVDConfig, form: str) -> UNetConfig:
    """Configuration of the UNet in the form of a preset."""
    return dataclasses.replace(config.unet, tca=PRESETS[form].tca, sca=PRESETS[form].sca)


def flop(config: SVDConfig, call: Call, *, published: bool) -> int:
    """Operations of a call, as the published code computes it or as vcut does."""
    counts = unet_counts(_form(config, call.form), call.frames, call.height, call.width)
    return 2 * counts.call(call.batch, published=published).total


def counted_peak(config: SVDConfig, call: Call, dtype: str) -> int:
    """Bytes of live tensors at the peak of ``call``, counted on the meta device."""
    unet = build_unet(_form(config, call.form)).to(DTYPES[dtype])
    return peak_bytes(unet_call(unet, call.batch, call.frames, call.height, call.width))


def to_build(path: Path, model: str, calls: Sequence[Call]) -> dict[str, Any]:
    """Arguments of :func:`build` for ``calls``."""
    return {"path": str(path), "model": model, "calls": [dataclasses.asdict(call) for call in calls]}


def build(contender: str, *, path: str, model: str, calls: Sequence[dict[str, Any]]) -> Built:
    """Make the calls ready to run, in a worker, each with the small call of its form.

    Each small call is made once, which touches the weights and loads the code. Those of compiled networks are not:
    their first call is measured.
    """
    config = configuration(model)
    wanted = [Call(**call) for call in calls]
    small = [small_call(config, call) for call in wanted]
    ready: Callable[[Call], Callable[[], Tensor]]
    if contender == "vcut":
        unets = _unets(load(Path(path), config), {(call.form, call.way) for call in wanted})

        def ready(call: Call) -> Callable[[], Tensor]:
            return _our_call(unets[call.form, call.way], config, call)

    else:
        from benchmarks.harness import peers

        ready = partial(_their_call, peers.unet(Path(path)), config)

    with torch.no_grad():
        for call in dict.fromkeys(small):
            if call.way not in COMPILED:
                ready(call)()
        return {call.variant: ready(call) for call in (*wanted, *small)}, {}


def load(path: Path, config: SVDConfig) -> UNet:
    """The UNet of vcut, as trained, mapped from the folder ``path``."""
    unet = assembled(UNet, config.unet, open_checkpoint(path).read("unet"))
    return unet.eval().requires_grad_(False)


def _unets(trained: UNet, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], UNet]:
    """UNets by form and way. What those of one way have in common is packed once."""
    unets = {(form, way): fold(trained, tca=PRESETS[form].tca, sca=PRESETS[form].sca) for form, way in wanted}
    for packed in sorted({way for _, way in wanted if way.startswith("packed")}):
        forms = packed.partition(":")[2]
        pack(
            *(unet for (_, way), unet in unets.items() if way == packed),
            packing=Packing.parse(forms) if forms else None,
        )
    for (form, way), unet in unets.items():
        if way == "compiled":
            unet.compile()
        elif way == "compiled per block":
            # Blocks of its own, with the weights of all: networks made by fold share what is alike in them.
            unets[form, way] = copy.deepcopy(unet, {id(weight): weight for weight in unet.parameters()})
            compile_blocks(unets[form, way])
    return unets


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


_EVERYONE = ("diffusers", "diffusers-same", *FORMS, "one-branch")
_FORMER = ("diffusers", "diffusers-same", "lossless")
_WAYS = ("plain", "packed", *COMPILED)
_GROWING = ("2x192x128", "4x192x128", "8x192x128", "4x128x64", "4x320x192")
_SIZES = ("1x64x64", "4x128x128", "8x192x128", "14x320x192")
_quick = partial(Settings, clips=("2x64x64",), model="tiny", dtype=("float32",), rounds=1, minutes=1.0)

CHAPTERS = {
    "unet_call": command.Chapter(
        "One call of the UNet",
        run,
        Settings(_EVERYONE, ("14x320x192",), emulated="2x128x64", warm_up="small", minutes=17.0),
        _quick(_EVERYONE, dtype=("float32", "bfloat16"), emulated="2x64x64", warm_up="small"),
    ),
    "scaling": command.Chapter(
        "One call as the clip grows",
        run,
        Settings(_FORMER, _GROWING, dtype=("float32",), rounds=2, minutes=8.0),
        _quick(_FORMER, clips=("1x64x64", "2x64x64", "2x64x128")),
    ),
    "avx2": command.Chapter(
        "One call, held to AVX2",
        run,
        Settings(_FORMER, _SIZES, dtype=("float32",), warm_up="small", rounds=2, minutes=8.0, held=True),
        _quick(_FORMER, clips=("1x64x64", "2x64x64"), held=True),
    ),
    "one_thread": command.Chapter(
        "One call with one thread",
        run,
        Settings(_FORMER, _SIZES[:2], dtype=("float32",), warm_up="small", rounds=3, threads=1),
        _quick(_FORMER, clips=("1x64x64",), threads=1),
    ),
    "full_size": command.Chapter(
        "One call at the published size",
        run,
        Settings(("lossless",), ("25x1024x576",), dtype=("bfloat16",), warm_up="small", rounds=1),
        _quick(("lossless",), warm_up="small"),
    ),
    "compiled": command.Chapter(
        "torch.compile",
        run,
        Settings(_WAYS, ("4x128x128",)),
        _quick(_WAYS, model="one-level", minutes=5.0),
    ),
}


if __name__ == "__main__":
    command.main("unet")
