"""Decoding latents to frames, all frames of a clip together: vcut's VAE beside diffusers'.

    python -m benchmarks.vae_decode [--frames 4 --height 256 --width 256] [--dtype float32] [--rounds 2]

bfloat16 is left out on a CPU that has no such arithmetic.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command
from benchmarks.padding import padding_macs
from benchmarks.report import Row, Section
from benchmarks.rounds import Entry, alternate, difference, workers
from benchmarks.unet_call import entry_notes, matrix_peak
from benchmarks.weights import DTYPES, configuration, write_part
from benchmarks.worker import CONTENDERS, Built
from vcut.analysis.counting import vae_networks
from vcut.config import VAEConfig
from vcut.kernels import runtime
from vcut.layers import pack
from vcut.vae import VAE
from weights_tools.checkpoint import open_checkpoint

MODULE = "benchmarks.vae_decode"


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels."""

    model: str = "svd-xt"
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    frames: int = 4
    height: int = 256
    width: int = 256
    rounds: int = 2
    minutes: float = 4.0  # for each dtype


FULL = Settings()
QUICK = Settings("tiny", ("float32",), frames=2, height=32, width=32, rounds=1, minutes=1.0)


def run(settings: Settings, folder: Path) -> Section:
    """Measure the dtypes one after the other."""
    config = configuration(settings.model)
    operations = flop(config.vae, settings)
    rows: list[Row] = []
    notes: list[str] = [settings.model]
    missing: dict[str, str] = {}
    threads = "?"
    for dtype in settings.dtype:
        if runtime.is_emulated(getattr(torch, dtype)):
            missing["bfloat16"] = "this CPU has no bfloat16 arithmetic"
            continue
        case = f"{dtype}, decoding {settings.frames} frames of {settings.width}x{settings.height}"
        command.progress(case)
        path = write_part(folder, config, "vae", dtype)
        with ExitStack() as stack:
            size = (settings.frames, settings.height, settings.width)
            build = {"path": str(path), "model": settings.model, "dtype": dtype, "size": size}
            processes, _ = workers(stack, MODULE, dict.fromkeys(CONTENDERS, build))
            entries = [Entry(worker, "decode") for worker in processes.values()]
            best = [matrix_peak(processes["vcut"], dtype, settings.model)]
            alternate(entries, rounds=settings.rounds, minutes=settings.minutes)
            best.append(matrix_peak(processes["vcut"], dtype, settings.model))
            threads = str(processes["vcut"].settings["threads"])
        expected = entries[0].result()
        notes += entry_notes(entries)
        rows += [
            Row(
                case,
                CONTENDERS[entry.worker.contender],
                entry.seconds,
                peak=entry.peak,
                flop=operations,
                attainable=max(best),
                difference=difference(entry.result(), expected),
            )
            for entry in entries
        ]
    title = "Decoding a clip"
    return Section("vae_decode", title, tuple(rows), tuple(notes), missing, {"threads": threads})


def flop(config: VAEConfig, settings: Settings) -> int:
    """Operations of decoding, but for zeros around maps."""
    size = (settings.frames, settings.height, settings.width)
    with torch.device("meta"):
        vae, latents = VAE(config), _latents(config, size)
    _, decoder = vae_networks(config, *size)
    return 2 * (decoder.macs.total - padding_macs(lambda: vae.decode(latents)))


def _latents(config: VAEConfig, size: tuple[int, int, int]) -> Tensor:
    """The same ``[1, f, z, h, w]`` every time, for ``size``: frames, and their height and width."""
    frames, height, width = size
    torch.manual_seed(0)
    return torch.randn(1, frames, config.latent_channels, height // config.stride, width // config.stride)


def build(contender: str, *, path: str, model: str, dtype: str, size: tuple[int, int, int]) -> Built:
    """In a worker: decoding the same latents ``[1, f, z, h, w]`` to frames ``[1, f, 3, H, W]``."""
    config = configuration(model).vae
    latents = _latents(config, size).to(DTYPES[dtype])
    if contender == "vcut":
        with torch.device("meta"):
            ours = VAE(config)
        ours.load_state_dict(open_checkpoint(path).read("vae"), strict=True, assign=True)
        ours.eval().requires_grad_(False)
        pack(ours)

        def decode(z: Tensor) -> Tensor:
            return ours.decode(z)

    else:
        from benchmarks import peers

        theirs = peers.vae(Path(path))

        def decode(z: Tensor) -> Tensor:
            decoded: Tensor = theirs.decode(z.flatten(0, 1), num_frames=z.shape[1]).sample
            return decoded[None]

    with torch.no_grad():
        decode(latents[:, :1, :, :2, :2])  # touches the weights, loads the code
    return {"decode": lambda: decode(latents)}, {}


if __name__ == "__main__":
    command.main("vae_decode")
