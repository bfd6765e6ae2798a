"""Image in, frames out."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from einops import rearrange
from torch import Generator, Tensor

from vcut.clip import CLIPVisionEncoder, preprocess
from vcut.conditioning import Conditioning, bind
from vcut.config import Fit, Preset, SVDConfig
from vcut.errors import ConfigError, NotFiniteError, OutOfMemoryError, is_out_of_memory
from vcut.layers import assembled, for_inference
from vcut.media import images as pictures
from vcut.sampling import (
    MEAN,
    Branch,
    Callback,
    Churn,
    Scale,
    check_sigmas,
    frame_scales,
    karras_sigmas,
    linear,
    plan,
    precondition,
    sample,
)
from vcut.settings import check_size
from vcut.unet import UNet
from vcut.vae import VAE

N = TypeVar("N", UNet, VAE, CLIPVisionEncoder)


@dataclass(frozen=True)
class Pipeline:
    """A loaded model. It holds networks and settings and no state of any run.

    ``note`` is what a user should be told about the weights, if anything. With ``run_on`` the networks stay where
    they are, and each is copied to that device while it is at work, and no longer: offloading.
    """

    unet: UNet
    vae: VAE
    clip: CLIPVisionEncoder
    config: SVDConfig
    preset: Preset
    note: str | None = None
    run_on: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the run happens: where the UNet is, or is brought."""
        return self.run_on or self.unet.conv_in.weight.device

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the networks to ``device``, in place, and return this model."""
        for network in (self.unet, self.vae, self.clip):
            network.to(device)
        return self

    @torch.no_grad()
    def generate(
        self,
        images: pictures.Image | Sequence[pictures.Image],
        *,
        clips: int | None = None,
        seed: int | Sequence[int] = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fit: Fit = "crop",
        steps: int = 25,
        sigmas: Tensor | Sequence[float] | None = None,
        cut: int | Literal["preset"] | None = "preset",
        after: Branch = MEAN,
        embedding: Collection[int] | None = None,
        guidance: tuple[float, float] | Scale = (1.0, 3.0),
        fps: int | None = None,
        motion_bucket: int | None = None,
        noise_aug: float = 0.02,
        noise: Tensor | None = None,
        churn: Churn | None = None,
        decode_chunk: int | None = 14,
        sequential: bool = False,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Turn one image into a clip, or k images into k * m clips.

        Args:
            images: one picture of any kind (path, PIL, ndarray, tensor; see :mod:`vcut.media.images`), or a list or
                stack of them.
            clips: m clips of every image, in the order image 0 clip 0, image 0 clip 1, ...
            seed: one number, clip j of every image then has ``seed + j``; or one seed for each of the k * m clips.
                A clip depends on its own image, seed and settings alone, never on the others of its batch.
            frames: number of frames, by default what the model was made for.
            height: of the frames in pixels, with ``width`` multiples of the model's stride (64 when published).
            width: of the frames in pixels.
            fit: how a picture of another shape becomes that size: 'crop', 'resize' or 'pad'.
            steps: denoising steps N.
            sigmas: noise levels of your own, instead of ``steps`` Karras ones.
            cut: the first step without guidance, counted from 1; N + 1 or None never cuts; 'preset' follows the
                preset (for ``vcut`` step 17 of 25).
            after: what the single pass of a cut step is given.
            embedding: the steps that receive the image embedding at all, by default every one.
            guidance: the scale at the first and at the last frame, linear between, or a function of the number of
                frames such as :func:`vcut.sampling.triangle`.
            fps: frames per second that the motion should suit; the network is given ``fps - 1``.
            motion_bucket: how much motion, 127 is what the published models were tuned at.
            noise_aug: standard deviation of the noise on the image (in -1..1) before its latents are taken.
            noise: ``[k * m, frames, 4, H / 8, W / 8]`` of unit variance to start from, instead of the seeds'.
            churn: fresh noise at each step.
            decode_chunk: frames decoded at a time, within a clip; None decodes whole clips. The temporal
                convolutions do not see past a chunk, so it changes the frames a little. 14 is the official default.
            sequential: run the two guidance branches one after the other: less memory, the same result.
            callback: called after every step with a :class:`vcut.sampling.Record`; if it returns
                :data:`vcut.sampling.STOP`, that step's estimate is decoded.
            progress: show a bar.

        Returns:
            ``[frames, 3, H, W]`` float32 in 0..1 for one image; ``[k * m, frames, 3, H, W]`` for a list or a stack of
            several, or when ``clips`` is given.

        Raises:
            ConfigError: a setting out of range, before any work.
            MediaError: a picture that cannot be read.
            NotFiniteError: NaN or infinity in the latents or in the decoded frames.
            OutOfMemoryError: a stage that does not fit; it says what takes less, and holds finished latents.
        """
        config = self.config
        frames = config.frames if frames is None else frames
        height = check_count("height", config.height if height is None else height)
        width = check_count("width", config.width if width is None else width)
        fps = config.fps if fps is None else fps
        motion_bucket = config.motion_bucket if motion_bucket is None else motion_bucket
        check_size(height, width, config.stride)
        check_settings(frames=frames, fps=fps, motion_bucket=motion_bucket, noise_aug=noise_aug)
        if decode_chunk is not None:
            check_count("decode_chunk", decode_chunk)
        levels = karras_sigmas(steps) if sigmas is None else check_sigmas(sigmas)
        steps = len(levels) - 1
        cut = self.preset.cut_step(steps) if cut == "preset" else cut
        run = plan(steps, cut, after, embedding)
        scale = guidance if callable(guidance) else linear(*_pair(guidance))
        frame_scales(scale, frames)

        pixels = pictures.to_tensors(images, height, width, fit)
        batch = isinstance(images, (list, tuple)) or len(pixels) > 1 or clips is not None
        each = 1 if clips is None else check_count("clips", clips)
        generators = _generators(seed, images=len(pixels), clips=each)
        pixels = pixels.repeat_interleave(each, dim=0)
        # the order in which diffusers draws them, so that a seed means the same clip there and here
        image_noise = torch.stack([torch.randn(pixels.shape[1:], generator=g) for g in generators])
        shape = (frames, config.vae.latent_channels, height // config.vae.stride, width // config.vae.stride)
        drawn = torch.stack([torch.randn(shape, generator=g) for g in generators])
        if noise is None:
            noise = drawn
        elif not isinstance(noise, Tensor) or noise.shape != drawn.shape:
            got = list(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
            raise ConfigError(f"noise must be {list(drawn.shape)}, got {got}")

        with _stage("encoding the picture", "take a smaller size"):
            conditioning = self.condition(
                pixels.to(self.device),
                image_noise.to(self.device),
                fps=fps,
                motion_bucket=motion_bucket,
                noise_aug=noise_aug,
            )
        less = "a smaller size, fewer frames or fewer clips at a time"
        with _stage("sampling", f"take {less}" if sequential else f"run sequential, or take {less}"):
            latents = sample(
                precondition(bind(self._placed(self.unet), conditioning, sequential=sequential)),
                noise.to(self.device),
                levels,
                run,
                scale,
                churn=churn,
                generators=generators,
                callback=callback,
                progress=progress,
            )
        result = self.decode(latents, decode_chunk)
        return result if batch else result[0]

    def condition(
        self, pixels: Tensor, image_noise: Tensor, *, fps: int, motion_bucket: int, noise_aug: float
    ) -> Conditioning:
        """Encode pictures ``pixels [n, 3, H, W]`` in -1..1; ``image_noise`` is unit noise of the same shape.

        CLIP sees the clean picture, the VAE the noised one; its latents stay unscaled.
        """
        prepared = preprocess(pixels, self.config.clip.image_size).to(self.clip.proj.weight.dtype)
        embedding = self._placed(self.clip)(prepared)
        noised = pixels + noise_aug * image_noise
        # one picture at a time, for memory, and so that a batch cannot differ from its single runs
        vae = self._placed(self.vae)
        latents = torch.cat([vae.encode(picture) for picture in noised[:, None]])
        numbers = [float(fps - 1), float(motion_bucket), float(noise_aug)]
        time_ids = torch.tensor([numbers] * len(pixels), device=pixels.device)
        return Conditioning(rearrange(embedding, "n d -> n 1 d"), latents, time_ids)

    def decode(self, latents: Tensor, chunk: int | None = 14) -> Tensor:
        """Frames ``[n, f, 3, H, W]`` in 0..1 of ``latents [n, f, 4, h, w]`` as the sampler leaves them."""
        now = "all at once" if chunk is None else f"{chunk}"
        with _stage("decoding", f"decode fewer frames at a time (now {now}), or in half precision", latents):
            decoded = self._placed(self.vae).decode(latents / self.config.vae.scale, chunk).float()
        if not torch.isfinite(decoded).all():
            raise NotFiniteError(
                f"the decoded frames hold NaN or infinity: the VAE ran in {self.vae.dtype}, its decoder in "
                f"{self.vae.decode_dtype}; float16 overflows. Load with vae_dtype=torch.float32"
            )
        return decoded.add_(1).div_(2).clamp_(0, 1)

    def _placed(self, network: N) -> N:
        """The network where the run happens: itself, or with offloading a copy, which dies with its last use."""
        return network if self.run_on is None else copied_to(network, self.run_on)


def copied_to(network: N, device: torch.device) -> N:
    """An equal network on ``device``; tensors that are there already are shared."""
    state = {name: tensor.to(device) for name, tensor in network.state_dict().items()}
    return for_inference(assembled(type(network), network.config, state), device)


@contextlib.contextmanager
def _stage(what: str, advice: str, latents: Tensor | None = None) -> Iterator[None]:
    """Turn torch's out-of-memory errors into one that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{what} does not fit into memory: {advice}", latents) from error


def check_settings(*, frames: int, fps: int, motion_bucket: int, noise_aug: float) -> None:
    """Raise :class:`ConfigError` for a setting that no model can use."""
    check_count("frames", frames)
    check_count("fps", fps)
    check_count("motion_bucket", motion_bucket, least=0)
    if not isinstance(noise_aug, (int, float)) or not 0 <= noise_aug < math.inf:
        raise ConfigError(f"noise_aug must be a number of at least 0, got {noise_aug!r}")


def check_count(what: str, value: int, least: int = 1) -> int:
    """``value`` as an int; :class:`ConfigError` unless it is a whole number of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return number


def _pair(guidance: tuple[float, float]) -> tuple[float, float]:
    try:
        first, last = map(float, guidance)
    except (TypeError, ValueError):
        raise ConfigError(
            f"guidance must be (scale at the first frame, scale at the last), or a function such as "
            f"vcut.sampling.constant(2.0), got {guidance!r}"
        ) from None
    return first, last


def _generators(seed: int | Sequence[int], *, images: int, clips: int) -> list[Generator]:
    """One CPU generator per clip, so that noise does not depend on the device or on the batch."""
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        seeds = [check_count("a seed", s, least=0) for s in seed]
    else:
        first = check_count("seed", seed, least=0)
        seeds = [first + j for j in range(clips)] * images
    if len(seeds) != images * clips:
        raise ConfigError(f"{images * clips} clips need {images * clips} seeds, got {len(seeds)}")
    if max(seeds) >= 2**63:
        raise ConfigError(f"seeds must be below 2^63, got {max(seeds)}")
    return [Generator().manual_seed(s) for s in seeds]
