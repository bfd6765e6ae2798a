"""The two published vision transformers whose features VBench compares: DINO ViT-B/16 and OpenAI's CLIP ViT-B/32.

They are written out here, over the tensors of the published files, for two reasons. Away from its training size DINO
stretches its position embeddings in a way of its own, and timm does it otherwise: at 16:9 it would give other
features than VBench's. And timm and open_clip import torchvision, which binds torch to one release.

Shapes: b pictures of H x W pixels, n tokens of width w = 768, D the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vcut.errors import CheckpointError
from weights_tools.tensor_file import Reader, read_header

WIDTH, LAYERS, HEADS = 768, 12, 12
SIDE = 224
"""Side of the square that both were trained on, in pixels."""

IN_CLIP = (
    ("blocks.", "visual.transformer.resblocks."),
    ("cls_token", "visual.class_embedding"),
    ("pos_embed", "visual.positional_embedding"),
    ("patch_embed.proj.", "visual.conv1."),
    ("norm_pre.", "visual.ln_pre."),
    ("norm.", "visual.ln_post."),
    ("head", "visual.proj"),
    ("norm1.", "ln_1."),
    ("norm2.", "ln_2."),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)
"""DINO's names, which are ours, in a file of CLIP."""


@dataclass(frozen=True)
class Architecture:
    """One of the two networks.

    CLIP has a norm before the blocks and a projection after them, no bias in the patches' convolution, and OpenAI's
    quick GELU.
    """

    label: str
    name: str
    patch: int
    clip: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        w = WIDTH
        block = {"norm1": (w,), "attn.qkv": (3 * w, w), "attn.proj": (w, w), "norm2": (w,)}
        block |= {"mlp.fc1": (4 * w, w), "mlp.fc2": (w, 4 * w)}
        layers: dict[str, tuple[int, ...]] = {
            "patch_embed.proj": (w, 3, self.patch, self.patch),
            "norm": (w,),
        }
        layers |= {"norm_pre": (w,)} if self.clip else {}
        layers |= {f"blocks.{i}.{name}": shape for i in range(LAYERS) for name, shape in block.items()}
        shapes = {"cls_token": (w,), "pos_embed": (1 + (SIDE // self.patch) ** 2, w)}
        shapes |= {f"{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
        if self.clip:
            del shapes["patch_embed.proj.bias"]
            shapes["head"] = (w, 512)
        return shapes

    def stored_name(self, name: str) -> str:
        """Name of a tensor in the published file."""
        for ours, theirs in IN_CLIP if self.clip else ():
            name = name.replace(ours, theirs)
        return name


DINO = Architecture("DINO", "DINO ViT-B/16", 16, clip=False)
CLIP_B32 = Architecture("CLIP B/32", "CLIP ViT-B/32", 32, clip=True)


def read(path: Path, architecture: Architecture, device: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a network from its .safetensors file, in float32, under DINO's names.

    What the file holds besides, such as the tower of text, is left alone.

    Raises:
        CheckpointError: no such file, or not this network; the message names the first tensor that is wrong.
    """
    header, reader = read_header(path), Reader(path)
    weights = {}
    for name, shape in architecture.shapes().items():
        key = architecture.stored_name(name)
        found = header.shapes.get(key)
        # the class token and the positions may have axes of length 1 in front
        if found is None or [n for n in found if n > 1] != list(shape):
            has = "has no such tensor" if found is None else f"has {list(found)}"
            raise CheckpointError(
                f"{path} is not {architecture.name}: expected {key} {list(shape)}, the file {has}"
            )
        weights[name] = reader[key].reshape(shape).float().to(device or "cpu")
    return weights


@torch.no_grad()
def features(weights: Mapping[str, Tensor], pixels: Tensor, architecture: Architecture) -> Tensor:
    """Features ``[b, D]`` of preprocessed ``pixels [b, 3, H, W]``; of DINO any size, of CLIP 224 x 224."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        eps = 1e-5 if architecture.clip else 1e-6
        return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    convolution = weights["patch_embed.proj.weight"], weights.get("patch_embed.proj.bias")
    x = F.conv2d(pixels, *convolution, stride=architecture.patch)
    positions = _positions(weights["pos_embed"], x.shape[2], x.shape[3])
    x = rearrange(x, "b w i j -> b (i j) w")
    x = torch.cat([weights["cls_token"].expand(len(x), 1, -1), x], dim=1) + positions
    x = norm(x, "norm_pre") if architecture.clip else x
    for block in (f"blocks.{i}" for i in range(LAYERS)):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = rearrange(qkv, "b n (three h c) -> three b h n c", three=3, h=HEADS)
        mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "b h n c -> b n (h c)")
        x = x + linear(mixed, f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = hidden * torch.sigmoid(1.702 * hidden) if architecture.clip else F.gelu(hidden)
        x = x + linear(hidden, f"{block}.mlp.fc2")
    x = norm(x[:, 0], "norm")
    return x @ weights["head"] if architecture.clip else x


def _positions(stored: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings ``[n, w]`` of a map of patches, stretched as DINO's own code does.

    It asks for a tenth of a patch more than there is, to be safe from rounding, and samples with that scale.
    """
    side = round((len(stored) - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return stored
    square = rearrange(stored[1:], "(i j) w -> 1 w i j", i=side)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    stretched = F.interpolate(square, scale_factor=scale, mode="bicubic")
    return torch.cat([stored[:1], rearrange(stretched, "1 w i j -> (i j) w")])
