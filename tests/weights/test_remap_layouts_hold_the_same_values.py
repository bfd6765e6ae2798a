"""The two published layouts of the golden weights are the same tensors, and every renaming is undone exactly."""

from __future__ import annotations

import pytest
import torch
from goldens_io import load
from torch import Tensor
from weights_samples import IMAGE_DECODER, TINY, random_state

from weights_tools.remap import from_layout, to_layout
from weights_tools.structure import PARTS, Layout, Part, Structure

GOLDENS: dict[tuple[Part, Layout], str] = {
    ("unet", "sgm"): "unet_tiny_sgm_weights",
    ("unet", "diffusers"): "unet_tiny_hf_weights",
    ("vae", "sgm"): "vae_tiny_sgm_weights",
    ("vae", "diffusers"): "vae_tiny_hf_weights",
    ("clip", "sgm"): "clip_tiny_openclip_weights",
    ("clip", "diffusers"): "clip_tiny_hf_weights",
}


def golden(part: Part, layout: Layout) -> dict[str, Tensor]:
    """Stored as float8 and float16; both are exact in float32."""
    return {
        key.removeprefix("visual."): tensor.float() for key, tensor in load(GOLDENS[part, layout]).items()
    }


def assert_identical(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for key, tensor in actual.items():
        assert tensor.shape == expected[key].shape, key
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize("part", PARTS)
def test_sgm_and_diffusers_goldens_agree_value_for_value(part: Part) -> None:
    assert_identical(
        from_layout(golden(part, "sgm"), part, "sgm"),
        from_layout(golden(part, "diffusers"), part, "diffusers"),
    )


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("layout", "other"), [("sgm", "diffusers"), ("diffusers", "sgm")])
def test_goldens_come_out_of_the_other_layout_unchanged(part: Part, layout: Layout, other: Layout) -> None:
    state = from_layout(golden(part, layout), part, layout)
    assert_identical(to_layout(state, part, layout), golden(part, layout))
    assert_identical(to_layout(state, part, other), golden(part, other))


@pytest.mark.parametrize("structures", [TINY, IMAGE_DECODER], ids=["temporal", "image decoder"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", ["vcut", "sgm", "diffusers"])
def test_exported_weights_import_unchanged(
    structures: dict[Part, Structure], part: Part, layout: Layout
) -> None:
    state = random_state(structures[part])
    assert_identical(from_layout(to_layout(state, part, layout), part, layout), state)


def test_fused_attention_is_split_in_the_order_q_k_v() -> None:
    state = random_state(TINY["clip"])
    fused = to_layout(state, "clip", "sgm")["transformer.resblocks.1.attn.in_proj_weight"]
    expected = torch.cat([state[f"blocks.1.attn.to_{name}.weight"] for name in "qkv"])
    assert torch.equal(fused, expected)


def test_renaming_copies_no_large_tensor() -> None:
    source = to_layout(random_state(TINY["unet"]), "unet", "sgm")
    storages = {tensor.untyped_storage().data_ptr() for tensor in source.values()}
    state = from_layout(source, "unet", "sgm")
    assert {tensor.untyped_storage().data_ptr() for tensor in state.values()} == storages


def test_a_position_ids_buffer_may_be_there_or_not() -> None:
    state = random_state(TINY["clip"])
    exported = to_layout(state, "clip", "diffusers")
    exported["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    assert_identical(from_layout(exported, "clip", "diffusers"), state)
