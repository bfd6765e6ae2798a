"""Stable Video Diffusion in plain PyTorch, with VCUT, the training-free cut of its computation.

Nothing heavy is imported here: names resolve on first use, so that ``import vcut.unet`` costs torch alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vcut import audit as audit
    from vcut import clip as clip
    from vcut import config as config
    from vcut import cost as cost
    from vcut import errors as errors
    from vcut import hub as hub
    from vcut import images as images
    from vcut import media as media
    from vcut import products as products
    from vcut import runtime as runtime
    from vcut import sampling as sampling
    from vcut import tables as tables
    from vcut import unet as unet
    from vcut import vae as vae
    from vcut.loading import load as load
    from vcut.pipeline import Pipeline as Pipeline

_HOME = {"load": "vcut.loading", "Pipeline": "vcut.pipeline"}
_MODULES = {
    "audit",
    "clip",
    "config",
    "cost",
    "errors",
    "hub",
    "images",
    "media",
    "products",
    "runtime",
    "sampling",
    "tables",
    "unet",
    "vae",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"vcut.{name}")
    raise AttributeError(f"module 'vcut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
