"""The structure of the architecture reproduces every key and shape of the published checkpoints, and their sizes."""

from __future__ import annotations

import pytest
import torch
from goldens_io import manifest

from weights_tools.checkpoint import ROUTES, SGM_UNUSED
from weights_tools.infer import infer
from weights_tools.layouts import Shape, entries
from weights_tools.remap import from_layout, to_layout
from weights_tools.structure import (
    PARTS,
    PUBLISHED,
    CLIPStructure,
    Layout,
    Part,
    Structure,
    UNetStructure,
    VAEStructure,
)
from weights_tools.tensor_file import header

PUBLISHED_FILES: dict[tuple[Part, Layout], str] = {
    ("unet", "diffusers"): "hf_unet",
    ("vae", "diffusers"): "hf_vae",
    ("clip", "diffusers"): "hf_image_encoder",
}
IMAGE_DECODER = VAEStructure(temporal=False)


def local_keys(name: str) -> tuple[dict[Part, dict[str, Shape]], list[str]]:
    """An sgm manifest by network, and the keys that belong to none."""
    parts: dict[Part, dict[str, Shape]] = {part: {} for part in PARTS}
    rest = []
    for key, shape in manifest(name).items():
        for prefix, part, local in ROUTES["sgm"]:
            if key.startswith(prefix):
                parts[part][local + key.removeprefix(prefix)] = shape
                break
        else:
            rest.append(key)
    return parts, rest


def named(structure: Structure, layout: Layout) -> dict[str, Shape]:
    return dict(entry.stored(layout)[::2] for entry in entries(structure))


@pytest.mark.parametrize("part", PARTS)
def test_diffusers_files_have_exactly_these_keys_and_shapes(part: Part) -> None:
    assert named(PUBLISHED[part], "diffusers") == manifest(PUBLISHED_FILES[part, "diffusers"])


@pytest.mark.parametrize("part", PARTS)
def test_single_file_has_exactly_these_keys_and_shapes(part: Part) -> None:
    parts, _ = local_keys("sgm_svd_xt")
    assert named(PUBLISHED[part], "sgm") == parts[part]


@pytest.mark.parametrize("part", PARTS)
def test_image_decoder_file_has_exactly_these_keys_and_shapes(part: Part) -> None:
    parts, _ = local_keys("sgm_svd_image_decoder")
    assert named({**PUBLISHED, "vae": IMAGE_DECODER}[part], "sgm") == parts[part]


@pytest.mark.parametrize(("name", "count"), [("sgm_svd_xt", 252), ("sgm_svd_image_decoder", 254)])
def test_every_other_key_of_a_single_file_is_known_and_unused(name: str, count: int) -> None:
    _, rest = local_keys(name)
    assert len(rest) == count
    assert all(key.startswith(SGM_UNUSED) for key in rest)


@pytest.mark.parametrize("layout", ["sgm", "diffusers"])
@pytest.mark.parametrize("part", PARTS)
def test_renaming_there_and_back_restores_every_key_and_shape_at_full_size(
    part: Part, layout: Layout
) -> None:
    foreign = named(PUBLISHED[part], layout)
    state = from_layout({key: torch.empty(s, device="meta") for key, s in foreign.items()}, part, layout)
    assert {key: tuple(t.shape) for key, t in state.items()} == named(PUBLISHED[part], "vcut")
    back = to_layout(state, part, layout)
    assert {key: tuple(t.shape) for key, t in back.items()} == foreign


@pytest.mark.parametrize(
    ("name", "dtype", "metadata", "size"),
    [
        ("sgm_svd_xt", torch.float32, {}, 9_559_625_980),
        ("sgm_svd_image_decoder", torch.float32, {}, 9_503_252_964),
        ("hf_unet", torch.float32, {"format": "pt"}, 6_098_682_464),
        ("hf_unet", torch.float16, {"format": "pt"}, 3_049_435_868),
        ("hf_vae", torch.float32, {"format": "pt"}, 391_017_740),
        ("hf_vae", torch.float16, {"format": "pt"}, 195_531_910),
        ("hf_image_encoder", torch.float32, {"format": "pt"}, 2_528_371_296),
        ("hf_image_encoder", torch.float16, {"format": "pt"}, 1_264_217_240),
    ],
)
def test_our_writer_would_make_a_file_of_the_published_size(
    name: str, dtype: torch.dtype, metadata: dict[str, str], size: int
) -> None:
    shapes = manifest(name)
    head, order = header({key: (dtype, shape) for key, shape in shapes.items()}, metadata)
    data = sum(torch.Size(shapes[key]).numel() for key in order) * dtype.itemsize
    assert len(head) + data == size


@pytest.mark.parametrize(
    ("structure", "parameters"),
    [
        (UNetStructure(), 1_524_623_082),
        (UNetStructure(tca=False), 1_474_245_802),
        (UNetStructure(tca=False, sca="linear_cached"), 1_436_660_522),
    ],
)
def test_the_unet_has_the_published_number_of_parameters(structure: UNetStructure, parameters: int) -> None:
    assert sum(torch.Size(entry.shape).numel() for entry in entries(structure)) == parameters


@pytest.mark.parametrize(
    ("part", "structure"),
    [
        ("unet", UNetStructure((32, 64), (False, True), layers=3, depth=2, context_dim=24, label_dim=48)),
        ("unet", UNetStructure((32,), (True,))),
        ("unet", UNetStructure((32, 64, 64, 64, 96), (True, False, False, True, True), layers=4)),
        ("unet", UNetStructure((32, 64, 64), (True, True, True), layers=1, in_channels=9, out_channels=5)),
        ("vae", VAEStructure((16, 32, 48, 64), layers=1)),
        ("vae", VAEStructure((32,), layers=3, latent_channels=8, temporal=False)),
        ("clip", CLIPStructure(width=64, layers=1, mlp_dim=96, embed_dim=40, patch_size=7, tokens=26)),
        ("clip", CLIPStructure(width=64, layers=48)),
    ],
)
@pytest.mark.parametrize("layout", ["vcut", "sgm", "diffusers"])
def test_any_other_structure_is_recognised_from_names_and_shapes(
    part: Part, structure: Structure, layout: Layout
) -> None:
    assert infer(named(structure, layout), part, layout) == structure
