"""Shared by all tests: the helpers beside this file can be imported from any folder below."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
