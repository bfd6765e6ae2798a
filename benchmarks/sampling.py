"""Whole sampling, 25 steps from noise to latents: vcut's presets beside diffusers' pipeline, T-GATE and DeepCache.

    python -m benchmarks.sampling [--dtype float32] [--frames 4 --height 128 --width 128] [--rounds 1]
    python -m benchmarks.sampling --only accelerated           # diffusers alone, and accelerated in one line

The UNet has its full width; CLIP and the VAE's encoder, which run once, are small ones, so that the loop is what is
measured. Picture, noise and weights are the same: the baseline and the lossless preset must give diffusers' latents,
and the difference of the others is their approximation's (on random weights: a trained model differs less, or more).

T-GATE (``tgate``) and DeepCache (``DeepCache``) are run on diffusers with the settings that their authors give for
Stable Video Diffusion: gate at step 10, and every third step computed, with branch 0. A warm-up is two steps.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import command
from benchmarks.harness.report import Found, Row
from benchmarks.harness.rounds import Entry, alternate, difference, entry_notes, workers
from benchmarks.harness.weights import configuration, native, write_part
from benchmarks.harness.worker import CONTENDERS, Built, first_line
from benchmarks.unet import FORMS, Call, flop, load
from vcut.clip import CLIPVisionEncoder
from vcut.conditioning import bind
from vcut.config import PRESETS, TINY, PresetName, SVDConfig, VAEConfig
from vcut.integrations.diffusers import accelerate
from vcut.layers import assembled, pack
from vcut.media import images
from vcut.pipeline import Pipeline
from vcut.sampling import karras_sigmas, linear, plan, precondition, sample, summarize
from vcut.unet import UNet, fold
from vcut.vae import VAE
from weights_tools.checkpoint import open_checkpoint

MODULE = "benchmarks.sampling"
WARM_UP = " (two steps)"
TGATE, DEEPCACHE = "T-GATE on diffusers", "DeepCache on diffusers"
ACCELERATED: dict[str, PresetName] = {
    "diffusers, accelerated lossless": "lossless",
    "diffusers, accelerated with the cut": "vcut",
}
"""Presets that :func:`vcut.integrations.diffusers.accelerate` gives the pipeline, by the report's names."""


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels; ``gate_step`` is T-GATE's, ``interval`` DeepCache's; ``minutes`` are for each dtype.

    ``processes`` are those that take part, ``beside`` the methods that run on diffusers, in its last one.
    """

    model: str = "svd-xt"
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    frames: int = 4
    height: int = 128
    width: int = 128
    steps: int = 25
    gate_step: int = 10
    interval: int = 3
    processes: tuple[str, ...] = tuple(CONTENDERS)
    beside: tuple[str, ...] = (TGATE, DEEPCACHE)
    rounds: int = 1
    minutes: float = 13.0


def run(settings: Settings, folder: Path) -> Found:
    """Measure everyone in turn, the dtypes one after the other."""
    cut = PRESETS["vcut"].cut_step(settings.steps)
    notes = [
        f"{settings.model}; guidance 1 to 3; vcut cuts at step {cut} of {settings.steps}, T-GATE gates at step "
        f"{settings.gate_step}, DeepCache computes every {settings.interval}. step in full."
    ]
    rows: list[Row] = []
    dtypes, missing = native(settings.dtype)
    for dtype in dtypes:
        found, entries, failed = _of_dtype(settings, dtype, folder)
        rows += found
        notes += entry_notes(entries)
        missing |= {f"{name}, {dtype},": reason for name, reason in failed.items()}
    if "bfloat16" in settings.dtype:
        notes.append(
            "In bfloat16 all are rounded, diffusers too, whose latents are then bfloat16: vcut's are float32."
        )
    return Found(rows, notes, missing)


def run_accelerated(settings: Settings, folder: Path) -> Found:
    """Measure the pipeline as it is and accelerated, in turn in one process."""
    found = run(settings, folder)
    steps, guided = settings.steps, PRESETS["vcut"].cut_step(settings.steps) - 1
    passes = steps + guided
    saved = 1 - passes / (2 * steps)
    notes = [
        f"From step {guided + 1} of {steps} on one pass instead of two: {passes} of {2 * steps}, {saved:.1%} less."
    ]
    for case in dict.fromkeys(row.case for row in found.rows):
        plain, *_, cut = (float(np.median(row.seconds)) for row in found.rows if row.case == case)
        notes.append(f"{case}: with the cut {1 - cut / plain:.1%} less time.")
    return found._replace(notes=notes + list(found.notes[1:]))


def _of_dtype(settings: Settings, dtype: str, folder: Path) -> tuple[list[Row], list[Entry], dict[str, str]]:
    """Rows, what ran, and what did not and why."""
    config = small_ends(configuration(settings.model))
    full = write_part(folder, configuration(settings.model), "unet", dtype)
    ends = {part: write_part(folder, config, part, dtype) for part in ("vae", "clip")}
    case = f"{settings.steps} steps, {settings.frames} frames of {settings.width}x{settings.height}, {dtype}"
    with ExitStack() as stack:
        paths = {"unet": str(full), **{part: str(path) for part, path in ends.items()}}
        build = {"paths": paths, "settings": dataclasses.asdict(settings)}
        processes, built = workers(stack, MODULE, dict.fromkeys(settings.processes, build))
        missing = {name: reason for reply in built.values() for name, reason in reply["missing"].items()}
        names = [
            (who, variant)
            for who, reply in built.items()
            for variant in reply["variants"]
            if not variant.endswith(WARM_UP)
        ]
        entries = [
            Entry(
                processes[who], variant, variant + WARM_UP, trim=True, optional=variant in (TGATE, DEEPCACHE)
            )
            for who, variant in names
        ]
        alternate(entries, rounds=settings.rounds, minutes=settings.minutes)

    expected = entries[0].result()
    rows = []
    for (_, variant), entry in zip(names, entries, strict=True):
        if entry.error is not None:
            missing[variant] = entry.error
            continue
        rows.append(
            Row(
                case,
                variant,
                entry.seconds,
                peak=entry.peak,
                flop=_flop(config, settings, variant),
                difference=difference(entry.result(), expected),
            )
        )
    return rows, entries, missing


def small_ends(config: SVDConfig) -> SVDConfig:
    """The same UNet between the CLIP of the tiny model and a narrow VAE."""
    clip = dataclasses.replace(TINY.clip, embed_dim=config.unet.context_dim)
    vae = VAEConfig(channels=(32, 32, 64, 64), latent_channels=config.vae.latent_channels)
    return dataclasses.replace(config, name=f"{config.name}-small-ends", vae=vae, clip=clip)


def _flop(config: SVDConfig, settings: Settings, variant: str) -> int | None:
    """Operations of the UNet's calls, where the method is counted here."""
    stride = config.vae.stride
    call = Call(settings.frames, settings.height // stride, settings.width // stride)
    if variant in (CONTENDERS["diffusers"], CONTENDERS["diffusers-same"]):
        return settings.steps * flop(config, call, published=True)
    for form, label in FORMS.items():
        if variant == label:
            summary = summarize(plan(settings.steps, PRESETS[form].cut_step(settings.steps)))
            both, one = (dataclasses.replace(call, form=form, batch=batch) for batch in (2, 1))
            guided = summary.guided
            return guided * flop(config, both, published=False) + (settings.steps - guided) * flop(
                config, one, published=False
            )
    return None


def picture(height: int, width: int) -> Any:
    """A PIL image of soft blotches."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def first_latents(config: SVDConfig, settings: Settings) -> Tensor:
    """Unit noise ``[1, f, z, h, w]`` in float32, whatever the dtype of the networks."""
    grid = (settings.height // config.vae.stride, settings.width // config.vae.stride)
    draw = torch.Generator().manual_seed(1)
    return torch.randn((1, settings.frames, config.vae.latent_channels, *grid), generator=draw)


def build(contender: str, *, paths: dict[str, str], settings: dict[str, Any]) -> Built:
    """Make runs of the sampler ready, in a worker, and the same of two steps."""
    chosen = Settings(**settings)
    config = small_ends(configuration(chosen.model))
    places = {part: Path(path) for part, path in paths.items()}
    missing: dict[str, str] = {}
    if contender == "vcut":
        trained = load(places["unet"], config)
        forms = {name: fold(trained, tca=PRESETS[name].tca, sca=PRESETS[name].sca) for name in FORMS}
        pack(*forms.values())
        runs = {FORMS[name]: _ours(form, name, config, places, chosen) for name, form in forms.items()}
    else:
        runs = {CONTENDERS[contender]: _theirs(config, places, chosen)}
    if contender == [name for name in chosen.processes if name != "vcut"][-1]:
        makers = {TGATE: _tgate, DEEPCACHE: _deepcache}
        makers |= {name: partial(_accelerated, preset) for name, preset in ACCELERATED.items()}
        for name in chosen.beside:
            try:
                runs[name] = makers[name](config, places, chosen)
            except Exception as error:
                missing[name] = first_line(error)
        try:
            if DEEPCACHE in chosen.beside:
                importlib.import_module("DeepCache.svd.pipeline_stable_video_diffusion")
        except Exception as error:
            missing["DeepCache's own pipeline for SVD (its helper is what runs above)"] = first_line(error)
    variants = {name: partial(run, chosen.steps) for name, run in runs.items()}
    return {**variants, **{name + WARM_UP: partial(run, 2) for name, run in runs.items()}}, missing


Run = Callable[[int], Tensor]
"""A run of a number of steps, which gives latents ``[1, f, z, h, w]``."""


def _ours(unet: UNet, form: str, config: SVDConfig, places: dict[str, Path], settings: Settings) -> Run:
    preset = PRESETS[form]
    vae = assembled(VAE, config.vae, open_checkpoint(places["vae"]).read("vae"))
    clip = assembled(CLIPVisionEncoder, config.clip, open_checkpoint(places["clip"]).read("clip"))
    pipe = Pipeline(unet, vae.eval(), clip.eval(), config, preset)
    height, width = settings.height, settings.width
    pixels = images.to_tensors(picture(height, width), height, width)

    def run(steps: int) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        image_noise = torch.randn(pixels.shape, generator=draw)
        noise = first_latents(config, settings)
        conditioning = pipe.condition(
            pixels, image_noise, fps=config.fps, motion_bucket=config.motion_bucket, noise_aug=0.02
        )
        evaluated = plan(steps, preset.cut_step(steps))
        denoiser = precondition(bind(pipe.unet, conditioning, evaluated, noise.shape[1]))
        return sample(denoiser, noise, karras_sigmas(steps), evaluated, linear(1.0, 3.0))

    return run


def _theirs(config: SVDConfig, places: dict[str, Path], settings: Settings) -> Run:
    pipe = _pipeline(config, places)
    return partial(_call, pipe, pipe.unet.dtype, config, settings)


def _tgate(config: SVDConfig, places: dict[str, Path], settings: Settings) -> Run:
    pipe = importlib.import_module("tgate.SVD").TgateSVDLoader(_pipeline(config, places))
    return partial(_call, pipe.tgate, pipe.unet.dtype, config, settings, gate_step=settings.gate_step)


def _deepcache(config: SVDConfig, places: dict[str, Path], settings: Settings) -> Run:
    pipe = _pipeline(config, places)
    helper = importlib.import_module("DeepCache").DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=settings.interval, cache_branch_id=0)

    def run(steps: int) -> Tensor:
        helper.enable()
        try:
            return _call(pipe, pipe.unet.dtype, config, settings, steps)
        finally:
            helper.disable()

    return run


def _accelerated(preset: PresetName, config: SVDConfig, places: dict[str, Path], settings: Settings) -> Run:
    pipe = _pipeline(config, places)
    accelerate(pipe, preset)
    return partial(_call, pipe, pipe.unet.dtype, config, settings)


def _pipeline(config: SVDConfig, places: dict[str, Path]) -> Any:
    """A pipeline with a UNet of its own, since T-GATE and DeepCache change theirs; the weights are the file's."""
    from benchmarks.harness import peers

    return peers.pipeline(config, peers.unet(places["unet"]), places["vae"], places["clip"])


def _call(
    pipe: Callable[..., Any],
    dtype: torch.dtype,
    config: SVDConfig,
    settings: Settings,
    steps: int,
    **more: Any,
) -> Tensor:
    latents: Tensor = pipe(
        picture(settings.height, settings.width),
        height=settings.height,
        width=settings.width,
        num_frames=settings.frames,
        num_inference_steps=steps,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
        fps=config.fps,
        motion_bucket_id=config.motion_bucket,
        noise_aug_strength=0.02,
        generator=torch.Generator().manual_seed(0),
        latents=first_latents(config, settings).to(dtype),
        output_type="latent",
        **more,
    ).frames
    return latents


QUICK = Settings(
    "tiny", ("float32",), frames=3, height=64, width=64, steps=4, gate_step=2, interval=2, minutes=1.0
)
ALONE: dict[str, Any] = {"processes": ("diffusers",), "beside": tuple(ACCELERATED)}

CHAPTERS = {
    "sampling": command.Chapter("A whole run of the sampler", run, Settings(), QUICK),
    "accelerated": command.Chapter(
        "diffusers' pipeline, accelerated in one line",
        run_accelerated,
        Settings(dtype=("float32",), rounds=3, minutes=25.0, **ALONE),
        dataclasses.replace(QUICK, **ALONE),
    ),
}


if __name__ == "__main__":
    command.main("sampling")
