"""The base of the project's exceptions, and those about settings, weights and outputs.

They live here because ``weights_tools`` stands on the ground: ``vcut`` imports it, never the reverse. The others,
about pictures and runs, are in :mod:`vcut.errors`.
"""

from __future__ import annotations

import re

LONGEST_NAME = 200
"""Characters of a tensor's name that a message shows."""


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class VcutError(Exception):
    """Something the caller can fix. The message says what was expected, what was found and what to do.

    The commands print it as one line on stderr and exit with code 2. Names in it come from files and from strangers:
    as text it has no control characters but the ends of its own lines.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


def printable(text: str) -> str:
    """One line: what would end it, steer a terminal, turn its letters round or fit no encoding becomes an escape."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(name: str) -> str:
    """The name of a tensor for one line of a message: printable, and cut if it is very long."""
    return printable(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...")


class ConfigError(VcutError, ValueError):
    """A setting, shape or combination of flags that cannot work."""


class CheckpointError(VcutError):
    """Weights that are missing, truncated, of another layout or of another shape than expected."""


class OutputExistsError(VcutError):
    """The output is already there and overwriting was not asked for."""
