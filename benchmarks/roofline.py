"""The GPU path on paper: bytes and operations of every kernel, and the time that a GPU's peak figures allow.

    python -m benchmarks.roofline                       # writes docs/gpu.md; minutes, and no GPU
    python -m benchmarks.roofline --kernels all.csv     # every kernel of the lossless call, one a line

A kernel takes as long as its bytes at the full bandwidth of the memory, or its operations at the peak of the tensor
cores, whichever is longer. Whole runs are divided by one efficiency, fitted on what the paper measured without the
cut.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import importlib
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness.command import progress
from benchmarks.harness.rounds import ROOT
from benchmarks.trace import KINDS, LAYOUT, Kernel, moved, trace
from benchmarks.unet import FORMS
from vcut.analysis import fit
from vcut.analysis.counting import build_unet, on_meta, unet_call
from vcut.analysis.text_table import Table
from vcut.config import CONFIGS, PRESETS, SVDConfig
from vcut.settings import Settings, resolve
from vcut.vae import VAE
from weights_tools.configs import diffusers_files

HALF = torch.float16
CHUNK = 14
"""Frames that vcut decodes at a time by default; diffusers takes the whole clip."""

PAPER = {
    14: {None: 68.4, 10: 47.1, 17: 54.7, 20: 58.2},
    25: {None: 120.6, 10: 84.3, 17: 97.3, 20: 103.2},
}
"""Seconds that the paper measured on an A10 (arXiv 2407.19205, table IV), by frames and by the step of the cut."""


@dataclass(frozen=True)
class GPU:
    """Peak figures: dense products in half precision summed in float32, the same in TF32, bytes a second."""

    half: float
    tf32: float
    bandwidth: float
    source: str

    def seconds(self, kernels: Sequence[Kernel]) -> float:
        """Time of ``kernels`` one after the other, each at the peak that limits it."""
        return sum(
            max(
                kernel.flop / (self.half if kernel.dtype.itemsize == 2 else self.tf32),
                kernel.moved / self.bandwidth,
            )
            for kernel in kernels
        )


GPUS = {
    "A10": GPU(125e12, 62.5e12, 600e9, "NVIDIA A10 datasheet"),
    "RTX 3060 12 GB": GPU(
        25.5e12,
        12.7e12,
        360e9,
        "112 tensor cores x 64 multiply-adds x 1.777 GHz (GA102 whitepaper); 192 bit at 15 Gbit/s",
    ),
    "RTX 4090": GPU(165.2e12, 82.6e12, 1008e9, "NVIDIA Ada whitepaper, appendix A"),
    "A100 80 GB": GPU(312e12, 156e12, 2039e9, "NVIDIA A100 datasheet, SXM"),
    "H100": GPU(989.4e12, 494.7e12, 3350e9, "NVIDIA H100 datasheet, SXM, without sparsity"),
}

Kernels = list[Kernel]


class _Constant(nn.Module):
    """A cross-attention that is a cached vector, as a patched diffusers would have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("vector", on_meta(1, 1, channels, dtype=HALF))

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.vector


class Peer:
    """diffusers' networks of ``config`` on the meta device, in half precision."""

    def __init__(self, config: SVDConfig) -> None:
        self.config = config
        self.unet = self._network("UNetSpatioTemporalConditionModel", "unet/config.json")
        self.vae = self._network("AutoencoderKLTemporalDecoder", "vae/config.json")

    def _network(self, name: str, file: str) -> Any:
        kind = getattr(importlib.import_module("diffusers"), name)
        # nothing is drawn; diffusers' mix factors are made on the CPU all the same
        with torch.device("meta"):
            network = kind.from_config(diffusers_files(self.config.to_dict())[file])
        return network.to("meta", HALF).eval().requires_grad_(False)

    def cut(self) -> Any:
        """The UNet in the paper's form: no temporal cross-attention, and a cached vector for the spatial one."""
        unet = copy.deepcopy(self.unet)
        for block in unet.modules():
            if type(block).__name__ == "TemporalBasicTransformerBlock":
                block.attn2 = None
            elif type(block).__name__ == "BasicTransformerBlock":
                block.attn2, block.norm2 = _Constant(block.norm2.normalized_shape[0]), nn.Identity()
        return unet

    def call(self, unet: Any, branches: int, frames: int) -> Kernels:
        """One call of ``unet`` on ``branches`` clips."""
        c, height, width = self.config, *_latent(self.config)
        x = on_meta(branches, frames, c.unet.in_channels, height, width, dtype=HALF)
        embedding = on_meta(branches, 1, c.unet.context_dim, dtype=HALF)
        ids = on_meta(branches, c.unet.time_ids, dtype=HALF)
        return trace(lambda: unet(x, on_meta(), embedding, ids))

    def decode(self, frames: int) -> Kernels:
        """Decoding of a whole clip."""
        z = on_meta(frames, self.config.vae.latent_channels, *_latent(self.config), dtype=HALF)
        return trace(lambda: self.vae.decode(z, num_frames=frames))

    def encode(self) -> Kernels:
        """Encoding of the picture, which diffusers does in float32."""
        vae = copy.deepcopy(self.vae).float()
        return trace(lambda: vae.encode(on_meta(1, 3, self.config.height, self.config.width)))


def our_call(config: SVDConfig, preset: str, branches: int, frames: int) -> Kernels:
    """One call of vcut's UNet in the form of ``preset``, its context cached."""
    form = dataclasses.replace(config.unet, tca=PRESETS[preset].tca, sca=PRESETS[preset].sca)
    return trace(unet_call(build_unet(form).to(HALF), branches, frames, *_latent(config)))


def our_decoding(config: SVDConfig, frames: int) -> Kernels:
    """Decoding of a clip in half precision, :data:`CHUNK` frames at a time."""
    vae = _vae(config, HALF)
    z = on_meta(1, frames, config.vae.latent_channels, *_latent(config), dtype=HALF)
    return trace(lambda: vae.decode(z, CHUNK))


def our_encoding(config: SVDConfig) -> Kernels:
    """Encoding of the picture in float32."""
    vae = _vae(config, torch.float32)
    return trace(lambda: vae.encode(on_meta(1, 3, config.height, config.width)))


def _vae(config: SVDConfig, dtype: torch.dtype) -> VAE:
    with torch.device("meta"):
        return VAE(config.vae).to(dtype).requires_grad_(False)


def _latent(config: SVDConfig) -> tuple[int, int]:
    return config.height // config.vae.stride, config.width // config.vae.stride


@dataclass(frozen=True)
class Clip:
    """Kernels of a clip's parts: the call on both branches, the call on one, and what is done once."""

    both: Kernels
    one: Kernels
    once: Kernels

    def seconds(self, gpu: GPU, steps: int, cut: int | None) -> float:
        """Time of ``steps`` steps at the peak, those from ``cut`` on without guidance."""
        guided = steps if cut is None else cut - 1
        both, one, once = (gpu.seconds(part) for part in (self.both, self.one, self.once))
        return guided * both + (steps - guided) * one + once


def paper_table(peer: Peer, frames: Sequence[int] = tuple(PAPER)) -> tuple[Table, float]:
    """Predicted and measured latencies on the A10, and the efficiency that was fitted on those without a cut."""
    gpu, cut = GPUS["A10"], peer.cut()
    times: dict[int, dict[int | None, float]] = {}
    for f in frames:
        once = peer.encode() + peer.decode(f)
        plain = Clip(peer.call(peer.unet, 2, f), [], once)
        reduced = Clip(peer.call(cut, 2, f), peer.call(cut, 1, f), once)
        times[f] = {c: (plain if c is None else reduced).seconds(gpu, 25, c) for c in PAPER[f]}
        progress(f"the paper's latencies, {f} frames")
    # the factor with the least relative errors
    efficiency = statistics.geometric_mean(times[f][None] / PAPER[f][None] for f in frames)
    rows = []
    for f in frames:
        for c, measured in PAPER[f].items():
            predicted = times[f][c] / efficiency
            error = f"{100 * (predicted / measured - 1):+.1f} %"
            name = f"{f} frames, " + ("no cut (fitted)" if c is None else f"cut at {c}")
            rows.append((name, f"{measured:.1f}", f"{predicted:.1f}", error))
    return Table("The paper's A10", ("", "measured, s", "predicted, s", "error"), tuple(rows)), efficiency


def kinds_table(title: str, contenders: Mapping[str, Kernels]) -> Table:
    """Gigabytes by kind, of the first contender and of the others with their share of its."""
    first = next(iter(contenders))
    rows = []
    for kind in (*KINDS, "elementwise", "all of these", LAYOUT):
        amounts = {}
        for name, kernels in contenders.items():
            all_of_them = kind == "all of these"
            chosen = [k for k in kernels if k.kind == kind or (all_of_them and k.kind != LAYOUT)]
            amounts[name] = moved(chosen, layout=True)
        base = amounts[first]
        rows.append(
            (
                kind,
                *(
                    f"{v / 1e9:.2f}" + (f" ({v / base:.2f})" if base and n != first else "")
                    for n, v in amounts.items()
                ),
            )
        )
    flop = ("tera operations", *(f"{sum(k.flop for k in each) / 1e12:.1f}" for each in contenders.values()))
    count = ("kernels", *(str(len(each)) for each in contenders.values()))
    return Table(f"{title}, GB", ("", *contenders), (*rows, flop, count))


def operators_table(title: str, kernels: Kernels) -> Table:
    """Every operator: how often it runs, and what it moves and computes in all."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for k in kernels:
        sums.setdefault((k.kind, k.name), Counter()).update(n=1, read=k.read, written=k.written, flop=k.flop)
    rows = [
        (
            f"{kind}: `{name}`",
            str(s["n"]),
            f"{s['read'] / 1e9:.3f}",
            f"{s['written'] / 1e9:.3f}",
            f"{s['flop'] / 1e12:.2f}",
        )
        for (kind, name), s in sorted(sums.items(), key=lambda item: -item[1]["read"] - item[1]["written"])
    ]
    return Table(title, ("", "kernels", "read, GB", "written, GB", "tera operations"), tuple(rows))


def gpus_table(clips: Mapping[str, tuple[Clip, int | None]], efficiency: float, steps: int = 25) -> Table:
    """Predicted seconds of one call on both branches and of a clip, on each GPU."""
    rows = []
    for name, gpu in GPUS.items():
        calls = (f"{gpu.seconds(clip.both) / efficiency:.2f}" for clip, _ in clips.values())
        runs = (f"{clip.seconds(gpu, steps, cut) / efficiency:.1f}" for clip, cut in clips.values())
        rows.append((name, *(f"{call} / {run}" for call, run in zip(calls, runs, strict=True))))
    title = f"Predicted seconds: one call on both branches / a clip of {steps} steps"
    return Table(title, ("", *clips), tuple(rows))


def tables(config: SVDConfig, *, paper: bool = True) -> tuple[dict[str, Table], Kernels]:
    """All tables by name, and the kernels of the lossless call."""
    peer, frames = Peer(config), config.frames
    theirs = Clip(peer.call(peer.unet, 2, frames), [], peer.encode() + peer.decode(frames))
    progress("diffusers")
    ours = {preset: our_call(config, preset, 2, frames) for preset in FORMS}
    one = our_call(config, "vcut", 1, frames)
    decoding = our_decoding(config, frames)
    once = our_encoding(config) + decoding
    progress("vcut")
    size = f"{frames} frames of {config.width}x{config.height}, float16"
    found = {
        "unet": kinds_table(
            f"One call of the UNet on both branches, {size}", {"diffusers": theirs.both, **ours}
        ),
        "vae": kinds_table(f"Decoding, {size}", {"diffusers": peer.decode(frames), "vcut": decoding}),
        "ours": operators_table("Every kernel of the lossless call", ours["lossless"]),
        "theirs": operators_table("Every kernel of diffusers' call", theirs.both),
    }
    efficiency = 1.0
    if paper:
        found["paper"], efficiency = paper_table(peer)
    cut = PRESETS["vcut"].cut_step(25)
    clips: dict[str, tuple[Clip, int | None]] = {"diffusers": (theirs, None)}
    clips |= {name: (Clip(ours[name], one, once), None) for name in ("baseline", "lossless")}
    clips["vcut"] = (Clip(ours["vcut"], one, once), cut)
    found["gpus"] = gpus_table(clips, efficiency)
    for preset in ("baseline", "vcut"):
        form = dataclasses.replace(config.unet, tca=PRESETS[preset].tca, sca=PRESETS[preset].sca)
        run = resolve(Settings(), config, PRESETS[preset])
        found[f"fit-{preset}"] = fit.table(dataclasses.replace(config, unet=form), run)
    found["peaks"] = Table(
        f"Peak figures; efficiency {efficiency:.3f}",
        ("", "half, TFLOP/s", "TF32, TFLOP/s", "GB/s", "from"),
        tuple(
            (n, f"{g.half / 1e12:g}", f"{g.tf32 / 1e12:g}", f"{g.bandwidth / 1e9:g}", g.source)
            for n, g in GPUS.items()
        ),
    )
    return found, ours["lossless"]


def page(found: Mapping[str, Table]) -> str:
    """docs/gpu.md: the text of docs/gpu.in.md with each table in the place of its name in braces."""
    text = (Path(__file__).parent / "gpu_page.md").read_text()
    for name, table in found.items():
        text = text.replace(f"{{{name}}}", table.markdown())
    return text


def main(write: Callable[[str], object] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kernels", type=Path, help="also write every kernel of the lossless call as CSV")
    args = parser.parse_args()
    found, kernels = tables(CONFIGS["svd-xt"])
    if args.kernels:
        with args.kernels.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in dataclasses.fields(Kernel)])
            writer.writerows(dataclasses.astuple(kernel) for kernel in kernels)
    (write or (ROOT / "docs" / "gpu.md").write_text)(page(found))


if __name__ == "__main__":
    main()
