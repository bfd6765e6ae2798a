"""The audit of a UNet: is each cross-attention of these weights the constant that the mathematics says it is?

Over one context token the softmax is 1 and a cross-attention adds ``W_o W_v e + b_o`` everywhere
(:mod:`vcut.unet.attention`). :func:`audit` watches a real forward pass and reports, layer by layer, how far the
softmax is from 1, how far what attention adds is from its cached linear form, how large that constant is beside
the stream it is added to, and how many parameters cannot reach the output. ``docs/audit.md`` is the argument.

Shapes: b clips, f frames, n = h*w pixels, c channels, m context tokens, d context width; g is 1, or f when every
frame has a context of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vcut.analysis.text_table import Table
from vcut.config import number, whole_number
from vcut.errors import ConfigError, NotFiniteError, check_type
from vcut.unet import UNet, fold
from vcut.unet.attention import Cached, CrossAttention, KeyValue
from vcut.unet.transformer import Block

Kind = Literal["spatial", "temporal"]


@dataclass(frozen=True)
class Row:
    """One cross-attention. A folded one has no softmax: what would describe it is None."""

    place: str  # its name in the UNet
    kind: Kind
    form: Literal["softmax", "linear_cached"]
    channels: int
    heads: int  # of its block
    tokens: int  # n, pixels of the map; the queries of a clip are f times as many
    largest_logit: float | None  # |q k| / sqrt(c / heads): what the softmax had to bring to 1
    deviation: float | None  # largest |softmax - 1|
    difference: float | None  # largest |attention - cached linear| over the largest |cached linear|
    tolerance: float | None  # what rounding explains of it, see rounding()
    constant: float  # root mean square of what it adds, over that of the stream that it is added to
    dead_parameters: int  # in to_q, to_k and the norm before them

    @property
    def holds(self) -> bool:
        """Whether the layer is the constant that it should be."""
        exact = self.deviation in (None, 0.0)
        return exact and (self.difference is None or self.difference <= (self.tolerance or 0.0))


@dataclass(frozen=True)
class AuditReport:
    """Findings of :func:`audit`: one :class:`Row` per cross-attention, in order of execution."""

    rows: tuple[Row, ...]
    dtype: str
    parameters: int  # of the whole UNet

    @property
    def dead_parameters(self) -> int:
        """Parameters that no output depends on."""
        return sum(row.dead_parameters for row in self.rows)

    @property
    def worst_deviation(self) -> float | None:
        """The largest |softmax - 1| of all layers; None if none has a softmax."""
        return max((row.deviation for row in self.rows if row.deviation is not None), default=None)

    @property
    def worst_difference(self) -> float | None:
        """The largest relative difference between attention and its linear form; None if none has both."""
        return max((row.difference for row in self.rows if row.difference is not None), default=None)

    @property
    def holds(self) -> bool:
        """Whether every layer is the constant that it should be."""
        return all(row.holds for row in self.rows)

    def summary(self) -> str:
        """One line."""
        if not self.rows:
            return "no cross-attentions: nothing to audit"
        spatial = sum(row.kind == "spatial" for row in self.rows)
        parts = [
            f"{len(self.rows)} cross-attentions ({spatial} spatial, {len(self.rows) - spatial} temporal)"
        ]
        if self.worst_deviation is None:
            parts.append("all folded: no softmax to check")
        else:
            parts.append(f"softmax deviates from 1 by at most {self.worst_deviation:.3g}")
            if self.worst_difference is None:
                parts.append("no linear form to compare with")
            else:
                parts.append(f"attention from cached linear by {self.worst_difference:.2g} ({self.dtype})")
            parts.append("the identity holds" if self.holds else "THE IDENTITY DOES NOT HOLD")
        share = self.dead_parameters / self.parameters
        parts.append(f"{self.dead_parameters:,} of {self.parameters:,} parameters are dead ({share:.1%})")
        return "; ".join(parts)

    def table(self) -> str:
        """Text, one line per layer, the summary below."""

        def cells(row: Row) -> tuple[str, ...]:
            sizes = (row.channels, row.heads, row.tokens)
            measured = (row.largest_logit, row.deviation, row.difference, row.tolerance, row.constant)
            return (
                row.place,
                *map(str, sizes),
                *("-" if value is None else f"{value:.2g}" for value in measured),
                f"{row.dead_parameters:,}",
            )

        head = (
            *("cross-attention", "channels", "heads", "tokens"),
            *("|logit|", "|softmax-1|", "|att-linear|", "allowed", "constant", "dead"),
        )
        return str(Table("Audit", head, tuple(map(cells, self.rows)), ("", self.summary())))

    def to_dict(self) -> dict[str, object]:
        """The report as plain JSON values."""
        return {
            "layers": [dataclasses.asdict(row) | {"holds": row.holds} for row in self.rows],
            "dtype": self.dtype,
            "parameters": self.parameters,
            "dead_parameters": self.dead_parameters,
            "worst_deviation": self.worst_deviation,
            "worst_difference": self.worst_difference,
            "holds": self.holds,
        }


@torch.no_grad()
def audit(
    unet: UNet,
    embedding: Tensor | None = None,
    *,
    latents: Tensor | None = None,
    sigma: float = 1.0,
    seed: int = 0,
    folded: UNet | None = None,
) -> AuditReport:
    """Measure every cross-attention of ``unet`` in one forward pass, on the device and in the dtype it has.

    Args:
        unet: in any form; what has no cross-attention has no row.
        embedding: ``[b, 1, d]``, by default unit noise for two clips. More tokens are measured too, if every
            cross-attention is a softmax: then there is no linear form to compare with, and nothing is dead.
        latents: ``[b, f, in_channels, h, w]``, by default unit noise of 3 frames at the smallest size (twice as
            wide as high) that the UNet takes.
        sigma: the noise level that the UNet is told.
        seed: of everything that is drawn.
        folded: the linear form to compare with, by default made from ``unet``. Give another to check weights
            that were folded elsewhere.

    Raises:
        ConfigError: shapes that do not fit, or ``folded`` is not the linear form of every softmax of ``unet``.
        NotFiniteError: NaN or infinity in a stream, where a maximum would mean nothing.
    """
    check_type("unet", unet, UNet)
    check_type("embedding", embedding, Tensor, NoneType)
    check_type("latents", latents, Tensor, NoneType)
    check_type("folded", folded, UNet, NoneType)
    sigma = number("sigma", sigma, least=sys.float_info.min)
    seed = whole_number("seed", seed, least=0)
    config = unet.config
    form = {"tca": config.tca and "linear_cached", "sca": config.sca and "linear_cached"}
    if folded is not None and (got := {name: getattr(folded.config, name) for name in form}) != form:
        raise ConfigError(f"folded must be the linear form of unet, of {form}, got {got}")
    if embedding is not None and embedding.ndim not in (3, 4):
        raise ConfigError(f"embedding must be [b, 1, {config.context_dim}], got {list(embedding.shape)}")
    if latents is not None and latents.ndim != 5:
        raise ConfigError(f"latents must be [b, f, {config.in_channels}, h, w], got {list(latents.shape)}")
    device = unet.conv_in.weight.device
    drawn: dict[str, Any] = dict(
        generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu"
    )
    if embedding is None:
        clips = 2 if latents is None else len(latents)
        embedding = torch.randn(clips, 1, config.context_dim, **drawn)
    b = len(embedding)
    if latents is None:
        size = (config.stride, 2 * config.stride)
        latents = torch.randn(b, 3, config.in_channels, *size, **drawn)
    time_ids = 100 * torch.rand(b, config.time_ids, **drawn)
    c_noise = torch.full((b,), math.log(sigma) / 4, dtype=torch.float32, device="cpu")
    embedding = embedding.to(device)

    blocks = list(_blocks(unet))
    vectors: list[Cached] = [None] * len(blocks)
    if embedding.shape[-2] == 1:
        folded = folded or fold(unet, **form)
        vectors = [
            vector for pair in folded.cache_context(embedding, latents.shape[1]).blocks for vector in pair
        ]

    rows: list[Row] = []
    names = {module: name for name, module in unet.named_modules()}
    with contextlib.ExitStack() as hooks:
        for (block, kind), vector in zip(blocks, vectors, strict=True):
            if block.cross is not None:
                observe = _observer(rows, names[block.cross], kind, block.attn.heads, vector)
                hooks.enter_context(block.cross.register_forward_hook(observe))
        unet(latents.to(device), c_noise.to(device), embedding, time_ids.to(device))
    return AuditReport(
        tuple(rows),
        dtype=str(unet.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in unet.parameters()),
    )


def rounding(dtype: torch.dtype, channels: int, context_dim: int) -> float:
    """Part of the difference between the two forms that rounding explains, relative to the largest value.

    Both are sums: W_v e and W e of d products, W_o v of c. Random rounding errors of sums of k terms grow as
    sqrt(k) u_a, u_a being the unit roundoff of the accumulator (float32 or wider); storing a result in ``dtype``
    costs its own u. So 16 (u + sqrt(c + 2 d) u_a), the factor 16 being room for cancellation and for the
    largest of many values. A bound that no rounding can break is in ``tests/proofs/test_proof_folding.py``; it is
    hundreds of times as wide and would miss real damage.
    """
    u = torch.finfo(dtype).eps / 2
    u_a = min(u, torch.finfo(torch.float32).eps / 2)
    return 16 * (u + math.sqrt(channels + 2 * context_dim) * u_a)


def _blocks(unet: UNet) -> Iterator[tuple[Block, Kind]]:
    """The transformer blocks in order of execution."""
    for transformer in unet.transformers():
        for spatial, temporal in zip(transformer.spatial, transformer.temporal, strict=True):
            yield spatial, "spatial"
            yield temporal, "temporal"


def _observer(
    rows: list[Row], place: str, kind: Kind, heads: int, vector: Cached
) -> Callable[[nn.Module, tuple[Tensor, Any], Tensor], None]:
    """A forward hook that appends the row of one cross-attention; ``vector`` is its linear form's output."""

    def observe(layer: nn.Module, args: tuple[Tensor, Any], added: Tensor) -> None:
        x, cached = args
        dtype = torch.promote_types(x.dtype, torch.float32)
        stream = _rms(x.to(dtype))
        added = added.to(dtype)
        if not (math.isfinite(stream) and torch.isfinite(added).all()):
            raise NotFiniteError(
                f"{place}: NaN or infinity in the stream or in what is added to it, in {x.dtype}; "
                "audit in float32 or bfloat16"
            )
        logit = deviation = difference = tolerance = None
        dead = 0
        if isinstance(layer, CrossAttention):
            logit, deviation = _softmax(layer, x, cached)
            if isinstance(vector, Tensor):
                line = vector.to(dtype)
                difference = _ratio(_largest(added - line), _largest(line))
                tolerance = rounding(x.dtype, x.shape[-1], layer.to_v.in_features)
                dead_modules = (layer.norm, layer.to_q, layer.to_k)
                dead = sum(p.numel() for module in dead_modules for p in module.parameters())
        rows.append(
            Row(
                place=place,
                kind=kind,
                form="softmax" if isinstance(layer, CrossAttention) else "linear_cached",
                channels=x.shape[-1],
                heads=heads,
                tokens=x.shape[-2],
                largest_logit=logit,
                deviation=deviation,
                difference=difference,
                tolerance=tolerance,
                constant=_ratio(_rms(added), stream),
                dead_parameters=dead,
            )
        )

    return observe


def _softmax(layer: CrossAttention, x: Tensor, cached: KeyValue) -> tuple[float, float]:
    """The largest |logit| of ``x [b, f, n, c]`` on its keys, and the largest |softmax - 1|, written out."""
    g = cached.key.shape[1]
    q = rearrange(layer.to_q(layer.norm(x)), "b (g r) n (k e) -> b g k (r n) e", g=g, k=layer.heads)
    k = rearrange(cached.key, "b g m (k e) -> b g k e m", k=layer.heads)
    dtype = torch.promote_types(q.dtype, torch.float32)  # as the kernels do: half precision would overflow
    logits = q.to(dtype) @ k.to(dtype) / math.sqrt(q.shape[-1])
    return _largest(logits), _largest(logits.softmax(dim=-1) - 1)


def _largest(x: Tensor) -> float:
    return x.abs().max().item()


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.copysign(math.inf, part) if part else 0.0
