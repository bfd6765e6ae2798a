"""Decoding latents to frames, all frames of a clip together: vcut's VAE beside diffusers'.

    python -m benchmarks.vae [--frames 4 --height 256 --width 256] [--dtype float32] [--rounds 2]

A dtype that this CPU only emulates is left out.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import command
from benchmarks.harness.report import Found, Row
from benchmarks.harness.rounds import Entry, alternate, difference, entry_notes, workers
from benchmarks.harness.weights import DTYPES, configuration, native, write_part
from benchmarks.harness.worker import CONTENDERS, Built
from vcut.analysis.counting import vae_networks
from vcut.config import VAEConfig
from vcut.layers import assembled, pack
from vcut.vae import VAE
from weights_tools.checkpoint import open_checkpoint

MODULE = "benchmarks.vae"


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels; ``minutes`` are for each dtype."""

    model: str = "svd-xt"
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    frames: int = 4
    height: int = 256
    width: int = 256
    rounds: int = 2
    minutes: float = 4.0


def run(settings: Settings, folder: Path) -> Found:
    """Measure the dtypes one after the other."""
    config = configuration(settings.model)
    size = (settings.frames, settings.height, settings.width)
    operations = 2 * vae_networks(config.vae, *size)[1].macs.total
    rows: list[Row] = []
    notes: list[str] = [settings.model]
    dtypes, missing = native(settings.dtype)
    for dtype in dtypes:
        case = f"{dtype}, decoding {settings.frames} frames of {settings.width}x{settings.height}"
        path = write_part(folder, config, "vae", dtype)
        with ExitStack() as stack:
            build = {"path": str(path), "model": settings.model, "dtype": dtype, "size": size}
            processes, _ = workers(stack, MODULE, dict.fromkeys(CONTENDERS, build))
            entries = [Entry(worker, "decode") for worker in processes.values()]
            alternate(entries, rounds=settings.rounds, minutes=settings.minutes)
        expected = entries[0].result()
        notes += entry_notes(entries)
        rows += [
            Row(
                case,
                CONTENDERS[entry.worker.contender],
                entry.seconds,
                peak=entry.peak,
                flop=operations,
                difference=difference(entry.result(), expected),
            )
            for entry in entries
        ]
    return Found(rows, notes, missing)


def _latents(config: VAEConfig, size: tuple[int, int, int]) -> Tensor:
    """The same ``[1, f, z, h, w]`` every time, for ``size``: frames, and their height and width."""
    frames, height, width = size
    torch.manual_seed(0)
    return torch.randn(1, frames, config.latent_channels, height // config.stride, width // config.stride)


def build(contender: str, *, path: str, model: str, dtype: str, size: tuple[int, int, int]) -> Built:
    """Make decoding ready, in a worker: the same latents ``[1, f, z, h, w]`` to frames ``[1, f, 3, H, W]``."""
    config = configuration(model).vae
    latents = _latents(config, size).to(DTYPES[dtype])
    if contender == "vcut":
        ours = assembled(VAE, config, open_checkpoint(path).read("vae"))
        ours.eval().requires_grad_(False)
        pack(ours)

        def decode(z: Tensor) -> Tensor:
            return ours.decode(z)

    else:
        from benchmarks.harness import peers

        theirs = peers.vae(Path(path))

        def decode(z: Tensor) -> Tensor:
            decoded: Tensor = theirs.decode(z.flatten(0, 1), num_frames=z.shape[1]).sample
            return decoded[None]

    with torch.no_grad():
        decode(latents[:, :1, :, :2, :2])  # touches the weights, loads the code
    return {"decode": lambda: decode(latents)}, {}


CHAPTERS = {
    "vae_decode": command.Chapter(
        "Decoding a clip",
        run,
        Settings(),
        Settings("tiny", ("float32",), frames=2, height=32, width=32, rounds=1, minutes=1.0),
    )
}


if __name__ == "__main__":
    command.main("vae")
