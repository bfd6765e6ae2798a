"""``vcut generate``: pictures in, clips out.

Whatever can be found wrong without the model is found before it is loaded, and each check hands on what it read.
"""

from __future__ import annotations

import argparse
import functools
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

from vcut.cli import options, values
from vcut.config import choose_preset
from vcut.errors import ConfigError

if TYPE_CHECKING:
    from vcut.loading import Found
    from vcut.pipeline import Pipeline
    from vcut.settings import Run

EXAMPLES = """\
examples:
  vcut generate photo.jpg                          photo.mp4 beside it, from the model in the box
  vcut generate photo.jpg -o clip.gif --seed 7     the suffix picks the format
  vcut generate photo.jpg -o frames                frames/000.png, frames/001.png, ...
  vcut generate photo.jpg --clips 5 -o clips/      clips/photo-0.mp4 ... clips/photo-4.mp4
  vcut generate photos/ -o clips/                  a clip of each picture; those that exist are skipped
  vcut generate photo.jpg --model svd-xt           the published model, cut at step 17 of 25
  vcut generate photo.jpg --model weights.safetensors --preset baseline
"""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: options.Subcommand = commands.add_parser(
        "generate",
        usage="vcut generate PICTURE [PICTURE ...] [-o PATH] [options]",
        help="turn pictures into clips",
        description="Turn pictures into clips with Stable Video Diffusion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=generate)
    parser.add_options = _add_options


def generate(args: argparse.Namespace) -> None:
    """Make the clips that ``args`` ask for."""
    from vcut.settings import resolve
    from vcut.sweeps import jobs, runner

    settings = options.settings(args)
    model, config = options.configuration(args.model, args.variant)
    run = resolve(settings, config, choose_preset(args.preset, args.tca, args.sca))
    device = values.device(args.device)
    if args.compile and args.offload:
        raise ConfigError(
            "--compile and --offload exclude each other: an offloaded network is new at each clip"
        )
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    outputs = jobs.Outputs(args.output, args.format, args.sheet, args.overwrite, args.enlarge)
    work = jobs.find_work(args.pictures, outputs, seed=seed, clips=args.clips)
    jobs.check_outputs(work, outputs, run.fps)
    say = _silent if args.quiet else _say
    for job in work.existing:
        say(f"skipped  {job.output} exists")
    load = functools.partial(_load, args, model, device, run, seed)
    runner.make_clips(work.jobs, run, outputs, load, say=say, warn=_warn, progress=not args.quiet)


def _load(args: argparse.Namespace, model: str | Found, device: str | None, run: Run, seed: int) -> Pipeline:
    """Load the model, and say what was loaded and what it will do."""
    import torch

    import vcut
    from vcut.kernels import runtime

    runtime.keep_large_blocks()
    if args.matmul_precision is not None:
        torch.set_float32_matmul_precision(args.matmul_precision)
    begun = time.perf_counter()
    pipe = vcut.load(
        model,
        preset=run.preset,
        dtype=None if args.dtype == "auto" else getattr(torch, args.dtype),
        device=device,
        vae_dtype=getattr(torch, args.vae_dtype),
        decode_dtype=None if args.decode_dtype is None else getattr(torch, args.decode_dtype),
        offload=args.offload,
        pack=not args.compile,
        variant=args.variant if isinstance(model, str) else None,
    )
    if args.compile:
        pipe.unet.compile()
    _introduce(pipe, run, seed, time.perf_counter() - begun, args.quiet)
    return pipe


def _introduce(pipe: Pipeline, run: Run, seed: int, seconds: float, quiet: bool) -> None:
    """Say what was loaded and what it will do. The note on the weights is said even if ``quiet``."""
    import torch

    from vcut.kernels import runtime

    if quiet:
        if pipe.note:
            _warn(f"note: {pipe.note}")
        return
    dtype = str(pipe.unet.dtype).removeprefix("torch.")
    _say(f"model    {pipe.config.name}, {dtype} on {pipe.device}, loaded in {seconds:.1f} s")
    if pipe.note:
        _say(f"note     {pipe.note}")
    on_cpu = pipe.device.type == "cpu" and pipe.unet.dtype != torch.float32
    if on_cpu and runtime.is_emulated(pipe.unet.dtype):
        _say(f"note     this CPU has no {dtype} arithmetic: --dtype float32 is many times faster")
    _say(f"preset   {run.summary}")
    _say(f"seed     {seed}")


def _silent(line: str) -> None:
    pass


def _say(line: str) -> None:
    """Print a line at once. A reader that has gone (``| head``) does not stop the clips."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(line: str) -> None:
    print(f"vcut: {line}", file=sys.stderr, flush=True)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that ``vcut generate`` takes, in four groups."""
    group = parser.add_argument_group("pictures in, clips out")
    group.add_argument(
        "pictures", nargs="+", type=values.path, metavar="PICTURE", help="a picture, or a folder of pictures"
    )
    group.add_argument(
        "-o",
        "--output",
        type=values.name,
        metavar="PATH",
        help="a file (.mp4, .gif, .webp); without suffix a folder of the clip's PNG frames; with a / at the end, "
        "with --format or for several clips a folder for clips named after their pictures (default: beside the "
        "picture; a folder of pictures needs one)",
    )
    group.add_argument(
        "--format",
        choices=("mp4", "gif", "webp", "png"),
        help="format of clips named after their pictures; png is a folder of frames (default: mp4)",
    )
    group.add_argument(
        "--clips", type=values.count, default=1, metavar="N", help="clips of each picture (default: 1)"
    )
    group.add_argument(
        "--seed",
        type=values.seed,
        metavar="N",
        help="clip i of each picture is made from seed N + i (default: random, printed)",
    )
    options.add_settings(group, "size", "fit")
    group.add_argument(
        "--sheet", type=values.path, metavar="PNG", help="also write all frames as one picture"
    )
    group.add_argument(
        "--enlarge",
        type=values.count,
        default=1,
        metavar="N",
        help="write every pixel N times along each side: the model in the box makes 32x32 (default: 1)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace clips that exist")
    group.add_argument("--quiet", action="store_true", help="print only errors and notes on the model")

    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=values.name,
        default="tiny",
        metavar="NAME|PATH",
        help=f"{options.MODELS} (default: tiny)",
    )
    options.add_preset(group)
    group.add_argument("--variant", choices=("fp16",), help="download half-precision weights, half as large")

    group = parser.add_argument_group("sampling")
    options.add_settings(
        group,
        *("steps", "cut", "after", "embedding", "guidance", "frames", "fps", "motion_bucket", "noise_aug"),
    )

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
