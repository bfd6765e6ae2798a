"""A clip that two to four processes make together is the clip of one, whatever they share and how."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from micro import micro
from numpy.typing import NDArray
from ranks import results_of

from vcut import parallel
from vcut.pipeline import Pipeline
from vcut.sampling import Churn
from vcut.settings import Settings, resolve

TWO_PICTURES = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)

# Step 1 is guided: halves share its branches if there are any. Step 2 is cut: all share its frames.
CASES: dict[str, dict[str, Any]] = {
    "14 frames, as published": dict(preset="baseline", frames=14, steps=2, cut=2),
    "14 frames of two clips, cut": dict(preset="vcut", frames=14, clips=2, steps=2, cut=2),
    "25 frames, decoded together": dict(preset="lossless", frames=25, steps=1, cut=2, decode_chunk=None),
    "chunks of fewer frames than processes": dict(
        image=TWO_PICTURES, preset="vcut", frames=5, steps=1, cut=1, decode_chunk=4
    ),
    "one pixel in the smallest map": dict(preset="vcut", frames=6, steps=2, cut=2, height=16, width=16),
    "branches one by one": dict(preset="vcut", frames=5, steps=1, cut=2, sequential=True, clips=2),
    "heun with churn": dict(
        preset="vcut", frames=4, steps=2, cut=2, sampler="heun", churn=Churn(s_churn=1.0)
    ),
    "guidance in one of two steps": dict(
        preset="vcut", frames=4, steps=2, cut=3, guidance_interval=(1.0, 1000.0)
    ),
}

Share = Callable[[Pipeline], Pipeline]


@cache
def model(preset: str, dtype: torch.dtype) -> Pipeline:
    return micro(preset, dtype=dtype, vae_dtype=dtype)


def made(share: Share, dtype: torch.dtype, preset: str) -> dict[str, NDArray[Any]]:
    """Latents of all cases of one preset, computed in ``dtype``, and frames decoded of unit noise."""
    pipe = share(model(preset, dtype))
    found = {}
    for name, case in CASES.items():
        settings = {"image": TWO_PICTURES[0], **case}
        image = torch.from_numpy(settings.pop("image"))
        # in float32 the smallest clips round too much: their norms divide by a variance of nearly nothing
        if settings.pop("preset") != preset or (dtype == torch.float32 and settings["frames"] < 14):
            continue
        run = resolve(Settings(**settings), pipe.config, pipe.preset)
        clips = (run.settings.clips or 1) * (len(image) if image.ndim == 4 else 1)
        noise = torch.randn(clips, *run.latent, generator=torch.Generator().manual_seed(1), dtype=dtype)
        found[f"{name}: latents"] = pipe.sample_latents(run, image, noise=noise).numpy()
        with torch.no_grad():
            found[f"{name}: frames"] = pipe._decoded(noise, run.settings.decode_chunk).numpy()
    return found


KINDS = (
    *itertools.product([torch.float64], ["vcut", "baseline", "lossless"]),
    *itertools.product([torch.float32], ["lossless", "vcut"]),
)


def lead(number: int, share: Share) -> list[dict[str, NDArray[Any]]]:
    return [made(share, dtype, preset) for dtype, preset in KINDS[:number]]


def everything(number: int) -> list[dict[str, NDArray[Any]]] | None:
    """Results of the first so many of :data:`KINDS`."""
    kinds = iter(KINDS[:number])

    def load() -> Pipeline:
        dtype, preset = next(kinds)
        return model(preset, dtype)

    return parallel.together(partial(lead, number), load, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_latents_and_frames_are_those_of_one_process(size: int) -> None:
    # most cases are of the first kind; of float32 the largest team tells enough
    number = {2: 3, 3: 1, 4: len(KINDS)}[size]
    first, *others = results_of(size, everything, number)
    assert others == [None] * (size - 1)
    for actual, expected in zip(first, alone()[:number], strict=True):
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            # of a model as small, float32 is itself up to 2e-5 from float64
            limit = 2e-5 if values.dtype == np.float32 else 1e-12
            error = np.abs(actual[name] - values).max() / np.abs(values).max()
            assert actual[name].dtype == values.dtype
            assert error < limit, (name, values.dtype, error)


@cache
def alone() -> list[dict[str, NDArray[Any]]]:
    """What a process gives that torchrun started by itself."""
    return results_of(1, everything, len(KINDS))[0]
