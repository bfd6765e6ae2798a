"""The multistep sampler of DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095, algorithm 2) as a move between levels.

In the paper's terms alpha is 1 and lambda = -ln(sigma): a state is data plus noise of standard deviation sigma.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcut.sampling.estimate import Estimate


def dpmpp_2m(x: Tensor, before: Estimate | None, now: Estimate, sigma_next: float) -> Tensor:
    """DPM-Solver++(2M): (sigma_next/sigma) x - (e^-h - 1) D', with h = ln(sigma/sigma_next).

    D' continues the line through the last two estimates to the middle of the step (on the axis of ln sigma):
    D' = D + (D - D_before)/(2r), with r = h_before/h. Without an estimate ``before`` this one, and at sigma_next = 0,
    where h is infinite, D' is D: a step of first order.
    """
    denoised = now.denoised
    if before is not None and sigma_next > 0:
        h, h_before = math.log(now.sigma / sigma_next), math.log(before.sigma / now.sigma)
        denoised = torch.lerp(before.denoised, denoised, 1 + h / (2 * h_before))
    # e^-h is sigma_next/sigma
    return torch.lerp(denoised, x, sigma_next / now.sigma)
