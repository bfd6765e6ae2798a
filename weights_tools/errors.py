"""The base of the project's exceptions, and those about settings, weights and outputs.

They live here because ``weights_tools`` stands on the ground: ``vcut`` imports it, never the reverse. The others,
about pictures and runs, are in :mod:`vcut.errors`.
"""

from __future__ import annotations


class VcutError(Exception):
    """Something the caller can fix. The message says what was expected, what was found and what to do.

    The commands print it as one line on stderr and exit with code 2.
    """


class ConfigError(VcutError, ValueError):
    """A setting, shape or combination of flags that cannot work."""


class CheckpointError(VcutError):
    """Weights that are missing, truncated, of another layout or of another shape than expected."""


class OutputExistsError(VcutError):
    """The output is already there and overwriting was not asked for."""
