"""One loop for many clips: read the picture, generate, decode, write, report.

A picture that cannot be read does not stop the others: it is reported, and counted at the end.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from vcut import media
from vcut.errors import MediaError, OutOfMemoryError
from vcut.media import images
from vcut.pipeline import Pipeline
from vcut.settings import Run
from vcut.sweeps.jobs import Job, Outputs

Say = Callable[[str], None]
"""Takes a line that tells the user something."""

HELD = 16
"""Pictures that are kept in memory from the check before the run: 7 MB each at the size of the published models.

More than these are read again when their turn comes: a fraction of a second for clips of minutes.
"""


def make_clips(
    jobs: Sequence[Job],
    run: Run,
    outputs: Outputs,
    load: Callable[[], Pipeline],
    *,
    say: Say,
    warn: Say,
    progress: bool = False,
) -> None:
    """Make the clips of ``jobs``.

    Args:
        jobs: clips to make, those of one picture after each other.
        run: what is done for each clip; the seed is the job's.
        outputs: how clips are written.
        load: loads the model. It is called once, when every named picture and the first of the others were read.
        say: takes a line for each clip.
        warn: takes a line for each picture of a folder that cannot be used.
        progress: show a bar for each clip.

    Raises:
        MediaError: named pictures that cannot be read, before the first clip. At the end, if pictures of a folder
            could not be read; the clips of all others were made.
    """
    begun = time.perf_counter()
    pipe: Pipeline | None = None
    unusable: list[Path] = []
    made = 0
    for job, pixels in _read_pictures(jobs, run, unusable, warn):
        pipe = pipe or load()
        _make_clip(pipe, pixels, run, job, outputs, say, progress)
        made += 1
    if made > 1:
        say(f"done     {made} clips in {time.perf_counter() - begun:.1f} s")
    if unusable:
        total = len({job.picture for job in jobs})
        raise MediaError(f"{len(unusable)} of {total} pictures cannot be used")


def _read_pictures(
    jobs: Sequence[Job], run: Run, unusable: list[Path], warn: Say
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
    for picture, clips in itertools.groupby(jobs, key=lambda job: job.picture):
        try:
            pixels = kept.pop(picture) if picture in kept else read(picture)
        except MediaError as error:
            warn(f"skipped: {error}")
            unusable.append(picture)
            continue
        yield from ((job, pixels) for job in clips)


def _make_clip(
    pipe: Pipeline, pixels: Tensor, run: Run, job: Job, outputs: Outputs, say: Say, progress: bool
) -> None:
    started = time.perf_counter()
    try:
        frames = pipe.follow(run, pixels, seed=job.seed, progress=progress)
    except OutOfMemoryError as error:
        if error.latents is None:
            raise
        frames = decode_with_less(pipe, error.latents, run.settings.decode_chunk, say)
    Path(job.output).parent.mkdir(parents=True, exist_ok=True)
    media.write(frames, job.output, run.fps, overwrite=outputs.overwrite, enlarge=outputs.enlarge)
    f, _, height, width = frames.shape
    size = f"{width * outputs.enlarge}x{height * outputs.enlarge}"
    seconds = time.perf_counter() - started
    say(f"wrote    {job.output}: {f} frames, {size}, {run.fps} fps, seed {job.seed}, in {seconds:.1f} s")
    if outputs.sheet:
        media.contact_sheet(frames, outputs.sheet, overwrite=outputs.overwrite, enlarge=outputs.enlarge)
        say(f"wrote    {outputs.sheet}")


def decode_with_less(pipe: Pipeline, latents: Tensor, chunk: int | None, say: Say) -> Tensor:
    """Decode finished latents in ever smaller chunks, until they fit or are single frames."""
    frames = latents.shape[1]
    chunk = min(chunk or frames, frames)
    while chunk > 1:
        chunk //= 2
        say(f"note     decoding did not fit into memory, now {chunk} frames at a time")
        try:
            return pipe.decode(latents, chunk)[0]
        except OutOfMemoryError:
            continue
    raise OutOfMemoryError("decoding a single frame does not fit into memory: take --decode-dtype float16")
