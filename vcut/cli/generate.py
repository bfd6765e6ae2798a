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
from vcut.cli.clips import Job, plan_clips
from vcut.config import CONFIGS, PRESETS, SVDConfig
from vcut.errors import MediaError, OutputExistsError

if TYPE_CHECKING:
    from vcut.sampling import Scale, Summary

EXAMPLES = """\
examples:
  vcut generate photo.jpg                          photo.mp4 beside it, from the model in the box
  vcut generate photo.jpg -o clip.gif --seed 7     the suffix picks the format
  vcut generate photo.jpg -o frames                frames/000.png, frames/001.png, ...
  vcut generate photo.jpg --clips 5 -o clips/      clips/photo-0.mp4 ... clips/photo-4.mp4
  vcut generate photos/ -o clips/                  a clip of each picture; those that exist are skipped
  vcut generate photo.jpg --model svd-xt           the real thing, cut at step 17 of 25
  vcut generate photo.jpg --model weights.safetensors --preset baseline
"""


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

    group = parser.add_argument_group("pictures in, clips out")
    group.add_argument(
        "pictures", nargs="+", type=values.path, metavar="PICTURE", help="a picture, or a folder of them"
    )
    group.add_argument(
        "-o",
        "--output",
        type=values.name,
        metavar="PATH",
        help="a file (.mp4, .gif, .webp); without suffix a folder of the clip's PNG frames; with a / at the end, "
        "with --format or for several clips a folder for clips named after their pictures (default: beside each)",
    )
    group.add_argument(
        "--format",
        choices=("mp4", "gif", "webp", "png"),
        help="of clips named after their pictures; png is a folder of frames (default: mp4)",
    )
    group.add_argument(
        "--clips", type=values.count, default=1, metavar="N", help="clips of each picture (default: 1)"
    )
    group.add_argument(
        "--seed",
        type=values.seed,
        metavar="N",
        help="clip i of a picture is made from seed N + i (default: random, printed)",
    )
    group.add_argument(
        "--size",
        type=values.size,
        metavar="WxH",
        help="width x height in pixels, multiples of 64 (default: the model's, 1024x576)",
    )
    group.add_argument(
        "--fit",
        choices=("crop", "resize", "pad"),
        default="crop",
        help="how pictures of another shape get there: fill and cut, squash, or black bars (default: crop)",
    )
    group.add_argument(
        "--sheet", type=values.path, metavar="PNG", help="also write all frames as one picture"
    )
    group.add_argument("--overwrite", action="store_true", help="replace clips that exist")
    group.add_argument("--quiet", action="store_true", help="print errors and notes on the model only")

    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=values.name,
        default="tiny",
        metavar="NAME|PATH",
        help=f"{', '.join(CONFIGS)}; or a .safetensors file or a diffusers folder (default: tiny)",
    )
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="vcut",
        help="baseline: as published; lossless: equal output, less work; vcut: the paper's cut (default)",
    )
    for flag, kind in (("--tca", "temporal"), ("--sca", "spatial")):
        group.add_argument(
            flag,
            type=values.mode,
            metavar="true|linear_cached|false",
            help=f"{kind} cross-attention, instead of the preset's",
        )
    group.add_argument("--variant", choices=("fp16",), help="download half-precision weights, half as large")

    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--steps", type=values.count, default=25, metavar="N", help="denoising steps (default: 25)"
    )
    group.add_argument(
        "--cut",
        type=values.cut,
        default="preset",
        metavar="N|none",
        help="first step without guidance, from 1; none never cuts (default: the preset's, vcut: 17 of 25)",
    )
    for part in ("context", "latents"):
        group.add_argument(
            f"--after-{part}",
            choices=("cond", "mean", "uncond"),
            default="mean" if part == "context" else "cond",
            help=f"{part} of the steps after the cut (default: %(default)s)",
        )
    group.add_argument(
        "--embedding",
        type=values.steps,
        metavar="all|none|A-B",
        help="steps whose passes receive the image embedding, the rest get zeros: the experiment of the paper's "
        "figure 2 (default: all)",
    )
    group.add_argument(
        "--guidance-min",
        type=values.finite,
        default=1.0,
        metavar="X",
        help="at the first frame (default: 1.0)",
    )
    group.add_argument(
        "--guidance-max",
        type=values.finite,
        default=3.0,
        metavar="X",
        help="at the last frame (default: 3.0)",
    )
    group.add_argument(
        "--guidance-shape",
        choices=("linear", "triangle"),
        default="linear",
        help="triangle reaches the maximum at the middle frame and comes back (default: linear)",
    )
    group.add_argument("--frames", type=values.count, metavar="N", help="default: the model's, 14 or 25")
    group.add_argument(
        "--fps",
        type=values.rate,
        metavar="N",
        help="frames per second, of the file and told to the model (default: 7)",
    )
    group.add_argument(
        "--motion-bucket",
        type=values.whole,
        metavar="N",
        help="amount of motion, more is more (default: 127, of about 1 to 255)",
    )
    group.add_argument(
        "--noise-aug",
        type=values.strength,
        default=0.02,
        metavar="X",
        help="noise on the picture: more frees the motion from it (default: 0.02)",
    )

    group = parser.add_argument_group("speed and memory")
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="auto: float16 on a GPU, float32 on the CPU (default)",
    )
    group.add_argument(
        "--vae-dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="float16 overflows with the published VAE (default: float32)",
    )
    group.add_argument(
        "--decode-chunk",
        type=values.count,
        default=14,
        metavar="N",
        help="frames decoded at a time; fewer need less memory, and change the frames a little (default: 14)",
    )
    group.add_argument(
        "--sequential",
        action="store_true",
        help="the two passes of a guided step one after the other: slower, less memory, equal output",
    )


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
    from vcut.sampling import Branch

    begun = time.perf_counter()
    pipe = vcut.load(
        args.model,
        preset=args.preset,
        tca=args.tca,
        sca=args.sca,
        dtype=None if args.dtype == "auto" else getattr(torch, args.dtype),
        device=values.device(args.device),
        vae_dtype=getattr(torch, args.vae_dtype),
        variant=args.variant,
    )
    loaded = time.perf_counter() - begun
    dtype = str(pipe.unet.dtype).removeprefix("torch.")
    say(f"model    {pipe.config.name}, {dtype} on {pipe.device}, loaded in {loaded:.1f} s")
    if pipe.note:
        if args.quiet:
            print(f"vcut: note: {pipe.note}", file=sys.stderr)
        say(f"note     {pipe.note}")
    say(f"preset   {args.preset}: {passes}")
    say(f"seed     {seed}")
    width, height = args.size or (None, None)
    made = 0
    for job in jobs:
        started = time.perf_counter()
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


def _usable(jobs: Iterable[Job], unusable: list[Path]) -> Iterator[Job]:
    """The jobs whose pictures can be read, each looked at when its turn comes; the others are said and noted."""
    from vcut import images

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
    from vcut import images, media
    from vcut.sampling import Branch, frame_scales, linear, plan, summarize, without_guidance

    config = _configuration(args)
    width, height = args.size or (config.width, config.height)
    images.check_size(height, width, config.stride)
    cut = PRESETS[args.preset].cut_step(args.steps) if args.cut == "preset" else args.cut
    run = plan(args.steps, cut, Branch(args.after_context, args.after_latents), args.embedding)
    guidance = _guidance(args)
    scale = guidance if callable(guidance) else linear(*guidance)
    if (frame_scales(scale, args.frames or config.frames) == 1).all():
        run = without_guidance(run)  # as the sampler will
    values.device(args.device)
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
    from vcut import hub
    from vcut.loading import config_of

    return config_of(hub.find(args.model), args.model, args.variant)


def _silent(line: str) -> None:
    pass


def _say(line: str) -> None:
    """Print a line at once. A reader that has gone (``| head``) does not stop the clips."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
