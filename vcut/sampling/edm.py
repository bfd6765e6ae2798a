"""The samplers of EDM (Karras et al. 2022, arXiv 2206.00364, algorithm 2) as moves from one noise level to the next.

Each is a pure function of what the denoise side found (:mod:`vcut.sampling.estimate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vcut.config import LARGEST, number
from vcut.sampling.estimate import Estimate


@dataclass(frozen=True)
class Churn:
    """Fresh noise at each step (EDM algorithm 2, lines 4 to 6). The default adds none.

    A step whose sigma lies in [s_tmin, s_tmax] first raises it to (1 + gamma) sigma, with
    gamma = min(s_churn / N, sqrt(2) - 1). To do so it adds noise: ``s_noise`` times the standard deviation that is
    missing.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("s_churn", "s_tmin", "s_noise"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0, LARGEST))
        object.__setattr__(self, "s_tmax", number("s_tmax", self.s_tmax, self.s_tmin, math.inf))

    def gamma(self, sigma: float, steps: int) -> float:
        """The fraction by which the noise level rises at the start of a step from ``sigma``."""
        return min(self.s_churn / steps, math.sqrt(2) - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0


def euler(x: Tensor, now: Estimate, sigma_next: float) -> Tensor:
    """Euler's step, EDM algorithm 2 without lines 9 to 11: x + (x - D)/sigma (sigma_next - sigma).

    This is a point on the line from D to x. Written as an interpolation it reaches D without rounding when
    ``sigma_next`` is 0.
    """
    return torch.lerp(now.denoised, x, sigma_next / now.sigma)


def heun(x: Tensor, now: Estimate, predicted: Tensor, then: Estimate) -> Tensor:
    """Heun's correction of Euler's step, EDM algorithm 2, lines 10 and 11.

    x + (d + d')/2 (sigma_next - sigma), with d = (x - D)/sigma and d' = (x' - D')/sigma_next at the ``predicted`` x',
    where ``then`` was made. No correction is due where sigma_next is 0.
    """
    d = (x - now.denoised) / now.sigma
    d_next = (predicted - then.denoised) / then.sigma
    return x + (d + d_next) * ((then.sigma - now.sigma) / 2)
