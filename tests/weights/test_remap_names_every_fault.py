"""Remove, rename, reshape or add any tensors: the one error names every one of them, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from goldens_io import manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_samples import TINY

from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.layouts import Shape, entries
from weights_tools.remap import LISTED, from_layout, to_layout
from weights_tools.structure import LAYOUTS, PARTS, Layout, Part, Structure, UNetStructure

FOLDED = replace(UNetStructure(**vars(TINY["unet"])), tca=False, sca="linear_cached")


def stored(structure: Structure, layout: Layout) -> dict[str, Shape]:
    return dict(entry.stored(layout)[::2] for entry in entries(structure))


def load(shapes: dict[str, Shape], part: Part, layout: Layout) -> None:
    from_layout({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, part, layout)


def faulty_keys(error: CheckpointError) -> list[str]:
    return [line.split(": expected ")[0].strip() for line in str(error).splitlines()[1:]]


@st.composite
def damages(draw: st.DrawFn) -> tuple[Part, Layout, dict[str, Shape], set[str]]:
    """A damaged network and the keys that must be named."""
    part = draw(st.sampled_from(PARTS))
    layout = draw(st.sampled_from(LAYOUTS))
    structure = TINY[part]
    if part == "unet" and layout == "vcut" and draw(st.booleans()):
        structure = FOLDED
    shapes = stored(structure, layout)
    chosen = draw(st.lists(st.sampled_from(sorted(shapes)), min_size=0, max_size=7, unique=True))
    faulty = set(chosen)
    for key in chosen:
        kind = draw(st.sampled_from(["remove", "rename", "reshape"]))
        shape = shapes.pop(key)
        if kind == "rename":
            shapes[f"{key}_"] = shape
            faulty.add(f"{key}_")
        elif kind == "reshape":
            shapes[key] = (*shape, 2)
    others = sorted(
        stored(structure, draw(st.sampled_from(LAYOUTS)))
    )  # another layout's name for the same tensor
    for key in draw(
        st.lists(st.sampled_from([*others, "model_ema.decay", "cond_stage.x"]), max_size=3, unique=True)
    ):
        if key not in stored(structure, layout):
            shapes[key] = (3,)
            faulty.add(key)
    return part, layout, shapes, faulty


@settings(max_examples=50, deadline=None)
@given(damages())
def test_every_damaged_tensor_is_named_and_no_other(
    damaged: tuple[Part, Layout, dict[str, Shape], set[str]],
) -> None:
    part, layout, shapes, faulty = damaged
    if not faulty:
        load(shapes, part, layout)
        return
    with pytest.raises(CheckpointError) as caught:
        load(shapes, part, layout)
    assert faulty_keys(caught.value) == sorted(faulty)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(sorted(manifest("hf_unet"))), min_size=1, max_size=30))
def test_missing_tensors_are_named_among_the_1428_of_the_published_unet(missing: set[str]) -> None:
    shapes = {key: shape for key, shape in manifest("hf_unet").items() if key not in missing}
    with pytest.raises(CheckpointError) as caught:
        load(shapes, "unet", "diffusers")
    assert faulty_keys(caught.value) == sorted(missing)


def test_a_fault_says_what_was_expected_and_what_was_found() -> None:
    shapes = stored(TINY["vae"], "sgm")
    shapes["decoder.conv_in.bias"] = (7,)
    del shapes["quant_conv.bias"]
    shapes["loss.logvar"] = ()
    with pytest.raises(CheckpointError) as caught:
        load(shapes, "vae", "sgm")
    assert str(caught.value).splitlines() == [
        "these weights: not a complete vae in the sgm layout: 3 faults",
        "  decoder.conv_in.bias: expected [32], found [7]",
        "  loss.logvar: expected no tensor of this name, found []",
        "  quant_conv.bias: expected [8], found nothing",
    ]


def test_a_long_list_is_cut_and_counted() -> None:
    shapes = {f"{key}.extra": shape for key, shape in stored(TINY["unet"], "diffusers").items()}
    with pytest.raises(CheckpointError) as caught:
        load({**stored(TINY["unet"], "diffusers"), **shapes}, "unet", "diffusers")
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + LISTED + 1
    assert lines[0].endswith(f"{len(shapes)} faults")
    assert lines[-1].strip() == f"and {len(shapes) - LISTED} more"


@pytest.mark.parametrize("layout", ["sgm", "diffusers"])
def test_a_folded_unet_cannot_be_exported_and_the_error_says_so(layout: Layout) -> None:
    state = {entry.name.vcut: torch.empty(entry.shape, device="meta") for entry in entries(FOLDED)}
    with pytest.raises(
        ConfigError, match=rf"the {layout} layout has no form for .*tca=False, sca='linear_cached'"
    ):
        to_layout(state, "unet", layout)
