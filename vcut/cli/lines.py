"""Lines that a command prints: what it does, and what is wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from weights_tools.errors import printable

Say = Callable[[str], None]
"""Takes a line that tells the user something."""


def silent(line: str) -> None:
    """Print nothing."""


def say(line: str) -> None:
    """Print a line at once."""
    with _beside_bars():
        print(printable(line), flush=True)


def warn(line: str) -> None:
    """Print a line on stderr, under the command's name."""
    with _beside_bars():
        print(f"vcut: {printable(line)}", file=sys.stderr, flush=True)


def _beside_bars() -> contextlib.AbstractContextManager[None]:
    """Take bars away from the terminal while a line is printed. Without tqdm in use there are none."""
    tqdm = sys.modules.get("tqdm")
    return tqdm.tqdm.external_write_mode() if tqdm else contextlib.nullcontext()
