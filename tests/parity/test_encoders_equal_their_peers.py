"""DINO ViT-B/16 and CLIP ViT-B/32 equal transformers' networks with the same weights."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from vcut.scores import vit

pytestmark = pytest.mark.parity


def weights(architecture: vit.Architecture) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=draw) * 0.03 + (name.endswith("weight") and len(shape) == 1)
        for name, shape in architecture.shapes().items()
    }


def block(ours: dict[str, torch.Tensor], i: int, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors of block i under the peer's ``names``; the fused projection is taken apart."""
    found = {}
    for part in ("weight", "bias"):
        for ours_name, theirs in names.items():
            found[f"{theirs}.{part}"] = ours[f"blocks.{i}.{ours_name}.{part}"]
        for kind, rows in zip(("q", "k", "v"), ours[f"blocks.{i}.attn.qkv.{part}"].chunk(3), strict=True):
            found[f"{kind}.{part}"] = rows
    return found


@torch.no_grad()
def test_clip_b32() -> None:
    ours = weights(vit.CLIP_B32)
    config = CLIPVisionConfig(hidden_act="quick_gelu", projection_dim=512)
    peer = CLIPVisionModelWithProjection(config).eval()
    state = dict(peer.state_dict())
    prefix = "vision_model."
    put = {
        f"{prefix}embeddings.class_embedding": ours["cls_token"],
        f"{prefix}embeddings.position_embedding.weight": ours["pos_embed"],
        f"{prefix}embeddings.patch_embedding.weight": ours["patch_embed.proj.weight"],
        "visual_projection.weight": ours["head"].T,
    }
    for theirs, name in (("pre_layrnorm", "norm_pre"), ("post_layernorm", "norm")):
        put |= {f"{prefix}{theirs}.{part}": ours[f"{name}.{part}"] for part in ("weight", "bias")}
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for i in range(12):
        for key, tensor in block(ours, i, names).items():
            key = f"self_attn.{key[0]}_proj{key[1:]}" if key[1] == "." else key
            put[f"{prefix}encoder.layers.{i}.{key}"] = tensor
    assert set(put) == {name for name in state if "position_ids" not in name}
    peer.load_state_dict(put, strict=False)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    theirs = peer(pixels).image_embeds
    assert torch.allclose(
        vit.features(ours, pixels, vit.CLIP_B32), theirs, atol=1e-4 * theirs.abs().max().item()
    )


@torch.no_grad()
def test_dino() -> None:
    ours = weights(vit.DINO)
    peer = ViTModel(ViTConfig(layer_norm_eps=1e-6), add_pooling_layer=False).eval()
    put = {
        "embeddings.cls_token": ours["cls_token"][None, None],
        "embeddings.position_embeddings": ours["pos_embed"][None],
    }
    for part in ("weight", "bias"):
        put[f"embeddings.patch_embeddings.projection.{part}"] = ours[f"patch_embed.proj.{part}"]
        put[f"layernorm.{part}"] = ours[f"norm.{part}"]
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for i in range(12):
        for key, tensor in block(ours, i, names).items():
            put[f"layers.{i}.attention.{key[0]}_proj{key[1:]}" if key[1] == "." else f"layers.{i}.{key}"] = (
                tensor
            )
    peer.load_state_dict(put)
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    theirs = peer(pixels).last_hidden_state[:, 0]
    assert torch.allclose(vit.features(ours, pixels, vit.DINO), theirs, atol=1e-4 * theirs.abs().max().item())
