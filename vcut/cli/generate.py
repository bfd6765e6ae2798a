"""``vcut generate``: pictures in, clips out.

Whatever can be found wrong without the model is found before it is loaded, and each check hands on what it read.
"""

from __future__ import annotations

import argparse
import functools
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vcut.cli import lines, models, options, values
from vcut.config import choose_preset

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
  torchrun --nproc-per-node 4 --no-python vcut generate photo.jpg             one clip on four GPUs
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
    """Make the clips that ``args`` ask for, together with the processes that torchrun started beside this one."""
    from vcut import parallel

    parallel.together(functools.partial(_generate, args), functools.partial(_load_beside, args), args.device)


def _generate(args: argparse.Namespace, shared: Callable[[Pipeline], Pipeline]) -> None:
    import torch

    from vcut import parallel
    from vcut.settings import resolve
    from vcut.sweeps import jobs, runner

    model, config = options.configuration(args.model, **models.source(args))
    preset = choose_preset(args.preset, args.tca, args.sca)
    run = resolve(options.settings(args, config, preset), config, preset)
    models.warn_beyond([run], config)
    device = models.device(args)
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    outputs = jobs.Outputs(args.output, args.format, args.sheet, args.overwrite, args.enlarge)
    work = jobs.find_work(args.pictures, outputs, seed=seed, clips=args.clips)
    jobs.check_outputs(work, outputs, run)
    say = lines.silent if args.quiet else lines.say
    for picture in work.passed:
        lines.warn(f"passed over {picture}: save it as JPEG or PNG")
    for job in work.existing:
        say(f"skipped  {job.output} exists")
    run = models.within_memory(args, config, run, device)
    few = (threads := models.threads(config)) < torch.get_num_threads()
    if few:
        torch.set_num_threads(threads)

    def load() -> Pipeline:
        pipe = _load(args, model, device, run, seed)
        # torch's compiler does not take two threads at once, and a GPU has no use for them
        halved = few and pipe.device.type == "cpu" and not args.compile
        return shared(parallel.on_two_threads(pipe) if halved else pipe)

    runner.make_clips(work, run, outputs, load, say=say, warn=lines.warn, progress=not args.quiet)


def _load(args: argparse.Namespace, model: str | Found, device: str | None, run: Run, seed: int) -> Pipeline:
    """Load the model, and say what was loaded and what it will do."""
    pipe = models.load(args, model, device, run.preset)
    if not args.quiet:
        lines.say(f"preset   {run.summary}")
        lines.say(f"sampling {run.sampling} (defaults: {args.defaults or run.preset.defaults})")
        lines.say(f"seed     {seed}")
    return pipe


def _load_beside(args: argparse.Namespace) -> Pipeline:
    """Load the model for a process that writes and says nothing."""
    preset = choose_preset(args.preset, args.tca, args.sca)
    model, _ = options.configuration(args.model, **models.source(args))
    return models.load(args, model, models.device(args), preset, introduce=False)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that ``vcut generate`` takes, in four groups."""
    group = parser.add_argument_group("pictures in, clips out")
    group.add_argument(
        "pictures", nargs="+", type=values.path, metavar="PICTURE", help="a picture, or a folder of pictures"
    )
    group.add_argument(
        "-o",
        "--output",
        type=values.output,
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
        help="write every pixel N times along each side: the model in the box makes 64x64 (default: 1)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace clips that exist")
    group.add_argument("--quiet", action="store_true", help="print only errors and notes on the model")

    group = parser.add_argument_group("model")
    models.add_model(group)
    options.add_preset(group)

    group = parser.add_argument_group("sampling")
    options.add_settings(group, "cut", *options.SAMPLING)

    models.add_speed(parser)
    models.add_memory(parser)
