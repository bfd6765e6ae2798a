"""PSNR, SSIM and the distance of latents of clips whose difference is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from vcut.errors import ConfigError, VcutError
from vcut.scores import fidelity


def clip(seed: int = 0, side: int = 16) -> Tensor:
    return torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_an_equal_clip_is_as_near_as_can_be() -> None:
    x = clip()
    assert fidelity.psnr(x, x.clone()) == fidelity.LARGEST
    assert fidelity.psnr_curve(x, x) == [fidelity.LARGEST] * 4
    assert fidelity.ssim(x, x) == pytest.approx(1)
    assert fidelity.latent_distance(x, x) == 0


def test_psnr_of_a_shift_is_its_square() -> None:
    x = 0.5 * clip()
    assert fidelity.psnr(x + 0.1, x) == pytest.approx(20, abs=1e-4)
    assert fidelity.latent_distance(1.25 * x, x) == pytest.approx(0.25)


def test_the_curve_shows_the_frame_that_differs_and_the_clip_its_mean_error() -> None:
    x, y = 0.5 * clip(), 0.5 * clip()
    y[2] += 0.1
    curve = fidelity.psnr_curve(y, x)
    assert curve[2] == pytest.approx(20, abs=1e-4)
    assert [curve[i] for i in (0, 1, 3)] == [fidelity.LARGEST] * 3
    assert fidelity.psnr(y, x) == pytest.approx(-10 * np.log10(0.01 / 4), abs=1e-4)


def test_ssim_is_that_of_wang_et_al() -> None:
    """Written out: Gaussian windows at every pixel, the frame reflected at its edges, c1 = 0.01^2 and c2 = 0.03^2."""
    x, y = clip(0)[:1].double(), (clip(0)[:1] + 0.1 * clip(1)[:1]).double()
    d = np.arange(11) - 5
    taps = np.exp(-(d**2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def filtered(z: np.ndarray) -> np.ndarray:
        z = np.pad(z, ((0, 0), (5, 5), (5, 5)), mode="reflect")
        places = [(c, i, j) for c in range(3) for i in range(16) for j in range(16)]
        return np.array([(z[c, i : i + 11, j : j + 11] * window).sum() for c, i, j in places])

    a, b = x[0].numpy(), y[0].numpy()
    mean_a, mean_b = filtered(a), filtered(b)
    var_a, var_b = filtered(a * a) - mean_a**2, filtered(b * b) - mean_b**2
    both = filtered(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (
        (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    )
    assert fidelity.ssim(x, y) == pytest.approx(ssim.mean(), abs=1e-6)


def test_clips_of_other_shapes_are_refused() -> None:
    for compare in (fidelity.psnr, fidelity.psnr_curve, fidelity.ssim, fidelity.latent_distance):
        with pytest.raises(ConfigError, match=r"\[4, 3, 16, 16\] and \[3, 3, 16, 16\]"):
            compare(clip(), clip()[:3])
    with pytest.raises(ConfigError, match="11 x 11"):
        fidelity.ssim(clip(side=8), clip(side=8))


def test_ssim_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(VcutError, match="pip install torchmetrics"):
        fidelity.ssim(clip(), clip())
