"""One clip of a sweep: made with a loaded model, written, and described by its record."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save_file

from vcut import __version__, media
from vcut.config import Preset
from vcut.errors import MediaError, NotFiniteError, PictureError
from vcut.media import images
from vcut.media.clips import to_bytes
from vcut.pipeline import Pipeline
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record, Sweep
from vcut.sweeps.runner import Say, frames_and_latents
from vcut.sweeps.sweep import Task
from weights_tools.outputs import replacing

CRF = 10
"""Quality of H.264 that VBench's sample script writes with."""

Outcome = Record | PictureError | NotFiniteError
"""The record of a clip, or why there is none although others can be made."""

Maker = Callable[[Task], Outcome]
"""Makes one clip."""


def clip_maker(
    load: Callable[[Preset], Pipeline],
    sweep: Sweep,
    out: Path,
    *,
    latents: bool = False,
    say: Say = lambda line: None,
) -> Maker:
    """A function that makes clips by :func:`make_clip`, and keeps the model of the last one's form loaded.

    ``load`` loads the model in the form of a preset; the one before is let go first.
    """
    pipe: Pipeline | None = None
    form: object = None

    def make(task: Task) -> Outcome:
        nonlocal pipe, form
        if pipe is None or task.form != form:
            pipe = None
            pipe, form = load(task.run.preset), task.form
        try:
            return make_clip(pipe, task, sweep, out, latents, say)
        except (PictureError, NotFiniteError) as error:
            return error

    return make


def make_clip(pipe: Pipeline, task: Task, sweep: Sweep, out: Path, latents: bool, say: Say) -> Record:
    """Make the clip of ``task``, put it in its place in the folder ``out``, and return its record.

    The clip replaces what is there; until the record is appended to a manifest it does not count. Nothing else is
    written or kept, and clips are equal whatever was made before.

    Args:
        pipe: the model, in the task's form.
        task: the clip.
        sweep: the sweep that it belongs to.
        out: the sweep's folder.
        latents: keep the sampler's last latents as well.
        say: takes a line if decoding has to be done in smaller chunks than asked for.

    Raises:
        PictureError: the picture cannot be read. Clips of others can be made.
        NotFiniteError: the numbers of this clip overflow.
        VcutError: it cannot be written, or memory is short; others will meet the same.
    """
    run = task.run
    try:
        pixels = images.fitted(task.image, run.height, run.width, run.settings.fit)
        image_sha256 = manifest.file_sha256(task.image)
    except (MediaError, OSError) as error:
        raise PictureError(f"{error}") from error
    begun = time.perf_counter()
    frames, sampled = frames_and_latents(pipe, run, pixels, task.seed, say)
    seconds = time.perf_counter() - begun

    file = out / task.file
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: tuple[int, str] | tuple[None, None] = None, None
    if latents:
        (out / task.latents).parent.mkdir(exist_ok=True)
        with replacing(out / task.latents, overwrite=True) as target:
            save_file({"latents": sampled.cpu().contiguous()}, target)
        kept = (out / task.latents).stat().st_size, manifest.file_sha256(out / task.latents)
    pictures = to_bytes(frames, sweep.enlarge, file)
    media.write(frames, file, run.fps, overwrite=True, crf=CRF, enlarge=sweep.enlarge)
    device = pipe.device
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return Record(
        setting=task.setting,
        name=task.name,
        index=task.index,
        file=task.file,
        image=str(task.image),
        image_sha256=image_sha256,
        seed=task.seed,
        preset=run.preset.name,
        settings=run.settings.to_dict(),
        model=sweep.model,
        unet=sweep.unet,
        weights_sha256=sweep.weights_sha256,
        versions={"vcut": __version__, "torch": torch.__version__, "python": platform.python_version()},
        device=f"{device}{gpu}",
        frames=pictures.shape[0],
        height=pictures.shape[1],
        width=pictures.shape[2],
        fps=run.fps,
        seconds=round(seconds, 3),
        bytes=file.stat().st_size,
        file_sha256=manifest.file_sha256(file),
        frames_sha256=manifest.frames_sha256(pictures),
        latents=task.latents if latents else None,
        latents_bytes=kept[0],
        latents_sha256=kept[1],
        tca=run.preset.tca,
        sca=run.preset.sca,
        dtypes=sweep.dtypes,
        threads=sweep.threads,
        enlarge=sweep.enlarge,
        kernels=sweep.kernels,
        packing=sweep.packing if device.type == "cpu" else None,
        finished=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
