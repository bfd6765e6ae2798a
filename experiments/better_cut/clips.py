"""Clips and scores of the candidates, kept in a folder by what decides them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vcut
from experiments.better_cut.candidates import Candidate
from experiments.better_cut.peers import Peer
from experiments.better_cut.rules import Rule
from training import measure, recognise, world
from training.config import HELD_OUT_SEED
from training.evaluate import first_frames, without_nan
from vcut.config import Preset
from vcut.loading import Found
from vcut.pipeline import Pipeline
from vcut.sampling import constant, plan, sample
from vcut.settings import Run, resolve
from weights_tools.convert import convert
from weights_tools.outputs import replacing

Make = Callable[[world.Scenes, tuple[int, ...]], Tensor]
"""``make(scenes, seeds) -> [n, f, c, h, w]``: latents of a candidate's clips."""

TUNING_SEED = 3
"""Seed of scenes to choose numbers on: no model has learned from them, no candidate is judged on them."""


@dataclass(frozen=True)
class Bench:
    """A model, the scenes, and the folder that keeps what was made of them."""

    found: Found
    out: Path
    baseline: Candidate
    count: int
    tuning: bool
    batch: int

    @cached_property
    def scenes(self) -> world.Scenes:
        """The scenes, all with the model's rate and speed."""
        config = self.found.config
        drawn = world.draw(64, TUNING_SEED if self.tuning else HELD_OUT_SEED, config.width)
        return drawn[: self.count].asked(motion_bucket=config.motion_bucket, fps=config.fps)

    @cached_property
    def judge(self) -> tuple[Pipeline, nn.Module]:
        """The model whose VAE and CLIP decode and score all clips, and the classifier of shapes."""
        model = vcut.load(self.found, preset="lossless", device="cpu")
        return model, recognise.classifier(model.config.frames, model.config.width)

    @cached_property
    def reference(self) -> Tensor:
        """Frames ``[n, f, 3, s, s]`` of the baseline's clips."""
        return frames(self, latents(self, self.baseline, lambda _: None)[0])

    @cached_property
    def weights(self) -> str:
        """Hash of the checkpoint."""
        return hashlib.sha256(self.found.checkpoint.path.read_bytes()).hexdigest()

    @cached_property
    def exported(self) -> Path:
        """The folder of the model in the layout of diffusers, kept with the clips."""
        folder = self.out / f"diffusers-{self.weights[:12]}"
        if not folder.is_dir():
            convert(self.found.checkpoint.path, folder, "diffusers", dtype=torch.float32)
        return folder

    def load(self, candidate: Candidate) -> tuple[nn.Module, Make]:
        """The candidate's UNet, loaded, and the function that makes its clips with it."""
        row, rule, config = candidate.row, candidate.rule, self.found.config
        preset = Preset("candidate", row.tca, row.sca)
        if isinstance(rule, Peer):
            unet, follow = rule.bind(self.exported)
        else:
            model = vcut.load(self.found, preset=preset, device="cpu")
            unet, follow = model.unet, partial(followed, model, rule)

        def make(scenes: world.Scenes, seeds: tuple[int, ...]) -> Tensor:
            asked = row.settings.replace(
                fps=int(scenes.fps[0]), motion_bucket=int(scenes.motion_bucket[0]), seed=seeds
            )
            return follow(resolve(asked, config, preset), first_frames(scenes, config.width))

        return unet, make

    def path(self, candidate: Candidate, suffix: str) -> Path:
        """The file that keeps a candidate's latents or scores: another name for other clips."""
        key = [self.weights, self.tuning, self.count, candidate.described()]
        name = "".join(c if c.isalnum() else "-" for c in candidate.name)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        return self.out / f"{name}-{digest}{suffix}"


def latents(bench: Bench, candidate: Candidate, tick: Callable[[int], object]) -> tuple[Tensor, float]:
    """Latents ``[n, f, c, h, w]`` of all scenes, and passes of the UNet over one clip that they took.

    ``tick`` is told of the clips that are done.
    """
    file = bench.path(candidate, ".safetensors")
    if not file.is_file():
        network, make = bench.load(candidate)
        parts, passes = [], 0.0
        frames = candidate.row.settings.frames or bench.found.config.frames

        def count(unet: nn.Module, args: tuple[Any, ...]) -> None:
            nonlocal passes
            passes += args[0].shape[:2].numel() / (bench.count * frames)

        network.register_forward_pre_hook(count)
        for i in range(0, bench.count, bench.batch):
            part = bench.scenes[i : i + bench.batch]
            parts.append(make(part, tuple(range(i, i + len(part)))))
            tick(len(part))
        with replacing(file) as room:
            save_file({"latents": torch.cat(parts), "passes": torch.tensor(passes)}, room)
    else:
        tick(bench.count)
    kept = load_file(file)
    return kept["latents"], round(kept["passes"].item(), 2)


def followed(model: Pipeline, rule: Rule | None, run: Run, pictures: Sequence[Tensor]) -> Tensor:
    """Latents ``[n, f, c, h, w]`` of a run of the model, under a rule if there is one."""
    if rule is None:
        return model.sample_latents(run, pictures)
    conditioning, noise, generators = model.prepare(run, pictures)
    denoiser = rule.bind(model.unet, conditioning, run)
    return sample(
        denoiser,
        noise,
        run.sigmas,
        plan(len(run.plan), cut=1),
        constant(1.0),
        sampler=run.settings.sampler,
        generators=generators,
    )


def frames(bench: Bench, latents: Tensor) -> Tensor:
    """Frames ``[n, f, 3, s, s]`` of latents of all scenes."""
    return torch.cat([bench.judge[0].decode(part) for part in torch.split(latents, bench.batch)])


def scores(bench: Bench, candidate: Candidate, made: Tensor) -> dict[str, Tensor]:
    """Scores of every clip of ``made``, the candidate's latents: ``[n]`` by name; NaN where one does not apply."""
    file = bench.path(candidate, ".json")
    if not file.is_file():
        model, classifier = bench.judge
        shown = frames(bench, made)
        found = vars(measure.quality(shown, bench.scenes, model.clip, classifier))
        found["fidelity"] = measure.psnr(shown, bench.reference)
        kept = {name: values.tolist() for name, values in found.items()}
        document = {"name": candidate.name, **candidate.described(), "scores": without_nan(kept)}
        with replacing(file) as room:
            room.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    kept = json.loads(file.read_text())["scores"]
    return {name: torch.tensor([math.nan if v is None else v for v in kept[name]]) for name in kept}
