"""``vcut generate``: pictures in, clips out.

Whatever can be found wrong without the model is found before it is loaded: no run of hours ends on a taken name.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut.cli import values
from vcut.cli.options import EXAMPLES, add_options
from vcut.config import CONFIGS, PRESETS, SVDConfig
from vcut.errors import ConfigError, MediaError, OutputExistsError
from vcut.sweeps.jobs import Job, plan_clips

if TYPE_CHECKING:
    from torch import Tensor

    from vcut.pipeline import Pipeline
    from vcut.sampling import Scale, Summary


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        usage="vcut generate PICTURE [PICTURE ...] [-o PATH] [options]",
        help="turn pictures into clips",
        description="Turn pictures into clips with Stable Video Diffusion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=generate)
    add_options(parser)


def generate(args: argparse.Namespace) -> None:
    """Make the clips that ``args`` ask for."""
    say = _silent if args.quiet else _say
    clips = plan_clips(args)
    for job in clips.existing:
        say(f"skipped  {job.output} exists")
    if not clips.jobs:
        return
    fps, passes = _check_all(args, clips.jobs)
    unusable: list[Path] = []
    jobs = _usable(clips.jobs, unusable)
    first = next(jobs, None)
    if first is not None:  # else not even the model is loaded
        _make(args, itertools.chain([first], jobs), clips.seed, fps, passes, say)
    if unusable:
        total = len({job.picture for job in clips.jobs})
        raise MediaError(f"{len(unusable)} of {total} pictures cannot be used")


def _make(
    args: argparse.Namespace,
    jobs: Iterable[Job],
    seed: int,
    fps: int,
    passes: Summary,
    say: Callable[[str], None],
) -> None:
    """Load the model and make the clips."""
    import torch

    import vcut
    from vcut import media
    from vcut.errors import OutOfMemoryError
    from vcut.kernels import runtime
    from vcut.sampling import Branch

    runtime.keep_large_blocks()
    if args.matmul_precision is not None:
        torch.set_float32_matmul_precision(args.matmul_precision)
    begun = time.perf_counter()
    pipe = vcut.load(
        args.model,
        preset=args.preset,
        tca=args.tca,
        sca=args.sca,
        dtype=None if args.dtype == "auto" else getattr(torch, args.dtype),
        device=values.device(args.device),
        vae_dtype=getattr(torch, args.vae_dtype),
        decode_dtype=None if args.decode_dtype is None else getattr(torch, args.decode_dtype),
        offload=args.offload,
        pack=not args.compile,
        variant=args.variant,
    )
    if args.compile:
        pipe.unet.compile()
    loaded = time.perf_counter() - begun
    dtype = str(pipe.unet.dtype).removeprefix("torch.")
    say(f"model    {pipe.config.name}, {dtype} on {pipe.device}, loaded in {loaded:.1f} s")
    if pipe.note:
        if args.quiet:
            print(f"vcut: note: {pipe.note}", file=sys.stderr)
        say(f"note     {pipe.note}")
    if (
        pipe.device.type == "cpu"
        and pipe.unet.dtype != torch.float32
        and runtime.is_emulated(pipe.unet.dtype)
    ):
        say(f"note     this CPU has no {dtype} arithmetic: --dtype float32 is many times faster")
    say(f"preset   {args.preset}: {passes}")
    say(f"seed     {seed}")
    width, height = args.size or (None, None)
    made = 0
    for job in jobs:
        started = time.perf_counter()
        try:
            frames = pipe.generate(
                job.picture,
                seed=job.seed,
                frames=args.frames,
                height=height,
                width=width,
                fit=args.fit,
                steps=args.steps,
                cut=args.cut,
                after=Branch(args.after_context, args.after_latents),
                embedding=args.embedding,
                guidance=_guidance(args),
                fps=fps,
                motion_bucket=args.motion_bucket,
                noise_aug=args.noise_aug,
                decode_chunk=args.decode_chunk,
                sequential=args.sequential,
                progress=not args.quiet,
            )
        except OutOfMemoryError as error:
            if error.latents is None:
                raise
            frames = _decode_with_less(pipe, error.latents, args.decode_chunk, say)
        frames = frames.repeat_interleave(args.enlarge, -2).repeat_interleave(args.enlarge, -1)
        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
        media.write(frames, job.output, fps, overwrite=args.overwrite)
        f, _, h, w = frames.shape
        seconds = time.perf_counter() - started
        say(f"wrote    {job.output}: {f} frames, {w}x{h}, {fps} fps, seed {job.seed}, in {seconds:.1f} s")
        if args.sheet:
            media.contact_sheet(frames, args.sheet, overwrite=args.overwrite)
            say(f"wrote    {args.sheet}")
        made += 1
    if made > 1:
        say(f"done     {made} clips in {time.perf_counter() - begun:.1f} s")


def _decode_with_less(pipe: Pipeline, latents: Tensor, chunk: int, say: Callable[[str], None]) -> Tensor:
    """Decode finished latents in ever smaller chunks, until they fit or are single frames."""
    from vcut.errors import OutOfMemoryError

    while chunk > 1:
        chunk = min(chunk, latents.shape[1]) // 2 or 1
        say(f"note     decoding did not fit into memory, now {chunk} frames at a time")
        try:
            return pipe.decode(latents, chunk)[0]
        except OutOfMemoryError:
            continue
    raise OutOfMemoryError("decoding a single frame does not fit into memory: take --decode-dtype float16")


def _usable(jobs: Iterable[Job], unusable: list[Path]) -> Iterator[Job]:
    """The jobs whose pictures can be read, each looked at when its turn comes; the others are said and noted."""
    from vcut.media import images

    for picture, clips in itertools.groupby(jobs, key=lambda job: job.picture):
        job, *others = clips
        if job.found:
            try:
                images.pixels(picture)
            except MediaError as error:
                print(f"vcut: skipped: {error}", file=sys.stderr, flush=True)
                unusable.append(picture)
                continue
        yield from (job, *others)


def _check_all(args: argparse.Namespace, jobs: Sequence[Job]) -> tuple[int, Summary]:
    """Raise every fault that can be found without the weights, but for those of pictures found in a folder.

    Returns the rate and what sampling will cost.
    """
    from vcut import media
    from vcut.media import images
    from vcut.sampling import Branch, frame_scales, linear, plan, summarize, without_guidance
    from vcut.settings import check_size

    config = _configuration(args)
    width, height = args.size or (config.width, config.height)
    check_size(height, width, config.stride)
    cut = PRESETS[args.preset].cut_step(args.steps) if args.cut == "preset" else args.cut
    run = plan(args.steps, cut, Branch(args.after_context, args.after_latents), args.embedding)
    guidance = _guidance(args)
    scale = guidance if callable(guidance) else linear(*guidance)
    if (frame_scales(scale, args.frames or config.frames) == 1).all():
        run = without_guidance(run)  # as the sampler will
    values.device(args.device)
    if args.compile and args.offload:
        raise ConfigError(
            "--compile and --offload exclude each other: an offloaded network is new at each clip"
        )
    fps = args.fps or config.fps
    for job in jobs:
        media.check_format(job.output, fps)
        folder = Path(job.output).parent
        if folder.exists() or args.output == job.output:
            try:
                media.check_place(job.output, overwrite=args.overwrite)
            except OutputExistsError as error:
                if args.output == job.output and Path(job.output).is_dir():
                    raise OutputExistsError(f"{error}; {job.output}/ puts the clip into it") from error
                raise
        else:  # it will be made
            root = next(parent for parent in folder.absolute().parents if parent.exists())
            if not (root.is_dir() and os.access(root, os.W_OK)):
                raise MediaError(f"{folder} cannot be made: {root} is not a writable folder")
    if args.sheet:
        media.check_sheet(args.sheet, overwrite=args.overwrite)
    faults = []
    for picture in dict.fromkeys(job.picture for job in jobs if not job.found):
        try:
            images.pixels(picture)
        except MediaError as error:
            faults.append(str(error))
    if len(faults) > 1:
        raise MediaError(f"{len(faults)} pictures cannot be used: {', '.join(faults)}")
    if faults:
        raise MediaError(faults[0])
    return fps, summarize(run)


def _guidance(args: argparse.Namespace) -> tuple[float, float] | Scale:
    from vcut.sampling import triangle

    ends = (args.guidance_min, args.guidance_max)
    return triangle(*ends) if args.guidance_shape == "triangle" else ends


def _configuration(args: argparse.Namespace) -> SVDConfig:
    """The model's configuration, of a file or a folder by its headers alone."""
    if args.model in CONFIGS:
        return CONFIGS[args.model]
    from vcut.loading import find

    return find(args.model, variant=args.variant).config


def _silent(line: str) -> None:
    pass


def _say(line: str) -> None:
    """Print a line at once. A reader that has gone (``| head``) does not stop the clips."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
