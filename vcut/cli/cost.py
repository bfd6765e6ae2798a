"""``vcut cost`` and ``vcut tables``: what a run costs, and the paper's cost tables counted again."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vcut.cli import options, values
from vcut.config import choose_preset

if TYPE_CHECKING:
    from vcut.analysis.cost import CostReport
    from vcut.analysis.paper_tables import PaperTables


def add(commands: Any) -> None:
    """Add both subcommands to argparse's ``commands``."""
    parser: options.Subcommand = commands.add_parser(
        "cost",
        help="price a run: parameters, multiply-accumulates, memory",
        description="Count a run on torch's meta device, before any weight is loaded. Of a file or a folder only the "
        "headers are read.",
    )
    parser.set_defaults(run=run_cost)
    parser.add_options = _add_options

    parser = commands.add_parser(
        "tables",
        help="the paper's cost tables, counted again beside its figures",
        description="Count tables II, III and IV of arXiv 2407.19205 again and print them beside its figures.",
    )
    parser.set_defaults(run=run_tables)
    parser.add_options = _add_form


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        type=values.name,
        default="tiny",
        metavar="MODEL",
        help=f"{options.MODELS} (default: tiny)",
    )
    group = parser.add_argument_group("the run to price against the baseline")
    options.add_preset(group)
    sampling = ("defaults", "steps", "sampler", "sigmas", "cut", "guidance", "guidance_interval")
    options.add_settings(group, "size", "frames", *sampling, "decode_chunk")
    parser.add_argument(
        "--dtype",
        choices=options.DTYPES,
        default="float16",
        help="number type of UNet and CLIP, for the memory (default: float16)",
    )
    _add_form(parser)


def run_cost(args: argparse.Namespace) -> None:
    """Print the bill that ``args`` ask for, of a run that the weights can make."""
    _, config = options.configuration(args.model)
    preset = choose_preset(args.preset, args.tca, args.sca)
    settings = options.settings(args, config, preset)

    import torch

    import vcut
    from weights_tools.fold import check_fold

    for flag in ("tca", "sca"):
        check_fold(flag, getattr(config.unet, flag), getattr(preset, flag))
    report = vcut.cost(
        config,
        settings=settings,
        preset=args.preset,
        tca=args.tca,
        sca=args.sca,
        dtype=getattr(torch, args.dtype),
    )
    _print(report, args)


def run_tables(args: argparse.Namespace) -> None:
    """Print the tables."""
    from vcut.analysis.paper_tables import tables

    _print(tables(), args)


def _add_form(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with every digit")
    form.add_argument("--markdown", action="store_true", help="print Markdown")


def _print(report: CostReport | PaperTables, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report.markdown() if args.markdown else report)
