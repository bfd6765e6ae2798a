"""``vcut compare``: a sweep's clips side by side, as a page for the browser."""

from __future__ import annotations

import argparse
from typing import Any

from vcut.cli import lines, options, values

EXAMPLES = """\
examples:
  vcut compare OUT                          OUT/compare.html, with all clips in it
  vcut compare OUT --worst 20 --by psnr     the 20 pairs that are furthest from the baseline
  vcut compare OUT --images 'cat*' dog      the clips of some images
  vcut compare OUT --link                   a small page, which has to stay beside the clips
"""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: options.Subcommand = commands.add_parser(
        "compare",
        help="show a sweep's clips side by side in the browser",
        description="Write one HTML file that plays the clips of a sweep's settings side by side, in step, with "
        "their scores. It opens from the disk and needs no network.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=compare)
    parser.add_options = _add_options


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", type=values.path, metavar="OUT", help="the folder of a sweep")
    says = "the page (default: OUT/compare.html)"
    add("-o", "--output", type=values.path, metavar="HTML", help=says)
    says = "the first N images, or those of these names or patterns (default: all)"
    add("--images", nargs="+", type=values.name, default=(), metavar="N|NAME", help=says)
    says = "the N pairs (clips of one image and seed) that lost most against the baseline, or have the worst score"
    add("--worst", type=values.count, metavar="N", help=says)
    says = "what --worst and the page sort by: psnr, or another column of scores.csv (default: the first)"
    add("--by", type=values.name, metavar="MEASURE", help=says)
    says = "refer to the clips where they lie, instead of copying them in"
    add("--link", action="store_true", help=says)


def compare(args: argparse.Namespace) -> None:
    """Write the page that ``args`` ask for; print its path and size."""
    from vcut.scores import page

    path = page.write(args.out, args.output, images=args.images, worst=args.worst, by=args.by, link=args.link)
    lines.say(f"wrote    {path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
