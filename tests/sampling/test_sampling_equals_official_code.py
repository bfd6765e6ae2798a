"""The sampler retraces Stability's and diffusers' trajectories on a toy network (goldens, NOTES.md section 6).

The goldens flatten 2 videos x 5 frames as (b t). The float64 runs must agree to 1e-9; they agree to 1e-14. The
float32 ones to 3e-6 relative, as far as the two reference codes are from their own float64 (1e-6).
"""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor

from tests.goldens_io import config, load, relative_error
from vcut.sampling import (
    Branch,
    Denoiser,
    Mix,
    Record,
    coefficients,
    frame_scales,
    karras_sigmas,
    linear,
    plan,
    precondition,
    sample,
    trajectory,
)

EXACT = 1e-9
SINGLE = 3e-6
GOLD = load("sampler_toy")
STEPS = config("sampler_toy")["num_steps"]
VIDEOS = config("sampler_toy")["batch"]
MIX: dict[Mix, float] = {"cond": 1.0, "mean": 0.5, "uncond": 0.0}


def videos(x: Tensor) -> Tensor:
    return rearrange(x, "... (b f) c h w -> ... b f c h w", b=VIDEOS)


def toy_denoiser(dtype: torch.dtype) -> Denoiser:
    """F = tanh(0.6 z + 0.25 k + mean(a)) cos(0.5 s) + 0.1 mean(v) z, for z = c_in x and s = c_noise."""
    k = videos(GOLD["in.cond.concat"]).to(dtype)
    a = rearrange(GOLD["in.cond.crossattn"].to(dtype).mean((1, 2)), "(b f) -> b f 1 1 1", b=VIDEOS)
    v = rearrange(GOLD["in.cond.vector"].to(dtype).mean(1), "(b f) -> b f 1 1 1", b=VIDEOS)

    def network(z: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
        return torch.stack(
            [
                torch.tanh(0.6 * z + 0.25 * MIX[latents] * k + MIX[context] * a) * math.cos(0.5 * c_noise)
                + 0.1 * v * z
                for context, latents in branches
            ]
        )

    return precondition(network)


def run(dtype: torch.dtype, minimum: float, maximum: float) -> list[Record]:
    noise = videos(GOLD["in.noise"]).to(dtype)
    return list(
        trajectory(toy_denoiser(dtype), noise, karras_sigmas(STEPS), plan(STEPS), linear(minimum, maximum))
    )


@pytest.mark.parametrize("steps", [1, 2, 25, 30])
def test_the_karras_schedule_is_the_official_one(steps: int) -> None:
    torch.testing.assert_close(
        karras_sigmas(steps), GOLD[f"sigma_table.{steps}.f64"], rtol=EXACT, atol=0, check_dtype=True
    )


def test_the_schedule_of_the_run_is_that_of_both_codes() -> None:
    sigmas = karras_sigmas(STEPS)
    torch.testing.assert_close(sigmas, GOLD["sgm.sigmas.f64"], rtol=EXACT, atol=0)
    torch.testing.assert_close(sigmas, GOLD["hf.sigmas"].double(), rtol=1e-7, atol=0)  # rounded once
    torch.testing.assert_close(
        sigmas, GOLD["sgm.sigmas.f32"].double(), rtol=5e-6, atol=0
    )  # 7th power in float32


def test_noise_conditioning_is_that_of_both_codes() -> None:
    c_noise = torch.tensor(
        [coefficients(sigma).c_noise for sigma in karras_sigmas(STEPS)[:-1].tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(c_noise, GOLD["sgm.c_noise.f64"], rtol=EXACT, atol=1e-12)
    torch.testing.assert_close(c_noise, GOLD["hf.timesteps"].double(), rtol=1e-6, atol=1e-7)


def test_preconditioning_of_tensors_is_that_of_floats() -> None:
    """Training takes a tensor of levels, one per clip."""
    sigmas = karras_sigmas(5)[:-1]
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        singly = torch.tensor([getattr(coefficients(s), name) for s in sigmas.tolist()], dtype=torch.float64)
        torch.testing.assert_close(getattr(coefficients(sigmas), name), singly, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("golden", "minimum"), [("g1_3", 1.0), ("g1.5_3", 1.5)])
def test_guidance_rises_over_the_frames_as_in_the_official_code(golden: str, minimum: float) -> None:
    expected = GOLD[f"sgm.guidance_scale.{golden}"]
    torch.testing.assert_close(
        frame_scales(linear(minimum, 3.0), len(expected)), expected, rtol=EXACT, atol=0
    )


def test_the_first_state_is_noise_scaled_to_the_first_level() -> None:
    sigma = float(karras_sigmas(STEPS)[0])
    noise = videos(GOLD["in.noise"]).double()
    start = videos(GOLD["sgm.traj.g1_3.f64"][0])
    assert math.hypot(sigma, 1) == pytest.approx(float(GOLD["hf.init_noise_sigma"]), rel=1e-7)
    seen: list[Tensor] = []

    def spy(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        seen.append(x)
        return torch.stack([x] * len(branches))

    sample(spy, noise, [sigma], plan(1), linear(1, 3))
    assert relative_error(seen[0], start) < EXACT


def test_every_state_of_the_run_is_the_official_one() -> None:
    records = run(torch.float64, 1.0, 3.0)
    assert len(records) == STEPS
    for i, record in enumerate(records):
        assert relative_error(record.latents, videos(GOLD["sgm.traj.g1_3.f64"][i + 1])) < EXACT, record.step
        assert relative_error(record.denoised, videos(GOLD["sgm.denoised.g1_3.f64"][i])) < EXACT, record.step


def test_other_guidance_ends_where_the_official_code_ends() -> None:
    final = run(torch.float64, 1.5, 3.0)[-1].latents
    assert relative_error(final, videos(GOLD["sgm.final.g1.5_3.f64"])) < EXACT


@pytest.mark.parametrize("golden", ["sgm.traj.g1_3.f32", "hf.traj.g1_3.f32", "sgm.traj.g1_3.f64"])
def test_every_state_in_float32_is_that_of_both_codes(golden: str) -> None:
    for i, record in enumerate(run(torch.float32, 1.0, 3.0)):
        assert record.latents.dtype == torch.float32
        assert relative_error(record.latents, videos(GOLD[golden][i + 1])) < SINGLE, record.step


def test_the_official_run_has_teeth() -> None:
    """Guidance off by a frame, or a cut, is far outside the tolerances above."""
    noise = videos(GOLD["in.noise"]).double()
    expected = videos(GOLD["sgm.traj.g1_3.f64"][-1])
    denoiser = toy_denoiser(torch.float64)
    for steps, scale in (
        (plan(STEPS), lambda f: linear(1, 3)(f).roll(1)),
        (plan(STEPS, cut=17), linear(1, 3)),
    ):
        final = sample(denoiser, noise, karras_sigmas(STEPS), steps, scale)
        assert relative_error(final, expected) > 1e-3


def test_each_clip_of_the_batch_is_a_run_of_its_own() -> None:
    """Guidance goes with the frame, not with the position in the batch."""
    noise = videos(GOLD["in.noise"]).double()
    both = toy_denoiser(torch.float64)

    def second(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        return both(repeat(x, "1 ... -> b ...", b=VIDEOS), sigma, branches)[:, 1:]

    whole = sample(both, noise, karras_sigmas(5), plan(5, cut=4), linear(1, 3))
    single = sample(second, noise[1:], karras_sigmas(5), plan(5, cut=4), linear(1, 3))
    torch.testing.assert_close(single, whole[1:], rtol=0, atol=0)
