"""The ``vcut`` command: what it understands, and how it ends.

Exit codes: see :mod:`weights_tools.command`. One function per subcommand. What a subcommand needs is imported, and
its options are made, when it is used: ``vcut --help`` answers at once.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vcut.cli import audit, compare, cost, generate, options, score, sweep, version
from vcut.errors import is_out_of_memory
from weights_tools import command


def run() -> NoReturn:
    """The ``vcut`` script."""
    # read when torch is loaded; threads that spin while they wait keep each other from working on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's, and return its exit code. Raises nothing but bugs."""
    words = sys.argv[1:] if argv is None else argv
    return command.run(functools.partial(_parser, words), "vcut", words, explain=_explain)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = command.Parser(
        prog="vcut",
        description="Stable Video Diffusion, and VCUT, the training-free cut of its computation.",
        epilog="Each command explains itself: vcut generate --help",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=options.Subcommand)
    for subcommand in (generate, sweep, score, compare, audit, cost):
        subcommand.add(commands)
    version.add(parser, commands.choices.values())
    first = next(iter(words), "")
    if first not in commands.choices and (Path(first).suffix or os.path.lexists(first)):
        parser.error(f"there is no command {first!r}: did you mean vcut generate {first}?")
    return parser


def _explain(error: Exception) -> str | None:
    if not is_out_of_memory(error):
        return None
    return (
        "out of memory; reduce --decode-chunk, --size or --frames, add --sequential, or use --dtype float16 on a GPU "
        "(bfloat16 on a CPU)"
    )
