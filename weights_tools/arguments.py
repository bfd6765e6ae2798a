"""Command lines whose faults are errors like any other."""

from __future__ import annotations

import argparse
from typing import NoReturn

from weights_tools.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Faults in one line, as :class:`ConfigError`; no abbreviations, so that a new option cannot change an old
    command line. Its subcommands are parsers of this kind too.
    """

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and ending the process."""
        raise ConfigError(f"{message} (see {self.prog} --help)")
