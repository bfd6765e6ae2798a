"""CLIP's vision transformer (Radford et al. 2021, arXiv 2103.00020); ViT-H/14 of OpenCLIP as published.

Shapes: b pictures, n = 1 + patches tokens, w the width, d the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.clip.preprocess import preprocess
from vcut.config import CLIPConfig
from vcut.errors import ConfigError, check_type

EPS = 1e-5
"""Epsilon of every layer norm."""


class CLIPVisionEncoder(nn.Module):
    """Pixels to one embedding per picture, computing in the dtype of its parameters."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        check_type("config", config, CLIPConfig)
        self.config = config
        w, patch = config.width, config.patch_size
        self.patch_embed = nn.Conv2d(3, w, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(w))
        tokens = 1 + (config.image_size // patch) ** 2
        self.position_embedding = nn.Parameter(torch.empty(tokens, w))
        for embedding in (self.class_embedding, self.position_embedding):
            # On the meta device normal_ does nothing, but imports torch's compiler, which takes a second.
            if not embedding.is_meta:
                nn.init.normal_(embedding, std=w**-0.5)
        self.norm_pre = nn.LayerNorm(w, EPS)
        self.blocks = nn.Sequential(*(Block(w, config.heads, config.mlp_dim) for _ in range(config.layers)))
        self.norm_post = nn.LayerNorm(w, EPS)
        self.proj = nn.Linear(w, config.embed_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """The embedding ``[b, d]`` of ``pixels [b, 3, size, size]`` from :func:`vcut.clip.preprocess`.

        Raises:
            ConfigError: pixels of another shape.
        """
        return self.proj(self.norm_post(self.token_states(pixels)[:, 0]))

    def embed(self, pixels: Tensor) -> Tensor:
        """The embedding ``[n, 1, d]`` of pictures ``[n, 3, H, W]`` in -1..1, as the cross-attentions take it."""
        return self(preprocess(pixels, self.config.image_size))[:, None]

    def token_states(self, pixels: Tensor) -> Tensor:
        """The last layer's tokens ``[b, n, w]``, the class token first, before the last norm."""
        check_type("pixels", pixels, Tensor)
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ConfigError(
                f"the vision tower reads pixels [b, 3, {size}, {size}], got {list(pixels.shape)}: "
                "vcut.clip.preprocess makes them"
            )
        patches = self.patch_embed(pixels.to(self.proj.weight.dtype))
        patches = patches.flatten(2).mT  # [b, patches, w]
        first = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.position_embedding  # [b, n, w]
        return self.blocks(self.norm_pre(x))


class Block(nn.Module):
    """Attention, then an MLP, each on its own norm and added."""

    def __init__(self, width: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, EPS)
        self.attn = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width, EPS)
        self.mlp = MLP(width, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Attention(nn.Module):
    """Self-attention over all tokens of ``[b, n, w]``, every projection with a bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [b, heads, n, c]
            for to in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers around the exact (erf) GELU."""

    def __init__(self, width: int, mlp_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, mlp_dim)
        self.linear_2 = nn.Linear(mlp_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))
