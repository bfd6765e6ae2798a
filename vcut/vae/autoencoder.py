"""Pictures to latents and latents to clips, in the public layout ``[b, f, c, h, w]``.

Shapes: b clips, f frames, h w the latent grid, H W = stride * (h, w) the pixels (stride 8 as published).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vcut.config import VAEConfig, whole_number
from vcut.errors import ConfigError, check_type
from vcut.layers import Conv
from vcut.vae.decoder import Decoder
from vcut.vae.encoder import Encoder


class VAE(nn.Module):
    """The autoencoder, each half computing in the dtype of its parameters; inputs are cast to it.

    Neither direction touches ``config.scale``: the conditioning latent is used unscaled, and who samples
    divides by the scale before decoding. ``encoder`` and ``decoder`` may be called by themselves, batched
    and channels-last, for training.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        check_type("config", config, VAEConfig)
        self.config = config
        z = config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = Conv(2 * z, 2 * z, 1)
        self.decoder = Decoder(config)
        # the decoder with temporal layers was trained without it
        self.post_quant_conv = None if config.temporal else Conv(z, z, 1)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the encoder's parameters, hence of the latents."""
        return self.quant_conv.weight.dtype

    @property
    def decode_dtype(self) -> torch.dtype:
        """Dtype of the decoder's parameters, hence of the frames."""
        return self.decoder.conv_in.weight.dtype

    def decode_in(self, dtype: torch.dtype) -> VAE:
        """Cast the decoder alone, in place: in half precision it is the encoder that is known to overflow."""
        self.decoder.to(dtype)
        if self.post_quant_conv is not None:
            self.post_quant_conv.to(dtype)
        return self

    def moments(self, images: Tensor) -> Tensor:
        """The posterior of ``images [b, 3, H, W]`` in -1..1: mean and log variance, ``[b, 2 z, h, w]``.

        All b are encoded together. Each takes at most about six activations of the first level, ``H * W *
        config.channels[0]`` values: 1.8 GB for the published model at 576x1024 in float32.

        Raises:
            ConfigError: not that shape, or a side that is no multiple of the stride.
        """
        self._check_images(images)
        x = images.to(self.dtype).movedim(1, -1)[:, None].contiguous()  # [b, one frame, h, w, c]
        return self.quant_conv(self.encoder(x))[:, 0].movedim(-1, 1)

    def encode(self, images: Tensor) -> Tensor:
        """The mode of :meth:`moments`, its mean, unscaled: ``[b, z, h, w]``."""
        return self.moments(images)[:, : self.config.latent_channels]

    def decode(self, latents: Tensor, chunk: int | None = None) -> Tensor:
        """Frames ``[b, f, 3, H, W]``, about -1..1 and not clamped, of ``latents [b, f, z, h, w]``.

        ``chunk`` frames of one clip are decoded at a time, by default the whole clip: a batch gives exactly
        what its clips give alone, and memory does not grow with b or, given a chunk, with f. Besides the
        result a chunk takes a little over three activations of the last level, ``H * W * config.channels[0]``
        values a frame: for the published model at 576x1024 in float32 0.9 GiB a frame, and 0.5 once. The temporal
        layers do not see past a chunk, so chunking changes the frames.

        Raises:
            ConfigError: not that shape, or a chunk below 1.
        """
        self.check_latents(latents, chunk)
        b, f, _, h, w = latents.shape
        step, stride = chunk or f, self.config.stride
        frames = latents.new_empty((b, f, 3, h * stride, w * stride), dtype=self.decode_dtype)
        for i in range(b):
            for start in range(0, f, step):
                part = slice(start, start + step)
                frames[i, part] = self._decode_together(latents[i, part])
        return frames

    def _decode_together(self, z: Tensor) -> Tensor:
        """Frames ``[f, 3, H, W]`` of the latents ``[f, z, h, w]`` of one chunk."""
        x = z.to(self.decode_dtype).movedim(1, -1)[None].contiguous()  # [one clip, f, h, w, c]
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        return self.decoder(x)[0].movedim(-1, 1)

    def _check_images(self, images: Tensor) -> None:
        check_type("images", images, Tensor)
        stride = self.config.stride
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise ConfigError(f"the VAE encodes images [b, 3, H, W], got {list(shape)}")
        if shape[2] % stride or shape[3] % stride:
            raise ConfigError(
                f"the VAE encodes images whose height and width are multiples of {stride}, "
                f"got {shape[2]}x{shape[3]}: crop, resize or pad them"
            )

    def check_latents(self, latents: Tensor, chunk: int | None = None) -> None:
        """Raise :class:`ConfigError` for what :meth:`decode` does not take."""
        check_type("latents", latents, Tensor)
        channels = self.config.latent_channels
        shape = tuple(latents.shape)
        if len(shape) != 5 or shape[2] != channels or 0 in shape:
            raise ConfigError(f"the VAE decodes latents [b, f, {channels}, h, w], got {list(shape)}")
        if chunk is not None:
            whole_number("chunk, the frames decoded at a time,", chunk)
