"""Small whole checkpoints with random weights, made from the structure alone, for the tests of ``weights_tools``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights_tools.checkpoint import ROUTES, open_checkpoint, whole_name
from weights_tools.layouts import entries
from weights_tools.remap import to_layout
from weights_tools.structure import PARTS, CLIPStructure, Part, Structure, UNetStructure, VAEStructure

TINY: dict[Part, Structure] = {
    "unet": UNetStructure((32, 64, 32), (True, True, False), layers=1, context_dim=48, label_dim=96),
    "vae": VAEStructure((32, 64, 32), layers=2),
    "clip": CLIPStructure(width=64, layers=2, mlp_dim=128, embed_dim=48, patch_size=56, tokens=17),
}
IMAGE_DECODER: dict[Part, Structure] = {**TINY, "vae": VAEStructure((32, 64, 32), layers=2, temporal=False)}

TEXT_REMAINS = {
    "token_embedding.weight": (12, 48),
    "positional_embedding": (7, 48),
    "ln_final.weight": (48,),
    "ln_final.bias": (48,),
    "text_projection": (48, 48),
    "logit_scale": (),
}
"""What deleting CLIP's text transformer leaves of its tower in the official files."""


def random_state(structure: Structure, seed: int = 0) -> dict[str, Tensor]:
    """A network's tensors under vcut's names, each different."""
    generator = torch.Generator().manual_seed(seed)
    return {
        entry.name.vcut: torch.randn(entry.shape, generator=generator) * 0.1 for entry in entries(structure)
    }


def random_model(structures: Mapping[Part, Structure] = TINY) -> dict[Part, dict[str, Tensor]]:
    """All three networks, under vcut's names."""
    return {part: random_state(structures[part], seed) for seed, part in enumerate(PARTS)}


def sgm_file(model: Mapping[Part, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a complete official single file, all prefixes and unused keys included."""
    image_decoder = "post_quant_conv.weight" in model["vae"]
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        for name, tensor in to_layout(model[part], part, "sgm").items():
            tensors[whole_name(ROUTES["sgm"], part, name)] = tensor
    generator = torch.Generator().manual_seed(9)
    conditioner = "conditioner.embedders.3.encoder."
    for key in list(tensors):
        if key.startswith(conditioner) and (image_decoder or "quant_conv" not in key):
            copy = key.replace(conditioner, "first_stage_model.")
            tensors[copy] = torch.randn(tensors[key].shape, generator=generator)
    for entry in entries(IMAGE_DECODER["vae"]):  # the conditioning VAE is a whole one, its decoder unused
        if entry.name.sgm.startswith(("decoder.", "post_quant_conv.")):
            shape = entry.stored("sgm")[2]
            tensors[conditioner + entry.name.sgm] = torch.randn(shape, generator=generator)
    for name, shape in TEXT_REMAINS.items():
        tensors[f"conditioner.embedders.0.open_clip.model.{name}"] = torch.randn(shape, generator=generator)
    return tensors


def read(path: Path, part: Part, *, variant: str | None = None, **form: Any) -> dict[str, Tensor]:
    """One network of the checkpoint at ``path``, opened for it."""
    return open_checkpoint(path, variant).read(part, **form)
