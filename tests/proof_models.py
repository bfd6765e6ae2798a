"""For the proofs and the audit: a small UNet with all 16 + 16 cross-attentions of the real one, and torch's kernels.

The UNet has four channels to a group, so that group norms cancel nothing, and no parameter at a special value.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vcut.config import Mode
from vcut.unet import Level, UNet, UNetConfig, fold

SIXTEEN = UNetConfig(
    levels=(Level(16, 2), Level(32, 2), Level(32, 4), Level(32, 4, attention=False)),
    layers=2,
    context_dim=12,
    time_id_dim=8,
    norm_groups=4,
)
HEIGHT, WIDTH = 8, 16  # of the latents: 1x2 in the middle


class Inputs(NamedTuple):
    x: Tensor
    c_noise: Tensor
    context: Tensor
    time_ids: Tensor


def random_unet(tca: Mode = True, sca: Mode = True, seed: int = 0, config: UNetConfig = SIXTEEN) -> UNet:
    """In float64. Other modes are folded from the same softmax UNet."""
    torch.manual_seed(seed)
    unet = UNet(config).double().eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return unet if tca is True and sca is True else fold(unet, tca=tca, sca=sca)


@functools.cache
def shared_unet(tca: Mode = True, sca: Mode = True) -> UNet:
    """:func:`random_unet` made once, for tests that change nothing of it."""
    return random_unet(tca, sca)


def inputs(b: int = 2, f: int = 3, tokens: int = 1, seed: int = 1) -> Inputs:
    """Different in every clip."""
    g = torch.Generator().manual_seed(seed)
    return Inputs(
        torch.randn(b, f, 8, HEIGHT, WIDTH, generator=g, dtype=torch.float64),
        torch.randn(b, generator=g, dtype=torch.float64),
        torch.randn(b, tokens, 12, generator=g, dtype=torch.float64),
        100 * torch.rand(b, 3, generator=g, dtype=torch.float64),
    )


def _runs(backend: SDPBackend) -> bool:
    one = torch.ones(1, 1, 1, 8)
    try:
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(one, one, one)
    except RuntimeError:
        return False
    return True


BACKENDS: list[SDPBackend] = [backend for backend in SDPBackend.__members__.values() if _runs(backend)]
"""The kernels of scaled_dot_product_attention that this machine has."""
