"""The frame of a command line: faults as errors like any other, exit codes, signals, streams that are closed or full.

Exit codes: 0 done, 1 a check found a fault, 2 anything else, said in one line on stderr; 128 and the number of the
signal after an interrupt, as shells have it: 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from weights_tools.errors import ConfigError, VcutError, printable

FOUND_A_FAULT = 1
"""Exit code of a command that checks something and finds a fault in it."""

FAILED = 2
"""Exit code of a command that could not do what it was asked for."""

_STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Parser(argparse.ArgumentParser):
    """Parser that raises :class:`ConfigError` with one line. Its subcommands are parsers of this kind too.

    It takes no abbreviations, so that a new option cannot change the meaning of an old command line.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and ending the process."""
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is left over here, where the options are known: a subcommand would hand it up."""
        known, extra = super().parse_known_args(args, namespace)
        if extra:
            near = difflib.get_close_matches(extra[0], self._option_string_actions, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(extra)}{hint}")
        return known, extra


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

    def failed(message: str, code: int = FAILED) -> int:
        # lists of faults have lines of their own, which are indented
        print("\n  ".join(map(printable, f"{prog}: {message}".split("\n  "))), file=sys.stderr)
        return code

    with _lasting_streams() as out:
        try:
            with stoppable():
                args = make_parser().parse_args(argv)
                code: int | None = args.run(args)
                out.flush()
        except SystemExit as done:  # argparse after --help and --version
            code = int(done.code or 0)
        except KeyboardInterrupt as stop:
            return failed("interrupted", 128 + (stop.args[0] if stop.args else signal.SIGINT))
        except (VcutError, OSError) as error:
            return failed(f"error: {error}")
        except Exception as error:
            if (message := explain(error)) is None:
                raise
            return failed(f"error: {message}")
        if out.fault:
            return failed(f"error: not all of the output could be written: {out.fault.strerror}")
        return code or 0


class _Lasting:
    """A stream that stops nothing: what it cannot take is dropped, and any fault but a reader's leaving is kept."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.fault: OSError | None = None
        if hasattr(stream, "reconfigure"):
            # a name that the encoding lacks is shown with escapes
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, or drop."""
        with self._dropping():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        with self._dropping():
            self.stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.fault = self.fault or error
            # what waits in the buffer would fail again at the end of the process
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


@contextlib.contextmanager
def _lasting_streams() -> Iterator[_Lasting]:
    """Make stdout and stderr streams that stop nothing, also if they were closed at the start; yield stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # the number would go to the next file that is opened, and messages would go into it
            os.open(os.devnull, os.O_RDWR)
    out, err = (_Lasting(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))  # noqa: PTH123, SIM115
    with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
        yield out


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt with their number in the block.

    So no partial file stays behind. Only the first signal counts: a closed terminal sends several, and an impatient
    user too, and the next would stop the tidying up. A signal that is ignored (``nohup``) stays ignored. Nothing
    changes outside of the main thread, which alone gets signals.
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
        raise KeyboardInterrupt(signum)

    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
