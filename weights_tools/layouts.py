"""Every tensor of Stable Video Diffusion with its name and shape in each of the three layouts.

This is the one renaming table: each line below gives a module's name as (vcut, sgm, diffusers), and walking the
architecture once yields all names of all layouts side by side. Renaming in any direction is a look-up in the result.

Sources: the key lists of the published checkpoints in tests/data/manifests.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from weights_tools.model import Mode
from weights_tools.structure import CLIPStructure, Layout, Structure, UNetStructure, VAEStructure

Shape = tuple[int, ...]


class Form(Enum):
    """The form in which a layout stores one of vcut's tensors."""

    SAME = "as vcut does"
    VOLUME = "[o, i, 3, 1] as the 3-D convolution [o, i, 3, 1, 1]"
    POINTWISE = "[o, i] as the 1x1 convolution [o, i, 1, 1]"
    TRANSPOSED = "[o, i] as [i, o]"
    THIRD_1 = "[o, ...] as the first third of [3 o, ...]"
    THIRD_2 = "[o, ...] as the second third of [3 o, ...]"
    THIRD_3 = "[o, ...] as the last third of [3 o, ...]"

    def shape(self, vcut: Shape) -> Shape:
        """The stored shape of a tensor that has the shape ``vcut`` here."""
        if self is Form.VOLUME:
            return (*vcut, 1)
        if self is Form.POINTWISE:
            return (*vcut, 1, 1)
        if self is Form.TRANSPOSED:
            return vcut[::-1]
        return vcut if self is Form.SAME else (3 * vcut[0], *vcut[1:])


class Name(NamedTuple):
    """The name of one module or tensor in the three layouts."""

    vcut: str = ""
    sgm: str = ""
    diffusers: str = ""

    def __truediv__(self, part: str | tuple[str, str, str]) -> Name:
        """The name of a part; a plain string is its name everywhere, an empty one adds nothing."""
        a, b, c = (part, part, part) if isinstance(part, str) else part
        return Name(_dotted(self.vcut, a), _dotted(self.sgm, b), _dotted(self.diffusers, c))


def _dotted(a: str, b: str) -> str:
    return f"{a}.{b}" if a and b else a or b


class Entry(NamedTuple):
    """One tensor: its names, its shape in vcut, and how the other layouts store it."""

    name: Name
    shape: Shape
    sgm: Form = Form.SAME
    diffusers: Form = Form.SAME

    def stored(self, layout: Layout) -> tuple[str, Form, Shape]:
        """Name, form and shape in ``layout``."""
        if layout == "vcut":
            return self.name.vcut, Form.SAME, self.shape
        if layout == "sgm":
            return self.name.sgm, self.sgm, self.sgm.shape(self.shape)
        return self.name.diffusers, self.diffusers, self.diffusers.shape(self.shape)


Entries = Iterator[Entry]
Modules = Iterator[Entries]


@lru_cache(maxsize=64)
def entries(structure: Structure) -> tuple[Entry, ...]:
    """Every tensor of a network of this structure."""
    return tuple(entry for module in _modules(structure) for entry in module)


@lru_cache(maxsize=512)
def landmarks(structure: Structure, layout: Layout) -> tuple[str, ...]:
    """The name of each module's first tensor: enough to tell one structure from another, and quick."""
    return tuple(getattr(next(module).name, layout) for module in _modules(structure))


def _modules(structure: Structure) -> Modules:
    if isinstance(structure, UNetStructure):
        return _unet(structure)
    return _vae(structure) if isinstance(structure, VAEStructure) else _clip(structure)


# --- Leaves. The name is the module's; the numbers are torch's arguments. ---


def _norm(at: Name, channels: int) -> Entries:
    yield Entry(at / "weight", (channels,))
    yield Entry(at / "bias", (channels,))


def _linear(at: Name, i: int, o: int, *, bias: bool = True, sgm: Form = Form.SAME) -> Entries:
    yield Entry(at / "weight", (o, i), sgm=sgm)
    if bias:
        yield Entry(at / "bias", (o,))


def _conv(at: Name, i: int, o: int, kernel: int = 3) -> Entries:
    yield Entry(at / "weight", (o, i, kernel, kernel))
    yield Entry(at / "bias", (o,))


def _temporal_conv(at: Name, i: int, o: int) -> Entries:
    yield Entry(at / "weight", (o, i, 3, 1), sgm=Form.VOLUME, diffusers=Form.VOLUME)
    yield Entry(at / "bias", (o,))


def _tensor(at: Name, shape: Shape, sgm: Form = Form.SAME) -> Entries:
    yield Entry(at, shape, sgm=sgm)


def _mix_factor(at: Name) -> Entries:
    return _tensor(at / "mix_factor", (1,))


def _mlp(at: Name, i: int, hidden: int, o: int) -> Entries:
    yield from _linear(at / ("linear_1", "0", "linear_1"), i, hidden)
    yield from _linear(at / ("linear_2", "2", "linear_2"), hidden, o)


# --- The UNet: generators of modules, each a generator of tensors ---


def _unet(s: UNetStructure) -> Modules:
    widths, last, emb = s.channels, len(s.channels) - 1, 4 * s.channels[0]
    yield _mlp(Name("time_embed", "time_embed", "time_embedding"), widths[0], emb, emb)
    yield _mlp(Name("vector_embed", "label_emb.0", "add_embedding"), s.label_dim, emb, emb)
    yield _conv(Name("conv_in", "input_blocks.0.0", "conv_in"), s.in_channels, widths[0])

    c, skips, n = widths[0], [widths[0]], 1  # channels, those of the skips, sgm's running number
    for i, width in enumerate(widths):
        for j in range(s.layers):
            resnet = Name(
                f"down.{i}.layers.{j}.resnet", f"input_blocks.{n}.0", f"down_blocks.{i}.resnets.{j}"
            )
            yield _unet_resnet(resnet, c, width, emb)
            if s.attention[i]:
                transformer = Name(
                    f"down.{i}.layers.{j}.transformer",
                    f"input_blocks.{n}.1",
                    f"down_blocks.{i}.attentions.{j}",
                )
                yield from _transformer(transformer, width, s)
            c, n = width, n + 1
            skips.append(c)
        if i < last:
            yield _conv(
                Name(
                    f"down.{i}.downsample", f"input_blocks.{n}.0.op", f"down_blocks.{i}.downsamplers.0.conv"
                ),
                c,
                c,
            )
            n += 1
            skips.append(c)

    yield _unet_resnet(Name("mid.resnet_1", "middle_block.0", "mid_block.resnets.0"), c, c, emb)
    yield from _transformer(Name("mid.transformer", "middle_block.1", "mid_block.attentions.0"), c, s)
    yield _unet_resnet(Name("mid.resnet_2", "middle_block.2", "mid_block.resnets.1"), c, c, emb)

    n = 0
    for i, (width, attention) in enumerate(zip(reversed(widths), reversed(s.attention), strict=True)):
        if i > 0:
            # The others count it to the level before: sgm behind its last resnet and, if there is one, transformer.
            sgm = f"output_blocks.{n - 1}.{1 + s.attention[-i]}.conv"
            yield _conv(Name(f"up.{i}.upsample", sgm, f"up_blocks.{i - 1}.upsamplers.0.conv"), c, c)
        for j in range(s.layers + 1):
            resnet = Name(f"up.{i}.layers.{j}.resnet", f"output_blocks.{n}.0", f"up_blocks.{i}.resnets.{j}")
            yield _unet_resnet(resnet, c + skips.pop(), width, emb)
            if attention:
                transformer = Name(
                    f"up.{i}.layers.{j}.transformer", f"output_blocks.{n}.1", f"up_blocks.{i}.attentions.{j}"
                )
                yield from _transformer(transformer, width, s)
            c, n = width, n + 1

    yield _norm(Name("norm_out", "out.0", "conv_norm_out"), c)
    yield _conv(Name("conv_out", "out.2", "conv_out"), c, s.out_channels)


def _unet_resnet(at: Name, i: int, o: int, emb: int) -> Entries:
    spatial = at / ("spatial", "", "spatial_res_block")
    yield from _norm(spatial / ("norm_1", "in_layers.0", "norm1"), i)
    yield from _conv(spatial / ("conv_1", "in_layers.2", "conv1"), i, o)
    yield from _linear(spatial / ("emb", "emb_layers.1", "time_emb_proj"), emb, o)
    yield from _norm(spatial / ("norm_2", "out_layers.0", "norm2"), o)
    yield from _conv(spatial / ("conv_2", "out_layers.3", "conv2"), o, o)
    if i != o:
        yield from _conv(spatial / ("skip", "skip_connection", "conv_shortcut"), i, o, kernel=1)
    yield from _temporal_resnet(at, o, emb)
    yield from _mix_factor(at / ("", "time_mixer", "time_mixer"))


def _temporal_resnet(at: Name, c: int, emb: int | None = None) -> Entries:
    temporal = at / ("temporal", "time_stack", "temporal_res_block")
    yield from _norm(temporal / ("norm_1", "in_layers.0", "norm1"), c)
    yield from _temporal_conv(temporal / ("conv_1", "in_layers.2", "conv1"), c, c)
    if emb is not None:
        yield from _linear(temporal / ("emb", "emb_layers.1", "time_emb_proj"), emb, c)
    yield from _norm(temporal / ("norm_2", "out_layers.0", "norm2"), c)
    yield from _temporal_conv(temporal / ("conv_2", "out_layers.3", "conv2"), c, c)


def _transformer(at: Name, c: int, s: UNetStructure) -> Modules:
    yield _norm(at / "norm", c)
    yield _linear(at / "proj_in", c, c)
    yield _mlp(at / ("position", "time_pos_embed", "time_pos_embed"), c, 4 * c, c)
    for k in range(s.depth):
        spatial = at / (f"spatial.{k}", f"transformer_blocks.{k}", f"transformer_blocks.{k}")
        yield from _block(spatial, c, s.context_dim, s.sca)
        temporal = at / (f"temporal.{k}", f"time_stack.{k}", f"temporal_transformer_blocks.{k}")
        yield _norm(temporal / ("ff_in_norm", "norm_in", "norm_in"), c)
        yield _feed_forward(temporal / "ff_in", c)
        yield from _block(temporal, c, s.context_dim, s.tca)
    yield _mix_factor(at / ("", "time_mixer", "time_mixer"))
    yield _linear(at / "proj_out", c, c)


def _block(at: Name, c: int, context_dim: int, cross: Mode) -> Modules:
    yield _norm(at / ("attn_norm", "norm1", "norm1"), c)
    yield _attention(at / ("attn", "attn1", "attn1"), c, c)
    if cross is True:
        yield _norm(at / ("cross.norm", "norm2", "norm2"), c)
        yield _attention(at / ("cross", "attn2", "attn2"), c, context_dim)
    elif cross == "linear_cached":  # vcut alone has this form: the other names are placeholders
        yield _linear(at / "cross.linear", context_dim, c)
    yield _norm(at / ("ff_norm", "norm3", "norm3"), c)
    yield _feed_forward(at / "ff", c)


def _attention(at: Name, c: int, context_dim: int) -> Entries:
    yield from _linear(at / "to_q", c, c, bias=False)
    yield from _linear(at / "to_k", context_dim, c, bias=False)
    yield from _linear(at / "to_v", context_dim, c, bias=False)
    yield from _linear(at / ("to_out", "to_out.0", "to_out.0"), c, c)


def _feed_forward(at: Name, c: int) -> Entries:
    yield from _linear(at / ("proj_in", "net.0.proj", "net.0.proj"), c, 8 * c)  # value and gate, 4 c each
    yield from _linear(at / ("proj_out", "net.2", "net.2"), 4 * c, c)


# --- The VAE ---


def _vae(s: VAEStructure) -> Modules:
    yield from _encoder(Name("encoder", "encoder", "encoder"), s)
    yield _conv(Name() / "quant_conv", 2 * s.latent_channels, 2 * s.latent_channels, kernel=1)
    if not s.temporal:
        yield _conv(Name() / "post_quant_conv", s.latent_channels, s.latent_channels, kernel=1)
    yield from _decoder(Name("decoder", "decoder", "decoder"), s)


def _encoder(at: Name, s: VAEStructure) -> Modules:
    c, last = s.channels[0], len(s.channels) - 1
    yield _conv(at / "conv_in", 3, c)
    for i, width in enumerate(s.channels):
        level = at / (f"down.{i}", f"down.{i}", f"down_blocks.{i}")
        for j in range(s.layers):
            yield _vae_resnet(level / (f"resnets.{j}", f"block.{j}", f"resnets.{j}"), c, width)
            c = width
        if i < last:
            yield _conv(level / ("downsample", "downsample.conv", "downsamplers.0.conv"), c, c)
    yield from _vae_middle(at, c, temporal=None)
    yield _norm(at / ("norm_out", "norm_out", "conv_norm_out"), c)
    yield _conv(at / "conv_out", c, 2 * s.latent_channels)


def _decoder(at: Name, s: VAEStructure) -> Modules:
    c, last = s.channels[-1], len(s.channels) - 1
    yield _conv(at / "conv_in", s.latent_channels, c)
    yield from _vae_middle(at, c, s.temporal)
    for i, width in enumerate(reversed(s.channels)):
        level = at / (f"up.{i}", f"up.{last - i}", f"up_blocks.{i}")
        for j in range(s.layers + 1):
            resnet = level / (f"resnets.{j}", f"block.{j}", f"resnets.{j}")
            yield from _coder_resnet(resnet, c, width, s.temporal)
            c = width
        if i < last:
            yield _conv(level / ("upsample", "upsample.conv", "upsamplers.0.conv"), c, c)
    yield _norm(at / ("norm_out", "norm_out", "conv_norm_out"), c)
    yield _conv(at / "conv_out", c, 3)
    if s.temporal:
        yield _temporal_conv(at / ("conv_out_time", "conv_out.time_mix_conv", "time_conv_out"), 3, 3)


def _vae_middle(at: Name, c: int, temporal: bool | None) -> Modules:
    mid = at / ("mid", "mid", "mid_block")
    yield from _coder_resnet(mid / ("resnet_1", "block_1", "resnets.0"), c, c, temporal)
    attention = mid / ("attention", "attn_1", "attentions.0")
    yield _norm(attention / ("norm", "norm", "group_norm"), c)
    yield _linear(attention / ("to_q", "q", "to_q"), c, c, sgm=Form.POINTWISE)
    yield _linear(attention / ("to_k", "k", "to_k"), c, c, sgm=Form.POINTWISE)
    yield _linear(attention / ("to_v", "v", "to_v"), c, c, sgm=Form.POINTWISE)
    yield _linear(attention / ("to_out", "proj_out", "to_out.0"), c, c, sgm=Form.POINTWISE)
    yield from _coder_resnet(mid / ("resnet_2", "block_2", "resnets.1"), c, c, temporal)


def _coder_resnet(at: Name, i: int, o: int, temporal: bool | None) -> Modules:
    """A resnet of the temporal decoder (True), the image decoder (False) or the encoder (None)."""
    if temporal:
        yield _vae_resnet(at / ("spatial", "", "spatial_res_block"), i, o)
        yield _temporal_resnet(at, o)
        yield _mix_factor(at / ("", "", "time_mixer"))
    else:
        yield _vae_resnet(at if temporal is None else at / ("spatial", "", ""), i, o)


def _vae_resnet(at: Name, i: int, o: int) -> Entries:
    yield from _norm(at / ("norm_1", "norm1", "norm1"), i)
    yield from _conv(at / ("conv_1", "conv1", "conv1"), i, o)
    yield from _norm(at / ("norm_2", "norm2", "norm2"), o)
    yield from _conv(at / ("conv_2", "conv2", "conv2"), o, o)
    if i != o:
        yield from _conv(at / ("skip", "nin_shortcut", "conv_shortcut"), i, o, kernel=1)


# --- The CLIP vision tower ---


def _clip(s: CLIPStructure) -> Modules:
    w, hf = s.width, Name(diffusers="vision_model.embeddings")
    yield _tensor(
        hf / ("patch_embed", "conv1", "patch_embedding") / "weight", (w, 3, s.patch_size, s.patch_size)
    )
    yield _tensor(hf / "class_embedding", (w,))
    yield _tensor(
        hf / ("position_embedding", "positional_embedding", "position_embedding.weight"), (s.tokens, w)
    )
    yield _norm(Name("norm_pre", "ln_pre", "vision_model.pre_layrnorm"), w)  # (sic)
    for i in range(s.layers):
        block = Name(f"blocks.{i}", f"transformer.resblocks.{i}", f"vision_model.encoder.layers.{i}")
        yield _norm(block / ("norm_1", "ln_1", "layer_norm1"), w)
        yield _fused_attention(block / ("attn", "attn", "self_attn"), w)
        yield _norm(block / ("norm_2", "ln_2", "layer_norm2"), w)
        yield _linear(block / ("mlp.linear_1", "mlp.c_fc", "mlp.fc1"), w, s.mlp_dim)
        yield _linear(block / ("mlp.linear_2", "mlp.c_proj", "mlp.fc2"), s.mlp_dim, w)
    yield _norm(Name("norm_post", "ln_post", "vision_model.post_layernorm"), w)
    yield _tensor(Name("proj.weight", "proj", "visual_projection.weight"), (s.embed_dim, w), Form.TRANSPOSED)


def _fused_attention(at: Name, w: int) -> Entries:
    for name, third in (("q", Form.THIRD_1), ("k", Form.THIRD_2), ("v", Form.THIRD_3)):
        for leaf, shape in (("weight", (w, w)), ("bias", (w,))):
            yield Entry(
                at / (f"to_{name}.{leaf}", f"in_proj_{leaf}", f"{name}_proj.{leaf}"), shape, sgm=third
            )
    yield from _linear(at / ("to_out", "out_proj", "out_proj"), w, w)
