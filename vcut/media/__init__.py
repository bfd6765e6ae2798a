"""Pictures in, clips out and in again. Files need the ``media`` extra: Pillow and PyAV."""

from vcut.media.clips import (
    check_format,
    check_place,
    check_sheet,
    check_size,
    contact_sheet,
    to_bytes,
    to_pil,
    write,
)
from vcut.media.reading import read

__all__ = [
    "check_format",
    "check_place",
    "check_sheet",
    "check_size",
    "contact_sheet",
    "read",
    "to_bytes",
    "to_pil",
    "write",
]
