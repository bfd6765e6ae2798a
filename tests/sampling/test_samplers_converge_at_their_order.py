"""Error against steps where the path is known: guided Gaussian data, with and without a cut on the way.

For data of mean m and standard deviation s the estimate is D = (s^2 x + sigma^2 m)/(s^2 + sigma^2), and the path of
the probability flow through x at sigma_0 is x(sigma) = m + (x - m) sqrt((s^2 + sigma^2)/(s^2 + sigma_0^2)).
Guidance between two such means is a mean between them, one for each frame.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vcut.config import Sampler
from vcut.sampling import Branch, Mix, karras_sigmas, linear, plan, trajectory

SPREAD = 0.7
MEANS: dict[Mix, float] = {"cond": 1.5, "mean": 0.2, "uncond": -0.4}
# at a level much below the spread the errors of dpmpp_2m nearly cancel, and it looks better than second order
HIGH, MIDDLE, LOW = 80.0, 1.0, 0.2
FRAMES = 3
SCALES = linear(1.0, 3.0)


def denoiser(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
    means = [MEANS[branch.context] for branch in branches]
    return torch.stack([(SPREAD**2 * x + sigma**2 * m) / (SPREAD**2 + sigma**2) for m in means])


def path(x: Tensor, mean: Tensor | float, start: float, end: float) -> Tensor:
    return mean + (x - mean) * math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + start**2))


def levels(half: int) -> Tensor:
    """``half`` steps down to the middle, as many down to the lowest level, and one to 0."""
    upper, lower = karras_sigmas(half + 1, MIDDLE, HIGH), karras_sigmas(half + 1, LOW, MIDDLE)
    return torch.cat([upper[:-2], lower])


def error(sampler: Sampler, half: int, cut: bool) -> float:
    """How far the run is from the path at the lowest level, before the last step to 0."""
    noise = torch.randn(4, FRAMES, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = plan(2 * half + 1, half + 1 if cut else None)
    records = list(trajectory(denoiser, noise, levels(half), steps, SCALES, sampler=sampler))
    assert records[half].step.cut == cut
    assert records[half].sigma == pytest.approx(MIDDLE)
    guided = MEANS["uncond"] + SCALES(FRAMES).view(-1, 1) * (MEANS["cond"] - MEANS["uncond"])
    middle = path(noise * math.hypot(HIGH, 1), guided, HIGH, MIDDLE)
    expected = path(middle, MEANS["mean"] if cut else guided, MIDDLE, LOW)
    return float((records[-2].latents - expected).abs().max())


@pytest.mark.parametrize("cut", [False, True], ids=["guided", "cut"])
@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(
    sampler: Sampler, order: int, cut: bool
) -> None:
    """Guidance that ends with a jump costs no order: nothing from before the cut is used after it."""
    coarse, fine, finest = (error(sampler, half, cut) for half in (32, 64, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert math.log2(fine / finest) == pytest.approx(order, abs=0.1)
