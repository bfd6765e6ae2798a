"""What every sampler keeps: the plan's branches, its passes, guidance per frame, and the clip's own noise."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from vcut.config import Sampler
from vcut.errors import ConfigError
from vcut.sampling import (
    COND,
    STOP,
    UNCOND,
    Branch,
    Churn,
    Record,
    constant,
    karras_sigmas,
    linear,
    named_sigmas,
    plan,
    sample,
    summarize,
    trajectory,
)

SHAPE = (2, 3, 4, 5, 6)  # b f c h w
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def unit_noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=Generator().manual_seed(seed), dtype=torch.float64)


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def denoiser(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
    return torch.stack([torch.tanh(x / (1 + sigma)) * (0.5 if b == COND else 0.2) for b in branches])


@every_sampler
def test_a_run_with_new_latents_is_a_run_that_starts_there(sampler: Sampler) -> None:
    """Nothing from before is left in it, so second order begins again."""
    levels, steps, others = karras_sigmas(6).tolist(), plan(6, cut=5), unit_noise(5)

    def replace(record: Record) -> Tensor | None:
        return others * math.sqrt(levels[2] ** 2 + 1) if record.step.number == 2 else None

    found = sample(
        denoiser,
        unit_noise(),
        levels,
        steps,
        linear(1, 3),
        sampler=sampler,
        generators=generators(1, 2),
        callback=replace,
    )
    later = generators(1, 2)
    for generator in later * 2:  # two steps' draws
        torch.randn(SHAPE[1:], generator=generator, dtype=torch.float32)
    expected = sample(
        denoiser, others, levels[2:], steps[2:], linear(1, 3), sampler=sampler, generators=later
    )
    assert torch.equal(found, expected)


@every_sampler
@given(
    ratios=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=8),
    cut=st.integers(1, 9),
    scales=st.tuples(st.floats(-3, 5), st.floats(-3, 5)),
)
@settings(max_examples=15, deadline=None)
def test_a_denoiser_that_knows_the_clip_gives_the_clip(
    sampler: Sampler, ratios: list[float], cut: int, scales: tuple[float, float]
) -> None:
    """Whatever the levels, the cut and the guidance."""
    clip = unit_noise(7)
    levels = list(accumulate(ratios, float.__mul__, initial=700.0))
    found = sample(
        lambda x, sigma, branches: torch.stack([clip] * len(branches)),
        unit_noise(),
        levels,
        plan(len(levels), min(cut, len(levels) + 1)),
        linear(*scales),
        sampler=sampler,
        generators=generators(1, 2),
    )
    torch.testing.assert_close(found, clip, rtol=1e-12, atol=1e-12)


@every_sampler
@pytest.mark.parametrize("guidance", [linear(1, 3), constant(1)], ids=["guided", "unguided"])
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_the_network_is_asked_for_what_the_summary_counts(
    sampler: Sampler, guidance: object, cut: int
) -> None:
    """Every evaluation of a step has that step's branches, Heun's second one too."""
    asked: dict[int, list[tuple[float, tuple[Branch, ...]]]] = {}
    calls: list[tuple[float, tuple[Branch, ...]]] = []

    def spy(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        calls.append((sigma, branches))
        return denoiser(x, sigma, branches)

    def after(record: Record) -> None:
        asked[record.step.number] = calls.copy()
        calls.clear()

    records = []
    run = trajectory(
        spy,
        unit_noise(),
        karras_sigmas(6),
        plan(6, cut),
        guidance,  # type: ignore[arg-type]
        sampler=sampler,
        generators=generators(1, 2),
    )
    for record in run:
        records.append(record)
        after(record)
    for record in records:
        levels = [record.sigma]
        if sampler == "heun" and record.sigma_next > 0:
            levels.append(record.sigma_next)
        assert asked[record.step.number] == [(level, record.step.branches) for level in levels]

    found = summarize(tuple(record.step for record in records), sampler)
    made = [branches for each in asked.values() for _, branches in each]
    assert found.evaluations == len(made) == (11 if sampler == "heun" else 6)
    assert found.passes == sum(map(len, made))
    assert found.calls == (sum(len(b) == 2 for b in made), sum(len(b) == 1 for b in made))


@every_sampler
def test_a_batch_equals_single_runs_with_noise_of_their_own(sampler: Sampler) -> None:
    def run(noise: Tensor, *seeds: int) -> Tensor:
        return sample(
            denoiser,
            noise,
            karras_sigmas(6),
            plan(6, 4),
            linear(1, 3),
            sampler=sampler,
            churn=Churn(2.0) if sampler in ("euler", "heun") else None,
            generators=generators(*seeds),
        )

    batch = run(unit_noise(), 11, 12)
    assert torch.equal(run(unit_noise(), 11, 12), batch)
    for clip, seed in enumerate((11, 12)):
        assert torch.equal(run(unit_noise()[clip : clip + 1], seed)[0], batch[clip])


@every_sampler
def test_a_run_that_is_stopped_gives_the_last_estimate(sampler: Sampler) -> None:
    def run(**given_: object) -> Tensor:
        return sample(
            denoiser, unit_noise(), karras_sigmas(6), plan(6, 4), linear(1, 3), sampler=sampler, **given_
        )  # type: ignore[arg-type]

    seen: list[Record] = []

    def third(record: Record) -> object:
        seen.append(record)
        return STOP if record.step.number == 3 else None

    stopped = run(generators=generators(1, 2), callback=third)
    assert stopped is seen[-1].denoised
    assert len(seen) == 3
    whole = run(generators=generators(1, 2), callback=seen.append)
    assert torch.equal(whole, seen[-1].latents)


# The noise that is missing is a root of a difference: next to no churn leaves it next to no digits, here as there.
@given(s_churn=st.just(0.0) | st.floats(0.01, 40), s_noise=st.floats(0, 2), steps=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_heun_is_edms_algorithm_2_line_by_line(s_churn: float, s_noise: float, steps: int) -> None:
    generator = Generator().manual_seed(5)
    noise = unit_noise()[:1]
    t = karras_sigmas(steps).tolist()
    x = noise * math.hypot(t[0], 1)
    for i in range(steps):
        gamma = min(s_churn / steps, math.sqrt(2) - 1)
        t_hat = t[i] + gamma * t[i]
        if gamma > 0:
            drawn = torch.randn(x.shape, generator=generator).to(x)
            x = x + math.sqrt(t_hat**2 - t[i] ** 2) * s_noise * drawn
        d = (x - denoiser(x, t_hat, (UNCOND,))[0]) / t_hat
        euler = x + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (euler - denoiser(euler, t[i + 1], (UNCOND,))[0]) / t[i + 1]
            x = x + (t[i + 1] - t_hat) * (d / 2 + d_prime / 2)
        else:
            x = euler
    found = sample(
        denoiser,
        noise,
        t,
        plan(steps, cut=1, after=UNCOND),
        linear(1, 3),
        sampler="heun",
        churn=Churn(s_churn, s_noise=s_noise),
        generators=generators(5),
    )
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@given(ratios=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=8), cut=st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_dpmpp_2m_takes_the_estimate_at_the_middle_of_the_step(ratios: list[float], cut: int) -> None:
    """An estimate that is linear in ln(sigma) is known there, however unequal the steps are.

    The first step, the first after the cut and the last have one estimate to go by.
    """
    levels = list(accumulate(ratios, float.__mul__, initial=80.0))

    def line(sigma: float) -> float:
        return 0.3 - 0.7 * math.log(sigma)

    records = list(
        trajectory(
            lambda x, sigma, branches: torch.stack([torch.full_like(x, line(sigma))] * len(branches)),
            unit_noise(),
            levels,
            plan(len(levels), min(cut, len(levels) + 1)),
            linear(1, 3),
            sampler="dpmpp_2m",
        )
    )
    x = unit_noise() * math.hypot(80.0, 1)
    for number, record in enumerate(records, start=1):
        alone = number in (1, cut, len(levels))
        denoised = line(record.sigma if alone else math.sqrt(record.sigma * record.sigma_next))
        x = denoised + record.sigma_next / record.sigma * (x - denoised)
        torch.testing.assert_close(record.latents, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8, 40])
def test_lcm_jumps_to_the_estimate_and_back_to_less_noise(steps: int) -> None:
    """The levels are AnimateLCM's: the first N of every (40 // N)-th of 40."""
    indices = [i * (40 // steps) for i in range(steps)]
    levels = [*karras_sigmas(40)[indices].tolist(), 0.0]
    assert named_sigmas("karras", steps, "lcm").tolist() == levels

    drawn = generators(5)
    found = sample(
        denoiser,
        unit_noise()[:1],
        levels,
        plan(steps),
        constant(1),
        sampler="lcm",
        generators=drawn,
    )
    generator = Generator().manual_seed(5)
    x = unit_noise()[:1] * math.hypot(levels[0], 1)
    for sigma, sigma_next in pairwise(levels):
        x = denoiser(x, sigma, (COND,))[0]
        if sigma_next > 0:
            x = x + sigma_next * torch.randn(x.shape, generator=generator).to(x)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
    # nothing is drawn for the last step
    assert torch.equal(drawn[0].get_state(), generator.get_state())


def test_lcm_has_40_levels() -> None:
    with pytest.raises(ConfigError, match=r"steps of the sampler lcm .* 40.* got 41"):
        named_sigmas("karras", 41, "lcm")


@pytest.mark.parametrize("given_", [None, [], [1, 2, 3]])
def test_lcm_without_a_generator_per_clip_is_refused(given_: list[int] | None) -> None:
    drawn = None if given_ is None else generators(*given_)
    with pytest.raises(ConfigError, match=r"lcm draws noise for 2 clips"):
        trajectory(denoiser, unit_noise(), [9.0, 3.0], plan(2), linear(1, 3), sampler="lcm", generators=drawn)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lcm"])
def test_churn_is_refused_where_it_is_not_defined(sampler: Sampler) -> None:
    def run(churn: Churn) -> Tensor:
        return sample(
            denoiser,
            unit_noise(),
            karras_sigmas(3),
            plan(3),
            linear(1, 3),
            sampler=sampler,
            churn=churn,
            generators=generators(1, 2),
        )

    with pytest.raises(ConfigError, match=f"euler and heun .* not for {sampler}"):
        run(Churn(1.0))
    run(Churn(0.0))


@pytest.mark.parametrize("sampler", ["ddim", "Euler", None, ["heun"]])
def test_an_unknown_sampler_is_refused(sampler: object) -> None:
    with pytest.raises(ConfigError, match="sampler must be one of euler, heun, dpmpp_2m, lcm"):
        trajectory(denoiser, unit_noise(), [9.0], plan(1), linear(1, 3), sampler=sampler)  # type: ignore[arg-type]
