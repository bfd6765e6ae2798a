"""One CUDA card in eight minutes: is it right, and how fast is it.

    python -m benchmarks gpu                       # on CUDA if there is one; writes gpu.json after every case
    python -m benchmarks gpu --quick --device cpu  # a model smaller than tiny, to see that it runs

First the tiny model's clip is compared with the CPU's. Then, at the published size, from the same random weights in
float16 and bfloat16: one call of the UNet, a clip of 25 steps, and decoding, by diffusers and by vcut in its three
forms, eager and compiled. A case that fails is told with its reason, and the next is run; where memory is short a
smaller one takes its place. No case is begun that would not end in time, as far as earlier ones tell.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vcut
from benchmarks.harness.compiling import compile_blocks
from benchmarks.harness.report import machine
from benchmarks.harness.weights import DTYPES, configuration
from benchmarks.harness.worker import first_line
from benchmarks.unet import FORMS
from vcut.config import PRESETS, TINY, SVDConfig
from vcut.errors import is_out_of_memory
from vcut.sampling import Branch, karras_sigmas, linear, plan, precondition, sample
from vcut.unet import UNet, fold
from vcut.vae import VAE
from weights_tools.configs import diffusers_files
from weights_tools.remap import to_layout
from weights_tools.structure import Part

Result = dict[str, Any]
Unet = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A UNet as a function of latents, noise level, embedding and time ids, with channels as the third axis."""

WAYS = ("eager", "per block", "whole", "cuda graphs")


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement: a model, where, in which number types, and for how long."""

    device: str
    model: str = "svd-xt"
    dtypes: tuple[str, ...] = ("float16", "bfloat16")
    steps: int = 25
    rounds: int = 3
    minutes: float = 8.0
    backend: str = "inductor"

    @property
    def config(self) -> SVDConfig:
        """The model's configuration, with the norms' epsilon of diffusers."""
        return configuration(self.model)


class Bench:
    """Cases of one card, kept in a file as they end."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.device = torch.device(settings.device)
        self.ends = time.monotonic() + 60 * settings.minutes
        self.results: list[Result] = []
        self.longest = 0.0

    def case(self, name: str, *attempts: tuple[str, Callable[[], Result]]) -> None:
        """Run the first of ``attempts``, or the next where memory is short; write down what came of it."""
        begun = time.monotonic()
        found: Result = {"case": name}
        if begun + min(self.longest, 60) > self.ends:
            found["skipped"] = "no time left"
            attempts = ()
        for label, attempt in attempts:
            self.empty()
            try:
                found = {"case": name, "as": label, **attempt()}
                break
            except Exception as error:  # whatever it is, the other cases go on
                found["failed" if not is_out_of_memory(error) else "out of memory"] = (
                    f"{label}: {first_line(error)}"
                )
                if not is_out_of_memory(error):
                    break
        self.longest = max(self.longest, time.monotonic() - begun)
        self.results.append(found)
        self.write()
        print(json.dumps(found), flush=True)

    def write(self) -> None:
        """Put everything so far into the file."""
        card = {"device": str(self.device)}
        if self.device.type == "cuda":
            card["card"] = torch.cuda.get_device_name(self.device)
            card["cuda"], card["cudnn"] = str(torch.version.cuda), str(torch.backends.cudnn.version())
        whole = {"machine": machine() | card, "settings": vars(self.settings), "results": self.results}
        new = self.out.with_suffix(".new")
        new.write_text(json.dumps(whole, indent=1) + "\n")
        new.replace(self.out)

    def empty(self) -> None:
        """Give back the memory of what is gone, and forget the peak."""
        gc.collect()
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def timed(self, run: Callable[[], Tensor], rounds: int | None = None) -> tuple[Result, Tensor]:
        """Seconds of the first run, of the median of the others, and the peak of memory; and the result."""
        seconds = []
        for _ in range(1 + (self.settings.rounds if rounds is None else rounds)):
            begun = time.perf_counter()
            with torch.no_grad():
                result = run()
            if self.device.type != "cpu":
                torch.accelerator.synchronize(self.device)
            seconds.append(time.perf_counter() - begun)
        found: Result = {"first": seconds[0], "seconds": statistics.median(seconds[1:] or seconds)}
        if self.device.type == "cuda":
            found["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return found, result


def compiled(unet: nn.Module, way: str, backend: str) -> None:
    """Let ``unet`` be compiled when it is called, in the given way."""
    if way == "per block":
        compile_blocks(unet, backend)
    elif way == "cuda graphs":
        unet.compile(mode="reduce-overhead", dynamic=False)
    elif way == "whole":
        unet.compile(backend=backend, dynamic=False)


def equality(bench: Bench) -> Result:
    """Largest difference of the tiny model's clip on the device from that on the CPU, of pixels in 0..1."""
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    steps = min(6, bench.settings.steps)
    frames = min(TINY.frames, bench.settings.config.frames)
    found: Result = {}
    for preset in (PRESETS[name] for name in FORMS):
        run: dict[str, Any] = dict(steps=steps, cut=2 * steps // 3, frames=frames, seed=0)
        expected = vcut.load(preset=preset, device="cpu").generate(picture, **run)
        for dtype in ("float32", *bench.settings.dtypes):
            tiny = vcut.load(preset=preset, device=bench.device, dtype=DTYPES[dtype])
            got = tiny.generate(picture, **run).cpu()
            found[f"{preset.name} {dtype}"] = float((got - expected).abs().max())
    return found


class Networks:
    """vcut's UNets and diffusers' of the same random weights, in one number type on the device."""

    def __init__(self, bench: Bench, dtype: str) -> None:
        self.bench, self.config, self.dtype = bench, bench.settings.config, DTYPES[dtype]
        with torch.device(bench.device):
            torch.manual_seed(0)
            self.trained = UNet(self.config.unet).to(self.dtype).eval().requires_grad_(False)

    def ours(self, preset: str, way: str = "eager") -> Unet:
        """Vcut's UNet; the context is cached when the embedding is seen for the first time."""
        form = PRESETS[preset]
        unet = fold(self.trained, tca=form.tca, sca=form.sca)
        if self.bench.device.type == "cuda":
            unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compiled(unet, way, self.bench.settings.backend)
        contexts: dict[int, tuple[Tensor, Any]] = {}  # with the embedding, so that no other has its number

        def call(x: Tensor, c_noise: Tensor, embedding: Tensor, ids: Tensor) -> Tensor:
            if id(embedding) not in contexts:
                contexts[id(embedding)] = embedding, unet.cache_context(embedding, x.shape[1])
            return unet(x, c_noise, contexts[id(embedding)][1], ids)

        return call

    def theirs(self, way: str = "eager") -> Unet:
        """Diffusers' UNet."""
        unet = peer("UNetSpatioTemporalConditionModel", "unet", self.config, self.trained)
        compiled(unet, way, self.bench.settings.backend)
        return lambda x, c_noise, embedding, ids: unet(x, c_noise, embedding, ids, return_dict=False)[0]

    def inputs(self, branches: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, noise level, embeddings and time ids of ``branches`` clips."""
        c, draw = self.config, torch.Generator().manual_seed(0)
        h, w = c.height // c.vae.stride, c.width // c.vae.stride
        x = torch.randn(2, c.frames, c.unet.in_channels, h, w, generator=draw)[:branches]
        embedding = torch.randn(2, 1, c.unet.context_dim, generator=draw)[:branches]
        ids = torch.tensor([[6.0, 127.0, 0.02]] * branches)
        x, embedding, ids = (each.to(self.bench.device, self.dtype) for each in (x, embedding, ids))
        return x, torch.tensor(0.5, device=self.bench.device), embedding, ids

    def call(
        self, make: Callable[[], Unet], branches: int = 2, expected: list[Tensor] | None = None
    ) -> Result:
        """One call; the first ``expected`` is kept, and later ones are compared with it."""
        found, got = self.bench.timed(partial(make(), *self.inputs(branches)))
        if expected is not None:
            if not expected:
                expected.append(got.float().cpu())
            reference = expected[0][:branches]
            found["difference"] = float((got.float().cpu() - reference).norm() / reference.norm())
        return found

    def clip(self, make: Callable[[], Unet], cut: int | None, *, sequential: bool = False) -> Result:
        """All steps of one clip by vcut's loop, whoever's UNet it is."""
        steps, network = self.bench.settings.steps, make()
        x, _, embedding, ids = self.inputs(2)
        noise, image = (
            x[:1, :, : self.config.unet.out_channels].float(),
            x[:1, :, self.config.unet.out_channels :],
        )
        given = {2: (embedding, ids), 1: (embedding[1:].clone(), ids[1:])}

        def evaluate(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
            together = 1 if sequential else len(branches)
            latents = torch.cat([x.to(self.dtype), image], dim=2).repeat(together, 1, 1, 1, 1)
            level = torch.full((), c_noise, device=x.device)
            calls = [network(latents, level, *given[together]) for _ in range(len(branches) // together)]
            return torch.cat(calls).unflatten(0, (len(branches), -1))

        levels, way = karras_sigmas(steps), plan(steps, cut)
        run = partial(sample, precondition(evaluate), noise, levels, way, linear(1, 3))
        return self.bench.timed(run, rounds=0)[0]


def peer(name: str, part: Part, config: SVDConfig, network: nn.Module) -> Any:
    """A network of diffusers that shares the weights of ``network``."""
    kind = getattr(importlib.import_module("diffusers"), name)
    weights = to_layout(network.state_dict(), part, "diffusers")
    with torch.device("meta"):
        made = kind.from_config(diffusers_files(config.to_dict())[f"{part}/config.json"])
    made.load_state_dict({key: tensor.contiguous() for key, tensor in weights.items()}, assign=True)
    return made.eval().requires_grad_(False)


def decoding(bench: Bench, who: str, dtype: str, chunk: int | None) -> Result:
    """Decoding of a clip."""
    config = bench.settings.config
    with torch.device(bench.device):
        torch.manual_seed(0)
        vae = VAE(config.vae).to(DTYPES[dtype]).eval().requires_grad_(False)
    h, w = config.height // config.vae.stride, config.width // config.vae.stride
    shape = (1, config.frames, config.vae.latent_channels, h, w)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(bench.device, DTYPES[dtype])
    if who == "vcut":
        if bench.device.type == "cuda":
            vae = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return bench.timed(lambda: vae.decode(z, chunk), rounds=1)[0]
    theirs = peer("AutoencoderKLTemporalDecoder", "vae", config, vae)
    n = chunk or config.frames

    def decode() -> Tensor:
        parts = z[0].split(n)
        return torch.cat([theirs.decode(part, num_frames=len(part)).sample for part in parts])

    return bench.timed(decode, rounds=1)[0]


def run(bench: Bench) -> None:
    """Every case, the most telling first."""
    bench.case("tiny, largest difference from the CPU", ("all", partial(equality, bench)))
    for dtype in bench.settings.dtypes:
        for name, *attempts in _eager(bench, Networks(bench, dtype), dtype):
            bench.case(f"{dtype}: {name}", *attempts)
    for dtype in bench.settings.dtypes:
        for name, *attempts in _compiled(bench, Networks(bench, dtype)):
            bench.case(f"{dtype}: {name}", *attempts)


def _eager(bench: Bench, networks: Networks, dtype: str) -> Iterator[tuple[Any, ...]]:
    cut = PRESETS["vcut"].cut_step(bench.settings.steps)
    contenders: dict[str, tuple[Callable[[], Unet], int | None]] = {
        "diffusers": (networks.theirs, None),
        **{preset: (partial(networks.ours, preset), cut if preset == "vcut" else None) for preset in FORMS},
    }
    expected: dict[int, list[Tensor]] = {1: [], 2: []}
    for name, (make, _) in contenders.items():
        two, one = (partial(networks.call, make, b, expected[b]) for b in (2, 1))
        yield f"call, {name}", ("both branches", two), ("one branch", one)
        if name == "vcut":
            yield f"call, {name}, after the cut", ("one branch", partial(networks.call, make, 1))
    for name, (make, step) in contenders.items():
        whole, halves = (partial(networks.clip, make, step, sequential=s) for s in (False, True))
        yield f"clip, {name}", ("both branches", whole), ("branches one after the other", halves)
    for who in ("diffusers", "vcut"):
        chunks = (
            (f"{n or 'all'} frames at a time", partial(decoding, bench, who, dtype, n)) for n in (None, 8, 2)
        )
        yield f"decoding, {who}", *chunks
    if dtype == bench.settings.dtypes[0]:
        chunks = (
            (f"{n} frames at a time", partial(decoding, bench, "vcut", "float32", n)) for n in (14, 4, 1)
        )
        yield "decoding in float32, vcut", *chunks


def _compiled(bench: Bench, networks: Networks) -> Iterator[tuple[Any, ...]]:
    for way in WAYS[1:]:
        if way == "cuda graphs" and bench.device.type != "cuda":
            continue
        for branches in (2, 1):
            call = partial(networks.call, partial(networks.ours, "vcut", way), branches)
            yield f"call, vcut, compiled {way}, {branches} branches", (way, call)
    yield (
        "call, diffusers, compiled whole",
        ("whole", partial(networks.call, partial(networks.theirs, "whole"))),
    )


def main(words: list[str] | None = None) -> None:
    default = Settings("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default=default.device, help=f"default: {default.device}")
    parser.add_argument(
        "--minutes", type=float, default=default.minutes, help=f"default: {default.minutes:g}"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="default: gpu.json")
    parser.add_argument(
        "--quick", action="store_true", help="a model smaller than tiny, to see that everything runs"
    )
    args = parser.parse_args(words)
    settings = dataclasses.replace(default, device=args.device, minutes=args.minutes)
    if args.quick:
        settings = dataclasses.replace(
            settings, model="one-level", dtypes=("float16",), steps=3, rounds=1, backend="eager"
        )
    elif torch.device(args.device).type == "cpu":
        parser.error("the published size takes hours on a CPU: --quick takes a small model")
    run(Bench(settings, args.out))


if __name__ == "__main__":
    main()
