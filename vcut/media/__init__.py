"""Pictures in, clips out and in again. Files need the ``media`` extra: Pillow and PyAV."""

from vcut.media.clips import check_format, check_place, check_sheet, contact_sheet, read, write

__all__ = ["check_format", "check_place", "check_sheet", "contact_sheet", "read", "write"]
