"""The exceptions of vcut; all of them are :class:`VcutError`."""

from __future__ import annotations

from typing import Any

from weights_tools.errors import CheckpointError, ConfigError, OutputExistsError, VcutError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "MediaError",
    "NotFiniteError",
    "OutOfMemoryError",
    "OutputExistsError",
    "PeerError",
    "PictureError",
    "UnknownSettingError",
    "VcutError",
    "check_type",
    "import_fault",
    "is_out_of_memory",
]


class MediaError(VcutError):
    """A picture that cannot be read or a clip that cannot be written."""


class PictureError(MediaError):
    """A picture among many that cannot be read; the clips of the others can be made."""


class NotFiniteError(MediaError, ArithmeticError):
    """NaN or infinity where a picture should be."""


class OutOfMemoryError(VcutError, MemoryError):
    """A stage of a run did not fit into memory; the message says what takes less.

    If decoding was that stage, ``latents`` are the finished ones, and ``Pipeline.decode(error.latents, chunk=4)``
    goes on from there; otherwise they are None.
    """

    def __init__(self, message: str, latents: Any = None) -> None:
        super().__init__(message)
        self.latents = latents


def check_type(what: str, value: object, *kinds: type) -> None:
    """Raise :class:`ConfigError` unless ``value`` is of one of ``kinds``."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"{what} must be a {wanted}, got {type(value).__name__}")


class PeerError(VcutError):
    """Another of the processes that make a clip together has ended, or cannot be reached."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is one of the ways in which Python and torch's devices say that memory is full."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (
            type(error).__name__ == "OutOfMemoryError"
            or "out of memory" in text
            or "allocate memory" in text
            or "not enough memory" in text
        )
    )


def import_fault(error: ImportError, package: str) -> str:
    """Advice on a package that cannot be imported: install it, or mend what is there."""
    if isinstance(error, ModuleNotFoundError):
        return f"pip install {package}"
    return f"it is there, but cannot be loaded ({error})"


class UnknownSettingError(ConfigError, TypeError):
    """A keyword that names no setting; the message has the nearest one."""
