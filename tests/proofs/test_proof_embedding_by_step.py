"""Claim 10. Figure 2 of the paper as an option: which steps receive the embedding is chosen apart from guidance.

With a real UNet, bound to a conditioning. Every claim is an equality of whole trajectories, bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from proof_models import random_unet
from torch import Tensor

from vcut.conditioning import Conditioning, bind
from vcut.sampling import (
    COND,
    Record,
    Scale,
    coefficients,
    constant,
    karras_sigmas,
    linear,
    plan,
    precondition,
    trajectory,
)
from vcut.unet import Level, UNet, UNetConfig

STEPS = 6
CONFIG = UNetConfig(
    levels=(Level(16, 2), Level(16, 4)), layers=1, context_dim=12, time_id_dim=8, norm_groups=4
)
GUIDED, UNGUIDED = linear(1.0, 3.0), constant(1.0)
CUTS = [None, 4, 1]
every_cut = pytest.mark.parametrize("cut", CUTS)
every_scale = pytest.mark.parametrize("scale", [GUIDED, UNGUIDED], ids=["guided", "unguided"])


@functools.cache
def unet() -> UNet:
    return random_unet(config=CONFIG)


@functools.cache
def conditioning() -> Conditioning:
    g = torch.Generator().manual_seed(1)
    return Conditioning(
        2 * torch.randn(2, 1, 12, generator=g, dtype=torch.float64),
        torch.randn(2, 4, 4, 6, generator=g, dtype=torch.float64),
        100 * torch.rand(2, 3, generator=g, dtype=torch.float64),
    )


@functools.cache
def run(
    embedding: tuple[int, ...] | range | None, cut: int | None, scale: Scale, *, zero: bool = False
) -> tuple[Record, ...]:
    """All steps of a run; ``zero``: the conditioning itself has the zero embedding."""
    given = conditioning()
    if zero:
        given = replace(given, embedding=torch.zeros_like(given.embedding))
    with torch.no_grad():
        steps = plan(STEPS, cut, embedding=embedding)
        denoiser = precondition(bind(unet(), given, steps, noise().shape[1]))
        return tuple(trajectory(denoiser, noise(), karras_sigmas(STEPS), steps, scale))


def noise() -> Tensor:
    return torch.randn(2, 3, 4, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def same_until(a: Sequence[Record], b: Sequence[Record]) -> int:
    """After how many steps the two runs still agree, bit for bit."""
    agree = [torch.equal(x.latents, y.latents) for x, y in zip(a, b, strict=True)]
    return agree.index(False) if False in agree else len(agree)


@pytest.mark.slow
@every_cut
@every_scale
def test_at_no_step_is_a_run_whose_embedding_is_zero(cut: int | None, scale: Scale) -> None:
    without = run((), cut, scale)
    assert same_until(without, run(None, cut, scale, zero=True)) == STEPS
    assert same_until(without, run(None, cut, scale)) == 0


@pytest.mark.slow
@every_cut
@every_scale
def test_at_all_steps_is_an_ordinary_run(cut: int | None, scale: Scale) -> None:
    assert same_until(run(range(1, STEPS + 1), cut, scale), run(None, cut, scale)) == STEPS


@pytest.mark.slow
@every_cut
@every_scale
@pytest.mark.parametrize("last", [1, 3, 5])
def test_early_steps_only_follow_the_ordinary_run_up_to_the_last_of_them(
    last: int, cut: int | None, scale: Scale
) -> None:
    assert same_until(run(range(1, last + 1), cut, scale), run(None, cut, scale)) == last


@pytest.mark.slow
@every_cut
@every_scale
@pytest.mark.parametrize("first", [2, 4, 6])
def test_late_steps_only_follow_the_run_without_it_up_to_the_first_of_them(
    first: int, cut: int | None, scale: Scale
) -> None:
    assert same_until(run(range(first, STEPS + 1), cut, scale), run((), cut, scale)) == first - 1


@pytest.mark.parametrize("embedding", [(), (1, 2), (5, 6), (2, 4)])
def test_it_takes_no_pass_away_and_adds_none(embedding: tuple[int, ...]) -> None:
    for cut in CUTS:
        ordinary, chosen = plan(STEPS, cut), plan(STEPS, cut, embedding=embedding)
        for a, b in zip(ordinary, chosen, strict=True):
            assert (a.guided, a.cut, a.stage) == (b.guided, b.cut, b.stage)
            assert [x.latents for x in a.branches] == [x.latents for x in b.branches]
            assert (a.branches == b.branches) == (a.number in embedding)


def test_without_the_embedding_guidance_still_works_on_the_image_latents() -> None:
    """Both branches have the zero context then; they differ in the concatenated latents alone."""
    assert same_until(run((), None, GUIDED), run((), None, UNGUIDED)) == 0


def test_it_equals_an_euler_loop_written_out() -> None:
    """Guided steps 1..3, cut from 4, the embedding at steps 2 and 5, without plan, bind or sampler."""
    e, zero = conditioning().embedding, torch.zeros_like(conditioning().embedding)
    image = conditioning().latents.unsqueeze(1).expand(2, 3, 4, 4, 6)
    scales = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(1, 3, 1, 1, 1)
    sigmas = karras_sigmas(STEPS).tolist()
    x = noise() * (sigmas[0] ** 2 + 1) ** 0.5

    def denoised(x: Tensor, sigma: float, context: Tensor, latents: Tensor) -> Tensor:
        c = coefficients(sigma)
        level = torch.tensor(c.c_noise)
        output = unet()(torch.cat([c.c_in * x, latents], dim=2), level, context, conditioning().time_ids)
        return c.c_skip * x + c.c_out * output

    with torch.no_grad():
        for i in range(STEPS):
            number, sigma = i + 1, sigmas[i]
            given = e if number in (2, 5) else zero
            if number < 4:
                d_u, d_c = denoised(x, sigma, zero, 0 * image), denoised(x, sigma, given, image)
                d = d_u + scales * (d_c - d_u)
            else:
                d = denoised(x, sigma, given / 2, image)
            x = x + (x - d) / sigma * (sigmas[i + 1] - sigma)
    got = run((2, 5), 4, GUIDED)[-1].latents
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


def test_the_option_is_what_the_branches_say() -> None:
    """A step that receives the embedding is (uncond, cond) or the cut's mean; on another, all are uncond."""
    contexts = [[b.context for b in step.branches] for step in plan(4, cut=3, embedding=(2, 3))]
    assert contexts == [["uncond", "uncond"], ["uncond", "cond"], ["mean"], ["uncond"]]
    unguided = [[b.context for b in step.branches] for step in plan(2, cut=1, after=COND, embedding=(1,))]
    assert unguided == [["cond"], ["uncond"]]
