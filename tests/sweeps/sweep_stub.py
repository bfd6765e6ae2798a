"""A model that takes no time, and small sweeps of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vcut.config import TINY, Preset, SVDConfig
from vcut.settings import Run
from vcut.sweeps.manifest import Sweep
from vcut.sweeps.settings_table import Setting, from_presets
from vcut.sweeps.suite import Picture
from vcut.sweeps.sweep import Task, all_tasks

PRESETS = ("baseline", "lossless", "vcut")


@dataclass
class Stub:
    """Clips of noise that depends on the picture, the seed and the form alone."""

    preset: Preset
    config: SVDConfig = TINY
    note: str | None = None
    packing: None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    # called before each clip, to stop it
    before: Callable[[], None] = lambda: None

    @property
    def unet(self) -> Tensor:
        """Something that has a dtype."""
        return torch.zeros(1)

    def sample_latents(self, run: Run, pixels: Tensor, *, seed: int, progress: bool) -> Tensor:
        self.before()
        generator = torch.Generator().manual_seed(
            (seed + int(pixels.sum() * 255) + len(str(run.preset))) % 2**62
        )
        return torch.randn((1, *run.latent), generator=generator)

    def decode(self, latents: Tensor, chunk: int | None) -> Tensor:
        small = latents[:, :, :3].sigmoid()
        return small.repeat_interleave(4, -1).repeat_interleave(4, -2)


def make_pictures(folder: Path, number: int) -> tuple[Picture, ...]:
    """Pictures of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(number):
        path = folder / f"picture {i}.png"
        Image.new("RGB", (32, 32), (i % 256, i // 256, 7)).save(path)
        made.append(Picture(path.stem, path))
    return tuple(made)


def make_sweep(
    pictures: tuple[Picture, ...],
    settings: tuple[Setting, ...] | None = None,
    *,
    clips: int = 2,
    seed: int = 0,
) -> tuple[Sweep, list[Task]]:
    """A sweep of these pictures with the presets, and all of its tasks."""
    settings = from_presets(PRESETS, (), lambda *_: {}) if settings is None else settings
    sweep = Sweep(
        model="tiny",
        weights_sha256="0" * 64,
        dtypes={"unet": "float32"},
        threads=1,
        clips=clips,
        seed=seed,
        enlarge=1,
        settings={setting.name: setting.to_dict() for setting in settings},
        images={picture.name: str(picture.path) for picture in pictures},
    )
    return sweep, list(all_tasks(settings, pictures, TINY, clips=clips, seed=seed))
