"""Networks whose frames a team of ranks shares, with the output of one process.

The spatial layers see one frame at a time, and run on a rank's own frames. The temporal layers see one pixel at a
time: before each the ranks exchange frames for pixels, and after it back. What looks at a whole clip, the norm of a
temporal resnet, merges the moments of all ranks. The networks stay what they are: a shared one is made of the layers
of a network, with an exchange around the temporal ones.

Shapes: b clips, f frames, n pixels, h w grid, c channels; of these one rank has g frames or p pixels.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vcut.errors import ConfigError, PeerError, is_out_of_memory
from vcut.kernels.norm import normalised
from vcut.layers import GroupNorm, TemporalConv
from vcut.layers.packing import PackedTemporalConv
from vcut.layers.resnet import TemporalResnet
from vcut.unet import Context, UNet
from vcut.unet.transformer import Block
from vcut.vae import VAE

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Team:
    """Ranks that share frames: this process is ``number`` of ``size``, and ``group`` leads to the others."""

    size: int
    number: int
    group: dist.ProcessGroup | None = None

    def shares(self, count: int) -> list[int]:
        """Number of things that each rank has of ``count``: no two differ by more than 1."""
        return [count // self.size + (number < count % self.size) for number in range(self.size)]

    def slices(self, count: int) -> list[slice]:
        """Places of each rank's things among ``count``."""
        shares = self.shares(count)
        ends = itertools.accumulate(shares)
        return [slice(end - share, end) for end, share in zip(ends, shares, strict=True)]

    def own(self, count: int) -> slice:
        """Places of this rank's things among ``count``."""
        return self.slices(count)[self.number]

    def pixels(self, count: int) -> list[slice]:
        """Pixels of each rank among ``count``: where there are fewer than ranks, all for everyone."""
        return self.slices(count) if count >= self.size else [slice(0, count)] * self.size

    def to_pixels(self, x: Tensor, frames: int) -> Tensor:
        """This rank's frames of all pixels, ``[b, g, n, c]``, for all frames of its pixels, ``[b, f, p, c]``."""
        b, g, n, c = x.shape
        pixels = self.pixels(n)
        p, sizes = _length(pixels[self.number]), [g * _length(each) * c for each in pixels]
        result = x.new_empty(b, frames, p, c)
        for clip, whole in zip(x, result, strict=True):
            sent = x.new_empty(sum(sizes))
            for block, each in zip(sent.split(sizes), pixels, strict=True):
                block.view(g, -1, c).copy_(clip[:, each])
            self._exchange(whole.view(-1), sent, [share * p * c for share in self.shares(frames)], sizes)
        return result

    def to_frames(self, x: Tensor, n: int) -> Tensor:
        """The way back: all frames of this rank's pixels for its frames of all ``n`` pixels."""
        b, frames, p, c = x.shape
        if n < self.size:
            return x[:, self.own(frames)]
        pixels, shares = self.pixels(n), self.shares(frames)
        g = shares[self.number]
        sizes = [g * _length(each) * c for each in pixels]
        result = x.new_empty(b, g, n, c)
        for clip, whole in zip(x.contiguous(), result, strict=True):
            received = x.new_empty(sum(sizes))
            self._exchange(received, clip.view(-1), sizes, [share * p * c for share in shares])
            for block, each in zip(received.split(sizes), pixels, strict=True):
                whole[:, each] = block.view(g, -1, c)
        return result

    def gathered(self, x: Tensor) -> Tensor:
        """The tensors ``x`` of all ranks, of one shape, stacked."""
        found = [torch.empty_like(x) for _ in range(self.size)]
        with reaching():
            dist.all_gather(found, x, group=self.group)
        return torch.stack(found)

    def _exchange(self, received: Tensor, sent: Tensor, coming: list[int], going: list[int]) -> None:
        with reaching():
            dist.all_to_all_single(received, sent, coming, going, group=self.group)


class OverTime(nn.Module):
    """A temporal layer between two exchanges: given a rank's frames, and giving them, it sees a rank's pixels."""

    def __init__(self, layer: nn.Module, team: Team, frames: int) -> None:
        super().__init__()
        self.layer, self.team, self.frames = layer, team, frames

    def forward(self, x: Tensor, *rest: object) -> Tensor:
        """Transform ``x``, ``[b, g, h, w, c]`` or ``[b, g, n, c]``."""
        grid = x.shape[2:-1]
        column = (-1, *[1] * (len(grid) - 1))  # a layer that expects a grid gets p x 1
        # Handed over at once: the layer alone holds its input.
        y = self.layer(self.team.to_pixels(x.flatten(2, -2), self.frames).unflatten(2, column), *rest)
        return self.team.to_frames(y.flatten(2, -2), grid.numel()).unflatten(2, grid)


class TeamNorm(GroupNorm):
    """A group norm with the moments of all pixels, of which every rank has its own."""

    def __init__(self, norm: GroupNorm, team: Team) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps)
        self.weight, self.bias, self.team = norm.weight, norm.bias, team

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        merge = partial(self._merged_of_all, tokens.shape[1])
        return normalised(tokens, merge, self.weight, self.bias, self.eps).view(x.shape)

    def _merged_of_all(self, count: int, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of the groups from those of the channels on every rank, each over ``count`` tokens of its own."""
        counts, means, variances = self.team.gathered(
            torch.stack([torch.full_like(mean, count), mean, var])
        ).unbind(1)
        weights = counts / counts.sum(0)
        mean = (weights * means).sum(0)
        var = (weights * (variances + (means - mean).square())).sum(0)
        return self._merged(mean, var)


class SharedUNet(UNet):
    """A rank's part of a UNet: it takes and gives this rank's frames, of clips of ``frames``.

    Its layers are those of ``unet``, whatever becomes of them: it has no weights of its own.
    """

    def __init__(self, unet: UNet, team: Team, frames: int) -> None:
        nn.Module.__init__(self)  # a UNet's own would make the layers
        self.config, self.team = unet.config, team
        self._cache_whole = unet.cache_context
        for name, child in unet.named_children():
            self.add_module(name, _shared(child, team, frames))
        self.train(unet.training)

    def cache_context(self, embedding: Tensor, frames: int) -> Context:
        """The context of this rank's frames; the positions in it are those of all ``frames``."""
        if embedding.ndim != 3:
            raise ConfigError("frames that are shared have one context per clip, [b, tokens, d]")
        share = self.team.shares(frames)[self.team.number]
        return self._cache_whole(embedding, frames)._replace(frames=share)


def shared_unet(unet: UNet, team: Team, frames: int) -> UNet:
    """The UNet for this rank's frames of clips of ``frames``; ``unet`` itself where the team is one rank.

    Call ``cache_context`` with the number of all frames, and the network with the latents of its own.

    Raises:
        ConfigError: there are fewer frames than ranks.
    """
    if frames < team.size:
        raise ConfigError(f"{team.size} processes cannot share {frames} frames: start at most {frames}")
    return unet if team.size == 1 else SharedUNet(unet, team, frames)


def shared_vae(vae: VAE, team: Team, frames: int) -> VAE:
    """The autoencoder that decodes this rank's frames of ``frames`` which are decoded together."""
    return vae if team.size == 1 else _shared(vae, team, frames)


def _shared(network: M, team: Team, frames: int) -> M:
    """The network with an exchange around each of its temporal layers."""

    def over_time(module: nn.Module) -> nn.Module | None:
        if isinstance(module, TemporalResnet):
            return OverTime(_replaced(module, of_all), team, frames)
        over = isinstance(module, Block) and module.attn.axis == "time"
        if over or isinstance(module, TemporalConv | PackedTemporalConv):
            return OverTime(module, team, frames)
        return None

    def of_all(module: nn.Module) -> nn.Module | None:
        return TeamNorm(module, team) if isinstance(module, GroupNorm) else None

    return _replaced(network, over_time)


def _replaced(network: M, other: Callable[[nn.Module], nn.Module | None]) -> M:
    """The network with ``other(module)`` in place of each module for which that is not None.

    What holds a replaced module is a shallow copy; everything else, all weights too, is the network's own.
    """
    found = other(network)
    if found is not None:
        return cast("M", found)
    children = {name: child and _replaced(child, other) for name, child in network._modules.items()}
    if all(children[name] is child for name, child in network._modules.items()):
        return network
    twin = copy.copy(network)
    twin._modules = children
    return twin


def _length(places: slice) -> int:
    return places.stop - places.start


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Turn an error of torch.distributed into one that says what it means.

    Raises:
        PeerError: in the block another process could not be reached.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerError(
            "another process of this run has ended, as its last line or torchrun says: without it there is no clip"
        ) from error
