"""The noise levels (sigmas) that a run visits: N falling levels and a final 0, for N steps.

Levels are float64 on the CPU. The sampler reads them once as Python floats, so no step waits for a device, and their
rounding never depends on the model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from vcut.config import Sampler, SigmaName, number, whole_number
from vcut.errors import ConfigError

SIGMA_MAX = 700.0
SIGMA_MIN = 0.002

ALIGN_YOUR_STEPS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
"""The schedule that Sabour et al. optimised for Stable Video Diffusion (Align Your Steps, arXiv 2404.14507, table 3):
eleven levels, the ends of ten steps. :func:`interpolate_sigmas` takes it."""

LCM_LEVELS = 40
"""Levels of Karras et al. that AnimateLCM-SVD was distilled on."""


def named_sigmas(name: SigmaName, steps: int, sampler: Sampler = "euler") -> Tensor:
    """The schedule of this name for N steps.

    ``karras`` is :func:`karras_sigmas`; the sampler ``lcm`` starts from 40 of its levels and visits the first N of
    every (40 // N)-th, as AnimateLCM does. ``ays`` is :data:`ALIGN_YOUR_STEPS`, by :func:`interpolate_sigmas`.

    Returns:
        Falling levels ``[steps + 1]``, float64, the last 0.

    Raises:
        ConfigError: there is no such name, ``steps`` is below 1, or above 40 with ``lcm`` and ``karras``.
    """
    if name not in get_args(SigmaName):
        raise ConfigError(
            f"sigmas must be one of {', '.join(get_args(SigmaName))}, or a list of numbers, got {name!r}"
        )
    if name == "ays":
        return interpolate_sigmas(ALIGN_YOUR_STEPS, steps)
    if sampler != "lcm":
        return karras_sigmas(steps)
    steps = whole_number("steps of the sampler lcm", steps, most=LCM_LEVELS)
    return check_sigmas(karras_sigmas(LCM_LEVELS)[:-1][:: LCM_LEVELS // steps][:steps])


def karras_sigmas(
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> Tensor:
    """The schedule of EDM (Karras et al. 2022, equation 5) and a final 0.

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho for i = 0 .. N-1.
    The defaults are Stable Video Diffusion's. One step goes from ``sigma_max`` straight to 0.

    Returns:
        Falling levels ``[steps + 1]``, float64.

    Raises:
        ConfigError: ``steps`` is below 1, ``rho`` is not positive, or not 0 < sigma_min < sigma_max < infinity.
    """
    steps = whole_number("steps", steps)
    sigma_min, sigma_max = number("sigma_min", sigma_min), number("sigma_max", sigma_max)
    rho = number("rho", rho)
    if not 0 < sigma_min < sigma_max:
        raise ConfigError(
            f"expected 0 < sigma_min < sigma_max, got sigma_min {sigma_min} and sigma_max {sigma_max}"
        )
    if rho <= 0:
        raise ConfigError(f"rho must be positive, got {rho}")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return check_sigmas((high + ramp * (low - high)) ** rho)


def check_sigmas(values: Tensor | Sequence[float]) -> Tensor:
    """Check a schedule of the caller's own: ``[n]`` levels, positive and strictly falling.

    If the final 0 is absent it is appended, so n positive levels are n steps.

    Returns:
        The levels and the final 0, float64 on the CPU.

    Raises:
        ConfigError: a level is not finite, not positive or not below the one before; the message names the first.
    """
    try:
        sigmas = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"sigmas must be a list of numbers: {error}") from error
    if sigmas.ndim != 1:
        raise ConfigError(f"sigmas must be a flat list, got the shape {list(sigmas.shape)}")
    if len(sigmas) and sigmas[-1] == 0:
        sigmas = sigmas[:-1]
    levels: list[float] = sigmas.tolist()
    if not levels:
        raise ConfigError("sigmas need at least one positive level")
    for i, level in enumerate(levels):
        if not 0 < level < math.inf:
            raise ConfigError(
                f"sigmas must be positive and finite (a final 0 aside): sigma {i + 1} is {level}"
            )
        if i and level >= levels[i - 1]:
            raise ConfigError(f"sigmas must fall strictly: sigma {i + 1} is {level} after {levels[i - 1]}")
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def interpolate_sigmas(values: Tensor | Sequence[float], steps: int) -> Tensor:
    """Stretch a short published schedule to any number of steps, linearly in ln(sigma).

    This is how the authors of :data:`ALIGN_YOUR_STEPS` recommend to use their list: it is resampled at ``steps + 1``
    places, end points included, and the last level becomes 0. So eleven values are ten steps without change. Their
    last value is where the interpolation ends and is not visited. To visit it, pass the list to
    :func:`check_sigmas`, which makes eleven steps of it.

    Returns:
        Falling levels ``[steps + 1]``, float64, the last 0.

    Raises:
        ConfigError: as :func:`check_sigmas`; also fewer than two positive levels, or ``steps`` below 1.
    """
    steps = whole_number("steps", steps)
    logs = check_sigmas(values)[:-1].log()
    if len(logs) < 2:
        raise ConfigError("interpolation needs at least two positive sigmas")
    places = torch.linspace(0, len(logs) - 1, steps + 1, dtype=torch.float64, device="cpu")[:-1]
    left = places.floor().long()
    return check_sigmas(torch.lerp(logs[left], logs[left + 1], places - left).exp())
