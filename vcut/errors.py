"""The exceptions of vcut; all of them are :class:`VcutError`."""

from weights_tools.errors import (
    CheckpointError,
    ConfigError,
    MediaError,
    NotFiniteError,
    OutOfMemoryError,
    OutputExistsError,
    VcutError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "MediaError",
    "NotFiniteError",
    "OutOfMemoryError",
    "OutputExistsError",
    "UnknownSettingError",
    "VcutError",
]


class UnknownSettingError(ConfigError, TypeError):
    """A keyword that names no setting; the message has the nearest one."""
