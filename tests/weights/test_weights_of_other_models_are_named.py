"""A file of another model is refused under that model's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_samples import random_model, sgm_file

from weights_tools.checkpoint import open_checkpoint
from weights_tools.errors import CheckpointError
from weights_tools.families import family
from weights_tools.layouts import Shape
from weights_tools.remap import to_layout

OTHERS = {
    "cond_stage_model.transformer.text_model.embeddings.position_ids": "Stable Diffusion 1",
    "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": "Stable Diffusion 2",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": "Stable Diffusion XL",
    "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight": "Stable Diffusion XL",
    "double_blocks.0.img_attn.qkv.weight": "Flux",
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "Flux",
    "single_transformer_blocks.0.attn.to_q.weight": "Flux",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "model.diffusion_model.input_blocks.1.0.time_mix_blocks.in_layers.0.weight": "SV4D",
    "conditioner.embedders.1.encoder.encoder.conv_in.weight": "SV3D",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "a LoRA",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": "a LoRA",
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "down_blocks.0.motion_modules.0.norm.weight": "AnimateDiff's motion modules",
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_message_names_it(tmp_path: Path, name: str) -> None:
    shared = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}
    save_file({**shared, name: torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"other\.safetensors is {OTHERS[name]}.*, not Stable Video Diffusion"
    ):
        open_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize(("width", "name"), [(768, "1"), (1024, "2"), (2048, "XL")])
def test_a_unet_of_pictures_is_told_by_the_width_of_its_text(tmp_path: Path, width: int, name: str) -> None:
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(320, width), "conv_in.bias": torch.zeros(320)}, tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match=rf"a UNet of pictures \(Stable Diffusion {name}\)"):
        open_checkpoint(tmp_path / "unet.safetensors")


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((320, 768), {"down_blocks.0.time_stack.0.weight": (4,)}),
        ((320, 768), {"down_blocks.0.temporal_transformer_blocks.0.weight": (4,)}),
        ((320, 768), {"down_blocks.0.temporal.0.weight": (4,)}),
        ((320, 768), {"up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 1024)}),
        ((320,), {}),
    ],
)
def test_what_may_be_no_unet_of_pictures_is_not_called_one(shape: Shape, other: dict[str, Shape]) -> None:
    """It has layers over time, two widths of its text, or no matrix where one should be."""
    assert (
        family({"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": shape, **other}) is None
    )


def test_our_own_files_are_of_no_other_family(tmp_path: Path) -> None:
    model = random_model()
    save_file(sgm_file(model), tmp_path / "svd.safetensors")
    assert open_checkpoint(tmp_path / "svd.safetensors").faults == ()
    for layout in ("sgm", "diffusers", "vcut"):
        save_file(to_layout(model["unet"], "unet", layout), tmp_path / f"{layout}.safetensors")  # type: ignore[arg-type]
        assert open_checkpoint(tmp_path / f"{layout}.safetensors").faults == ()


def test_a_vae_alone_is_said_to_be_one(tmp_path: Path) -> None:
    from weights_tools.configs import configuration

    save_file(to_layout(random_model()["vae"], "vae", "diffusers"), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match="is not a whole model: no unet, clip, only vae"):
        configuration(open_checkpoint(tmp_path / "vae.safetensors"))
