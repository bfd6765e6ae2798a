"""Fitting a run into a given memory: what is offloaded, left unpacked, run one after the other, or decoded in parts.

The peaks are those of :mod:`vcut.analysis.memory`, taken before any weight is loaded. To each comes what no tensor
holds: a tenth for the fragments of the allocator and :data:`WORKSPACE` for the kernels.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vcut.analysis.counting import build_unet, on_meta, unet_call
from vcut.analysis.memory import peak_bytes, weight_bytes
from vcut.analysis.text_table import Table
from vcut.clip import CLIPVisionEncoder
from vcut.config import SVDConfig, UNetConfig, VAEConfig
from vcut.layers import Packing, packed_bytes
from vcut.settings import Run
from vcut.vae import VAE

WORKSPACE = 512 << 20
CHUNKS = (8, 4, 2, 1)
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Way:
    """A way of running. ``offload`` and ``sequential`` leave the output equal, ``packing`` too but for rounding.

    The others change it. ``packing`` is for a CPU, None for plain weights; ``dtype`` is that of UNet and CLIP;
    ``peak`` is in bytes, of the stage that takes most.
    """

    offload: bool
    sequential: bool
    dtype: torch.dtype
    decode_dtype: torch.dtype
    decode_chunk: int | None
    packing: Packing | None = None
    peak: int = 0

    def differs(self, other: Way) -> str:
        """Words for what was changed to come here from ``other``, and what that does."""
        says = {
            "offload": "networks are offloaded (equal output)",
            "sequential": "guidance branches run one after the other (equal output)",
            "packing": "weights are not packed (equal output to rounding, slower)",
            "decode_dtype": f"decoded in {_word(self.decode_dtype)} (rounding)",
            "dtype": f"UNet and CLIP are in {_word(self.dtype)} (rounding)",
            "decode_chunk": f"decoded {self.decode_chunk} frames at a time (layers over time see no further)",
        }
        changed = (text for name, text in says.items() if getattr(self, name) != getattr(other, name))
        return ", ".join(changed) or "everything as asked"


def fit(
    config: SVDConfig,
    run: Run,
    asked: Way,
    budget: int,
    *,
    vae_dtype: torch.dtype,
    half: torch.dtype | None = None,
    may_offload: bool = True,
) -> Way:
    """The first way that takes at most ``budget`` bytes, or the one of least memory.

    Ways of equal output come first. What was ``asked`` is never taken back. ``config`` has the run's
    cross-attentions; ``half`` is the half precision to turn to, None for that of UNet and CLIP or none.
    """
    tried = []
    half = half or (asked.dtype if asked.dtype in HALVES else None)
    for way in _ways(asked, run.frames, half, may_offload):
        tried.append(dataclasses.replace(way, peak=peak(config, run, way, vae_dtype)))
        if tried[-1].peak <= budget:
            return tried[-1]
    return min(tried, key=lambda way: way.peak)


def _ways(asked: Way, frames: int, half: torch.dtype | None, may_offload: bool) -> Iterator[Way]:
    whole = min(frames, asked.decode_chunk or frames)
    decode_dtype, dtype = half or asked.decode_dtype, half or asked.dtype
    forms = [asked, dataclasses.replace(asked, decode_dtype=decode_dtype)]
    forms.append(dataclasses.replace(forms[-1], dtype=dtype))
    forms += [dataclasses.replace(forms[-1], decode_chunk=chunk) for chunk in CHUNKS if chunk < whole]
    equal = tuple(
        itertools.product(
            sorted({asked.offload, asked.offload or may_offload}),
            sorted({asked.sequential, True}),
            dict.fromkeys((asked.packing, None)),
        )
    )
    for form, (offload, sequential, packing) in itertools.product(dict.fromkeys(forms), equal):
        yield dataclasses.replace(form, offload=offload, sequential=sequential, packing=packing)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def peak(config: SVDConfig, run: Run, way: Way, vae_dtype: torch.dtype) -> int:
    """Bytes on the device at the peak of a clip: encoding, a step of the sampler, or decoding."""
    frames, _, height, width = run.latent
    chunk = min(frames, way.decode_chunk or frames)
    branches = 1 if way.sequential or not any(step.guided for step in run.plan) else 2
    unet, vae, clip = _weights(config, way.dtype, vae_dtype, way.decode_dtype, way.packing)
    weights = {"encode": max(vae, clip), "sample": unet, "decode": vae}
    live = {
        "encode": _encoding(config.vae, vae_dtype, run.height, run.width),
        "sample": _calling(config.unet, way.dtype, branches, frames, height, width),
        "decode": _decoding(config.vae, way.decode_dtype, chunk, height, width),
    }
    most = max(live[stage] + (weights[stage] if way.offload else unet + vae + clip) for stage in live)
    return int(1.1 * most) + WORKSPACE


@functools.cache
def _weights(
    config: SVDConfig,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    decode_dtype: torch.dtype,
    packing: Packing | None,
) -> tuple[int, int, int]:
    """Bytes of the weights of UNet, VAE and CLIP; CLIP's are never packed."""
    with torch.device("meta"):
        vae, clip = VAE(config.vae).to(vae_dtype), CLIPVisionEncoder(config.clip).to(dtype)
    unet = build_unet(config.unet).to(dtype)
    size = functools.partial(packed_bytes, packing=packing) if packing else weight_bytes
    return size(unet), size(vae.decode_in(decode_dtype)), weight_bytes(clip)


@functools.cache
def _calling(config: UNetConfig, dtype: torch.dtype, branches: int, f: int, height: int, width: int) -> int:
    return peak_bytes(unet_call(build_unet(config).to(dtype), branches, f, height, width))


@functools.cache
def _encoding(config: VAEConfig, dtype: torch.dtype, height: int, width: int) -> int:
    with torch.device("meta"):
        vae = VAE(config).to(dtype)
    return peak_bytes(lambda: vae.encode(on_meta(1, 3, height, width)))


@functools.cache
def _decoding(config: VAEConfig, dtype: torch.dtype, chunk: int, height: int, width: int) -> int:
    with torch.device("meta"):
        vae = VAE(config).to(dtype)
    return peak_bytes(lambda: vae.decode(on_meta(1, chunk, config.latent_channels, height, width)))


def table(config: SVDConfig, run: Run, gib: tuple[int, ...] = (8, 12, 16, 24)) -> Table:
    """Table of what fits on cards of so many GiB, of which a tenth is left to the driver and the desktop."""
    asked = Way(False, False, torch.float16, torch.float32, run.settings.decode_chunk)
    rows = []
    for size in gib:
        budget = int(0.9 * size * 2**30)
        way = fit(config, run, asked, budget, vae_dtype=torch.float32)
        fits = "" if way.peak <= budget else "does not fit: "
        rows.append((f"{size} GB", f"{way.peak / 2**30:.1f}", f"{fits}{way.differs(asked)}"))
    title = f"{config.name}, {run.frames} frames of {run.width}x{run.height}, float16, {run.preset.name}"
    return Table(title, ("card", "peak, GiB", "what is done"), tuple(rows))
