"""What the networks compute, counted by torch's own FLOP counter on the meta device: exact, and no memory.

A multiply-accumulate (MAC) is two of torch's FLOPs. Every count is kept in two halves: ``layers`` are the linear
and convolution layers, which is all that the paper counts (Taghipour et al., arXiv 2407.19205); ``products`` are
the two matrix products of attention, queries with keys and weights with values. Norms, activations, softmax and
additions have no MACs here.

The published code computes some linear layers on repeated rows, which vcut computes once. What that costs is
counted too, by running the same layers on as many rows (:attr:`UNetCounts.repeats`), so that a baseline can be
priced *as published*: equal, to the MAC, to what torch's counter says of diffusers' UNet.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vcut.clip import CLIPVisionEncoder
from vcut.config import CLIPConfig, UNetConfig, VAEConfig
from vcut.layers.resnet import SpatialResnet, TemporalResnet
from vcut.unet import UNet
from vcut.unet.attention import CrossAttention
from vcut.unet.transformer import Transformer
from vcut.vae import VAE

LAYER_NORM = 4
"""Operations that the paper's counter charges per LayerNorm element; see :meth:`UNetCounts.paper_call`."""

_PRODUCTS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)  # under SDPBackend.MATH attention is these
_PARTS = (
    ("spatial self-attention", r"\.transformer\.spatial\.\d+\.attn(_norm)?\."),
    ("temporal self-attention", r"\.transformer\.temporal\.\d+\.attn(_norm)?\."),
    ("spatial cross-attention", r"\.transformer\.spatial\.\d+\.cross\."),
    ("temporal cross-attention", r"\.transformer\.temporal\.\d+\.cross\."),
    ("spatial feed-forward", r"\.transformer\.spatial\.\d+\.ff(_norm)?\."),
    ("temporal feed-forward", r"\.transformer\.temporal\.\d+\.ff(_in)?(_norm)?\."),
    ("2D resnets", r"\.resnet(_[12])?\.spatial\."),
    ("temporal resnets", r"\.resnet(_[12])?\.temporal\."),
    ("other", ""),  # convolutions in and out, up and down; projections of transformers; embeddings
)
PARTS = tuple(name for name, _ in _PARTS)
"""The parts of the UNet, by name."""


@dataclass(frozen=True)
class Count:
    """MACs of ``layers`` (linear, convolution) and attention ``products``."""

    layers: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.layers + self.products

    def __add__(self, other: Count) -> Count:
        return Count(self.layers + other.layers, self.products + other.products)

    def __mul__(self, times: int) -> Count:
        return Count(self.layers * times, self.products * times)


def total(counts: Any) -> Count:
    """The sum of an iterable of :class:`Count`."""
    return sum(counts, Count())


@dataclass(frozen=True)
class Part:
    """One part of the UNet: its parameters; the MACs of one clip in one call; LayerNorm elements of the same."""

    name: str
    parameters: int
    macs: Count
    norm_elements: int


@dataclass(frozen=True)
class UNetCounts:
    """The UNet's bill. Everything but ``positions`` is for one clip and grows with the clips of a call.

    Attributes:
        parts: in the order of :data:`PARTS`; their sum is a call on a cached context.
        positions: embedding the frames' positions, once per run, for all clips.
        context: projecting the context for all cross-attentions, once per clip and run.
        repeats: what the published code computes in every call besides, by name: see :func:`unet_counts`.
    """

    parts: tuple[Part, ...]
    positions: Count
    context: Count
    repeats: tuple[tuple[str, Count], ...]

    @property
    def parameters(self) -> int:
        """Of the whole UNet."""
        return sum(part.parameters for part in self.parts)

    @property
    def norm_elements(self) -> int:
        """Elements that LayerNorms normalise, one clip and call."""
        return sum(part.norm_elements for part in self.parts)

    def call(self, clips: int, *, published: bool = False) -> Count:
        """One call on ``clips`` clips (a guided step has two per video), as vcut computes it or as published."""
        each = total(part.macs for part in self.parts)
        if published:
            return (each + self.positions + total(count for _, count in self.repeats)) * clips
        return each * clips

    def paper_call(self, clips: int) -> int:
        """One call as the paper must have counted it: as published, layers, and 4 per LayerNorm element.

        That is the rule of thop (pytorch-OpCounter), which has none for GroupNorm. It gives 64.411 and 62.860
        tera MACs where the paper prints 64.41 and 62.86, and the 322 saved that it prints.
        """
        return self.call(clips, published=True).layers + LAYER_NORM * self.norm_elements * clips


@dataclass(frozen=True)
class NetworkCount:
    """Parameters of a network that runs once per clip, and the MACs of that."""

    name: str
    parameters: int
    macs: Count


def macs(run: Callable[[], object]) -> Count:
    """Count what ``run`` computes. On meta tensors it takes no memory."""
    counts = _macs_by_module(run)
    return counts.pop("", Count())


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, device="meta", dtype=dtype)


def parameters(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters())


def build_unet(config: UNetConfig) -> UNet:
    """A UNet without memory."""
    with torch.device("meta"):
        return UNet(config).eval()


@functools.cache
def unet_counts(config: UNetConfig, frames: int, height: int, width: int) -> UNetCounts:
    """Count the UNet of ``config`` on clips of ``frames`` latents ``height`` x ``width``.

    The softmax form is counted once per size; the cached and the absent forms are that without the parts that
    they do not compute. The published code repeats, in every call:

    - the context for every pixel, before the keys and values of temporal cross-attention;
    - the context for every frame, before those of spatial cross-attention;
    - the step embedding for every frame, before the resnets' projections of it;
    - the frames' positions, for every clip.
    """
    unet = build_unet(config)
    d = config.context_dim
    weights = Counter[str]()
    for path, parameter in unet.named_parameters():
        weights[_part(path)] += parameter.numel()

    softmax = dataclasses.replace(config, tca=True, sca=True)
    modules, norms, grids = _softmax_modules(softmax, frames, height, width)
    kept = {
        "spatial cross-attention": config.sca is True,
        "temporal cross-attention": config.tca is True,
    }
    parts = dict.fromkeys(PARTS, Count())
    for path, count in modules:
        if kept.get(_part(path), True):
            parts[_part(path)] += count
    elements = Counter[str]()
    for path, number in norms:
        if kept.get(_part(path), True):
            elements[_part(path)] += number

    grid = dict(grids)
    per_pixel: list[tuple[nn.Module, int]] = []
    per_frame: list[tuple[nn.Module, int]] = []
    for path, module in unet.named_modules():
        if isinstance(module, Transformer):
            per_pixel += [(block.cross, grid[path]) for block in module.temporal if block.cross is not None]
            per_frame += [(block.cross, frames) for block in module.spatial if block.cross is not None]
    emb = [
        m.emb for m in unet.modules() if isinstance(m, SpatialResnet | TemporalResnet) and m.emb is not None
    ]

    def project(rows: list[tuple[nn.Module, int]]) -> Count:
        softmax_rows = [(cross, n) for cross, n in rows if isinstance(cross, CrossAttention)]
        return macs(lambda: [cross.cache(on_meta(1, n, 1, d)) for cross, n in softmax_rows])

    repeats = (
        ("context projected for every pixel (temporal)", project(per_pixel)),
        ("context projected for every frame (spatial)", project(per_frame)),
        (
            "step embedding projected for every frame",
            macs(lambda: [linear(on_meta(frames - 1, linear.in_features)) for linear in emb]),
        ),
    )
    return UNetCounts(
        parts=tuple(Part(name, weights[name], parts[name], elements[name]) for name in PARTS),
        positions=macs(lambda: [transformer.positions(frames) for transformer in unet.transformers()]),
        context=macs(lambda: unet.cache_context(on_meta(1, 1, d))),
        repeats=tuple((name, count) for name, count in repeats if count.total),
    )


def unet_call(unet: UNet, clips: int, frames: int, height: int, width: int) -> Callable[[], Tensor]:
    """A call of a meta UNet on a cached context, ready to run."""
    c, dtype = unet.config, unet.dtype
    x = on_meta(clips, frames, c.in_channels, height, width, dtype=dtype)
    context = unet.cache_context(on_meta(clips, 1, c.context_dim, dtype=dtype), frames)
    c_noise, time_ids = on_meta(clips), on_meta(clips, c.time_ids)
    return lambda: unet(x, c_noise, context, time_ids)


@functools.cache
def vae_networks(
    config: VAEConfig, frames: int, height: int, width: int
) -> tuple[NetworkCount, NetworkCount]:
    """Encoding one picture of ``height`` x ``width`` pixels, and decoding ``frames`` of them."""
    with torch.device("meta"):
        vae = VAE(config)
    latents = on_meta(1, frames, config.latent_channels, height // config.stride, width // config.stride)
    encoder = parameters(vae.encoder) + parameters(vae.quant_conv)
    encode = macs(lambda: vae.encode(on_meta(1, 3, height, width)))
    decode = macs(lambda: vae.decode(latents))
    return (
        NetworkCount("VAE encoder", encoder, encode),
        NetworkCount("VAE decoder", parameters(vae) - encoder, decode),
    )


@functools.cache
def clip_network(config: CLIPConfig) -> NetworkCount:
    """Embedding one preprocessed picture."""
    with torch.device("meta"):
        clip = CLIPVisionEncoder(config)
    pixels = on_meta(1, 3, config.image_size, config.image_size)
    return NetworkCount("CLIP", parameters(clip), macs(lambda: clip(pixels)))


@functools.cache
def _softmax_modules(
    config: UNetConfig, frames: int, height: int, width: int
) -> tuple[tuple[tuple[str, Count], ...], tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """Of one call on one clip: MACs by module, LayerNorm elements by module, pixels by transformer."""
    unet = build_unet(config)
    norms, grids = Counter[str](), {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if isinstance(module, nn.LayerNorm):
                norms[f"{path}."] += inputs[0].numel()
            else:
                grids[path] = inputs[0].shape[2] * inputs[0].shape[3]

        return before

    for path, module in unet.named_modules():
        if isinstance(module, nn.LayerNorm | Transformer):
            module.register_forward_pre_hook(watch(path))
    counts = _macs_by_module(unet_call(unet, 1, frames, height, width))
    counts.pop("", None)
    return tuple(counts.items()), tuple(norms.items()), tuple(grids.items())


def _macs_by_module(run: Callable[[], object]) -> dict[str, Count]:
    """Of each module that ``run`` calls, without its submodules; ``""`` is everything.

    Paths are those of ``named_modules`` with a dot behind, where one module calls all others.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    inclusive = {}
    for name, by_op in counter.get_flop_counts().items():
        products = sum(flops for op, flops in by_op.items() if op in _PRODUCTS)
        inclusive[name] = Count((sum(by_op.values()) - products) // 2, products // 2)
    everything = inclusive.pop("Global", Count())
    own = dict(inclusive)
    for name, count in inclusive.items():
        parent = name.rpartition(".")[0]
        while parent and parent not in inclusive:
            parent = parent.rpartition(".")[0]
        if parent:
            own[parent] += count * -1
    return {"": everything} | {
        f"{name.partition('.')[2]}.": count for name, count in own.items() if count.total
    }


def _part(path: str) -> str:
    return next(name for name, pattern in _PARTS if re.search(pattern, path))
