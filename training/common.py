"""The training loop that all stages share, and its parts.

A run is a folder with ``state.pt`` (weights, moving average, optimiser, step) and ``curve.jsonl``. Every batch is a
function of (seed, step, rank). So a run that was stopped and resumed equals one that was not, and no generator state
needs saving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

M = TypeVar("M", bound=nn.Module)
Batch = Any
"""The input of an objective: a tensor, or a tuple or dataclass of tensors."""


@dataclass(frozen=True)
class Recipe:
    """Length and rates of a training run."""

    steps: int
    batch: int
    lr: float = 3e-4
    lr_end: float = 3e-5
    warmup: int = 100
    weight_decay: float = 0.01
    max_norm: float = 1.0  # longer gradients are scaled down to this norm
    ema: float = 0.999
    seed: int = 0
    bf16: bool = False
    save_seconds: float = 60.0

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 0: a linear rise, then half a cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
        return self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


def generator(*numbers: int) -> Generator:
    """A generator that depends on all the numbers, such as (seed, step, rank)."""
    state = 0x9E3779B97F4A7C15
    # The finaliser of splitmix64, so that neighbouring numbers share no low bits.
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return Generator().manual_seed(state >> 1)


class Average:
    """Exponential moving average of parameters. Its decay grows with the step n: min(decay, (1 + n) / (10 + n))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's parameters, which have made ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in module.named_parameters():
            self.values[name].lerp_(p.detach(), 1 - decay)


def save(state: Any, path: Path) -> None:
    """Write ``state`` so that ``path`` is at every moment the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Read a state that :func:`save` wrote; only tensors and plain values are accepted."""
    return torch.load(path, map_location="cpu", weights_only=True)


def averaged(folder: Path) -> dict[str, Tensor]:
    """The moving average of a run, by parameter name."""
    return load(folder / "state.pt")["average"]


def finish(module: M, folder: Path) -> M:
    """Keep a trained network's weights for the next stage, which reads them with :func:`finished`."""
    save(module.state_dict(), folder / "weights.pt")
    return module


def finished(module: M, folder: Path) -> M:
    """A network with the weights that a stage left in its folder, frozen."""
    module.load_state_dict(load(folder / "weights.pt"))
    return module.eval().requires_grad_(False)


def averaged_steps(folder: Path) -> int:
    """Steps that the run in ``folder`` has made."""
    path = folder / "state.pt"
    return load(path)["step"] if path.exists() else 0


def workers() -> tuple[int, int]:
    """Rank and world size, from torchrun's environment; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def worker_device() -> torch.device:
    """The device of this worker: its GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the other workers of torchrun, if any."""
    _, size = workers()
    if size > 1:
        torch.distributed.init_process_group("nccl" if worker_device().type == "cuda" else "gloo")
    try:
        yield
    finally:
        if size > 1:
            torch.distributed.destroy_process_group()


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        return tuple(moved(item, device) for item in batch)
    fields = {f.name: moved(getattr(batch, f.name), device) for f in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **fields)


def train(
    objective: nn.Module,
    draw: Callable[[Generator, int], Batch],
    recipe: Recipe,
    folder: Path,
    *,
    until: int | None = None,
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Minimise ``objective(draw(generator, size))`` and return the curve of this call.

    Args:
        objective: a module whose forward takes a batch and returns a scalar loss; parameters with ``requires_grad``
            are trained.
        draw: a function that makes this worker's share of a batch, from a generator and the share's size.
        recipe: steps, rates and seed.
        folder: folder of the run, which is resumed if the folder has a state.
        until: number of steps in all after which to stop early, as an interruption would, by default none.
        quiet: whether to hide the progress bar.

    Raises:
        FloatingPointError: a gradient holds NaN or infinity.
    """
    rank, size = workers()
    device = worker_device()
    objective.to(device)
    state_path, curve_path = folder / "state.pt", folder / "curve.jsonl"
    optimiser = torch.optim.AdamW(
        [p for p in objective.parameters() if p.requires_grad],
        lr=recipe.lr,
        betas=(0.9, 0.99),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    average = Average(objective, recipe.ema)
    first, seconds = 0, 0.0
    if state_path.exists():
        state = load(state_path)
        objective.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        optimiser.param_groups[0]["fused"] = True  # an older state may say otherwise
        average.values = {name: value.to(device) for name, value in state["average"].items()}
        first, seconds = state["step"], state["seconds"]
    forward: nn.Module = objective
    if size > 1:
        forward = nn.parallel.DistributedDataParallel(objective)

    def store(step: int) -> None:
        if rank == 0:
            state = {
                "model": objective.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average.values,
                "step": step,
                "seconds": seconds,
            }
            save(state, state_path)

    last = min(recipe.steps, until or recipe.steps)
    curve: list[dict[str, float]] = []
    start = saved = time.monotonic()
    with _curve_file(curve_path, first, rank) as write, _bar(first, last, quiet or rank > 0) as tick:
        for step in range(first, last):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            batch = moved(draw(generator(recipe.seed, step, rank), recipe.batch // size), device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                loss = forward(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(objective.parameters(), recipe.max_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"the gradient of step {step + 1} holds NaN or infinity")
            optimiser.step()
            average.update(objective, step + 1)
            now = time.monotonic()
            seconds, start = seconds + now - start, now
            record = {"step": step + 1, "loss": loss.item(), "norm": norm.item(), "seconds": seconds}
            curve.append(record)
            write(record)
            tick(record)
            if now - saved > recipe.save_seconds:
                store(step + 1)
                saved = now
    if last > first:
        store(last)
    objective.cpu()
    return curve


@contextlib.contextmanager
def _curve_file(path: Path, first: int, rank: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Open the curve for appending, without the records that a resumed run will repeat."""
    if rank:
        yield lambda record: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [line for line in read_curve(path) if line["step"] <= first]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    with path.open("a") as file:

        def write(record: dict[str, float]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


def read_curve(path: Path) -> list[dict[str, float]]:
    """The records of the curve at ``path``; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def _bar(first: int, last: int, quiet: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar with a smoothed loss."""
    from tqdm.auto import tqdm

    smooth: float | None = None
    with tqdm(initial=first, total=last, disable=quiet, mininterval=10) as bar:

        def tick(record: dict[str, float]) -> None:
            nonlocal smooth
            smooth = record["loss"] if smooth is None else 0.98 * smooth + 0.02 * record["loss"]
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()

        yield tick
