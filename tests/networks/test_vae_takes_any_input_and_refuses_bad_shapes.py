"""Inputs are cast to the parameters' dtype; shapes that cannot work are refused with a sentence."""

from __future__ import annotations

import pytest
import torch

from vcut.errors import ConfigError
from vcut.vae import VAE, VAEConfig

CONFIG = VAEConfig(channels=(16, 32, 16), layers=1, norm_groups=4)


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(CONFIG)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 8, 12), "[b, 3, H, W], got [3, 8, 12]"),
        ((1, 1, 3, 8, 12), "[b, 3, H, W], got [1, 1, 3, 8, 12]"),
        ((1, 4, 8, 12), "[b, 3, H, W], got [1, 4, 8, 12]"),
        ((1, 3, 0, 12), "[b, 3, H, W], got [1, 3, 0, 12]"),
        ((1, 3, 8, 13), "multiples of 4, got 8x13"),
        ((1, 3, 10, 12), "multiples of 4, got 10x12"),
    ],
)
def test_pictures_of_a_wrong_shape(vae: VAE, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        vae.encode(torch.zeros(shape))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((2, 4, 3, 5), "[b, f, 4, h, w], got [2, 4, 3, 5]"),
        ((1, 2, 8, 3, 5), "[b, f, 4, h, w], got [1, 2, 8, 3, 5]"),
        ((1, 0, 4, 3, 5), "[b, f, 4, h, w], got [1, 0, 4, 3, 5]"),
    ],
)
def test_latents_of_a_wrong_shape(vae: VAE, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        vae.decode(torch.zeros(shape))
    assert says in str(error.value)


@pytest.mark.parametrize("chunk", [0, -1, 1.5])
def test_a_chunk_is_a_whole_number_of_frames(vae: VAE, chunk: int) -> None:
    with pytest.raises(ConfigError, match=f"chunk.* must be a whole number of at least 1, got {chunk}"):
        vae.decode(torch.zeros(1, 2, 4, 3, 5), chunk)


@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_inputs_are_cast_and_results_have_the_parameters_dtype(vae: VAE, given: torch.dtype) -> None:
    image = torch.full((2, 3, 8, 12), 0.5, dtype=given)  # exact in every type
    latents = torch.full((2, 3, 4, 2, 3), -0.25, dtype=given)
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(image), vae.encode(image.float()), rtol=0, atol=0)
        torch.testing.assert_close(vae.decode(latents), vae.decode(latents.float()), rtol=0, atol=0)
    assert vae.encode(image).dtype is vae.decode(latents).dtype is vae.dtype is torch.float32


def test_bfloat16_parameters_give_bfloat16_near_float32(vae: VAE) -> None:
    half = VAE(CONFIG)
    half.load_state_dict(vae.state_dict())
    half.bfloat16()
    latents = torch.randn(2, 3, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, decoded = vae.decode(latents), half.decode(latents)
    assert decoded.dtype is torch.bfloat16
    # 8 bits of mantissa over some thirty layers
    torch.testing.assert_close(decoded.float(), expected, rtol=0, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_pictures_and_latents_without_variance_stay_finite(vae: VAE, value: float) -> None:
    """Every group norm then divides by its eps."""
    with torch.no_grad():
        assert torch.isfinite(vae.moments(torch.full((2, 3, 16, 8), value))).all()
        assert torch.isfinite(vae.decode(torch.full((1, 3, 4, 4, 2), value))).all()


def test_gradients_reach_every_parameter_through_encode_and_decode(vae: VAE) -> None:
    torch.manual_seed(3)
    moments = vae.moments(torch.randn(2, 3, 16, 24))
    frames = vae.decode(moments[:, :4].unsqueeze(0), chunk=1)
    (frames.square().sum() + moments.square().sum()).backward()
    without = [name for name, p in vae.named_parameters() if p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)
    vae.zero_grad()
