"""Every setting of `generate` does what its name says, and a bad one is refused before any work."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from micro import micro

from vcut.config import PRESETS
from vcut.errors import ConfigError, NotFiniteError
from vcut.pipeline import Pipeline
from vcut.sampling import MEAN, STOP, Branch, Record, constant, triangle
from vcut.settings import Settings, defaults, resolve
from vcut.unet import UNet, fold

PICTURE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = dict(steps=3, frames=3)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return micro()


@pytest.fixture(scope="module")
def baseline() -> Pipeline:
    return micro("baseline")


def records(pipe: Pipeline, **settings: Any) -> list[Record]:
    seen: list[Record] = []
    pipe.generate(PICTURE, callback=seen.append, **(QUICK | settings))
    return seen


def test_lossless_equals_baseline_over_a_whole_run(baseline: Pipeline) -> None:
    lossless = micro("lossless")
    a, b = (pipe.generate(PICTURE, seed=3) for pipe in (baseline, lossless))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_presets_differ_in_the_network_alone(baseline: Pipeline) -> None:
    for name, preset in PRESETS.items():
        pipe = micro(name)
        state = pipe.unet.state_dict()
        expected = fold(baseline.unet, tca=preset.tca, sca=preset.sca).state_dict()
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(state[key], value)


def test_the_preset_fast_starts_from_settings_of_its_own() -> None:
    fast, lossless = micro("fast"), micro("lossless")
    start = defaults("fast", fast.config)
    assert torch.equal(fast.generate(PICTURE, seed=3), lossless.generate(PICTURE, settings=start, seed=3))
    assert len(records(fast)) == QUICK["steps"], "what is asked for wins"
    assert torch.equal(
        fast.generate(PICTURE, settings=Settings(), **QUICK), lossless.generate(PICTURE, **QUICK)
    )


def test_the_preset_decides_where_guidance_stops(pipe: Pipeline, baseline: Pipeline) -> None:
    guided = [record.step.guided for record in records(pipe, steps=25)]
    assert guided == [True] * 16 + [False] * 9
    assert all(record.step.guided for record in records(baseline))
    assert [r.step.guided for r in records(pipe, cut=2)] == [True, False, False]
    assert [r.step.guided for r in records(pipe, cut=None)] == [True, True, True]
    assert [r.step.guided for r in records(pipe, cut=1)] == [False, False, False]


def test_the_paper_cuts_after_sixteen_twenty_fifths_of_the_steps() -> None:
    cuts = {steps: PRESETS["vcut"].cut_step(steps) for steps in (1, 10, 20, 25, 30, 50)}
    assert cuts == {1: 2, 10: 7, 20: 14, 25: 17, 30: 20, 50: 33}
    assert {PRESETS[name].cut_step(25) for name in ("baseline", "lossless")} == {26}


def test_numpy_numbers_are_numbers(pipe: Pipeline) -> None:
    settings = dict(steps=np.int64(2), frames=np.int64(3), seed=np.int64(5), fps=np.int32(6), cut=np.int64(2))
    plain = {key: int(value) for key, value in settings.items()}
    assert torch.equal(pipe.generate(PICTURE, **settings), pipe.generate(PICTURE, **plain))


def test_after_the_cut_each_choice_gives_another_clip(pipe: Pipeline) -> None:
    clips = [
        pipe.generate(PICTURE, cut=2, after=Branch(context, latents), **QUICK)
        for context in ("cond", "mean", "uncond")
        for latents in ("cond", "mean", "uncond")
    ]
    for i, a in enumerate(clips):
        for b in clips[:i]:
            assert not torch.equal(a, b)
    assert torch.equal(clips[3], pipe.generate(PICTURE, cut=2, after=MEAN, **QUICK))


def test_the_embedding_may_be_left_out_of_some_steps(pipe: Pipeline) -> None:
    everywhere, nowhere, early = (
        pipe.generate(PICTURE, embedding=steps, **QUICK) for steps in (None, (), (1,))
    )
    assert not torch.equal(everywhere, nowhere)
    assert not torch.equal(early, nowhere)
    assert torch.equal(everywhere, pipe.generate(PICTURE, embedding=range(1, 4), **QUICK))


@pytest.mark.parametrize(
    "guidance", [(1.0, 3.0), (3.0, 1.0), (2.0, 0.5), (0.0, 0.0), triangle(1, 3), constant(1), 1.5]
)
def test_any_guidance_works(pipe: Pipeline, guidance: Any) -> None:
    assert torch.isfinite(pipe.generate(PICTURE, guidance=guidance, cut=None, **QUICK)).all()


@pytest.mark.parametrize(
    "change", [dict(fps=20), dict(motion_bucket=1), dict(noise_aug=0.5), dict(guidance=(1, 9)), dict(seed=1)]
)
def test_the_knobs_reach_the_network(pipe: Pipeline, change: dict[str, Any]) -> None:
    assert not torch.equal(pipe.generate(PICTURE, **QUICK), pipe.generate(PICTURE, **QUICK, **change))


def test_the_network_is_told_fps_minus_one(pipe: Pipeline) -> None:
    noise = torch.zeros(1, 3, 64, 64)
    conditioning = pipe.condition(noise, noise, fps=7, motion_bucket=127, noise_aug=0.02)
    torch.testing.assert_close(conditioning.time_ids, torch.tensor([[6.0, 127.0, 0.02]]))


def test_size_frames_and_steps(pipe: Pipeline) -> None:
    assert pipe.generate(PICTURE, frames=1, steps=1, height=16, width=48).shape == (1, 3, 16, 48)
    assert len(records(pipe, steps=5)) == 5
    assert [r.sigma for r in records(pipe, steps=2, sigmas=[9.0, 3.0])] == [9.0, 3.0]


def test_noise_may_be_given(pipe: Pipeline) -> None:
    noise = torch.randn(1, 3, 4, 4, 4)
    a = pipe.generate(PICTURE, noise=noise, seed=1, **QUICK)
    assert torch.equal(a, pipe.generate(PICTURE, noise=noise.clone(), seed=1, **QUICK))
    assert torch.isfinite(pipe.generate(PICTURE, noise=noise.half(), **QUICK)).all()
    with pytest.raises(ConfigError, match=r"noise must be \[1, 3, 4, 4, 4\], got \[3, 4, 4, 4\]"):
        pipe.generate(PICTURE, noise=noise[0], **QUICK)
    with pytest.raises(NotFiniteError, match=r"^noise holds NaN or infinity$"):
        pipe.generate(PICTURE, noise=noise / 0, **QUICK)


def test_a_unet_in_the_place_of_another_is_described_by_itself(pipe: Pipeline, baseline: Pipeline) -> None:
    mixed = dataclasses.replace(pipe, unet=baseline.unet)
    assert mixed.config.unet == baseline.unet.config
    assert "as published" in resolve(Settings(), mixed.config, mixed.preset).summary
    other = UNet(dataclasses.replace(pipe.unet.config, in_channels=12))
    with pytest.raises(ConfigError, match="the UNet takes 12 channels"):
        dataclasses.replace(pipe, unet=other).generate(PICTURE, **QUICK)


def test_stopping_early_decodes_the_estimate_of_that_step(pipe: Pipeline) -> None:
    seen: list[Record] = []

    def stop(record: Record) -> object:
        seen.append(record)
        return STOP if record.step.number == 2 else None

    frames = pipe.generate(PICTURE, callback=stop, **QUICK)
    assert len(seen) == 2
    assert torch.equal(frames, pipe.decode(seen[-1].denoised)[0])


def test_decoding_in_chunks_changes_only_what_the_temporal_layers_see(pipe: Pipeline) -> None:
    whole, chunked = (pipe.generate(PICTURE, decode_chunk=chunk, **QUICK) for chunk in (None, 1))
    assert whole.shape == chunked.shape
    assert not torch.equal(whole, chunked)


def test_a_clip_is_its_latents_decoded(pipe: Pipeline) -> None:
    run = resolve(Settings(steps=2), pipe.config, pipe.preset)
    latents = pipe.sample_latents(run, PICTURE, seed=3)
    assert latents.shape == (1, *run.latent)
    assert torch.equal(pipe.decode(latents)[0], pipe.follow(run, PICTURE, seed=3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_and_the_vae_stays_in_float32(dtype: torch.dtype) -> None:
    half, full = micro(dtype=dtype), micro()
    assert half.vae.dtype == torch.float32
    assert half.unet.dtype == dtype
    a, b = (pipe.generate(PICTURE, **QUICK) for pipe in (half, full))
    assert (a - b).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(steps=0), "steps must be a whole number from 1 to 10000"),
        (dict(cut=0), "cut must be a whole number from 1 to 4, got 0"),
        (dict(cut=5), "from 1 to 4, got 5"),
        (dict(frames=0), "frames must be"),
        (dict(clips=0), "clips must be"),
        (dict(fps=0), "fps must be"),
        (dict(motion_bucket=-1), "motion_bucket must be"),
        (dict(noise_aug=float("nan")), "noise_aug must be"),
        (dict(noise_aug=-0.1), "noise_aug must be"),
        (dict(guidance=None), "guidance must be"),
        (dict(guidance=True), "guidance must be"),
        (dict(guidance=(1, 2, 3)), "guidance must be"),
        (dict(seed=2**70), "seed must be a whole number from 0 to 9223372036854775807"),
        (dict(seed=[1.5]), "a seed must be a whole number"),
        (dict(height=64.0), "height must be a whole number"),
        (dict(motion_bucket="127"), "motion_bucket must be a whole number"),
        (dict(noise=[1]), "noise must be"),
        (dict(height=50), "height 50 is not a multiple of 16"),
        (dict(width=100), "width 100 is not a multiple of 16"),
        (dict(fit="stretch"), "fit must be one of"),
        (dict(guidance=(1.0, float("inf"))), "maximum of guidance must be a finite"),
        (dict(guidance=lambda f: [1.0]), "expected 3 guidance scales"),
        (dict(sigmas=[1.0, 2.0]), "sigmas must fall"),
        (dict(after=Branch("half", "cond")), "'cond', 'mean' or 'uncond'"),  # type: ignore[arg-type]
        (dict(embedding=(4,)), "from 1 to 3"),
        (dict(seed=[1, 2]), "1 clips need 1 seeds"),
        (dict(decode_chunk=0), "decode_chunk must be"),
    ],
)
def test_a_bad_setting_is_refused_before_any_work(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(type(pipe.unet), "forward", lambda *_a, **_k: pytest.fail("the UNet ran"))
    monkeypatch.setattr(type(pipe.clip), "forward", lambda *_a, **_k: pytest.fail("CLIP ran"))
    with pytest.raises(ConfigError, match=message):
        pipe.generate(PICTURE, **(QUICK | settings))


def test_infinity_in_the_latents_stops_the_run_and_names_the_step(pipe: Pipeline) -> None:
    broken = dataclasses.replace(pipe, unet=micro().unet)
    broken.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(NotFiniteError, match=r"step 1"):
        broken.generate(PICTURE, **QUICK)


def test_infinity_in_the_frames_names_the_vae(pipe: Pipeline) -> None:
    broken = dataclasses.replace(pipe, vae=micro().vae)
    broken.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="decoded frames hold NaN or infinity"):
        broken.generate(PICTURE, **QUICK)


def test_generating_leaves_no_gradient(pipe: Pipeline) -> None:
    assert not pipe.generate(PICTURE, **QUICK).requires_grad
