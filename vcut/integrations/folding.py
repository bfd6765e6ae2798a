"""Cross-attentions of a diffusers-like UNet in their folded form, put in place and taken out again.

A layer is a module like any other, put where ``attn2`` was. What it replaced is kept inside it, so that casts, moves,
copies and offloading reach both, and so that it can be put back with nothing remembered elsewhere.

A transformer of diffusers' gets a context for each frame, and repeats that of a clip's first frame for all pixels of
the clip. So the context is mapped where it enters, and what is repeated, in whichever order, is the result. What a
project's own transformer does to its context is not known: there each attention maps the rows that it is given.

Shapes: b clips, f frames, n rows (frames or pixels), q queries of a row, c channels of a block, d width of the
context, m tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vcut.config import Mode, Preset
from vcut.errors import ConfigError
from weights_tools.fold import made

PLAIN = (
    "AttnProcessor",
    "AttnProcessor2_0",
    "SlicedAttnProcessor",
    "XFormersAttnProcessor",
    "AttnProcessorNPU",
    "XLAFlashAttnProcessor2_0",
)
"""Names of diffusers' processors that compute plain attention, each in its own way."""


class FoldedAttention(nn.Module):
    """``W_o W_v e + b_o`` in place of a cross-attention and the norm before it; nothing where that is dropped.

    Called as ``attn2`` is; the result ``[n, 1, c]`` is added to all queries of a row by broadcasting. With ``keep``
    a call that does not fit goes to the trained attention.
    """

    def __init__(self, norm: nn.Module, attention: Any, *, drop: bool, keep: bool) -> None:
        super().__init__()
        self.norm, self.attention = norm, attention
        self.keep = keep
        self.width = attention.to_v.in_features
        self.linear = None if drop else _product(attention.to_v, attention.to_out[0])
        self.part: slice | None = None  # its own, of a context that was mapped ahead
        self.train(attention.training)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """Map ``encoder_hidden_states [n, 1, d]``, or take its part of what :func:`_mapped_ahead` put behind these d.

        A mask over one key changes nothing.

        Raises:
            ConfigError: the context has more than one token, or the caller wants something besides attention.
        """
        e, mapped = encoder_hidden_states, None
        if e is not None and self.part is not None and e.shape[-1] > self.width:
            e, mapped = e[..., : self.width], e[..., self.part]
        unknown = [name for name, value in others.items() if value is not None]
        if e is not None and e.ndim == 3 and e.shape[1] == 1 and not unknown:
            if self.linear is None:
                return hidden_states.new_zeros(1)
            return self.linear(e) if mapped is None else mapped
        if self.keep:
            return self.attention(
                self.norm(hidden_states),
                encoder_hidden_states=e,
                attention_mask=attention_mask,
                **others,
            )
        got = f"the argument {unknown[0]}" if unknown else "none" if e is None else str(list(e.shape))
        raise ConfigError(
            f"a folded cross-attention takes a context of one token, [rows, 1, {self.width}], got {got}: with more "
            'there is a softmax to compute. Call remove(), or accelerate with on_unsupported="keep"'
        )


class Site(NamedTuple):
    """A block that has a cross-attention: the attention's name in the UNet, the block, and whether it is temporal."""

    name: str
    block: Any
    temporal: bool


class Folds(NamedTuple):
    """Names of the attentions that were folded and dropped, and of those that were left, each with the reason.

    ``ahead`` takes away the hooks of the transformers that map their context as it enters.
    """

    folded: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    ahead: tuple[RemovableHandle, ...] = ()


def sites(unet: nn.Module) -> Iterator[Site]:
    """The blocks with a cross-attention in the spatio-temporal transformers of ``unet``."""
    for name, module in _transformers(unet):
        for blocks in ("transformer_blocks", "temporal_transformer_blocks"):
            for i, block in enumerate(getattr(module, blocks)):
                if getattr(block, "attn2", None) is not None:
                    yield Site(f"{name}.{blocks}.{i}.attn2", block, blocks.startswith("temporal"))


def _transformers(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in unet.named_modules():
        if hasattr(module, "transformer_blocks") and hasattr(module, "temporal_transformer_blocks"):
            yield name, module


@torch.inference_mode(False)  # what is made here has to outlive it
@torch.no_grad()
def fold_in_place(unet: nn.Module, preset: Preset, *, keep: bool) -> Folds:
    """Replace every cross-attention of ``unet`` by the form that ``preset`` gives it, and its norm by an identity.

    All are looked at before the first is replaced.

    Raises:
        ConfigError: cross-attentions that cannot be folded, all listed, unless ``keep`` leaves them as they are.
    """
    modes: dict[bool, Mode] = {True: preset.tca, False: preset.sca}
    wanted = [site for site in sites(unet) if modes[site.temporal] is not True]
    layers = [folded(site.block, drop=modes[site.temporal] is False, keep=keep) for site in wanted]
    done = [(site, layer) for site, layer in zip(wanted, layers, strict=True) if not isinstance(layer, str)]
    kept = [(site.name, layer) for site, layer in zip(wanted, layers, strict=True) if isinstance(layer, str)]
    if kept and not keep:
        listed = "".join(f"\n  {name}: {why}" for name, why in kept)
        raise ConfigError(
            f'{len(kept)} of {len(wanted)} cross-attentions cannot be folded; on_unsupported="keep" leaves them '
            f"as they are:{listed}"
        )
    for site, layer in done:
        site.block.attn2, site.block.norm2 = layer, nn.Identity()
    return Folds(
        tuple(site.name for site, layer in done if layer.linear is not None),
        tuple(site.name for site, layer in done if layer.linear is None),
        tuple(kept),
        # without folded temporal attentions nothing is repeated
        _map_ahead(unet) if preset.tca == "linear_cached" else (),
    )


def unfold_in_place(unet: nn.Module, folds: Folds) -> None:
    """Put back what :func:`fold_in_place` replaced, the same modules in the same places."""
    for handle in folds.ahead:
        handle.remove()
    for _, block, _ in list(sites(unet)):
        if isinstance(layer := block.attn2, FoldedAttention):
            block.norm2, block.attn2 = layer.norm, layer.attention


def _map_ahead(unet: nn.Module) -> tuple[RemovableHandle, ...]:
    """Put the hook on each transformer whose context reaches folded attentions alone, and those unchanged."""
    handles = []
    for _, transformer in _transformers(unet):
        blocks = (*transformer.transformer_blocks, *transformer.temporal_transformer_blocks)
        known = all(_is_diffusers(each) for each in (transformer, *blocks))
        if known and all(isinstance(block.attn2, FoldedAttention) for block in blocks):
            end = blocks[0].attn2.width
            for layer in _layers(transformer):
                start, end = end, end + (layer.linear.out_features if layer.linear else 0)
                layer.part = slice(start, end)
            handles.append(transformer.register_forward_pre_hook(_mapped_ahead, with_kwargs=True))
    return tuple(handles)


def _is_diffusers(module: nn.Module) -> bool:
    return type(module).__module__.startswith("diffusers.") and "forward" not in vars(module)


def _mapped_ahead(
    transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any] | None:
    """Follow the context ``[b * f, m, d]`` of a call, along d, by what each folded attention maps it to."""
    e = kwargs.get("encoder_hidden_states")
    if e is None:
        return None
    parts = [layer.linear(e) for layer in _layers(transformer) if layer.linear is not None]
    return args, kwargs | {"encoder_hidden_states": torch.cat([e.to(parts[0].dtype), *parts], -1)}


def _layers(transformer: nn.Module) -> list[FoldedAttention]:
    return [module for module in transformer.modules() if isinstance(module, FoldedAttention)]


def folded(block: Any, *, drop: bool, keep: bool) -> FoldedAttention | str:
    """The layer that can take the place of the block's cross-attention, or why there is none."""
    if why := _not_plain(block):
        return why
    layer = FoldedAttention(block.norm2, block.attn2, drop=drop, keep=keep)
    return layer if drop or _agrees(layer) else "it does not compute W_o W_v e + b_o when tried on one token"


def _product(to_v: nn.Linear, to_out: nn.Linear) -> nn.Linear:
    """``W_o W_v`` and ``b_o`` as one layer. Made on meta, it draws no random numbers."""
    linear = nn.Linear(to_v.in_features, to_out.out_features, bias=to_out.bias is not None, device="meta")
    linear.weight = nn.Parameter(made([to_out.weight, to_v.weight]), requires_grad=False)
    if to_out.bias is not None:
        linear.bias = nn.Parameter(to_out.bias.clone(), requires_grad=False)
    return linear


def _not_plain(block: Any) -> str | None:
    """The first thing by which a cross-attention is more than softmax attention with the norm before it."""
    attention, norm = block.attn2, block.norm2
    if isinstance(attention, FoldedAttention):
        return "it is folded already"
    processor = getattr(attention, "processor", None)
    if processor is not None:
        room, kind = type(processor).__module__, type(processor).__name__
        if kind not in PLAIN or not room.startswith("diffusers."):
            return f"its processor is {room}.{kind}"
    if not isinstance(norm, nn.LayerNorm) or getattr(block, "norm_type", "layer_norm") != "layer_norm":
        return f"the norm before it is {type(norm).__name__}, of the kind {getattr(block, 'norm_type', 'unknown')}"
    for name, module in [("its norm", norm), *attention.named_modules()]:
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'it'} has a forward hook"
        if hasattr(module, "_hf_hook"):
            return f"{name or 'it'} is offloaded by itself: accelerate before enable_sequential_cpu_offload"
    try:
        products = attention.to_v, attention.to_out[0]
    except (AttributeError, TypeError, IndexError):
        return f"{type(attention).__name__} has no to_v and to_out"
    for module in products:
        if not isinstance(module, nn.Linear) or getattr(module, "lora_layer", None) is not None:
            kind = f"{type(module).__module__}.{type(module).__name__}"
            return f"a product in it is a {kind}: fuse and unload a LoRA first"
        if not module.weight.is_floating_point() or module.weight.is_meta:
            return f"its weights are {module.weight.dtype} on {module.weight.device}"
    return None


def _agrees(layer: FoldedAttention) -> bool:
    """Whether the attention gives the same for one made-up token, to rounding in its dtype and in TF32."""
    assert layer.linear is not None
    weight = layer.linear.weight
    queries, context = (
        torch.arange(size, dtype=torch.float32, device=weight.device)
        for size in (3 * layer.attention.to_q.in_features, layer.width)
    )
    queries, context = queries.sin().view(1, 3, -1).to(weight), context.cos().view(1, 1, -1).to(weight)
    got, expected = layer.attention(queries, encoder_hidden_states=context), layer(queries, context)
    tolerance = max(32 * torch.finfo(weight.dtype).eps, 2e-3)
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())
