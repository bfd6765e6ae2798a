"""One loop for many clips: read the picture, generate, decode, write, report.

A picture of a folder that cannot be read, or whose clip cannot have its name, does not stop the others: it is
reported, and counted at the end. Clips that another process makes meanwhile are skipped.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from vcut import media
from vcut.errors import MediaError, OutOfMemoryError, OutputExistsError
from vcut.media import images
from vcut.pipeline import Pipeline
from vcut.settings import Run
from vcut.sweeps.jobs import Job, Outputs, Work, identity

Say = Callable[[str], None]
"""Takes a line that tells the user something."""

HELD = 16
"""Pictures that are kept in memory from the check before the run: 7 MB each at the size of the published models.

More than these are read again when their turn comes: a fraction of a second for clips of minutes.
"""


def make_clips(
    work: Work,
    run: Run,
    outputs: Outputs,
    load: Callable[[], Pipeline],
    *,
    say: Say,
    warn: Say,
    progress: bool = False,
) -> None:
    """Make the clips of ``work``.

    Args:
        work: clips to make, those of one picture after each other.
        run: what is done for each clip; the seed is the job's.
        outputs: how clips are written.
        load: loads the model. It is called once, when every named picture and the first of the others were read.
        say: takes a line for each clip.
        warn: takes a line for each picture of a folder whose clips cannot be made.
        progress: show a bar for each clip.

    Raises:
        MediaError: named pictures that cannot be read, before the first clip. At the end, if clips of pictures of a
            folder could not be made; all others were.
    """
    begun = time.perf_counter()
    pipe: Pipeline | None = None
    made: dict[object, str] = {}
    missing = 0

    def skip(jobs: Sequence[Job], reason: object) -> None:
        nonlocal missing
        missing += len(jobs)
        warn(f"skipped: {reason}")

    for job, pixels in _read_pictures(work.jobs, run, skip):
        if twin := made.get(identity(job.output)):
            skip([job], f"{job.output} is one file with {twin} on this disk: rename a picture")
            continue
        if not (work.skipping and os.path.lexists(job.output)):
            pipe = pipe or load()
            try:
                _make_clip(pipe, pixels, run, job, outputs, say, progress)
                # it may be moved away at once
                made[identity(job.output) or job.output] = job.output
                continue
            except OutputExistsError:
                if not work.skipping:
                    raise
        say(f"skipped  {job.output} exists")
    if len(made) > 1:
        say(f"done     {len(made)} clips in {time.perf_counter() - begun:.1f} s")
    if missing:
        raise MediaError(f"{missing} of {len(work.jobs)} clips could not be made")


def _read_pictures(
    jobs: Sequence[Job], run: Run, skip: Callable[[Sequence[Job], object], None]
) -> Iterator[tuple[Job, Tensor]]:
    """Each job with its picture at the size of the frames; named pictures are all read before the first."""

    def read(picture: Path) -> Tensor:
        return images.fitted(picture, run.height, run.width, run.settings.fit)

    kept: dict[Path, Tensor] = {}
    faults = []
    for picture in dict.fromkeys(job.picture for job in jobs if job.named):
        try:
            pixels = read(picture)
        except MediaError as error:
            faults.append(str(error))
            continue
        if len(kept) < HELD:
            kept[picture] = pixels
    if faults:
        several = f"{len(faults)} pictures cannot be used: " if len(faults) > 1 else ""
        raise MediaError(several + ", ".join(faults))
    for (picture, fault), group in itertools.groupby(jobs, key=lambda job: (job.picture, job.fault)):
        clips = list(group)
        try:
            if fault:
                raise MediaError(fault)
            pixels = kept.pop(picture) if picture in kept else read(picture)
        except MediaError as error:
            skip(clips, error)
            continue
        yield from ((job, pixels) for job in clips)


def _make_clip(
    pipe: Pipeline, pixels: Tensor, run: Run, job: Job, outputs: Outputs, say: Say, progress: bool
) -> None:
    started = time.perf_counter()
    frames, _ = frames_and_latents(pipe, run, pixels, job.seed, say, progress)
    Path(job.output).parent.mkdir(parents=True, exist_ok=True)
    media.write(frames, job.output, run.fps, overwrite=outputs.overwrite, enlarge=outputs.enlarge)
    f, _, height, width = frames.shape
    size = f"{width * outputs.enlarge}x{height * outputs.enlarge}"
    seconds = time.perf_counter() - started
    say(f"wrote    {job.output}: {f} frames, {size}, {run.fps} fps, seed {job.seed}, in {seconds:.1f} s")
    if outputs.sheet:
        media.contact_sheet(frames, outputs.sheet, overwrite=outputs.overwrite, enlarge=outputs.enlarge)
        say(f"wrote    {outputs.sheet}")


def frames_and_latents(
    pipe: Pipeline, run: Run, pixels: Tensor, seed: int, say: Say, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Frames ``[f, 3, H, W]`` and latents of a clip; what does not fit into memory is decoded in smaller chunks."""
    latents = pipe.sample_latents(run, pixels, seed=seed, progress=progress)
    chunk = run.settings.decode_chunk or run.frames
    while True:
        try:
            return pipe.decode(latents, chunk)[0], latents[0]
        except OutOfMemoryError as error:
            chunk = min(chunk, run.frames) // 2
            if not chunk:
                raise OutOfMemoryError(
                    "decoding a single frame does not fit into memory: take --decode-dtype float16"
                ) from error
        say(f"note     decoding did not fit into memory, now {chunk} frames at a time")
