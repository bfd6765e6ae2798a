"""A run is its steps: what is guided counts twice, what is cut once."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import vcut
from vcut import cli
from vcut.analysis.cost import CostReport, cost
from vcut.config import CONFIGS, CLIPConfig, Level, Preset, PresetName, SVDConfig, UNetConfig, VAEConfig
from vcut.errors import ConfigError
from vcut.settings import Settings

STEPS = 6
SMALL = SVDConfig(
    "small",
    unet=UNetConfig(levels=(Level(32, 2),), layers=1, context_dim=64, time_id_dim=32),
    vae=VAEConfig(channels=(16, 32), layers=1, norm_groups=16),
    clip=CLIPConfig(image_size=32, patch_size=16, width=64, layers=1, heads=4, mlp_dim=64, embed_dim=64),
    frames=3,
    height=16,
    width=32,
)


def small(preset: str = "vcut", **settings: Any) -> CostReport:
    return cost(SMALL, **{"steps": STEPS, "preset": preset, "memory": False, **settings})


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["baseline", "lossless", "vcut"])
def test_every_later_cut_costs_more_by_one_single_call(preset: str) -> None:
    runs = [small(preset, cut=c) for c in range(1, STEPS + 2)]
    for earlier, later in itertools.pairwise(runs):
        one = later.unet.call(1, published=True)
        assert later.run(published=True).total - earlier.run(published=True).total == one.total
        assert later.run().total > earlier.run().total


def test_the_run_is_the_sum_of_its_calls() -> None:
    report = small(cut=4)
    assert (report.resolved.passes.guided, report.resolved.passes.cut) == (3, 3)
    contexts = report.unet.context * 3  # both branches of the guided steps, one of the cut steps
    positions = report.unet.positions * 2  # once for both branches, once for the one
    assert report.run() == report.unet.call(2) * 3 + report.unet.call(1) * 3 + contexts + positions
    assert report.baseline_run() == report.baseline.call(2, published=True) * STEPS


def test_heun_is_priced_at_two_evaluations_of_every_step_but_the_last() -> None:
    report = small(cut=4, sampler="heun")
    two, one = report.unet.call(2, published=True), report.unet.call(1, published=True)
    assert report.run(published=True) == two * 6 + one * 5
    assert report.baseline_run() == report.baseline.call(2, published=True) * (2 * STEPS - 1)


def test_lossless_with_the_same_cut_costs_what_vcut_costs() -> None:
    """But for projecting the temporal contexts, once per run."""
    lossless, vcut = small("lossless", cut=4), small("vcut", cut=4)
    assert lossless.run(published=True) == vcut.run(published=True)
    more = lossless.run().total - vcut.run().total
    assert more == 3 * (lossless.unet.context.total - vcut.unet.context.total) > 0
    assert more < vcut.run().total / 1000


def test_the_baseline_preset_saves_nothing_and_lossless_saves_without_a_cut() -> None:
    assert all(saving.saved == 0 for saving in small("baseline").savings())
    assert all(saving.saved > 0 for saving in small("lossless", cut=None).savings())


def test_the_paper_counted_less_than_it_saved() -> None:
    saved = {saving.name: saving.saved for saving in small("vcut").savings()}
    assert saved["paper, layers"] < saved["method, layers"] < saved["method, with products"]
    assert set(saved) > {saving.name for saving in small("lossless").savings()}


def test_modes_override_the_preset_and_show_in_its_name() -> None:
    report = small("vcut", tca="linear_cached")
    assert report.preset == Preset("vcut*", "linear_cached", "linear_cached", guided_fraction=16 / 25)
    assert report.unet == small("lossless").unet


def test_json_holds_the_exact_integers() -> None:
    report = small()
    data = json.loads(json.dumps(report.to_dict()))
    runs, calls = ({row["name"]: row for row in data[key]} for key in ("runs", "call"))
    assert runs["vcut, as vcut computes it"]["total"] == report.run().total
    published, unguided = report.unet.call(2, published=True), report.unet.call(1)
    assert calls["= as published"]["layers"] == published.layers
    assert calls["= as published"]["baseline_total"] == report.baseline.call(2, published=True).total
    assert calls["one branch, as vcut computes it"]["products"] == unguided.products
    assert [s["saved"] for s in data["savings"]] == [s.saved for s in report.savings()]
    assert sum(calls[part.name]["parameters"] for part in report.unet.parts) == report.unet.parameters
    assert [row["total"] for row in data["networks"]] == [n.macs.total for n in report.networks]


def test_json_and_the_tables_have_the_same_rows() -> None:
    report = cost(SMALL)
    data = report.to_dict()
    *tables, memory = report.tables()
    for rows, table in zip(("call", "runs", "savings", "networks"), tables, strict=True):
        assert [row["name"] for row in data[rows]] == [row[0] for row in table.rows]
    assert report.memory is not None
    assert data["memory"] == dataclasses.asdict(report.memory)
    assert memory.title == "Memory"


def test_settings_are_a_value_or_names_and_the_names_win() -> None:
    settings = Settings(steps=STEPS, cut=3, frames=2)
    by_value = cost(SMALL, settings=settings, memory=False)
    assert by_value.to_dict() == small(cut=3, frames=2).to_dict()
    assert (
        cost(SMALL, settings=settings, frames=5, memory=False).to_dict() == small(cut=3, frames=5).to_dict()
    )


def test_guidance_at_1_is_one_branch_at_every_step() -> None:
    report = small("lossless", guidance=(1.0, 1.0))
    assert report.resolved.passes.passes == STEPS
    assert report.run(published=True) == report.unet.call(1, published=True) * STEPS
    assert report.baseline_run() == report.baseline.call(2, published=True) * STEPS


def test_the_package_has_it() -> None:
    assert vcut.cost is cost


def test_text_and_markdown_show_every_part_and_every_saving() -> None:
    report = cost(SMALL)
    for text in (str(report), report.markdown()):
        for name in [p.name for p in report.unet.parts] + [s.name for s in report.savings()] + ["Memory"]:
            assert name in text
    widths = {line.count("|") for line in report.markdown().split("\n\n")[2].splitlines()}
    assert widths == {8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 33}, "height 33 is not a multiple of 2"),
        ({"frames": 0}, "frames must be a whole number from 1 to 10000, got 0"),
        ({"decode_chunk": 0}, "decode_chunk must be"),
        ({"steps": 0}, "steps must be a whole number from 1 to 10000, got 0"),
        ({"steps": "25"}, "steps must be a whole number from 1 to 10000, got '25'"),
        ({"cut": STEPS + 2}, f"cut must be a whole number from 1 to {STEPS + 1}"),
        ({"preset": "quick"}, "there is no preset 'quick': choose one of baseline, lossless, vcut, fast"),
        ({"frame": 3}, "there is no setting 'frame': did you mean frames?"),
        ({"num_frames": 3}, "there is no setting 'num_frames': did you mean frames?"),
        ({"tca": "cached"}, "tca must be True"),
    ],
)
def test_bad_settings_are_refused_in_words(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**settings)


@pytest.fixture
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "small", SMALL)


def command(*argv: str) -> None:
    assert cli.main(argv) == 0


@pytest.mark.usefixtures("_known")
def test_the_command_prints_json_for_the_size_asked(capsys: pytest.CaptureFixture[str]) -> None:
    command("cost", "small", "--size", "96x64", "--frames", "2", "--steps", "5", "--cut", "none", "--json")
    data = json.loads(capsys.readouterr().out)
    assert (data["width"], data["height"], data["frames"]) == (96, 64, 2)
    assert (data["cut"], data["summary"]["guided"]) == (6, 5)
    assert data["memory"]["dtype"] == "float16"


@pytest.mark.usefixtures("_known")
def test_the_command_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    command("cost", "small", "--preset", "lossless", "--cut", "9")
    assert "cut at step 9 of 25: 8 guided and 17 cut steps" in capsys.readouterr().out


def test_the_command_prices_guidance_in_an_interval_of_named_levels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the levels of Align Your Steps six of ten are in this interval, on those of Karras three."""
    options = ("--preset", "lossless", "--steps", "10", "--guidance-interval", "0.3", "25")
    for sigmas, guided in (("ays", 6), ("karras", 3)):
        command("cost", *options, "--sigmas", sigmas, "--json")
        assert json.loads(capsys.readouterr().out)["summary"]["guided"] == guided


@pytest.mark.parametrize(
    ("form", "preset", "says"),
    [
        ("lossless", "baseline", "take preset lossless"),
        ("vcut", "lossless", "take preset vcut"),
        ("lossless", "vcut", ""),
    ],
)
def test_the_command_prices_what_folded_weights_can_run(
    form: PresetName, preset: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "folded.safetensors"
    vcut.save(vcut.load(preset=form), file)
    assert cli.main(["cost", str(file), "--preset", preset]) == (2 if says else 0)
    error = capsys.readouterr().err
    assert says in error
    assert bool(says) == ("cannot become" in error)


def test_the_command_refuses_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost", "sdxl"]) == 2
    assert "sdxl" in (error := capsys.readouterr().err)
    assert "svd-xt-1-1" in error
    assert error.count("\n") == 1
