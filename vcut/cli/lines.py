"""Lines that a command prints: what it does, and what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

Say = Callable[[str], None]
"""Takes a line that tells the user something."""


def silent(line: str) -> None:
    """Print nothing."""


def say(line: str) -> None:
    """Print a line at once. A reader that has gone (``| head``) does not stop the clips."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(line: str) -> None:
    """Print a line on stderr, under the command's name."""
    print(f"vcut: {line}", file=sys.stderr, flush=True)
