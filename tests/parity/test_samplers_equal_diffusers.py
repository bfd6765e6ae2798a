"""Heun and DPM++ 2M step by step as diffusers' schedulers do, on a network of a formula in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, HeunDiscreteScheduler
from torch import Tensor

from vcut.config import Sampler
from vcut.sampling import Branch, karras_sigmas, linear, plan, precondition, trajectory

pytestmark = pytest.mark.parity

STEPS = 12
SCALES = linear(1.0, 3.0)


def network(z: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
    """Unlike a Gaussian's, and different for each branch."""
    return torch.stack(
        [
            torch.tanh(0.6 * z + (0.8 if branch.context == "cond" else -0.3)) * math.cos(0.5 * c_noise)
            for branch in branches
        ]
    )


def in_double(scheduler: Any) -> Any:
    """The scheduler with our levels in float64; its own are rounded to float32, and Heun's end elsewhere."""
    scheduler.set_timesteps(STEPS)
    levels = karras_sigmas(STEPS)
    if isinstance(scheduler, HeunDiscreteScheduler):
        # every level but the first and the last is visited twice
        levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
        scheduler.timesteps = torch.arange(len(levels) - 1)
    assert scheduler.sigmas.shape == levels.shape
    scheduler.sigmas = levels
    return scheduler


SCHEDULERS = {
    "heun": lambda: HeunDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True),
    "dpmpp_2m": lambda: EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=700.0, sigma_data=1.0, prediction_type="v_prediction", solver_order=2
    ),
}


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_every_state_is_that_of_the_scheduler(sampler: Sampler) -> None:
    scheduler = in_double(SCHEDULERS[sampler]())
    noise = torch.randn(2, 5, 4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    records = trajectory(
        precondition(network), noise, karras_sigmas(STEPS), plan(STEPS), SCALES, sampler=sampler
    )

    scale = SCALES(noise.shape[1]).view(1, -1, 1, 1, 1)
    x = noise * math.hypot(700, 1)
    states = []
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        z = scheduler.scale_model_input(x, t)
        uncond, cond = network(z, math.log(sigma) / 4, (Branch("uncond"), Branch("cond")))
        x = scheduler.step(uncond + scale * (cond - uncond), t, x, return_dict=False)[0]
        assert x.dtype == torch.float64
        states.append(x)
    if sampler == "heun":
        # the even ones are Euler's predictions
        states = [*states[1:-1:2], states[-1]]
    for record, state in zip(records, states, strict=True):
        torch.testing.assert_close(record.latents, state, rtol=1e-9, atol=1e-9)
