"""Image in, frames out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from vcut.clip import CLIPVisionEncoder
from vcut.conditioning import Conditioning, bind
from vcut.config import Preset, SVDConfig
from vcut.errors import ConfigError, NotFiniteError, OutOfMemoryError, check_type, is_out_of_memory
from vcut.layers import Packing, assembled, check_dtype, device_named, for_inference, is_packed, packing_of
from vcut.media import images as pictures
from vcut.sampling import Callback, Network, precondition, sample
from vcut.settings import NAMES, Run, Settings, check_names, check_seed, check_seeds, defaults, resolve
from vcut.unet import UNet
from vcut.vae import VAE
from weights_tools.checkpoint import is_finite

N = TypeVar("N", UNet, VAE, CLIPVisionEncoder)

KEYWORDS = ("settings", "noise", "callback", "progress", *NAMES)
"""Everything that :meth:`Pipeline.generate` takes by name."""


@dataclass(frozen=True, repr=False)
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

    def __post_init__(self) -> None:
        # a UNet that took another's place is described by itself
        own = self.unet.config
        object.__setattr__(self, "config", dataclasses.replace(self.config, unet=own))
        object.__setattr__(self, "preset", dataclasses.replace(self.preset, tca=own.tca, sca=own.sca))

    def __repr__(self) -> str:
        return (
            f"Pipeline({self.config.name!r}, preset={self.preset.name!r}, {self.unet.dtype} on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Device of the run: where the UNet is, or is brought."""
        return self.run_on or self.unet.conv_in.weight.device

    @property
    def packing(self) -> Packing | None:
        """The forms that the weights are packed in for this CPU; None where they are as the file has them."""
        return packing_of(self.unet)

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> Pipeline:
        """Move and cast the networks in place, as :func:`vcut.load` would have, and return this model.

        ``dtype`` is of the UNet and CLIP. The VAE keeps its own: in float16 the published one overflows.

        Raises:
            ConfigError: the weights are packed for this CPU, or the networks are offloaded.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        networks = (self.unet, self.vae, self.clip)
        if any(is_packed(network) for network in networks):
            raise ConfigError("packed weights stay on this CPU as they are: load the model without pack=True")
        if device is not None and self.run_on is not None:
            raise ConfigError(f"the networks are offloaded and run on {self.run_on}: load the model again")
        place = self.unet.conv_in.weight.device if device is None else device_named(device)
        if dtype is not None:
            check_dtype("dtype", dtype)
        for network in networks:
            for_inference(network if network is self.vae else network.to(dtype), place)
        return self

    @torch.no_grad()
    def generate(
        self,
        image: pictures.Image | Sequence[pictures.Image],
        *,
        settings: Settings | None = None,
        noise: Tensor | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        **changes: Any,
    ) -> Tensor:
        """Turn one picture into a clip, or k pictures into k * m clips.

        Each setting is a keyword: ``generate(image, steps=30, seed=7)``. ``help(vcut.Settings)`` explains them.

        Args:
            image: one picture of any kind (path, PIL, ndarray, tensor; see :mod:`vcut.media.images`), or a list or
                stack of k pictures.
            settings: settings to start from, by default the preset's: ``vcut.Settings()``, but for ``fast``.
            noise: ``[k * m, frames, 4, H / 8, W / 8]`` (``tiny``: by 4) of unit variance to start from, instead of
                the seeds'.
            callback: called after every step with a :class:`vcut.sampling.Record`. If it returns
                :data:`vcut.sampling.STOP`, that step's estimate is decoded; if it returns a tensor, the run goes on
                from these latents.
            progress: show a bar.
            changes: settings that differ from ``settings``. With ``clips=m`` each picture gives m clips, in the order
                picture 0 clip 0, picture 0 clip 1, ... A clip depends on its own picture, seed and settings alone,
                never on the others of its batch.

        Returns:
            ``[frames, 3, H, W]`` float32 in 0..1 for one picture; ``[k * m, frames, 3, H, W]`` for a list or a stack
            of several, or when ``clips`` is given.

        Raises:
            UnknownSettingError: a keyword that names no setting; the message has the nearest one.
            ConfigError: a setting out of range, before any work.
            MediaError: a picture that cannot be read.
            NotFiniteError: NaN or infinity in the latents or in the decoded frames.
            OutOfMemoryError: a stage that does not fit; it says what takes less, and holds finished latents.
        """
        check_names(changes, KEYWORDS)
        check_type("settings", settings, Settings, NoneType)
        start = settings or defaults(self.preset.defaults, self.config)
        run = resolve(start.replace(**changes), self.config, self.preset)
        return self.follow(run, image, noise=noise, callback=callback, progress=progress)

    __call__ = generate

    @torch.no_grad()
    def follow(
        self,
        run: Run,
        image: pictures.Image | Sequence[pictures.Image],
        *,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor:
        """:meth:`generate` of settings that :func:`vcut.settings.resolve` checked for this model before.

        ``seed`` takes the place of the settings' own.
        """
        latents = self.sample_latents(
            run, image, seed=seed, noise=noise, callback=callback, progress=progress
        )
        result = self.decode(latents, run.settings.decode_chunk)
        batch = isinstance(image, (list, tuple)) or len(latents) > 1 or run.settings.clips is not None
        return result if batch else result[0]

    @torch.no_grad()
    def prepare(
        self,
        run: Run,
        image: pictures.Image | Sequence[pictures.Image],
        *,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Conditioning, Tensor, list[Generator]]:
        """The start of the sampler: the conditioning of all clips, unit noise, and a generator for each clip."""
        settings = run.settings
        pixels = pictures.to_tensors(image, run.height, run.width, settings.fit)
        generators = _generators(settings.seed if seed is None else seed, len(pixels), settings.clips or 1)
        pixels = pixels.repeat_interleave(settings.clips or 1, dim=0)
        # the order in which diffusers draws them, so that a seed means the same clip there and here
        image_noise, drawn = (
            torch.stack(
                [torch.randn(shape, generator=g, dtype=torch.float32, device="cpu") for g in generators]
            )
            for shape in (pixels.shape[1:], run.latent)
        )
        if noise is None:
            noise = drawn
        elif not isinstance(noise, Tensor) or noise.shape != drawn.shape:
            got = list(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
            raise ConfigError(f"noise must be {list(drawn.shape)}, got {got}")
        elif not torch.isfinite(noise).all():
            raise NotFiniteError("noise holds NaN or infinity")

        with _stage(self.device, "encoding the picture", "take a smaller size"):
            conditioning = self.condition(
                pixels.to(self.device),
                image_noise.to(self.device),
                fps=run.fps,
                motion_bucket=run.motion_bucket,
                noise_aug=settings.noise_aug,
            )
        return conditioning, noise.to(self.device), generators

    @torch.no_grad()
    def sample_latents(
        self,
        run: Run,
        image: pictures.Image | Sequence[pictures.Image],
        *,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Latents ``[k * m, f, 4, h, w]`` that :meth:`follow` decodes, as the sampler leaves them."""
        settings = run.settings
        conditioning, noise, generators = self.prepare(run, image, seed=seed, noise=noise)
        less = "take a smaller size, fewer frames or fewer clips at a time"
        with _stage(self.device, "sampling", less if settings.sequential else f"run sequential, or {less}"):
            network = self._bound(conditioning, run)
            try:
                return sample(
                    precondition(network),
                    noise,
                    run.sigmas,
                    run.plan,
                    lambda _: run.scales,
                    sampler=settings.sampler,
                    churn=settings.churn,
                    generators=generators,
                    callback=callback,
                    progress=progress,
                )
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}{self._damage()}") from error

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """CLIP's embedding ``[n, 1, d]`` of pictures ``[n, 3, H, W]`` in -1..1: the context of the UNet."""
        check_type("pixels", pixels, Tensor)
        return self.placed(self.clip).embed(pixels.to(self.device))

    def condition(
        self, pixels: Tensor, image_noise: Tensor, *, fps: int, motion_bucket: int, noise_aug: float
    ) -> Conditioning:
        """Encode pictures ``pixels [n, 3, H, W]`` in -1..1; ``image_noise`` is unit noise of the same shape.

        CLIP sees the clean picture, the VAE the noised one; its latents stay unscaled.
        """
        embedding = self.embed(pixels)
        noised = pixels + noise_aug * image_noise
        latents = self._encoded(noised)
        numbers = [float(fps - 1), float(motion_bucket), float(noise_aug)]
        time_ids = torch.tensor([numbers] * len(pixels), dtype=torch.float32, device=pixels.device)
        return Conditioning(embedding, latents, time_ids)

    def decode(self, latents: Tensor, chunk: int | None = 14) -> Tensor:
        """Frames ``[n, f, 3, H, W]`` in 0..1 of ``latents [n, f, 4, h, w]`` as the sampler leaves them."""
        check_type("latents", latents, Tensor)
        now = "all at once" if chunk is None else f"{chunk}"
        less = f"decode fewer frames at a time (now {now}), or in half precision"
        with _stage(self.device, "decoding", less, latents):
            decoded = self._decoded(latents / self.config.vae.scale, chunk).float()
        if not torch.isfinite(decoded).all():
            raise NotFiniteError(
                f"the decoded frames hold NaN or infinity: the VAE ran in {self.vae.dtype}, its decoder in "
                f"{self.vae.decode_dtype}; float16 overflows. Load with vae_dtype=torch.float32{self._damage()}"
            )
        return decoded.add_(1).div_(2).clamp_(0, 1)

    def _damage(self) -> str:
        """A clause that names weights with NaN or infinity, or says how to look for them in a file."""
        found = [
            f"{part}.{name}"
            for part in ("unet", "vae", "clip")
            for name, tensor in getattr(self, part).named_parameters()
            # what is packed cannot be looked into
            if tensor.layout == torch.strided and not is_finite(tensor)
        ]
        if not found:
            return "; `vcut-weights inspect --deep` looks for NaN in a file of weights"
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"; the weights hold NaN or infinity in {', '.join(found[:3])}{more}: take a whole copy of the model"

    def _bound(self, conditioning: Conditioning, run: Run) -> Network:
        """The network of one run, for all of its steps."""
        unet, sequential = self.placed(self.unet), run.settings.sequential
        return bind(unet, conditioning, run.plan, run.frames, sequential=sequential)

    def _encoded(self, pictures: Tensor) -> Tensor:
        """The VAE's latents ``[n, 4, h, w]`` of pictures ``[n, 3, H, W]``.

        One picture at a time, for memory, and so that a batch cannot differ from its single runs.
        """
        vae = self.placed(self.vae)
        return torch.cat([vae.encode(picture) for picture in pictures[:, None]])

    def _decoded(self, latents: Tensor, chunk: int | None) -> Tensor:
        """The VAE's frames ``[n, f, 3, H, W]`` in -1..1 of unscaled latents ``[n, f, 4, h, w]``."""
        return self.placed(self.vae).decode(latents, chunk)

    def placed(self, network: N) -> N:
        """The network where the run happens: itself, or with offloading a copy, which dies with its last use."""
        return network if self.run_on is None else copied_to(network, self.run_on)


def copied_to(network: N, device: torch.device) -> N:
    """An equal network on ``device``; tensors that are there already are shared."""
    state = {name: tensor.to(device) for name, tensor in network.state_dict().items()}
    return for_inference(assembled(type(network), network.config, state), device)


@contextlib.contextmanager
def _stage(device: torch.device, what: str, advice: str, latents: Tensor | None = None) -> Iterator[None]:
    """Compute in the networks' own dtypes, and turn torch's out-of-memory errors into one that says what to do."""
    if device.type == "meta":
        raise ConfigError(
            "the weights are on the meta device: vcut.load(offload=True) is how they are offloaded"
        )
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{what} does not fit into memory: {advice}", latents) from error


def _generators(seed: int | Sequence[int], pictures: int, clips: int) -> list[Generator]:
    """One CPU generator per clip, so that noise does not depend on the device or on the batch."""
    seed = check_seeds(seed)
    seeds = seed if isinstance(seed, tuple) else tuple(seed + i for i in range(clips)) * pictures
    if len(seeds) != pictures * clips:
        raise ConfigError(f"{pictures * clips} clips need {pictures * clips} seeds, got {len(seeds)}")
    return [Generator().manual_seed(check_seed(value)) for value in seeds]
