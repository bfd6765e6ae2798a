"""The one exception family of the project.

It lives here because ``weights_tools`` stands on the ground: ``vcut`` imports it, never the reverse.
"""


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


class NotFiniteError(VcutError, ArithmeticError):
    """NaN or infinity where a picture should be."""
