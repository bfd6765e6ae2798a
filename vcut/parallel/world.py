"""The processes that make a clip together: how they start, what they tell each other, and how they end.

Rank 0 leads. It reads, draws noise, samples, decides and writes as one process does, with a :class:`Leader` in place
of its pipeline. The other ranks hold the same weights and serve it: they compute their part of what it tells them, in
the order in which it does. So nothing but the networks knows of several processes, and no rank decides by itself.

A call of the UNet is shared in two ways, both exact. Where the number of ranks is even, each half of them takes one
of the two branches of a guided step. Within a half, and in all other calls among all ranks, the frames are shared
(:mod:`vcut.parallel.team`).

Shapes: n clips, k branches, f frames, h w latent size, H W pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vcut.conditioning import Conditioning, bind
from vcut.config import whole_number
from vcut.errors import ConfigError, OutOfMemoryError, PeerError
from vcut.parallel.team import Team, reaching, shared_unet, shared_vae
from vcut.pipeline import Pipeline
from vcut.sampling import Branch, Network, Plan
from vcut.settings import Run

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""Time that a process waits for another. One that has ended is noticed at once; one that thinks is waited for."""


class Bind(NamedTuple):
    """Order to get ready for a run. The conditioning is on the CPU."""

    conditioning: Conditioning
    plan: Plan
    frames: int
    sequential: bool


class Call(NamedTuple):
    """Order to evaluate the network on the latents that follow."""

    c_noise: float
    branches: tuple[Branch, ...]


class Encode(NamedTuple):
    """Order to encode the pictures that follow."""


class Decode(NamedTuple):
    """Order to decode the latents that follow."""

    chunk: int | None


class Load(NamedTuple):
    """Order to load the model."""


Order = Bind | Call | Encode | Decode | Load | None
"""Something that rank 0 tells the others to do; None is to go."""


class World:
    """All processes of the run, as one of them sees them.

    ``whole`` is the team of all. If their number is even, ``half`` is this rank's half, the ``side``-th, else None.
    """

    def __init__(self) -> None:
        size, self.rank = dist.get_world_size(), dist.get_rank()
        self.whole = Team(size, self.rank)
        self.half: Team | None = None
        self.side = 0
        self.midway = False
        if size % 2 == 0:
            most = size // 2
            groups = [dist.new_group(list(range(side * most, (side + 1) * most))) for side in (0, 1)]
            self.side, number = divmod(self.rank, most)
            self.half = Team(most, number, groups[self.side])

    def task(self, branches: tuple[Branch, ...]) -> tuple[Team, tuple[Branch, ...]]:
        """The team that this rank belongs to in a call on ``branches``, and the branches that fall to it."""
        if self.half is None or len(branches) < 2:
            return self.whole, branches
        return self.half, (branches[self.side],)

    @contextlib.contextmanager
    def told(self, order: Order, tensor: Tensor | None = None) -> Iterator[None]:
        """Tell the others what to do, and do the same in the block.

        If that fails they wait in the middle of it, for a process that does something else: nothing more can be told.
        """
        if self.midway:
            raise PeerError("an error ended a call that several processes shared: start the run again")
        self.midway = True
        with reaching():
            form = None if tensor is None else (tensor.shape, tensor.dtype)
            dist.broadcast_object_list([order, form], device=torch.device("cpu"))
            if tensor is not None:
                dist.broadcast(tensor.contiguous(), 0)
        yield
        self.midway = False

    def heard(self, device: torch.device) -> tuple[Order, Tensor]:
        """The next order of rank 0, and the tensor that follows, empty if there is none."""
        heard: list[Any] = [None, None]
        with reaching():
            dist.broadcast_object_list(heard, device=torch.device("cpu"))
            order, form = heard
            if form is None:
                return order, torch.empty(0)
            tensor = torch.empty(form[0], dtype=form[1], device=device)
            dist.broadcast(tensor, 0)
        return order, tensor

    def collected(self, own: Tensor, dim: int, counts: Sequence[int]) -> list[Tensor]:
        """The parts of all ranks, ``counts[rank]`` long along ``dim``, on rank 0; nothing elsewhere."""
        with reaching():
            if self.rank:
                if own.numel():
                    dist.send(own.contiguous(), 0)
                return []
            parts = [own]
            for rank, count in enumerate(counts[1:], start=1):
                shape = list(own.shape)
                shape[dim] = count
                parts.append(own.new_empty(shape))
                if count:
                    dist.recv(parts[-1], rank)
            return parts


@dataclass(frozen=True, repr=False)
class Leader(Pipeline):
    """A pipeline of which other processes do their part. It is rank 0's; see :class:`vcut.pipeline.Pipeline`."""

    world: World = field(kw_only=True)

    def to(self, *_: Any, **__: Any) -> Pipeline:
        raise ConfigError(
            "several processes hold this model: load it in the wanted form, on the wanted device"
        )

    def decode(self, latents: Tensor, chunk: int | None = 14) -> Tensor:
        try:
            return super().decode(latents, chunk)
        except OutOfMemoryError as error:
            # Its latents would invite to try again, and the others cannot.
            raise OutOfMemoryError(str(error)) from error

    def _bound(self, conditioning: Conditioning, run: Run) -> Network:
        order = Bind(_moved(conditioning, "cpu"), run.plan, run.frames, run.settings.sequential)
        if run.frames < self.world.whole.size:
            raise ConfigError(
                f"{self.world.whole.size} processes cannot share {run.frames} frames: start at most {run.frames}"
            )
        with self.world.told(order):
            part = _part(self, self.world, order)

        def network(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
            call = Call(c_noise, branches)
            with self.world.told(call, x):
                return _evaluated(self.world, part, call, x)

        return network

    def _encoded(self, pictures: Tensor) -> Tensor:
        with self.world.told(Encode(), pictures):
            return torch.cat(_encoded(self, self.world, pictures))

    def _decoded(self, latents: Tensor, chunk: int | None) -> Tensor:
        self.vae.check_latents(latents, chunk)
        with self.world.told(Decode(chunk), latents):
            return _decoded(self, self.world, latents, chunk)


def together(
    lead: Callable[[Callable[[Pipeline], Pipeline]], T],
    load: Callable[[], Pipeline],
    device: str | None = None,
) -> T | None:
    """Run ``lead`` in this process, or serve the one that does: rank 0 of those that torchrun or accelerate started.

    Args:
        lead: what the program does. It is given a function to call on a pipeline that it has loaded, which returns
            the pipeline to use; in a process that was started alone that is the same one.
        load: loads the same model in the other processes, whenever ``lead`` has: a download is then done.
        device: ``'cpu'`` where the processes have to leave GPUs alone. Else each takes the GPU of its number, if
            there are any, as torch's current device; ``load`` and ``lead`` load the model there.

    Returns:
        What ``lead`` returns; None in the processes that serve.

    Raises:
        ConfigError: the processes do not find each other, have too few GPUs, or were given another device.
        PeerError: one of the others has ended.
    """
    size = _number("WORLD_SIZE", "1", least=1) if "RANK" in os.environ else 1
    if size == 1:
        return lead(lambda pipe: pipe)
    _join(size, device)
    world = World()
    if world.rank:
        _serve(world, load)
        return None

    def shared(pipe: Pipeline) -> Pipeline:
        if pipe.unet._compiled_call_impl is not None:
            raise ConfigError(f"a UNet that {size} processes share cannot be compiled: leave out --compile")
        with world.told(Load()):
            return Leader(**vars(pipe), world=world)

    try:
        return lead(shared)
    finally:
        if not world.midway:
            with contextlib.suppress(PeerError), world.told(None):
                pass


def _number(variable: str, default: str, least: int = 0) -> int:
    """The number that a variable of the environment holds."""
    text = os.environ.get(variable, default)
    return whole_number(f"the variable {variable}", int(text) if text.isdecimal() else text, least)


def _join(size: int, device: str | None) -> None:
    """Join the processes that were started with this one."""
    if device not in (None, "auto", "cpu", "cuda"):
        raise ConfigError(f"each of {size} processes takes a GPU of its own: leave out --device {device}")
    on_gpus = device != "cpu" and torch.cuda.is_available()
    try:
        if on_gpus:
            here, there_are = _number("LOCAL_RANK", os.environ["RANK"]), torch.cuda.device_count()
            if here >= there_are:
                raise ConfigError(f"each process takes a GPU of its own: start at most {there_are} here")
            torch.cuda.set_device(here)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the {size} processes of this run do not find each other: {error}") from error


@torch.no_grad()
def _serve(world: World, load: Callable[[], Pipeline]) -> None:
    """Do what rank 0 tells, until it says that this was all."""
    pipe: Any = None
    part: Any = None
    while True:
        order, tensor = world.heard(pipe.device if pipe else torch.device("cpu"))
        match order:
            case Load():
                pipe = part = None
                pipe = load()
            case Bind():
                part = _part(pipe, world, order)
            case Call():
                _evaluated(world, part, order, tensor)
            case Encode():
                _encoded(pipe, world, tensor)
            case Decode():
                part = None  # and with it the copy of an offloaded UNet
                _decoded(pipe, world, tensor, order.chunk)
            case None:
                return


def _part(pipe: Pipeline, world: World, order: Bind) -> Network:
    """This rank's part of the network of a run: given all frames and branches, it returns its own."""
    unet, conditioning = pipe.placed(pipe.unet), _moved(order.conditioning, pipe.device)

    def bound(team: Team) -> Network:
        tasks = [(step, *world.task(step.branches)) for step in order.plan]
        plan = tuple(replace(step, branches=own) for step, at_work, own in tasks if at_work is team)
        own = shared_unet(unet, team, order.frames)
        return bind(own, conditioning, plan, order.frames, sequential=order.sequential)

    of_all = bound(world.whole)
    of_half = of_all if world.half is None else bound(world.half)

    def part(x: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
        team, own = world.task(branches)
        network = of_all if team is world.whole else of_half
        return network(x[:, team.own(order.frames)], c_noise, own)

    return part


def _evaluated(world: World, part: Network, call: Call, x: Tensor) -> Tensor:
    """The network's output ``[k, n, f, 4, h, w]`` on rank 0, this rank's part of it elsewhere."""
    team, _ = world.task(call.branches)
    own = part(x, call.c_noise, call.branches)
    teams = world.whole.size // team.size
    parts = world.collected(own, 2, team.shares(x.shape[1]) * teams)
    if not parts:
        return own
    return torch.cat([torch.cat(parts[i * team.size : (i + 1) * team.size], dim=2) for i in range(teams)])


def _encoded(pipe: Pipeline, world: World, pictures: Tensor) -> list[Tensor]:
    """Latents of all ``pictures [n, 3, H, W]`` on rank 0. Each is encoded by one rank."""
    mine = pictures[world.whole.own(len(pictures))]
    own = Pipeline._encoded(pipe, mine) if len(mine) else mine
    return world.collected(own, 0, world.whole.shares(len(pictures)))


def _decoded(pipe: Pipeline, world: World, latents: Tensor, chunk: int | None) -> Tensor:
    """Frames ``[n, f, 3, H, W]`` on rank 0, of ``latents [n, f, 4, h, w]``.

    The frames of a chunk are shared, so that each rank holds its part of a chunk. A chunk of fewer frames than there
    are ranks is rank 0's.
    """
    vae, team = pipe.placed(pipe.vae), world.whole
    frames = latents
    for i, clip in enumerate(latents):
        done = 0
        for z in clip.split(chunk or len(clip)):
            if len(z) >= team.size:
                own = shared_vae(vae, team, len(z)).decode(z[None, team.own(len(z))])[0]
                parts = world.collected(own, 0, team.shares(len(z)))
            else:
                parts = [] if world.rank else [vae.decode(z[None])[0]]
            if parts:
                if frames is latents:
                    frames = parts[0].new_empty(*latents.shape[:2], *parts[0].shape[1:])
                torch.cat(parts, out=frames[i, done : done + len(z)])
            done += len(z)
    return frames


def _moved(conditioning: Conditioning, device: str | torch.device) -> Conditioning:
    return Conditioning(*(each.to(device) for each in vars(conditioning).values()))
