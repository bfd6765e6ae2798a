"""Rules of the search for a better cut meet the plans that they widen, and its report says what the numbers say."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.better_cut.__main__ import main
from experiments.better_cut.candidates import PEERS, PLAIN, candidates
from experiments.better_cut.report import MEASURES, Found, beside_peers, front, tables, worse
from experiments.better_cut.reuse import reusing
from experiments.better_cut.rules import Rule
from experiments.better_cut.times import interval
from tests.micro import micro
from vcut.conditioning import bind
from vcut.pipeline import Pipeline
from vcut.sampling import COND, UNCOND, constant, plan, precondition, sample
from vcut.settings import Run, Settings, resolve

STEPS = 4


@pytest.fixture(scope="module")
def model() -> Pipeline:
    return micro("lossless")


def ruled(model: Pipeline, rule: Rule) -> Tensor:
    """Latents of one clip in a few steps under a rule."""
    run, conditioning, noise = started(model)
    denoiser = rule.bind(model.unet, conditioning, run)
    return sample(denoiser, noise, run.sigmas, plan(STEPS, cut=1), constant(1.0))


def planned(model: Pipeline, **changes: object) -> Tensor:
    """The same under a plan of the library."""
    run, conditioning, noise = started(model, **changes)
    denoiser = precondition(bind(model.unet, conditioning, run.plan, run.frames))
    return sample(denoiser, noise, run.sigmas, run.plan, lambda _: run.scales)


def started(model: Pipeline, **changes: object) -> tuple[Run, object, Tensor]:
    run = resolve(Settings(steps=STEPS, cut=None).replace(**changes), model.config, model.preset)
    conditioning, noise, _ = model.prepare(
        run, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    )
    return run, conditioning, noise


@torch.no_grad()
def test_guidance_at_every_step_is_guidance(model: Pipeline) -> None:
    """And the kept difference, renewed at every step, does not matter."""
    guided = planned(model)
    assert torch.equal(ruled(model, Rule(guided=tuple(range(1, STEPS + 1)))), guided)
    assert torch.equal(ruled(model, Rule(guided=tuple(range(1, STEPS + 1)), keep=0.0)), guided)
    assert not torch.equal(ruled(model, Rule(guided=(1, 2, 3))), guided)


@torch.no_grad()
def test_half_the_embedding_is_the_mean_of_the_paper(model: Pipeline) -> None:
    mean = planned(model, cut=3)
    assert torch.equal(ruled(model, Rule(guided=(1, 2), embedding=0.5)), mean)
    assert not torch.equal(ruled(model, Rule(guided=(1, 2), embedding=0.6)), mean)


@torch.no_grad()
def test_a_kept_difference_is_what_guidance_added(model: Pipeline) -> None:
    """With no step after the guided one to differ in, decay has nothing to do; with one, it does."""
    kept, decayed, dropped = (ruled(model, Rule(guided=(1, 2), keep=keep)) for keep in (0.0, 2.0, None))
    assert not torch.equal(kept, decayed)
    # a decay that leaves nothing is the whole embedding alone
    assert torch.allclose(ruled(model, Rule(guided=(1, 2), keep=1e4)), dropped, atol=1e-6)


@torch.no_grad()
def test_deep_features_computed_at_every_pass_are_no_others(model: Pipeline) -> None:
    """A view that renews them in every pass gives the UNet's own bits; one that does not saves the deeper levels."""
    run, conditioning, noise = started(model)
    renewed, kept = (bind(reusing(model.unet, k), conditioning, run.plan, run.frames) for k in (1, 2))
    whole = bind(model.unet, conditioning, run.plan, run.frames)
    calls: list[int] = []
    handle = model.unet.mid.register_forward_pre_hook(lambda *_: calls.append(1))
    for level in (1.0, 0.9, 0.8):
        found = [network(noise, level, (COND,)) for network in (whole, renewed, kept)]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2]) == (level != 0.9)
    kept(noise, 0.7, (UNCOND, COND))  # of another number of clips: computed anew
    handle.remove()
    assert len(calls) == 3 + 3 + 2 + 1


def test_candidates_have_names_of_their_own() -> None:
    names = [each.name for each in candidates()]
    assert names[0] == "baseline"
    assert len(set(names)) == len(names)


def test_the_extra_of_the_peers_is_asked_for_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["-o", str(tmp_path / "out"), "--only", "T-GATE"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "diffusers" in line
    assert 'pip install "vcut-svd[bench]"' in line
    assert not (tmp_path / "out").exists()


def found(name: str, psnr: list[float], ratios: list[float], group: str = "group") -> Found:
    scores = {measure.key: torch.full((len(psnr),), math.nan) for measure in MEASURES}
    return Found(name, group, {**scores, "psnr": torch.tensor(psnr)}, ratios, 50)


def test_the_front_holds_what_no_other_beats() -> None:
    measure = next(each for each in MEASURES if each.key == "psnr")
    slow, fast = found("slow", [30, 32], [1.0]), found("fast", [29, 30], [0.5])
    beaten, equal = found("beaten", [20, 20], [0.7]), found("equal", [30, 32], [1.1])
    assert [each.name for each in front([slow, beaten, equal, fast], measure)] == ["fast", "slow"]


def test_a_loss_counts_when_its_interval_leaves_zero_out() -> None:
    measure = next(each for each in MEASURES if each.key == "psnr")
    base = found("base", [30, 31, 32, 33], [1.0] * 3)
    lower = found("lower", [29, 30.1, 31, 31.9], [0.5] * 3)
    noisy = found("noisy", [25, 33, 31, 34], [0.5] * 3)
    assert worse(measure, lower.difference(base, "psnr"))
    assert not worse(measure, base.difference(lower, "psnr"))
    assert not worse(measure, noisy.difference(base, "psnr"))
    _, differences = tables([base, lower, noisy], "base", "noisy")
    assert [row[2] for row in differences.rows] == ["", "", "yes"]


def test_the_winner_is_set_beside_each_peer() -> None:
    """It holds beside a peer that takes longer for no less error; the last column takes out the implementations."""
    winner = found("winner", [30, 31, 32, 33], [0.3, 0.3, 0.3])
    plain = found(PLAIN, [30.1, 31, 32, 32.9], [2.0, 2.0, 2.0], PEERS)
    fast = found("fast", [30, 31.1, 31.9, 33], [0.32, 0.3, 0.31], PEERS)
    better = found("better", [31, 32.1, 33, 33.9], [1.0, 1.0, 1.0], PEERS)
    worse_one = found("worse", [29, 30.1, 31, 31.9], [1.2, 1.0, 1.0], PEERS)
    (table,) = beside_peers([winner, plain, fast, better, worse_one], "winner")
    lost = "PSNR to the future dB"
    assert table.rows == (
        (PLAIN, "yes", "0.15 (0.15 to 0.15)", "", "", "0.30"),
        ("fast", "", "0.97 (0.94 to 1.00)", "", "", "1.94"),
        ("better", "", "0.30 (0.30 to 0.30)", lost, "", "0.60"),
        ("worse", "yes", "0.30 (0.25 to 0.30)", "", lost, "0.60"),
    )
    assert table.notes[0].endswith("It holds beside diffusers, worse, not beside fast, better.")
    assert not beside_peers([winner, found("untimed", [30, 31], [], PEERS)], "winner")
    assert not beside_peers([plain, fast], "winner")


def test_the_interval_of_a_median_is_of_order_statistics() -> None:
    """Of six values the extremes hold the median with 1 - 2 / 2^6 = 97 %; of twelve the third from each end do."""
    assert interval([3, 1, 2]) == (2, 1, 3)
    assert interval([6, 5, 4, 3, 2, 1]) == (3.5, 1, 6)
    assert interval(list(range(1, 13))) == (6.5, 3, 10)
