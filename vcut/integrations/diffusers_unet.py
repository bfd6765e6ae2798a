"""vcut's UNet in the form in which diffusers' pipeline calls one."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vcut.config import whole_number
from vcut.errors import ConfigError
from vcut.unet import UNet
from weights_tools.configs import network_file


class DiffusersUNet(nn.Module):
    """A vcut UNet that is called and asked as diffusers' ``UNetSpatioTemporalConditionModel`` is."""

    def __init__(self, unet: UNet, num_frames: int) -> None:
        super().__init__()
        self.unet = unet
        said = network_file("unet", asdict(unet.config))
        self.config = SimpleNamespace(**said, num_frames=num_frames)
        # what a pipeline looks up to check its time ids
        width = unet.config.time_ids * unet.config.time_id_dim
        self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        """The parameters' device."""
        return next(self.unet.parameters()).device

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        return_dict: bool = True,
    ) -> Any:
        """One pass of the UNet.

        Args:
            sample: ``[b, f, in_channels, h, w]``.
            timestep: ln(sigma) / 4, one number or ``[b]``.
            encoder_hidden_states: ``[b, 1, d]``, or ``[b * f, 1, d]`` with a context for each frame.
            added_time_ids: ``[b, 3]``.
            return_dict: an object with ``sample`` instead of a tuple.

        Raises:
            ConfigError: a shape does not fit.
        """
        batch, frames = sample.shape[:2]
        context = encoder_hidden_states
        if frames > 1 and len(context) == batch * frames:
            context = context.unflatten(0, (batch, frames))
        out = self.unet(sample, timestep, context, added_time_ids)
        return SimpleNamespace(sample=out) if return_dict else (out,)


def as_diffusers(unet: UNet, num_frames: int = 25) -> DiffusersUNet:
    """``unet`` as the ``unet`` of a ``StableVideoDiffusionPipeline``; packed, cut and lossless ones too.

    ``num_frames`` is what the pipeline takes if it is not told. To equal diffusers beyond 5 %, the UNet needs
    ``diffusers_norm_eps=True`` in its configuration. Guidance stops with
    ``accelerate(pipe, "baseline", cut=17)``: the forms of the cross-attentions are the UNet's own.

    Raises:
        ConfigError: not a UNet of vcut's, or a number of frames that cannot be.
    """
    if not isinstance(unet, UNet):
        raise ConfigError(f"as_diffusers takes a vcut UNet, got {type(unet).__name__}")
    return DiffusersUNet(unet, whole_number("num_frames", num_frames))
