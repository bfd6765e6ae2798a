"""Preconditioning: a raw network becomes a denoiser, v-prediction in EDM's terms.

EDM (Karras et al. 2022, equation 7) writes D(x; sigma) = c_skip x + c_out F(c_in x; c_noise). For SVD's v-prediction
with unit data variance

    c_skip = 1 / (sigma^2 + 1)              c_out   = -sigma / sqrt(sigma^2 + 1)
    c_in   = 1 / sqrt(sigma^2 + 1)          c_noise = ln(sigma) / 4
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vcut.sampling.cut_plan import Branch

Network = Callable[[Tensor, float, tuple[Branch, ...]], Tensor]
"""``network(c_in * x [b, f, ...], c_noise, branches) -> F [len(branches), b, f, ...]``, in any float dtype."""

Denoiser = Callable[[Tensor, float, tuple[Branch, ...]], Tensor]
"""``denoiser(x [b, f, ...], sigma, branches) -> D [len(branches), b, f, ...]``: one clean estimate per branch."""

Sigma = TypeVar("Sigma", float, Tensor)


@dataclass(frozen=True)
class Coefficients(Generic[Sigma]):
    """The four functions of sigma, as floats or as tensors of sigma's shape."""

    c_skip: Sigma
    c_out: Sigma
    c_in: Sigma
    c_noise: Sigma


def coefficients(sigma: Sigma) -> Coefficients[Sigma]:
    """The preconditioning at a noise level: a positive float, or for training a tensor of such levels."""
    c_skip = 1 / (sigma * sigma + 1)
    c_in = c_skip**0.5
    log = sigma.log() if isinstance(sigma, Tensor) else math.log(sigma)
    return Coefficients(c_skip=c_skip, c_out=-sigma * c_in, c_in=c_in, c_noise=log / 4)


def precondition(network: Network) -> Denoiser:
    """The denoiser of a v-prediction network.

    The branches share x, so the network receives x once, with the branches to evaluate on it. It may run them as one
    batch or one after the other. Its output is cast to x's dtype before the sum: the sampler divides x - D by sigma,
    so at sigma 0.002 a D rounded to half precision would be a large error in the slope.
    """

    def denoise(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        c = coefficients(sigma)
        output = network(c.c_in * x, c.c_noise, branches)
        return torch.add(c.c_skip * x, output.to(x.dtype), alpha=c.c_out)

    return denoise
