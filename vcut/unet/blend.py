"""The learned gate between the spatial and the temporal branch of a block."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_share(mix_factor: Tensor, image_only: Tensor | None, trailing: int) -> Tensor:
    """``1 - sigmoid(mix_factor)``, the weight of the temporal branch; 0 on frames marked in ``image_only``.

    Returns ``[1]``, or, given ``image_only [b, f]``, ``[b, f]`` followed by ``trailing`` axes of size 1.
    """
    share = torch.sigmoid(-mix_factor)
    if image_only is None:
        return share
    marked = image_only.bool().reshape(*image_only.shape, *[1] * trailing)
    return torch.where(marked, torch.zeros_like(share), share)
