"""Counts of what the networks compute, by torch's own FLOP counter on the meta device: exact, and no memory.

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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vcut.clip import CLIPVisionEncoder
from vcut.config import CLIPConfig, UNetConfig, VAEConfig
from vcut.errors import VcutError
from vcut.layers.resnet import SpatialResnet, TemporalResnet
from vcut.unet import UNet
from vcut.unet.attention import CrossAttention, LinearCrossAttention, SelfAttention
from vcut.unet.transformer import Block, FeedForward, Transformer
from vcut.vae import VAE

LAYER_NORM = 4
"""Operations that the paper's counter charges per LayerNorm element; see :meth:`UNetCounts.paper_call`."""

_PRODUCTS = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)  # under SDPBackend.MATH attention is these
OTHER = "other"
"""The part of convolutions in and out, up and down; of the transformers' projections; of embeddings."""

PARTS = (
    "spatial self-attention",
    "temporal self-attention",
    "spatial cross-attention",
    "temporal cross-attention",
    "spatial feed-forward",
    "temporal feed-forward",
    "2D resnets",
    "temporal resnets",
    OTHER,
)
"""Names of the UNet's parts."""

_LAYERS_OF_A_BLOCK: tuple[tuple[type[nn.Module], str], ...] = (
    (SelfAttention, "self-attention"),
    (CrossAttention, "cross-attention"),
    (LinearCrossAttention, "cross-attention"),
    (FeedForward, "feed-forward"),
)


@dataclass(frozen=True)
class Count:
    """MACs of ``layers`` (linear, convolution) and attention ``products``."""

    layers: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        """Layers and products together."""
        return self.layers + self.products

    def __add__(self, other: Count) -> Count:
        return Count(self.layers + other.layers, self.products + other.products)

    def __sub__(self, other: Count) -> Count:
        return Count(self.layers - other.layers, self.products - other.products)

    def __mul__(self, times: int) -> Count:
        return Count(self.layers * times, self.products * times)


def total(counts: Any) -> Count:
    """Sum of an iterable of :class:`Count`."""
    return sum(counts, Count())


@dataclass(frozen=True)
class PartCount:
    """A part of the UNet: its parameters; the MACs of one clip in one call; LayerNorm elements of the same."""

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

    parts: tuple[PartCount, ...]
    positions: Count
    context: Count
    repeats: tuple[tuple[str, Count], ...]

    @property
    def parameters(self) -> int:
        """Parameters of the whole UNet."""
        return sum(part.parameters for part in self.parts)

    @property
    def norm_elements(self) -> int:
        """Elements that LayerNorms normalise in a call on one clip."""
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
    return _macs_by_module(run)[0]


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, device="meta", dtype=dtype)


def parameters(module: nn.Module) -> int:
    """Number of parameters of ``module``."""
    return sum(p.numel() for p in module.parameters())


def build_unet(config: UNetConfig) -> UNet:
    """A UNet without memory."""
    with torch.device("meta"):
        return UNet(config).eval().requires_grad_(False)


@functools.cache
def unet_counts(config: UNetConfig, frames: int, height: int, width: int) -> UNetCounts:
    """Count the UNet of ``config`` on clips of ``frames`` latents ``height`` x ``width``.

    The softmax form is counted once per size. A cached or absent cross-attention has no MACs in a call, and the
    other forms are the softmax one without it. The published code repeats, in every call:

    - the context for every pixel, before the keys and values of temporal cross-attention;
    - the context for every frame, before those of spatial cross-attention;
    - the step embedding for every frame, before the resnets' projections of it;
    - the frames' positions, for every clip.

    Raises:
        VcutError: the UNet has a layer that belongs to no part.
    """
    unet = build_unet(config)
    sizes = _parameters(unet)
    softmax = dataclasses.replace(config, tca=True, sca=True)
    call, elements, pixels = _softmax_call(softmax, frames, height, width)
    for name, mode in (("spatial cross-attention", config.sca), ("temporal cross-attention", config.tca)):
        if mode is not True:
            call, elements = call | {name: Count()}, elements | {name: 0}
    meta = torch.device("meta")
    positions = macs(lambda: [transformer.positions(frames, meta) for transformer in unet.transformers()])
    context = macs(lambda: unet.cache_context(on_meta(1, 1, config.context_dim), frames))
    return UNetCounts(
        parts=tuple(PartCount(name, sizes[name], call[name], elements[name]) for name in PARTS),
        positions=positions,
        context=context - positions,
        repeats=_repeats(unet, frames, pixels),
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
        vae = VAE(config).requires_grad_(False)
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
        clip = CLIPVisionEncoder(config).requires_grad_(False)
    pixels = on_meta(1, 3, config.image_size, config.image_size)
    return NetworkCount("CLIP", parameters(clip), macs(lambda: clip(pixels)))


@functools.cache
def _softmax_call(
    config: UNetConfig, frames: int, height: int, width: int
) -> tuple[dict[str, Count], dict[str, int], tuple[int, ...]]:
    """Count one call on one clip: MACs and LayerNorm elements by part, and the pixels of each transformer's map."""
    unet = build_unet(config)
    part_of = parts_of(unet)
    elements, pixels = dict.fromkeys(PARTS, 0), list[int]()

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Transformer):
            pixels.append(inputs[0].shape[2] * inputs[0].shape[3])
        else:
            elements[part_of[module]] += inputs[0].numel()

    for module in unet.modules():
        if isinstance(module, nn.LayerNorm | Transformer):
            module.register_forward_pre_hook(before)
    _, by_module = _macs_by_module(unet_call(unet, 1, frames, height, width))
    call = dict.fromkeys(PARTS, Count())
    for path, count in by_module.items():
        call[part_of[unet.get_submodule(path)]] += count
    if call[OTHER].products:
        raise VcutError(f"the UNet has attention that belongs to none of its parts: {', '.join(PARTS[:-1])}")
    return call, elements, tuple(pixels)


def _repeats(unet: UNet, frames: int, pixels: tuple[int, ...]) -> tuple[tuple[str, Count], ...]:
    """Repetitions of the published code in a call on one clip; ``pixels`` are those of each transformer's map."""
    d = unet.config.context_dim
    transformers = list(unet.transformers())
    resnets = [module for module in unet.modules() if isinstance(module, SpatialResnet | TemporalResnet)]
    emb = [resnet.emb for resnet in resnets if resnet.emb is not None]

    def project(blocks: nn.Module, rows: int) -> Count:
        layers = [layer for layer in blocks.modules() if isinstance(layer, CrossAttention)]
        return macs(lambda: [layer.cache(on_meta(1, rows, 1, d)) for layer in layers])

    per_pixel = total(project(each.temporal, n) for each, n in zip(transformers, pixels, strict=True))
    per_frame = total(project(each.spatial, frames) for each in transformers)
    per_step = macs(lambda: [linear(on_meta(frames - 1, linear.in_features)) for linear in emb])

    repeats = (
        ("context projected for every pixel (temporal)", per_pixel),
        ("context projected for every frame (spatial)", per_frame),
        ("step embedding projected for every frame", per_step),
    )
    return tuple((name, count) for name, count in repeats if count.total)


def parts_of(unet: UNet) -> dict[nn.Module, str]:
    """Part of each module of ``unet``. The modules' types decide, not their names.

    Raises:
        VcutError: a transformer block has a layer that belongs to no part.
    """
    parts = dict.fromkeys(unet.modules(), OTHER)
    for module in unet.modules():
        if isinstance(module, SpatialResnet):
            parts |= dict.fromkeys(module.modules(), "2D resnets")
        elif isinstance(module, TemporalResnet):
            parts |= dict.fromkeys(module.modules(), "temporal resnets")
        elif isinstance(module, Block):
            for layer, part in _parts_of_block(module):
                parts |= dict.fromkeys(layer.modules(), part)
    return parts


def _parts_of_block(block: Block) -> Iterator[tuple[nn.Module, str]]:
    """Part of each layer of ``block``. A LayerNorm belongs to the layer that follows it."""
    (axis,) = (layer.axis for layer in block.children() if isinstance(layer, SelfAttention))
    part = None
    for layer in reversed(list(block.children())):
        if part is None or not isinstance(layer, nn.LayerNorm):
            kinds = [kind for cls, kind in _LAYERS_OF_A_BLOCK if isinstance(layer, cls)]
            if not kinds:
                raise VcutError(f"a transformer block has a {type(layer).__name__}, which belongs to no part")
            part = f"{'spatial' if axis == 'space' else 'temporal'} {kinds[0]}"
        yield layer, part


def _parameters(unet: UNet) -> Counter[str]:
    """Numbers of parameters by part."""
    sizes = Counter[str]()
    for module, part in parts_of(unet).items():
        sizes[part] += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return sizes


def _macs_by_module(run: Callable[[], object]) -> tuple[Count, dict[str, Count]]:
    """MACs of ``run``, and of each module that it calls without those of its submodules.

    Modules go by their paths in ``named_modules`` of the one module that calls all others.
    """
    # With gradients enabled nothing is worked on in parts, which is quicker to count; frozen weights record none.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
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
            own[parent] -= count
    return everything, {name.partition(".")[2]: count for name, count in own.items() if count.total}
