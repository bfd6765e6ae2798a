"""A sweep's folder with clips of a square that moves, with noise of its own in each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from vcut import media
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record, Sweep

NOISE = {"baseline": 0.0, "lossless": 0.0, "c17": 0.05}
"""Deviation of the noise in each setting's clips."""

PRESETS = {"baseline": ("baseline", {}), "lossless": ("lossless", {}), "c17": ("vcut", {"cut": 17})}


def write_sweep(
    folder: Path,
    settings: Sequence[str] = tuple(NOISE),
    *,
    images: int = 3,
    clips: int = 2,
    latents: bool = False,
) -> list[Record]:
    """Write the pictures, clips and manifest of a sweep, and return its records; the pictures lie in ``images/``."""
    futures = [moving_square(i) for i in range(images)]
    out, pictures = folder / "out", folder / "images"
    pictures.mkdir(exist_ok=True)
    for i, future in enumerate(futures):
        Image.fromarray(_bytes(future[:1])[0]).save(pictures / f"scene{i}.png")
    for setting in settings:
        (out / setting / "latents").mkdir(parents=True)
    manifest.write_sweep(out, describe(settings))
    records = []
    for setting in settings:
        for i, future in enumerate(futures):
            for index in range(clips):
                seed = 10 * i + index
                noise = torch.randn(future.shape, generator=torch.Generator().manual_seed(seed))
                shared = 0.02 * torch.randn(
                    future.shape, generator=torch.Generator().manual_seed(seed + 1000)
                )
                frames = (future + shared + NOISE[setting] * noise).clamp(0, 1)
                file = f"{setting}/scene{i}-{index}.mp4"
                media.write(frames, out / file, 7)
                kept = f"{setting}/latents/scene{i}-{index}.safetensors" if latents else None
                if kept:
                    save_file({"latents": frames[:, :, ::8, ::8].contiguous()}, out / kept)
                preset, chosen = PRESETS[setting]
                record = Record(
                    setting=setting,
                    name=f"scene{i}",
                    index=index,
                    file=file,
                    image=str(pictures / f"scene{i}.png"),
                    image_sha256=manifest.file_sha256(pictures / f"scene{i}.png"),
                    seed=seed,
                    preset=preset,
                    settings=chosen,
                    model="tiny",
                    weights_sha256="0" * 64,
                    versions={},
                    device="cpu",
                    frames=8,
                    height=32,
                    width=32,
                    fps=7,
                    seconds=1.0 if setting == "baseline" else 0.8,
                    bytes=(out / file).stat().st_size,
                    file_sha256=manifest.file_sha256(out / file),
                    frames_sha256=manifest.frames_sha256(_bytes(frames)),
                    latents=kept,
                )
                manifest.append(out / "manifest.jsonl", record)
                records.append(record)
    return records


def describe(settings: Sequence[str]) -> Sweep:
    """A ``sweep.json`` with these settings, in this order."""
    return Sweep(
        model="tiny",
        weights_sha256="0" * 64,
        dtypes={},
        threads=1,
        clips=1,
        seed=0,
        enlarge=1,
        settings={setting: {} for setting in settings},
        images={},
    )


def moving_square(number: int) -> torch.Tensor:
    """Frames ``[8, 3, 32, 32]`` of a square of its own colour and speed on a gradient."""
    frames = torch.linspace(0.2, 0.6, 32).expand(8, 3, 32, 32).clone()
    for frame in range(8):
        left = 2 + frame * (1 + number)
        frames[frame, number % 3, 8 + number : 18 + number, left % 22 : left % 22 + 8] = 0.9
    return frames


def _bytes(frames: torch.Tensor) -> np.ndarray:
    return (frames * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
