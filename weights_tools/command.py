"""The frame of a command line: faults as errors like any other, exit codes, signals, a reader that has gone.

Exit codes: 0 done, 1 a check found a fault, 2 anything else; the last is said in one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from weights_tools.errors import ConfigError, VcutError

FOUND_A_FAULT = 1
"""Exit code of a command that checks something and finds a fault in it."""

FAILED = 2
"""Exit code of a command that could not do what it was asked for."""

_STOPS = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Parser(argparse.ArgumentParser):
    """Parser that raises :class:`ConfigError` with one line. Its subcommands are parsers of this kind too.

    It takes no abbreviations, so that a new option cannot change the meaning of an old command line.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and ending the process."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def run(
    make_parser: Callable[[], argparse.ArgumentParser],
    prog: str,
    argv: Sequence[str] | None = None,
    *,
    explain: Callable[[Exception], str | None] = lambda error: None,
) -> int:
    """Run a command line and return its exit code. Only bugs are raised.

    Args:
        make_parser: makes the parser. A subcommand sets the default ``run`` to a function that takes the parsed
            arguments and returns an exit code, or None for 0.
        prog: name of the command, before every message on stderr.
        argv: the words of the command line, by default this process's.
        explain: what to say about an exception that is neither a :class:`VcutError` nor an OSError; None if it is a
            bug.
    """

    def failed(message: str) -> int:
        print(f"{prog}: {message}", file=sys.stderr)
        return FAILED

    try:
        with stoppable():
            args = make_parser().parse_args(argv)
            code: int | None = args.run(args)
            sys.stdout.flush()
        return code or 0
    except SystemExit as done:  # argparse after --help and --version
        return int(done.code or 0)
    except BrokenPipeError:  # the reader of our output has gone, as in `inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return failed("interrupted")
    except (VcutError, OSError) as error:
        return failed(f"error: {error}")
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        return failed(f"error: {message}")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt in the block, so that no partial file stays behind.

    Only the first signal counts: a closed terminal sends several, and the next would stop the tidying up. A signal
    that is ignored (``nohup``) stays ignored. Nothing changes outside of the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    found = [getattr(signal, name) for name in _STOPS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in found}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
