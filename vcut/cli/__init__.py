"""The ``vcut`` command: what it understands, and how it ends.

Exit codes: 0 done, 2 anything else, said in one line on stderr. One function per subcommand; what a subcommand
needs is imported when it runs, so that ``vcut --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vcut import __version__
from vcut.cli import audit, cost, generate
from vcut.errors import VcutError
from weights_tools.arguments import Parser
from weights_tools.interrupts import stoppable

FAILED = 2


def run() -> NoReturn:
    """The ``vcut`` script."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's, and return its exit code. Raises nothing but bugs."""
    try:
        with stoppable():
            args = _parser().parse_args(argv)
            args.run(args)
            sys.stdout.flush()
        return 0
    except SystemExit as done:  # argparse after --help and --version
        return int(done.code or 0)
    except BrokenPipeError:  # the reader of our output has gone, as in `vcut ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _failed("interrupted")
    except VcutError as error:
        return _failed(f"error: {error}")
    except OSError as error:
        return _failed(f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _failed(
            "error: out of memory; reduce --decode-chunk, --size or --frames, add --sequential, "
            "or use --dtype float16 on a GPU (bfloat16 on a CPU)"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vcut",
        description="Stable Video Diffusion, and VCUT, the training-free cut of its computation.",
        epilog="Each command explains itself: vcut generate --help",
    )
    parser.add_argument("--version", action="version", version=f"vcut {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (generate, audit, cost):
        command.add(commands)
    return parser


def _failed(message: str) -> int:
    print(f"vcut: {message}", file=sys.stderr)
    return FAILED


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether it is one of the ways in which Python and torch's devices say so."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )
