"""Settings with one model and one preset: every number known before the first step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut.config import CONFIGS, PRESETS, SVD, SVD_XT, SVDConfig, choose_preset
from vcut.errors import ConfigError
from vcut.sampling import (
    ALIGN_YOUR_STEPS,
    COND,
    interpolate_sigmas,
    karras_sigmas,
    linear,
    plan,
    triangle,
    without_guidance,
)
from vcut.settings import Run, Settings, defaults, resolve

XT = PRESETS["vcut"]


@given(
    st.sampled_from(sorted(CONFIGS)),
    st.sampled_from(sorted(PRESETS)),
    st.integers(1, 60),
    st.none() | st.integers(1, 30),
)
def test_nothing_is_left_open(model: str, preset: str, steps: int, frames: int | None) -> None:
    config = CONFIGS[model]
    run = resolve(Settings(steps=steps, frames=frames), config, PRESETS[preset])
    assert all(getattr(run, each.name) is not None for each in dataclasses.fields(Run))
    assert run.frames == (frames or config.frames)
    assert (run.height, run.width, run.fps) == (config.height, config.width, config.fps)
    assert run.motion_bucket == config.motion_bucket
    assert run.sigmas == tuple(karras_sigmas(steps).tolist())
    assert len(run.plan) == steps
    assert len(run.scales) == run.frames
    assert run.cut == PRESETS[preset].cut_step(steps)
    expected = plan(steps, run.cut)
    assert run.plan == (without_guidance(expected) if run.frames == 1 else expected)


def test_what_was_asked_for_stays() -> None:
    asked = Settings(frames=3, height=128, width=64, fps=12, motion_bucket=0, sigmas=(9, 3), cut=None)
    run = resolve(asked, SVD, XT)
    assert (run.frames, run.height, run.width, run.fps, run.motion_bucket) == (3, 128, 64, 12, 0)
    assert run.sigmas == (9, 3, 0)
    named = resolve(asked.replace(sigmas="ays", steps=10), SVD, XT)
    assert named.sigmas == tuple(interpolate_sigmas(ALIGN_YOUR_STEPS, 10).tolist())
    assert run.cut == 3
    assert run.latent == (3, 4, 16, 8)
    assert run.settings is asked


@pytest.mark.parametrize(
    ("preset", "steps", "cut", "expected"),
    [
        ("vcut", 25, "preset", 17),
        ("vcut", 30, "preset", 20),
        ("lossless", 25, "preset", 26),
        ("baseline", 25, "preset", 26),
        ("lossless", 25, 10, 10),
        ("vcut", 25, None, 26),
        ("vcut", 25, 26, 26),
        ("vcut", 25, 1, 1),
    ],
)
def test_the_preset_cuts_where_nothing_else_is_said(preset: str, steps: int, cut: Any, expected: int) -> None:
    run = resolve(Settings(steps=steps, cut=cut), SVD_XT, PRESETS[preset])
    assert run.cut == expected
    assert run.passes.cut == steps + 1 - expected
    assert run.passes.passes == 2 * (expected - 1) + run.passes.cut


def test_guidance_at_1_is_one_pass_at_every_step() -> None:
    assert resolve(Settings(guidance=(1, 1)), SVD, XT).passes.passes == 25
    assert resolve(Settings(guidance=(1, 1), sampler="heun"), SVD, XT).passes.passes == 49
    assert resolve(Settings(frames=1, guidance=triangle(1, 3)), SVD, XT).passes.passes == 25
    assert resolve(Settings(), SVD, XT).scales == tuple(linear(1, 3)(14).tolist())


@pytest.mark.parametrize(("interval", "guided"), [((700, 2000), 1), ((0, 0.002), 1), ((0.002, 700), 25)])
def test_an_end_of_an_interval_that_is_a_level_counts(interval: tuple[float, float], guided: int) -> None:
    """The first and the last level are computed: 700 is 699.9999999999994."""
    settings = Settings(guidance_interval=interval, cut=None)
    assert resolve(settings, SVD, XT).passes.guided == guided


@given(
    st.integers(1, 30),
    st.sampled_from(["karras", "ays"]),
    st.tuples(st.floats(0, 800), st.floats(0, 800)),
    st.data(),
)
def test_guidance_acts_within_its_interval_and_before_the_cut(
    steps: int, sigmas: Any, interval: tuple[float, float], data: st.DataObject
) -> None:
    """Over all levels it is the guidance that there was; outside, before the cut, the pass is conditional."""
    low, high = sorted(interval)
    cut = data.draw(st.integers(1, steps + 1))
    settings = Settings(steps=steps, sigmas=sigmas, cut=cut)
    whole = resolve(settings, SVD, XT)
    assert resolve(settings.replace(guidance_interval=(0, 10_000)), SVD, XT).plan == whole.plan
    run = resolve(settings.replace(guidance_interval=(low, high)), SVD, XT)
    for step, before, sigma in zip(run.plan, whole.plan, run.sigmas, strict=False):
        assert step == before if low <= sigma <= high or step.cut else step.branches == (COND,)


@pytest.mark.parametrize(
    ("preset", "settings", "expected"),
    [
        (
            XT,
            {},
            "vcut (lossy): temporal cross-attention dropped, 16 guided and 9 cut steps, 41 network passes",
        ),
        (
            PRESETS["lossless"],
            {},
            "lossless: cross-attentions cached, 25 guided and 0 cut steps, 50 network passes",
        ),
        (PRESETS["baseline"], {}, "baseline: as published, 25 guided and 0 cut steps, 50 network passes"),
        (
            PRESETS["baseline"],
            {"cut": 25},
            "baseline (lossy): as published, 24 guided and 1 cut steps, 49 network passes",
        ),
        (
            PRESETS["lossless"],
            {"guidance_interval": (0.3, 25)},
            "lossless (lossy): cross-attentions cached, 9 guided and 0 cut steps, 34 network passes",
        ),
        (
            PRESETS["lossless"],
            {"guidance_interval": (0, 10_000)},
            "lossless: cross-attentions cached, 25 guided and 0 cut steps, 50 network passes",
        ),
        (
            PRESETS["lossless"],
            {"embedding": ()},
            "lossless (lossy): cross-attentions cached, 25 guided and 0 cut steps, 50 network passes",
        ),
        (
            PRESETS["baseline"],
            {"guidance": 1},
            "baseline: as published, 0 guided and 0 cut steps, 25 network passes",
        ),
        (
            choose_preset("lossless", False, False),
            {},
            "lossless* (lossy): temporal and spatial cross-attention dropped, 25 guided and 0 cut steps, 50 network "
            "passes",
        ),
    ],
)
def test_a_run_says_what_it_leaves_out(preset: Any, settings: dict[str, Any], expected: str) -> None:
    assert resolve(Settings(**settings), SVD_XT, preset).summary == expected


@pytest.mark.parametrize(
    ("model", "official"),
    [
        ("svd", Settings(steps=25, guidance=(1.0, 2.5))),
        ("svd-xt", Settings(steps=30, guidance=(1.5, 3.0))),
        ("svd-xt-1-1", Settings(steps=30, guidance=(1.5, 3.0))),
    ],
)
def test_defaults_are_chosen_by_name(model: str, official: Settings) -> None:
    config = CONFIGS[model]
    assert defaults("official", config) == official
    assert defaults("paper", config) == Settings()
    assert resolve(official, config, XT).sampling == (
        f"{official.steps} steps, guidance {'1 to 2.5' if model == 'svd' else '1.5 to 3'}"
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
def test_the_fast_defaults_take_a_third_of_the_passes(config: SVDConfig) -> None:
    fast = PRESETS["fast"]
    run = resolve(defaults(fast.defaults, config), config, fast)
    assert run.summary == "fast (lossy): cross-attentions cached, 6 guided and 0 cut steps, 16 network passes"
    assert resolve(Settings(), config, PRESETS["lossless"]).passes.passes == 50


def test_defaults_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="defaults must be one of paper, official, fast, got 'offical'"):
        defaults("offical", SVD)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="models of 14 and 25 frames, and mine has 8"):
        defaults("official", dataclasses.replace(SVD, name="mine", frames=8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 100}, r"height 100 is not a multiple of 64 \(nearest: 64 or 128\)"),
        ({"width": 5}, r"width 5 is not a multiple of 64 \(nearest: 64\)"),
        ({"guidance": lambda frames: [1.0]}, "expected 14 guidance scales"),
        ({"guidance": lambda frames: ["x"] * frames}, "must return numbers"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(Settings(**settings), SVD, XT)
