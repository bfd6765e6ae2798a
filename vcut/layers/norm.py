"""Group normalisation of channels-last activations, ``[b, f, h, w, c]``."""

from __future__ import annotations

from torch import Tensor, nn

from vcut.kernels.norm import normalised
from vcut.kernels.runtime import is_watched


class GroupNorm(nn.GroupNorm):
    """Group normalisation of ``[n, ..., c]`` over everything but n, within each group of channels.

    Half precision is normalised in float32 and cast back, as the official GroupNorm32 does. Where a CPU records
    gradients torch's own norm is faster, copies to its layout and back included.
    """

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)  # [n, t, c]
        if x.device.type == "cpu" and is_watched(x, self.weight):
            return super().forward(tokens.mT.contiguous()).mT.contiguous().view(x.shape)
        return normalised(tokens, self._merged, self.weight, self.bias, self.eps).view(x.shape)

    def _merged(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the groups, ``[n, c]``, from those of their channels.

        The total variance is the mean variance within channels plus the variance of the channels' means.
        """
        mean, var = (moment.unflatten(1, (self.num_groups, -1)) for moment in (mean, var))
        group_mean = mean.mean(-1, keepdim=True)
        group_var = (var + (mean - group_mean).square()).mean(-1, keepdim=True)
        return group_mean.expand_as(mean).flatten(1), group_var.expand_as(var).flatten(1)


class FrameNorm(GroupNorm):
    """Group normalisation of ``[b, f, ..., c]``, the moments taken over one frame each."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view(x.shape)
