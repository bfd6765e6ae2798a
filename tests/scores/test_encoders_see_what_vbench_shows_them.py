"""Preprocessing of the encoders against numpy and Pillow, and their files. The networks: see tests/parity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import vcut
from vcut.errors import CheckpointError
from vcut.scores import features, vit

IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
CLIP = np.array([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])


def frames(height: int = 90, width: int = 160) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def linear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(1 - np.abs(distance), 0, None)


def cubic(distance: NDArray[np.float64], a: float = -0.75) -> NDArray[np.float64]:
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def sampled(
    x: NDArray[np.float64], size: int, kernel: Callable[..., NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Rows of ``x [h, ...]`` resampled to ``size`` without antialiasing; beyond the edge the edge is repeated."""
    centres = (np.arange(size) + 0.5) * len(x) / size - 0.5
    result = np.zeros((size, *x.shape[1:]))
    for offset in (-1, 0, 1, 2):
        at = np.floor(centres).astype(int) + offset
        weight = kernel(centres - at).reshape(-1, *[1] * (x.ndim - 1))
        result += weight * x[at.clip(0, len(x) - 1)]
    return result


def resized(
    x: Tensor, height: int, width: int, kernel: Callable[..., NDArray[np.float64]]
) -> NDArray[np.float64]:
    pixels = np.moveaxis(x.double().numpy(), (2, 3), (0, 1))
    rows = sampled(pixels, height, kernel)
    return np.moveaxis(np.moveaxis(sampled(np.moveaxis(rows, 1, 0), width, kernel), 0, 1), (0, 1), (2, 3))


def normed(x: NDArray[np.float64], stats: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x - stats[0].reshape(3, 1, 1)) / stats[1].reshape(3, 1, 1)


def test_dino_sees_the_whole_frame_bilinear() -> None:
    expected = normed(resized(frames(), 224, 398, linear), IMAGENET)
    assert np.abs(features.SUBJECT.pixels(frames()).numpy() - expected).max() < 1e-4


def test_clip_sees_the_middle_bicubic() -> None:
    expected = normed(resized(frames(), 224, 398, cubic)[:, :, :, 87:311], CLIP)
    assert np.abs(features.BACKGROUND.pixels(frames()).numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(90, 160), (400, 300)])
def test_i2v_sees_the_middle_bicubic_and_antialiased(size: tuple[int, int]) -> None:
    """Pillow's filter in float, which antialiases."""
    height, width = size
    x = frames(height, width)
    short, long = 256, 256 * max(size) // min(size)
    high, wide = (short, long) if height < width else (long, short)
    channels = [
        Image.fromarray(channel.numpy()).resize((wide, high), Image.Resampling.BICUBIC) for channel in x[0]
    ]
    top, left = round((high - 224) / 2), round((wide - 224) / 2)
    cropped = np.stack([np.asarray(channel) for channel in channels])[:, top : top + 224, left : left + 224]
    assert np.abs(features.I2V.pixels(x)[0].numpy() - normed(cropped, IMAGENET)).max() < 1e-4


def test_a_square_frame_is_cut_nowhere() -> None:
    assert features.SUBJECT.pixels(frames(64, 64)).shape == (2, 3, 224, 224)


def published(architecture: vit.Architecture) -> dict[str, Tensor]:
    """Random weights of an architecture, under the names and in the shapes of the published file."""
    draw = torch.Generator().manual_seed(0)
    state = {
        architecture.stored_name(name): torch.randn(shape, generator=draw) * 0.03
        for name, shape in architecture.shapes().items()
    }
    if not architecture.clip:
        state["cls_token"], state["pos_embed"] = state["cls_token"][None, None], state["pos_embed"][None]
    return state


@pytest.fixture(scope="module", params=[vit.DINO, vit.CLIP_B32], ids=lambda a: a.name)
def architecture(request: pytest.FixtureRequest) -> vit.Architecture:
    chosen: vit.Architecture = request.param
    return chosen


@pytest.fixture(scope="module")
def file(architecture: vit.Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    # a published file of CLIP holds the tower of text too
    save_file({**published(architecture), "text_projection": torch.zeros(2)}, path)
    return path


def test_the_names_in_the_files_are_the_published_ones() -> None:
    """Written down from the files, so that a rename here would show."""
    dino, clip = ({a.stored_name(name) for name in a.shapes()} for a in (vit.DINO, vit.CLIP_B32))
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.bias",
        "blocks.11.attn.qkv.bias",
        "norm.weight",
    } <= dino
    assert {
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.conv1.weight",
        "visual.ln_pre.bias",
        "visual.transformer.resblocks.0.ln_1.weight",
        "visual.transformer.resblocks.11.attn.in_proj_weight",
        "visual.transformer.resblocks.11.attn.in_proj_bias",
        "visual.transformer.resblocks.3.attn.out_proj.weight",
        "visual.transformer.resblocks.3.mlp.c_fc.weight",
        "visual.transformer.resblocks.3.mlp.c_proj.bias",
        "visual.ln_post.weight",
        "visual.proj",
    } <= clip
    assert (len(dino), len(clip)) == (150, 152)


@pytest.mark.slow
def test_an_encoder_gives_its_networks_features_of_its_pixels(
    architecture: vit.Architecture, file: Path
) -> None:
    look = features.BACKGROUND if architecture.clip else features.SUBJECT
    (encoder,) = features.from_file(file, architecture, (look,), None)
    expected = vit.features(vit.read(file, architecture), look.pixels(frames()), architecture)
    assert torch.allclose(encoder.features(frames()), expected, atol=1e-5)


def test_positions_are_stretched_as_dino_does_it() -> None:
    """Bicubic with a scale of a tenth of a patch more than there is, written out: DINO's interpolate_pos_encoding."""
    stored = torch.randn(1 + 14 * 14, 768, generator=torch.Generator().manual_seed(0))
    found = vit._positions(stored, 14, 24)
    square = stored[1:].reshape(14, 14, 768).double().numpy()

    def stretched(x: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        centres = (np.arange(size) + 0.5) * 14 / (size + 0.1) - 0.5
        at = [np.floor(centres).astype(int) + offset for offset in (-1, 0, 1, 2)]
        return sum(
            (cubic(centres - i)[:, None, None] * x[i.clip(0, 13)] for i in at), np.zeros((size, *x.shape[1:]))
        )

    expected = stretched(square, 14)
    expected = np.moveaxis(stretched(np.moveaxis(expected, 1, 0), 24), 0, 1)
    assert np.abs(found[1:].reshape(14, 24, 768).numpy() - expected).max() < 1e-4
    assert torch.equal(found[0], stored[0])
    assert vit._positions(stored, 14, 14) is stored


def test_the_models_own_clip_is_that_of_the_model() -> None:
    encoder = features.own_clip("tiny", "", "cpu")
    x = frames(32, 32)
    embedded = vcut.load("tiny", device="cpu").clip.embed(x * 2 - 1)[:, 0]
    assert torch.equal(encoder.features(x), embedded)


def test_a_file_of_another_network_says_what_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"cls_token": torch.zeros(1, 1, 384)}, path)
    with pytest.raises(
        CheckpointError, match=r"not DINO ViT-B/16: .* cls_token \[768\], the file has \[1, 1, 384\]"
    ):
        vit.read(path, vit.DINO)
    with pytest.raises(
        CheckpointError, match=r"is not CLIP ViT-B/32: expected visual.class_embedding .* no such"
    ):
        vit.read(path, vit.CLIP_B32)


def test_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "dino_vitbase16_pretrain.pth"
    path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="pickle"):
        vit.read(path, vit.DINO)
