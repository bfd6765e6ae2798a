"""The model of a command that makes clips: its options, its device, and loading it."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from typing import TYPE_CHECKING, Any

from vcut.cli import lines, options, values
from vcut.config import Preset, SVDConfig
from vcut.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vcut.config import SVDConfig
    from vcut.loading import Found
    from vcut.pipeline import Pipeline
    from vcut.settings import Run

NARROW = 128
"""Channels below which a layer is done before another thread has woken."""


def add_model(group: argparse._ArgumentGroup) -> None:
    """Add the model to load."""
    group.add_argument(
        "--model",
        type=values.name,
        default="tiny",
        metavar="NAME|PATH",
        help=f"{options.MODELS} (default: tiny)",
    )
    group.add_argument(
        "--unet",
        type=values.path,
        metavar="PATH",
        help="file or folder with a fine-tuned UNet that takes the place of the model's (default: the model's own)",
    )
    add_source(group)


def add_source(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add what :func:`source` reads: which weights of a model are taken, and how strictly."""
    group.add_argument("--variant", choices=("fp16",), help="download half-precision weights, half as large")
    group.add_argument(
        "--revision", type=values.name, metavar="COMMIT", help="commit, tag or branch of a model on the Hub"
    )
    group.add_argument(
        "--ignore-unknown", action="store_true", help="pass over tensors of unknown names in a file"
    )


def source(args: argparse.Namespace, model: str | Found = "") -> dict[str, Any]:
    """Keywords of :func:`vcut.loading.find`; none for a ``model`` that it has found already."""
    if not isinstance(model, str):
        return {}
    names = ("unet", "variant", "revision", "ignore_unknown")
    return {name: getattr(args, name) for name in names if name in args}


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Add where and how the model runs: what :func:`load` takes, and settings that cost speed or memory."""
    group = parser.add_argument_group("speed and memory")
    options.add_device(group)
    group.add_argument(
        "--dtype",
        choices=("auto", *options.DTYPES),
        default="auto",
        help="number type of UNet and CLIP; auto is float16 on a GPU, float32 on a CPU (default: auto)",
    )
    group.add_argument(
        "--vae-dtype",
        choices=options.DTYPES,
        default="float32",
        help="number type of the VAE; the published one overflows in float16 (default: float32)",
    )
    group.add_argument(
        "--decode-dtype",
        choices=options.DTYPES,
        help="number type of the VAE's decoder; float16 takes half the memory (default: that of the VAE)",
    )
    options.add_settings(group, "decode_chunk", "sequential")
    group.add_argument(
        "--offload",
        action="store_true",
        help="keep the networks in main memory, each on the device only while it is at work: equal output",
    )
    forms = group.add_mutually_exclusive_group()
    forms.add_argument(
        "--pack",
        type=values.packing,
        default=True,
        metavar="FORMS",
        help="on a CPU, the forms that the weights are packed in, such as matrices=blocks,filtering=2: equal output "
        "to rounding (default, also of what is not said: what is fastest here; vcut --version --verbose tells it)",
    )
    forms.add_argument(
        "--no-pack",
        action="store_false",
        dest="pack",
        help="on a CPU, take the weights as the file has them: less memory, equal output to rounding, slower",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the UNet with torch.compile: minutes for the first clip; on a CPU it is faster without",
    )
    group.add_argument(
        "--matmul-precision",
        choices=("highest", "high", "medium"),
        help="of float32 matrix products, as torch names it; medium is faster on many CPUs and rounds to bfloat16 "
        "on those with such units (default: highest)",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add the memory that :func:`within_memory` fits the run into."""
    parser.add_argument(
        "--memory",
        type=values.memory,
        default=False,
        metavar="auto|GiB",
        help="fit the run into what is free on the GPU, or into so many GiB, by --no-pack, --sequential, --offload, "
        "--decode-dtype, --dtype and --decode-chunk in this order, as far as it takes (default: auto on CUDA)",
    )


def within_memory(args: argparse.Namespace, config: SVDConfig, run: Run, device: str | None) -> Run:
    """The run as it fits into ``--memory``, with ``args`` changed for :func:`load`; what was changed is said.

    Raises:
        ConfigError: no way takes as little as the GiB that were asked for, or there are several processes.
    """
    import torch

    from vcut.analysis.fit import Way, fit
    from vcut.kernels.runtime import is_emulated
    from vcut.layers import Packing
    from vcut.loading import default_device, default_dtype

    place = torch.device(device or default_device())
    if args.memory is False and (place.type != "cuda" or "RANK" in os.environ):
        return run
    if "RANK" in os.environ:
        raise ConfigError("--memory is for one process: under torchrun, frames are shared out instead")
    if args.memory:
        budget = int(args.memory * 2**30)
    elif place.type == "cuda":
        budget = torch.cuda.mem_get_info(place)[0]
    else:
        raise ConfigError(f"--memory auto: the free memory of {place} is not known, give a number of GiB")
    free = args.dtype == "auto"
    half = torch.bfloat16 if free and place.type == "cpu" and not is_emulated(torch.bfloat16) else None
    elsewhere = place.type != "cpu"  # a CPU has no other place to keep networks at
    packing = Packing() if args.pack is True else args.pack or None
    asked = Way(
        args.offload and elsewhere,
        run.settings.sequential,
        default_dtype(place) if free else getattr(torch, args.dtype),
        getattr(torch, args.decode_dtype or args.vae_dtype),
        run.settings.decode_chunk,
        packing=None if elsewhere or args.compile or args.offload else packing,
    )
    form = dataclasses.replace(config.unet, tca=run.preset.tca, sca=run.preset.sca)
    whole = dataclasses.replace(config, unet=form)
    vae_dtype = getattr(torch, args.vae_dtype)
    may_offload = elsewhere and not args.compile
    way = fit(whole, run, asked, budget, vae_dtype=vae_dtype, half=half, may_offload=may_offload)
    takes = math.ceil(way.peak / 2**30 * 100) / 100  # upwards: so many GiB are enough
    if way.peak > budget:
        fault = f"the least that this run takes is {takes:.2f} GiB"
        advice = "take a smaller size or fewer frames"
        if args.memory:
            raise ConfigError(f"--memory {args.memory:g}: {fault}: {advice}")
        lines.warn(f"note: {fault}, and {budget / 2**30:.2f} GiB are free: {advice}, if it fails")
    elif not args.quiet:
        lines.say(f"memory   {takes:.2f} of {budget / 2**30:.2f} GiB: {way.differs(asked)}")
    args.offload, args.pack = args.offload or way.offload, way.packing or False
    args.dtype, args.decode_dtype = (str(t).removeprefix("torch.") for t in (way.dtype, way.decode_dtype))
    settings = run.settings.replace(sequential=way.sequential, decode_chunk=way.decode_chunk)
    return dataclasses.replace(run, settings=settings)


def load(
    args: argparse.Namespace,
    model: str | Found,
    device: str | None,
    preset: Preset,
    *,
    introduce: bool = True,
) -> Pipeline:
    """Load the model in the form of ``preset``, as the options here say, and say what was loaded."""
    import torch

    import vcut
    from vcut.kernels import runtime

    begun = time.perf_counter()
    runtime.keep_large_blocks()
    runtime.keep_within_quota()
    if args.matmul_precision is not None:
        torch.set_float32_matmul_precision(args.matmul_precision)
    pipe = vcut.load(
        model,
        preset=preset,
        dtype=None if args.dtype == "auto" else getattr(torch, args.dtype),
        device=device,
        vae_dtype=getattr(torch, args.vae_dtype),
        decode_dtype=None if args.decode_dtype is None else getattr(torch, args.decode_dtype),
        offload=args.offload,
        pack=False if args.compile else args.pack,
        **source(args, model),
    )
    if args.compile:
        pipe.unet.compile()
    if introduce:
        _introduce(pipe, time.perf_counter() - begun, args)
    return pipe


def threads(config: SVDConfig) -> int:
    """Number of threads for a model: one if the UNet's layers are small, unless ``OMP_NUM_THREADS`` is set.

    Threads sleep between layers, and waking them takes about as long as such a layer (docs/benchmarks.md).
    """
    import torch

    small = max(level.channels for level in config.unet.levels) < NARROW
    return 1 if small and "OMP_NUM_THREADS" not in os.environ else torch.get_num_threads()


def warn_beyond(runs: Iterable[Run], config: SVDConfig) -> None:
    """Warn, once, of each kind of run that is far larger than what the model was made for, or never guided."""
    from vcut.settings import beyond

    for warning in dict.fromkeys(says for run in runs for says in (beyond(run, config), _unguided(run))):
        if warning:
            lines.warn(f"note: {warning}")


def _unguided(run: Run) -> str | None:
    """A sentence about an interval of guidance that none of the run's steps is in, None if there is no such fault."""
    before = run.sigmas[: run.cut - 1]
    if run.settings.guidance_interval is None or not before or run.passes.guided or set(run.scales) == {1}:
        return None
    low, high = run.settings.guidance_interval
    return (
        f"no step is guided: of the noise levels before the cut, {before[0]:.3g} to {before[-1]:.3g}, none is in the "
        f"guidance interval {low:g} to {high:g}"
    )


def device(args: argparse.Namespace) -> str | None:
    """The device that is asked for, None for ``auto``; :class:`ConfigError` if torch does not reach it."""
    if args.compile and args.offload:
        raise ConfigError(
            "--compile and --offload exclude each other: an offloaded network is new at each clip"
        )
    place = values.device(args.device)
    if not isinstance(args.pack, bool):
        _check_pack(args, place)
    return place


def _check_pack(args: argparse.Namespace, place: str | None) -> None:
    """Raise :class:`ConfigError` if ``--pack FORMS`` would have no effect."""
    import torch

    from vcut.loading import default_device

    for option in ("compile", "offload"):
        if getattr(args, option):
            raise ConfigError(f"--pack and --{option} exclude each other: the weights stay as they are")
    if (kind := torch.device(place or default_device()).type) != "cpu":
        raise ConfigError(f"--pack {args.pack}: weights are packed for a CPU, and this runs on {kind}")


def _introduce(pipe: Pipeline, seconds: float, args: argparse.Namespace) -> None:
    """Say what was loaded. The note on the weights is said even with ``--quiet``."""
    from vcut.layers import Packing

    if args.quiet:
        if pipe.note:
            lines.warn(f"note: {pipe.note}")
        return
    dtype = str(pipe.unet.dtype).removeprefix("torch.")
    lines.say(f"model    {pipe.config.name}, {dtype} on {pipe.device}, loaded in {seconds:.1f} s")
    if pipe.packing and pipe.packing != Packing():
        lines.say(f"packed   {pipe.packing}")
    if pipe.note:
        lines.say(f"note     {pipe.note}")
    dtypes = {"--dtype": dtype, "--vae-dtype": args.vae_dtype, "--decode-dtype": args.decode_dtype}
    if pipe.device.type == "cpu" and (slow := _emulated(dtypes)):
        lines.say(
            f"note     this CPU has no arithmetic for {' and '.join(slow)}: float32 is several times faster"
        )


def _emulated(dtypes: Mapping[str, str | None]) -> list[str]:
    """Options with their number types, as the user gives them, that the CPU has no arithmetic of its own for."""
    import torch

    from vcut.kernels import runtime

    return [f"{key} {to}" for key, to in dtypes.items() if to and runtime.is_emulated(getattr(torch, to))]
