"""``vcut cost`` and ``vcut tables``: what a run costs, and the paper's cost tables counted again."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vcut.cli import values
from vcut.config import CONFIGS, PRESETS
from vcut.errors import ConfigError

if TYPE_CHECKING:
    from vcut.analysis.cost import CostReport
    from vcut.analysis.paper_tables import PaperTables


def add(commands: Any) -> None:
    """Add both subcommands to argparse's ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cost",
        help="price a run: parameters, multiply-accumulates, memory",
        description="Count a run on torch's meta device, before any weight is loaded.",
    )
    parser.set_defaults(run=run_cost)
    parser.add_argument(
        "model", nargs="?", default="svd-xt", metavar="MODEL", help=f"{', '.join(CONFIGS)} (default: svd-xt)"
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="vcut",
        help="what to price against the baseline (default: vcut)",
    )
    parser.add_argument(
        "--size",
        type=values.size,
        metavar="WxH",
        help="width x height in pixels (default: the model's, 1024x576)",
    )
    parser.add_argument("--frames", type=values.count, metavar="N", help="default: the model's, 14 or 25")
    parser.add_argument(
        "--steps", type=values.count, default=25, metavar="N", help="denoising steps (default: 25)"
    )
    parser.add_argument(
        "--cut",
        type=values.cut,
        default="preset",
        metavar="N|none",
        help="first step without guidance, from 1; none never cuts (default: the preset's, vcut: 17 of 25)",
    )
    parser.add_argument(
        "--decode-chunk",
        type=values.count,
        default=14,
        metavar="N",
        help="frames decoded at a time (default: 14)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float16",
        help="of UNet and CLIP, for the memory (default: float16)",
    )
    _add_form(parser)

    parser = commands.add_parser(
        "tables",
        help="the paper's cost tables, counted again beside its figures",
        description="Count tables II, III and IV of arXiv 2407.19205 again and print them beside its figures.",
    )
    parser.set_defaults(run=run_tables)
    _add_form(parser)


def run_cost(args: argparse.Namespace) -> None:
    """Print the bill that ``args`` ask for."""
    config = CONFIGS.get(args.model)
    if config is None:
        raise ConfigError(f"the model must be one of {', '.join(CONFIGS)}, got {args.model!r}")

    import torch

    from vcut.analysis.cost import cost

    width, height = args.size or (None, None)
    report = cost(
        config,
        height=height,
        width=width,
        frames=args.frames,
        steps=args.steps,
        preset=args.preset,
        cut=args.cut,
        decode_chunk=args.decode_chunk,
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
