"""One guided UNet call as the clip grows, in frames and in size: vcut's lossless form beside diffusers.

    python -m benchmarks.scaling [--frames 2 4 8 14 25] [--sizes 128x64 320x192] [--rounds 2]

``--frames`` are run at ``--at-size``, ``--sizes`` (width x height, in pixels) with ``--at-frames``; float32.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.report import Row, Section
from benchmarks.rounds import Entry, alternate, difference, workers
from benchmarks.unet_call import FORMS, MODULE, Call, entry_notes, flop, matrix_peak
from benchmarks.weights import configuration, write_part
from benchmarks.worker import CONTENDERS
from vcut.cli.values import size


@dataclass(frozen=True)
class Settings:
    """Sizes are width x height in pixels."""

    model: str = "svd-xt"
    frames: tuple[int, ...] = (2, 4, 8)
    at_size: str = "192x128"
    sizes: tuple[str, ...] = ("128x64", "192x128", "320x192")
    at_frames: int = 4
    rounds: int = 2
    minutes: float = 8.0


FULL = Settings()
QUICK = Settings("tiny", (1, 2), "64x64", ("64x64", "64x128"), 2, rounds=1, minutes=1.0)


def run(settings: Settings, folder: Path) -> Section:
    """Measure every size in turn."""
    config = configuration(settings.model)
    clips = [(frames, settings.at_size) for frames in settings.frames]
    clips += [(settings.at_frames, text) for text in settings.sizes]
    clips = list(dict.fromkeys(clips))
    path = write_part(folder, config, "unet", "float32")
    forms = {"diffusers": "baseline", "diffusers-same": "baseline", "vcut": "lossless"}
    labels = {**CONTENDERS, "vcut": FORMS["lossless"]}

    def call(contender: str, frames: int, text: str) -> Call:
        width, height = size(text)
        stride = config.vae.stride
        return Call(frames, height // stride, width // stride, form=forms[contender])

    with ExitStack() as stack:
        builds = {
            name: {
                "path": str(path),
                "model": settings.model,
                "calls": [dataclasses.asdict(call(name, *clip)) for clip in clips],
            }
            for name in CONTENDERS
        }
        processes, _ = workers(stack, MODULE, builds)
        runs = [(clip, name) for clip in clips for name in processes]
        entries = [Entry(processes[name], call(name, *clip).variant) for clip, name in runs]
        best: list[float] = []

        def peak() -> None:
            best.append(matrix_peak(processes["vcut"], "float32", settings.model))

        command.progress(f"a UNet call at {len(clips)} sizes")
        alternate(entries, rounds=settings.rounds, minutes=settings.minutes, between=peak)
        threads = str(processes["vcut"].settings["threads"])

    rows = []
    for i, ((clip, name), entry) in enumerate(zip(runs, entries, strict=True)):
        expected = entries[i - i % len(processes)].result()
        rows.append(
            Row(
                f"{clip[0]} frames of {clip[1]}",
                labels[name],
                entry.seconds,
                peak=entry.peak,
                flop=flop(config, call(name, *clip), published=name != "vcut"),
                attainable=max(best),
                difference=difference(entry.result(), expected),
            )
        )
    return Section(
        "scaling",
        "One call as the clip grows",
        tuple(rows),
        notes=(f"{settings.model}, float32, both branches.", *entry_notes(entries)),
        machine={"threads": threads},
    )


if __name__ == "__main__":
    command.main("scaling")
