"""Fresh noise at each step: the official formula, drawn clip by clip."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from vcut.errors import ConfigError
from vcut.sampling import COND, Branch, Churn, karras_sigmas, linear, plan, sample, trajectory

SHAPE = (3, 2, 4, 3, 5)  # b f c h w


def denoiser(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
    return torch.stack([torch.tanh(x / (1 + sigma)) * (0.5 if b == COND else 0.2) for b in branches])


def unit_noise() -> Tensor:
    return torch.randn(SHAPE, generator=Generator().manual_seed(0), dtype=torch.float64)


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def official(noise: Tensor, steps: int, churn: Churn, seed: int) -> Tensor:
    """The official EulerEDMSampler's loop for one clip, unguided, from its published formulas."""
    generator = Generator().manual_seed(seed)
    sigmas = karras_sigmas(steps)
    x = noise * torch.sqrt(1.0 + sigmas[0] ** 2)
    for i in range(steps):
        inside = churn.s_tmin <= sigmas[i] <= churn.s_tmax
        gamma = min(churn.s_churn / (len(sigmas) - 1), 2**0.5 - 1) if inside else 0.0
        sigma_hat = sigmas[i] * (gamma + 1.0)
        if gamma > 0:
            eps = torch.randn(x.shape, generator=generator).to(x) * churn.s_noise
            x = x + eps * (sigma_hat**2 - sigmas[i] ** 2) ** 0.5
        d = (x - denoiser(x, float(sigma_hat), (COND,))[0]) / sigma_hat
        x = x + d * (sigmas[i + 1] - sigma_hat)
    return x


@given(
    s_churn=st.just(0.0) | st.floats(0.01, 40),
    s_noise=st.floats(0, 2),
    s_tmin=st.floats(0, 1),
    s_tmax=st.floats(1, 1000),
    steps=st.integers(1, 12),
)
@settings(max_examples=40, deadline=None)
def test_churn_is_the_official_formula(
    s_churn: float, s_noise: float, s_tmin: float, s_tmax: float, steps: int
) -> None:
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    noise = unit_noise()
    run = sample(
        denoiser,
        noise,
        karras_sigmas(steps),
        plan(steps, cut=1, after=COND),
        linear(1, 3),
        churn=churn,
        generators=generators(5, 6, 7),
    )
    for clip, seed in enumerate((5, 6, 7)):
        expected = official(noise[clip : clip + 1], steps, churn, seed)
        torch.testing.assert_close(run[clip : clip + 1], expected, rtol=1e-9, atol=1e-9)


def test_gamma_is_capped_and_confined_to_its_range() -> None:
    assert Churn(5).gamma(1.0, steps=25) == 0.2
    assert Churn(50).gamma(1.0, steps=25) == pytest.approx(math.sqrt(2) - 1)
    ranged = Churn(5, s_tmin=0.05, s_tmax=50)
    assert [ranged.gamma(sigma, 25) for sigma in (0.049, 0.05, 50.0, 50.1)] == [0.0, 0.2, 0.2, 0.0]


def test_no_churn_draws_nothing() -> None:
    drawn = generators(1, 2, 3)
    states = [g.get_state() for g in drawn]
    plain = sample(denoiser, unit_noise(), karras_sigmas(5), plan(5), linear(1, 3))
    for churn in (None, Churn(), Churn(s_churn=0.0, s_noise=2.0)):
        out = sample(
            denoiser, unit_noise(), karras_sigmas(5), plan(5), linear(1, 3), churn=churn, generators=drawn
        )
        assert torch.equal(out, plain)
    assert all(torch.equal(g.get_state(), state) for g, state in zip(drawn, states, strict=True))


def test_churn_changes_the_run_and_the_seed_decides_how() -> None:
    def run(*seeds: int) -> Tensor:
        return sample(
            denoiser,
            unit_noise(),
            karras_sigmas(5),
            plan(5, 4),
            linear(1, 3),
            churn=Churn(2.0),
            generators=generators(*seeds),
        )

    plain = sample(denoiser, unit_noise(), karras_sigmas(5), plan(5, 4), linear(1, 3))
    assert torch.equal(run(1, 2, 3), run(1, 2, 3))
    assert not torch.allclose(run(1, 2, 3), plain)
    other = run(1, 9, 3)
    assert torch.equal(other[[0, 2]], run(1, 2, 3)[[0, 2]])
    assert not torch.allclose(other[1], run(1, 2, 3)[1])


def test_a_batch_with_churn_equals_single_runs() -> None:
    noise = unit_noise()
    churn = Churn(4.0, s_tmin=0.01, s_tmax=100.0, s_noise=1.003)
    batch = sample(
        denoiser,
        noise,
        karras_sigmas(6),
        plan(6, 4),
        linear(1, 3),
        churn=churn,
        generators=generators(11, 12, 13),
    )
    for clip, seed in enumerate((11, 12, 13)):
        single = sample(
            denoiser,
            noise[clip : clip + 1],
            karras_sigmas(6),
            plan(6, 4),
            linear(1, 3),
            churn=churn,
            generators=generators(seed),
        )
        assert torch.equal(single[0], batch[clip])


def test_the_draw_does_not_depend_on_the_precision_of_the_state() -> None:
    runs = [
        sample(
            denoiser,
            unit_noise().to(dtype),
            karras_sigmas(6),
            plan(6),
            linear(1, 3),
            churn=Churn(2.0),
            generators=generators(1, 2, 3),
        )
        for dtype in (torch.float32, torch.float64)
    ]
    torch.testing.assert_close(runs[0].double(), runs[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seeds", [None, (), (1,), (1, 2, 3, 4)])
def test_churn_without_a_generator_per_clip_is_refused(seeds: tuple[int, ...] | None) -> None:
    """The global generator would make one clip depend on the others."""
    drawn = None if seeds is None else generators(*seeds)
    with pytest.raises(ConfigError, match=r"3 clips .* a generator for each"):
        trajectory(
            denoiser,
            unit_noise(),
            karras_sigmas(5),
            plan(5),
            linear(1, 3),
            churn=Churn(1.0),
            generators=drawn,
        )


@pytest.mark.parametrize(
    "bad",
    [
        {"s_churn": -1.0},
        {"s_churn": math.nan},
        {"s_churn": math.inf},
        {"s_noise": -0.1},
        {"s_noise": math.inf},
        {"s_tmin": 2.0, "s_tmax": 1.0},
        {"s_tmin": -1.0},
        {"s_tmax": math.nan},
    ],
)
def test_impossible_churn_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="s_"):
        Churn(**bad)
