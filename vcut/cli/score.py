"""``vcut score``: how good are the clips of a sweep, and how far from its baseline?"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut.cli import lines, options, values
from vcut.errors import ConfigError, VcutError

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
    add = parser.add_argument
    add("out", type=values.path, metavar="OUT", help="folder of a sweep")
    says = "setting that the others are compared with (default: baseline, or the first)"
    add("--baseline", type=values.name, metavar="NAME", help=says)
    says = "weights of DINO ViT-B/16, .safetensors, for subject consistency"
    add("--dino", type=values.path, metavar="FILE", help=says)
    says = "weights of OpenAI's CLIP ViT-B/32, .safetensors, for background consistency"
    add("--clip-b32", type=values.path, metavar="FILE", help=says)
    says = "leave negative cosines as they are, as the paper's text does; VBench takes them for 0"
    add("--unclipped", action="store_true", help=says)
    says = "write what VBench needs, and stop; SUITE is its vbench2_i2v_full_info.json, if that was swept"
    add("--vbench-files", nargs="?", const=True, type=values.path, metavar="SUITE", help=says)
    says = "results of VBench to read"
    add("--vbench", nargs="+", type=values.path, default=[], metavar="FILE", help=says)
    options.add_device(parser)
    add("--quiet", action="store_true", help="print no tables and show no progress")


def score(args: argparse.Namespace) -> None:
    """Score what is not scored yet, write the tables and print them."""
    from vcut.scores import report, scoring, table, vbench
    from vcut.sweeps import manifest
    from weights_tools.outputs import replacing

    records = manifest.read(args.out)
    if not records:
        raise ConfigError(f"{args.out} holds no clips of a sweep: vcut sweep IMAGES -o {args.out} makes them")
    if args.vbench_files is not None:
        suite = args.vbench_files if isinstance(args.vbench_files, Path) else None
        lines.say(f"wrote    {vbench.export(args.out, records, suite)}")
        return
    settings = list(dict.fromkeys(record.setting for record in records))
    baseline = args.baseline or ("baseline" if "baseline" in settings else settings[0])
    if baseline not in settings:
        raise ConfigError(f"--baseline {baseline}: there is no such setting, only {', '.join(settings)}")
    references = {(record.name, record.index): record for record in records if record.setting == baseline}
    groups = _groups(args, records, baseline, references)
    for results in args.vbench:
        vbench.read_results(args.out, results, records)
    progress = not args.quiet and sys.stderr.isatty()
    failed = scoring.score(args.out, records, groups, references, warn=lines.warn, progress=progress)
    scored = report.report(baseline, *scoring.collect(args.out, records, groups, failed))
    tables = table.tables(scored)
    markdown = "\n\n".join(each.markdown() for each in tables) + "\n"
    for name, text in (("scores.json", scored.json()), ("scores.csv", scored.csv()), ("scores.md", markdown)):
        with replacing(args.out / name, overwrite=True) as part:
            # names of pictures may be in no encoding at all
            part.write_text(text, encoding="utf-8", errors="surrogateescape")
    if not args.quiet:
        print("\n\n".join(map(str, tables)))
    if failed:
        raise VcutError(
            f"{len(failed)} of {len(records)} clips could not be scored; the tables have all others"
        )


def _groups(
    args: argparse.Namespace, records: list[Record], baseline: str, references: dict[tuple[str, int], Record]
) -> list[Group]:
    """The groups to compute. A fault of a model or of a file of weights shows here, before the first clip."""
    from vcut.scores import features, groups, vit

    models = {(record.model, record.weights_sha256) for record in records}
    if len(models) > 1:
        names = ", ".join(sorted(f"{name} ({sha256[:12]})" for name, sha256 in models))
        raise ConfigError(
            f"{args.out} holds clips of several models, by the hashes of their weights: {names}"
        )
    device, clip = values.device(args.device), not args.unclipped
    own = features.own_clip(*models.pop(), device)
    with_ssim = importlib.util.find_spec("torchmetrics") is not None
    if not with_ssim:
        lines.warn("note: SSIM is left out, for it needs torchmetrics: pip install torchmetrics")
    # the compare page sorts by the first measure
    chosen = [
        groups.baseline_fidelity(args.out, baseline, references, with_ssim=with_ssim),
        groups.consistency("clip", "CLIP", own, clip=clip, mix=own),
        groups.pixels(),
    ]
    if args.dino:
        looks = (features.SUBJECT, features.I2V)
        whole, cropped = features.from_file(args.dino, vit.DINO, looks, device)
        chosen.append(groups.consistency("dino", "subject", whole, clip=clip, mix=cropped))
    if args.clip_b32:
        (b32,) = features.from_file(args.clip_b32, vit.CLIP_B32, (features.BACKGROUND,), device)
        chosen.append(groups.consistency("clip-b32", "background", b32, clip=clip))
    return chosen
