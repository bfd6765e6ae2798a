"""Stable Video Diffusion in plain PyTorch, with VCUT, the training-free cut of its computation.

Nothing heavy is imported here: names resolve on first use, so that ``import vcut.unet`` costs torch alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vcut import analysis as analysis
    from vcut import clip as clip
    from vcut import config as config
    from vcut import errors as errors
    from vcut import hub as hub
    from vcut import layers as layers
    from vcut import media as media
    from vcut import parallel as parallel
    from vcut import sampling as sampling
    from vcut import settings as settings
    from vcut import unet as unet
    from vcut import vae as vae
    from vcut.analysis.audit import audit as audit
    from vcut.analysis.cost import cost as cost
    from vcut.kernels import runtime as runtime
    from vcut.loading import load as load
    from vcut.loading import load_unet as load_unet
    from vcut.loading import save as save
    from vcut.pipeline import Pipeline as Pipeline
    from vcut.settings import Settings as Settings

_PLACES = {
    "Pipeline": "vcut.pipeline:Pipeline",
    "Settings": "vcut.settings:Settings",
    "analysis": "vcut.analysis",
    "audit": "vcut.analysis.audit:audit",
    "clip": "vcut.clip",
    "config": "vcut.config",
    "cost": "vcut.analysis.cost:cost",
    "errors": "vcut.errors",
    "hub": "vcut.hub",
    "layers": "vcut.layers",
    "load": "vcut.loading:load",
    "load_unet": "vcut.loading:load_unet",
    "media": "vcut.media",
    "parallel": "vcut.parallel",
    "runtime": "vcut.kernels.runtime",
    "sampling": "vcut.sampling",
    "save": "vcut.loading:save",
    "settings": "vcut.settings",
    "unet": "vcut.unet",
    "vae": "vcut.vae",
}
"""Place that each name comes from: a module, or ``module:attribute``."""


if not TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module 'vcut' has no attribute {name!r}")
        module, _, attribute = _PLACES[name].partition(":")
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return [*_PLACES, "__version__"]
