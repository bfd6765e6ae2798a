"""The vision tower reproduces OpenCLIP's and transformers' in float64, from either published layout."""

from __future__ import annotations

import pytest
import torch
from goldens_io import load, relative_error
from torch import Tensor

from vcut.clip import CLIPConfig, CLIPVisionEncoder
from vcut.errors import ConfigError
from weights_tools.remap import from_layout

CONFIG = CLIPConfig(image_size=56, patch_size=14, width=64, layers=2, heads=4, mlp_dim=256, embed_dim=32)
EXACT = 1e-9
FLOAT32 = 1e-4  # two layers lose 3e-7 here; the published 32 lose no more than some tens of it


def from_openclip() -> dict[str, Tensor]:
    source = {k.removeprefix("visual."): v for k, v in load("clip_tiny_openclip_weights").items()}
    return from_layout(source, "clip", "sgm")


def from_transformers() -> dict[str, Tensor]:
    return from_layout(load("clip_tiny_hf_weights"), "clip", "diffusers")


@pytest.fixture(params=[from_openclip, from_transformers])
def clip(request: pytest.FixtureRequest) -> CLIPVisionEncoder:
    clip = CLIPVisionEncoder(CONFIG)
    clip.load_state_dict(request.param())
    return clip.double().requires_grad_(False)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load("clip_tiny_io")


def test_embedding_of_three_pictures(clip: CLIPVisionEncoder, io: dict[str, Tensor]) -> None:
    assert relative_error(clip(io["in.pixels"]), io["embed.f64"]) < EXACT


def test_tokens_before_the_last_norm(clip: CLIPVisionEncoder, io: dict[str, Tensor]) -> None:
    assert relative_error(clip.token_states(io["in.pixels"]), io["hf_last_hidden_state.f64"]) < EXACT


def test_float32_stays_near_float64(clip: CLIPVisionEncoder, io: dict[str, Tensor]) -> None:
    embedding = clip.float()(io["in.pixels"].double())  # cast to the parameters' dtype
    assert embedding.dtype is torch.float32
    assert relative_error(embedding, io["embed.f64"]) < FLOAT32
    assert relative_error(embedding, io["embed.f32"]) < FLOAT32


def test_pictures_do_not_see_each_other(clip: CLIPVisionEncoder, io: dict[str, Tensor]) -> None:
    singles = torch.cat([clip(pixels[None]) for pixels in io["in.pixels"]])
    torch.testing.assert_close(clip(io["in.pixels"]), singles, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 56, 56), (1, 3, 56, 70), (1, 4, 56, 56), (1, 3, 224, 224)])
def test_pixels_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        CLIPVisionEncoder(CONFIG)(torch.zeros(shape))
    assert f"[b, 3, 56, 56], got {list(shape)}" in str(error.value)
