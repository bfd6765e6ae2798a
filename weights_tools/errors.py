"""The one exception family of the project.

It lives here because ``weights_tools`` stands on the ground: ``vcut`` imports it, never the reverse.
"""

from __future__ import annotations

from typing import Any


class VcutError(Exception):
    """Something the caller can fix. The message says what was expected, what was found and what to do.

    The commands print it as one line on stderr and exit with code 2.
    """


class ConfigError(VcutError, ValueError):
    """A setting, shape or combination of flags that cannot work."""


class CheckpointError(VcutError):
    """Weights that are missing, truncated, of another layout or of another shape than expected."""


class MediaError(VcutError):
    """A picture that cannot be read or a clip that cannot be written."""


class OutputExistsError(VcutError):
    """The output is already there and overwriting was not asked for."""


class OutOfMemoryError(VcutError, MemoryError):
    """A stage of a run did not fit into memory; the message says what takes less.

    ``latents`` are the finished ones, if it was their decoding, or None: ``Pipeline.decode(error.latents, chunk=4)``
    goes on from there.
    """

    def __init__(self, message: str, latents: Any = None) -> None:
        super().__init__(message)
        self.latents = latents


class NotFiniteError(VcutError, ArithmeticError):
    """NaN or infinity where a picture should be."""
