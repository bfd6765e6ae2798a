"""``vcut score``: how good are the clips of a sweep, and how far from its baseline?"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut.cli import options, values

if TYPE_CHECKING:
    from vcut.scores.groups import Group
    from vcut.sweeps.manifest import Record

EXPLANATION = """\
writes into OUT:
  scores.md     the tables that are printed, in Markdown
  scores.csv    one line a clip
  scores.json   everything, with intervals, differences and curves of single frames
  scores/       what was computed, clip by clip: run the command again and only what is missing is computed

Scores named vbench_style are VBench's formulas computed here. Those of VBench itself come from its own environment:
  vcut score OUT --vbench-files    writes OUT/vbench/run.sh
  vcut score OUT --vbench FILE ... reads its *_eval_results.json
"""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: options.Subcommand = commands.add_parser(
        "score",
        help="score the clips of a sweep",
        description="Score the clips of a sweep: consistency (the paper's equations 5 to 8), flicker, and fidelity "
        "to a baseline setting with the same seeds.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=score)
    parser.add_options = _add_options


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=values.path, metavar="OUT", help="folder of a sweep")
    parser.add_argument(
        "--baseline",
        type=values.name,
        metavar="NAME",
        help="setting that the others are compared with (default: baseline, or the first)",
    )
    parser.add_argument(
        "--dino",
        type=values.path,
        metavar="FILE",
        help="weights of DINO ViT-B/16, .safetensors, for subject consistency",
    )
    parser.add_argument(
        "--clip-b32",
        type=values.path,
        metavar="FILE",
        help="weights of OpenAI's CLIP ViT-B/32, .safetensors, for background consistency",
    )
    parser.add_argument(
        "--unclipped",
        action="store_true",
        help="leave negative cosines as they are, as the paper's text does; VBench takes them for 0",
    )
    parser.add_argument(
        "--vbench-files",
        nargs="?",
        const=True,
        type=values.path,
        metavar="SUITE",
        help="write what VBench needs to score the clips, and stop; SUITE is its vbench2_i2v_full_info.json, if the "
        "sweep was made of it",
    )
    parser.add_argument(
        "--vbench", nargs="+", type=values.path, default=[], metavar="FILE", help="results of VBench to read"
    )
    options.add_device(parser)
    parser.add_argument("--quiet", action="store_true", help="print no tables and show no progress")


def score(args: argparse.Namespace) -> int:
    """Score what is not scored yet, write the tables and print them."""
    from vcut.errors import ConfigError, VcutError
    from vcut.scores import report, scoring, table, vbench
    from vcut.sweeps import manifest
    from weights_tools.outputs import replacing

    records = manifest.read(args.out)
    if not records:
        raise ConfigError(f"{args.out} holds no clips of a sweep: vcut sweep IMAGES -o {args.out} makes them")
    if args.vbench_files is not None:
        suite = args.vbench_files if isinstance(args.vbench_files, Path) else None
        print(f"wrote    {vbench.export(args.out, records, suite)}")
        return 0
    baseline = _baseline(args.baseline, [record.setting for record in records])
    references = {(record.name, record.index): record for record in records if record.setting == baseline}
    groups = _groups(args, records, baseline, references)
    for results in args.vbench:
        vbench.read_results(args.out, results, records)
    failed = scoring.score(
        args.out,
        records,
        groups,
        references,
        warn=lambda line: print(f"vcut: {line}", file=sys.stderr),
        progress=not args.quiet and sys.stderr.isatty(),
    )
    scored = report.report(baseline, *scoring.collect(args.out, records, groups))
    tables = table.tables(scored)
    markdown = "\n\n".join(each.markdown() for each in tables) + "\n"
    for name, text in (("scores.json", scored.json()), ("scores.csv", scored.csv()), ("scores.md", markdown)):
        with replacing(args.out / name, overwrite=True) as part:
            part.write_text(text, encoding="utf-8")
    if not args.quiet:
        print("\n\n".join(map(str, tables)))
    if failed:
        raise VcutError(f"{failed} of {len(records)} clips could not be scored; the tables have all others")
    return 0


def _baseline(asked: str | None, settings: list[str]) -> str:
    from vcut.errors import ConfigError

    if asked is None:
        return "baseline" if "baseline" in settings else settings[0]
    if asked not in settings:
        names = ", ".join(dict.fromkeys(settings))
        raise ConfigError(f"--baseline {asked}: the sweep has no such setting, only {names}")
    return asked


def _groups(
    args: argparse.Namespace, records: list[Record], baseline: str, references: dict[tuple[str, int], Record]
) -> list[Group]:
    """The groups to compute. A fault of a model or of a file of weights shows here, before the first clip."""
    from vcut.errors import ConfigError
    from vcut.scores import features, groups

    models = {(record.model, record.weights_sha256) for record in records}
    if len(models) > 1:
        names = ", ".join(sorted(name for name, _ in models))
        raise ConfigError(f"{args.out} holds clips of several models: {names}")
    device, clip = values.device(args.device), not args.unclipped
    own = features.own_clip(*models.pop(), device)
    with_ssim = importlib.util.find_spec("torchmetrics") is not None
    if not with_ssim:
        print(
            "vcut: note: SSIM is left out, for it needs torchmetrics: pip install torchmetrics",
            file=sys.stderr,
        )
    # the compare page sorts by the first measure
    chosen = [
        groups.baseline_fidelity(args.out, baseline, references, with_ssim=with_ssim),
        groups.consistency("clip", "clip", own, clip=clip),
        groups.pixels(),
    ]
    if args.dino:
        whole, cropped = features.dino(args.dino, device)
        chosen.append(groups.consistency("dino", "subject", whole, clip=clip, mix=cropped))
    if args.clip_b32:
        b32 = features.clip_b32(args.clip_b32, device)
        chosen.append(groups.consistency("clip-b32", "background", b32, clip=clip))
    return chosen
