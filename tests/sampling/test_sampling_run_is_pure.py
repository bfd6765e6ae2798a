"""One run: Euler steps over a plan, seen by a callback, stopped by NaN, leaving nothing behind."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vcut.errors import ConfigError, NotFiniteError
from vcut.sampling import (
    COND,
    MEAN,
    STOP,
    UNCOND,
    Branch,
    Denoiser,
    Mix,
    Plan,
    Record,
    constant,
    karras_sigmas,
    linear,
    plan,
    precondition,
    sample,
    trajectory,
)

SHAPE = (2, 3, 4, 5, 6)  # b f c h w
MIX: dict[Mix, float] = {"cond": 1.0, "mean": 0.5, "uncond": 0.0}


def unit_noise(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def affine(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
    """A denoiser affine in context and latents, as a network is in the context once its layers are cached."""
    generator = torch.Generator().manual_seed(1)
    e, k = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64).to(x.dtype)
    base = torch.tanh(x) / (1 + sigma)
    return torch.stack([base + MIX[context] * e + MIX[latents] * k for context, latents in branches])


class Spy:
    """Passes calls on to a denoiser and remembers what was asked."""

    def __init__(self, denoiser: Denoiser = affine) -> None:
        self.denoiser = denoiser
        self.calls: list[tuple[torch.dtype, float, tuple[Branch, ...]]] = []

    def __call__(self, x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        self.calls.append((x.dtype, sigma, branches))
        return self.denoiser(x, sigma, branches)


def run(denoiser: Denoiser = affine, steps: Plan | None = None, **settings: Any) -> Tensor:
    steps = plan(25, cut=17) if steps is None else steps
    return sample(
        denoiser,
        unit_noise(),
        karras_sigmas(len(steps)),
        steps,
        settings.pop("scale", linear(1, 3)),
        **settings,
    )


def test_the_run_is_eulers_formula_step_by_step() -> None:
    """x + (x - D)/sigma (sigma_next - sigma), written out; guided before the cut, the mean after it."""
    sigmas = karras_sigmas(25).tolist()
    scale = torch.linspace(1, 3, SHAPE[1], dtype=torch.float64).view(1, -1, 1, 1, 1)
    x = unit_noise() * math.sqrt(sigmas[0] ** 2 + 1)
    for number in range(1, 26):
        sigma, sigma_next = sigmas[number - 1 : number + 1]
        if number < 17:
            uncond, cond = affine(x, sigma, (UNCOND, COND))
            denoised = uncond + scale * (cond - uncond)
        else:
            (denoised,) = affine(x, sigma, (MEAN,))
        x = x + (x - denoised) / sigma * (sigma_next - sigma)
    torch.testing.assert_close(run(), x, rtol=1e-9, atol=1e-9)


@given(st.lists(st.floats(0.1, 0.95), min_size=1, max_size=12), st.data())
@settings(max_examples=30, deadline=None)
def test_own_sigmas_are_visited_as_given(ratios: list[float], data: st.DataObject) -> None:
    sigmas = [80 * math.prod(ratios[: i + 1]) for i in range(len(ratios))]
    cut = data.draw(st.integers(1, len(sigmas) + 1))
    spy = Spy()
    sample(spy, unit_noise(), sigmas, plan(len(sigmas), cut), linear(1, 3))
    assert [sigma for _, sigma, _ in spy.calls] == sigmas
    assert [len(branches) for *_, branches in spy.calls] == [2] * (cut - 1) + [1] * (len(sigmas) - cut + 1)


def test_one_step_returns_the_estimate_itself() -> None:
    (record,) = trajectory(affine, unit_noise(), [700.0], plan(1), linear(1, 3))
    assert torch.equal(record.latents, record.denoised)


def test_the_mean_context_is_the_mean_of_two_passes() -> None:
    """Equation 4: for a denoiser affine in its context, one pass with half of it is the average of two."""
    for latents in ("cond", "uncond"):
        with_, without, mean = affine(
            unit_noise(), 2.0, (Branch("cond", latents), Branch("uncond", latents), Branch("mean", latents))
        )
        torch.testing.assert_close(mean, (with_ + without) / 2, rtol=1e-12, atol=1e-12)


def test_a_cut_run_at_the_mean_is_a_guided_run_at_one_half() -> None:
    """So cutting every step, latents at the mean too, is guidance with the scale 1/2 throughout."""
    cut = run(steps=plan(25, cut=1, after=Branch("mean", "mean")))
    torch.testing.assert_close(cut, run(steps=plan(25), scale=constant(0.5)), rtol=1e-9, atol=1e-9)


def test_preconditioning_keeps_the_right_parts_at_both_ends() -> None:
    """D is x where there is no noise, and -F where there is nothing else (v-prediction)."""
    x = unit_noise()
    f = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    denoiser = precondition(lambda z, c_noise, branches: f)
    torch.testing.assert_close(denoiser(x, 1e-6, (COND,))[0], x, rtol=0, atol=1e-5)
    torch.testing.assert_close(denoiser(x, 1e6, (COND,)), -f, rtol=0, atol=1e-5)


def test_the_network_sees_unit_variance_and_a_quarter_of_the_log() -> None:
    seen = []

    def network(z: Tensor, c_noise: float, branches: tuple[Branch, ...]) -> Tensor:
        seen.append((z, c_noise))
        return torch.zeros(len(branches), *z.shape)

    sample(precondition(network), unit_noise(), [700.0], plan(1), linear(1, 3))
    ((z, c_noise),) = seen
    torch.testing.assert_close(z, unit_noise(), rtol=1e-12, atol=1e-12)
    assert c_noise == pytest.approx(math.log(700) / 4)


def test_at_guidance_1_a_guided_step_takes_one_pass_and_ends_in_the_same_place() -> None:
    spy, full = Spy(), Spy()
    once = run(spy, scale=constant(1.0))
    assert {branches for *_, branches in spy.calls} == {(COND,), (MEAN,)}
    almost = run(full, scale=lambda frames: [1.0 + 1e-12] * frames)
    assert {branches for *_, branches in full.calls} == {(UNCOND, COND), (MEAN,)}
    torch.testing.assert_close(once, almost, rtol=1e-9, atol=1e-9)


def test_one_frame_at_another_scale_needs_both_passes() -> None:
    spy = Spy()
    run(spy, scale=lambda frames: [1.0] * (frames - 1) + [2.0])
    assert spy.calls[0][-1] == (UNCOND, COND)


def test_the_callers_tensors_are_untouched() -> None:
    noise, sigmas = unit_noise(), karras_sigmas(25)
    before = noise.clone(), sigmas.clone()
    first = sample(affine, noise, sigmas, plan(25, 17), linear(1, 3))
    assert torch.equal(noise, before[0])
    assert torch.equal(sigmas, before[1])
    assert torch.equal(sample(affine, noise, sigmas, plan(25, 17), linear(1, 3)), first)


@pytest.mark.parametrize(
    ("given_", "state"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_state_is_at_least_float32(given_: torch.dtype, state: torch.dtype) -> None:
    """Whatever the dtype of the noise and of what the denoiser returns."""
    spy = Spy(lambda x, sigma, branches: affine(x, sigma, branches).half())
    out = sample(spy, unit_noise(given_), karras_sigmas(4), plan(4, 3), linear(1, 3))
    assert out.dtype == state
    assert {dtype for dtype, *_ in spy.calls} == {state}


def test_half_precision_noise_is_not_rounded_again() -> None:
    noise = unit_noise(torch.float16)
    half, single = (
        sample(affine, n, karras_sigmas(4), plan(4), linear(1, 3)) for n in (noise, noise.float())
    )
    assert torch.equal(half, single)


def test_the_callback_sees_every_step_in_order() -> None:
    records: list[Record] = []
    final = run(callback=records.append)
    sigmas = karras_sigmas(25).tolist()
    assert [record.step for record in records] == list(plan(25, cut=17))
    assert [(record.sigma, record.sigma_next) for record in records] == list(pairwise(sigmas))
    assert records[-1].latents is final
    assert torch.equal(records[-1].denoised, final)
    before = unit_noise() * math.sqrt(sigmas[0] ** 2 + 1)
    for record in records:  # each record keeps the state of its own step
        slope = (before - record.denoised) / record.sigma
        expected = before + slope * (record.sigma_next - record.sigma)
        torch.testing.assert_close(record.latents, expected, rtol=1e-9, atol=1e-9)
        before = record.latents


def test_a_record_cannot_be_rebound() -> None:
    record = next(trajectory(affine, unit_noise(), karras_sigmas(2), plan(2), linear(1, 3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.sigma = 1.0  # type: ignore[misc]


def test_a_callback_stops_the_run_and_the_latents_are_the_clean_estimate_of_that_step() -> None:
    spy = Spy()
    stopped = run(spy, callback=lambda record: STOP if record.step.number == 7 else None)
    assert len(spy.calls) == 7
    whole = list(trajectory(affine, unit_noise(), karras_sigmas(25), plan(25, 17), linear(1, 3)))
    assert torch.equal(stopped, whole[6].denoised)
    assert torch.equal(whole[-1].denoised, whole[-1].latents)


@pytest.mark.parametrize("answer", [True, 1, "stop", {"latents": None}])
def test_only_stop_stops(answer: object) -> None:
    spy = Spy()
    run(spy, callback=lambda record: answer)
    assert len(spy.calls) == 25


@pytest.mark.parametrize("progress", [False, True])
def test_what_a_callback_returns_last_is_the_result(progress: bool) -> None:
    given = unit_noise(torch.float32)
    final = run(callback=lambda record: given if record.step.number == 25 else None, progress=progress)
    assert final.dtype == torch.float64
    assert torch.equal(final, given.double())


def test_latents_that_are_sent_take_the_place_of_the_records() -> None:
    records = trajectory(affine, unit_noise(), karras_sigmas(2), plan(2), linear(1, 3))
    record = next(records)
    kept = record.latents.clone()
    changed = records.send(unit_noise())
    assert dataclasses.replace(changed, latents=record.latents) == record
    assert torch.equal(changed.latents, unit_noise())
    assert torch.equal(records.send(2 * unit_noise()).latents, 2 * unit_noise())
    assert torch.equal(record.latents, kept)
    assert next(records).step.number == 2


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (
            torch.zeros(2, 3),
            ConfigError,
            r"returned \[2, 3\] of torch.float32 after step 1, the latents are \[2, 3, 4, 5, 6\]",
        ),
        (
            torch.zeros(SHAPE, dtype=torch.complex64),
            ConfigError,
            r"of torch.complex64 after step 1, the latents are \[2, 3, 4, 5, 6\] of floating point",
        ),
        (
            torch.full(SHAPE, math.nan),
            NotFiniteError,
            "callback returned latents with NaN or infinity after step 1",
        ),
    ],
)
def test_latents_that_do_not_fit_are_blamed_on_the_callback(
    given: Tensor, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        run(callback=lambda record: given)


def test_a_callback_that_is_no_function_is_refused_before_any_step() -> None:
    spy = Spy()
    for callback in ("x", 2.5, []):
        with pytest.raises(ConfigError, match="callback must be a function, got"):
            run(spy, callback=callback)
    assert spy.calls == []


def test_stop_survives_a_copy() -> None:
    spy = Spy()
    run(spy, callback=lambda record: copy.deepcopy(STOP))
    assert len(spy.calls) == 1


def test_steps_are_computed_as_they_are_asked_for() -> None:
    spy = Spy()
    records = trajectory(spy, unit_noise(), karras_sigmas(25), plan(25), linear(1, 3))
    assert spy.calls == []
    next(records)
    assert len(spy.calls) == 1


def test_gradients_flow_to_the_noise() -> None:
    noise = unit_noise().requires_grad_()
    sample(affine, noise, karras_sigmas(3), plan(3, 3), linear(1, 3)).sum().backward()
    assert noise.grad is not None
    assert noise.grad.abs().min() > 0


def broken_at(step: int, value: float) -> Denoiser:
    calls = []

    def denoiser(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
        calls.append(sigma)
        out = affine(x, sigma, branches)
        if len(calls) == step:
            out[-1, 1, 2, 0, 0, 0] = value  # one number of one frame of one clip
        return out

    return denoiser


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 16, 17, 25])
def test_a_single_nan_or_infinity_stops_the_run_and_names_the_step(step: int, value: float) -> None:
    seen: list[Record] = []
    sigma = karras_sigmas(25)[step - 1].item()
    with pytest.raises(NotFiniteError) as caught:
        run(broken_at(step, value), callback=seen.append)
    message = str(caught.value)
    assert f"after step {step} of 25 (sigma {sigma:.4g})" in message
    assert "float16" in message
    assert "bfloat16 or float32" in message
    assert len(message.splitlines()) == 1
    assert len(seen) == step - 1


def test_noise_that_is_not_finite_is_blamed_on_the_noise() -> None:
    noise = unit_noise()
    noise[1, 0, 0, 0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="the noise to start from"):
        sample(affine, noise, karras_sigmas(2), plan(2), linear(1, 3))


def test_the_bar_shows_the_stage_and_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(progress=True)
    shown = capsys.readouterr().err
    assert "quality improvement" in shown
    assert "25/25" in shown
    assert torch.equal(out, run())
    assert capsys.readouterr().err == ""


def test_the_bar_stops_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run(progress=True, callback=lambda record: STOP if record.step.number == 3 else None)
    shown = capsys.readouterr().err
    assert "semantic binding" in shown
    assert "3/25" in shown
    assert "25/25" not in shown


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda a: a | {"sigmas": karras_sigmas(24)}, "24 sigmas .* plan of 25 steps"),
        (lambda a: a | {"sigmas": [1.0, 2.0]}, "fall strictly"),
        (lambda a: a | {"plan": ()}, "plan of 0 steps"),
        (lambda a: a | {"noise": [[0.5]]}, "noise must be a Tensor"),
        (lambda a: a | {"noise": torch.randn(3)}, r"noise \[b, f, ...\]"),
        (lambda a: a | {"noise": torch.zeros(2, 0, 4)}, r"noise \[b, f, ...\]"),
        (lambda a: a | {"noise": torch.ones(2, 3, dtype=torch.long)}, "floating-point"),
        (lambda a: a | {"scale": lambda frames: [1.0]}, "3 guidance scales"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_any_step(
    change: Callable[[dict[str, Any]], dict[str, Any]], fault: str
) -> None:
    spy = Spy()
    arguments = {"noise": unit_noise(), "sigmas": karras_sigmas(25), "plan": plan(25), "scale": linear(1, 3)}
    for entry in (sample, trajectory):
        with pytest.raises(ConfigError, match=fault):
            entry(spy, **change(arguments))
    assert spy.calls == []


def test_a_frame_may_be_a_single_number() -> None:
    noise = torch.randn(2, 3, dtype=torch.float64)
    out = sample(lambda x, *_: x[None], noise, karras_sigmas(2), plan(2, cut=1), linear(1, 3))
    assert out.shape == noise.shape


def test_lcm_draws_nothing_in_its_only_step() -> None:
    sample(affine, unit_noise(), karras_sigmas(1), plan(1), linear(1, 3), sampler="lcm")
    with pytest.raises(ConfigError, match="generator"):
        sample(affine, unit_noise(), karras_sigmas(2), plan(2), linear(1, 3), sampler="lcm")


def test_a_denoiser_of_another_shape_is_refused() -> None:
    """Such as one that forgets the branches: broadcasting would hide it."""
    with pytest.raises(ConfigError, match="2 branches"):
        run(lambda x, sigma, branches: x)
