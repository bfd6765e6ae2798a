"""The benchmarks compare like with like: what they time gives diffusers' output. No speed is asserted here."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import loading, sampling, unet, waiting
from benchmarks.harness import command, plot, report
from benchmarks.harness.report import Row, Section
from benchmarks.harness.rounds import ROOT, difference
from benchmarks.harness.worker import CONTENDERS

CHAPTERS = command.chapters()
EXACT = 2e-5
"""Relative, float32: other orders of summation, over some steps."""


@pytest.fixture(autouse=True)
def no_rounding_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AMX, oneDNN rounds float32 to bfloat16 at torch's medium precision, in diffusers as in vcut."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


def checked(section: Section, names: set[str]) -> dict[str, Row]:
    """The rows by contender, once what every row must have is there."""
    rows = {row.contender: row for row in section.rows}
    assert names <= rows.keys()
    for row in section.rows:
        assert all(seconds > 0 for seconds in row.seconds)
        assert row.peak is None or row.peak >= 0
        assert row.difference is not None
        assert all(math.isfinite(value) for value in row.difference)
    assert section.machine["threads"].isdigit()
    assert len(section.markdown().splitlines()) > len(section.rows)
    return rows


def errors(row: Row) -> tuple[float, float]:
    assert row.difference is not None
    return row.difference


@pytest.mark.parity
def test_a_unet_call(tmp_path: Path) -> None:
    quick = CHAPTERS["unet_call"].quick
    settings = dataclasses.replace(quick, dtype=("float32",), clips=("1x64x64", *quick.clips))
    section = command.run("unet_call", settings, tmp_path)
    rows = checked(section, {*CONTENDERS.values()} - {"vcut"} | {*unet.FORMS.values()})
    cases = [row.case for row in section.rows]
    assert len(set(cases)) == 2
    assert len(cases) == 2 * len(rows), "all contenders on both clips"
    exact = (CONTENDERS["diffusers-same"], "vcut, baseline", "vcut, lossless")
    assert max(max(errors(row)) for row in section.rows if row.contender in exact) < EXACT
    assert errors(rows["vcut, cut form"])[0] > EXACT, "the control: dropping is seen as another function"
    operations = [rows[name].flop or 0 for name in ("vcut, cut form, one branch", "vcut, lossless")]
    assert 0 < 2 * operations[0] == operations[1] < (rows[CONTENDERS["diffusers"]].flop or 0)


@pytest.mark.parity
def test_a_whole_run_of_the_sampler(tmp_path: Path) -> None:
    section = command.run("sampling", CHAPTERS["sampling"].quick, tmp_path)
    rows = checked(section, {"vcut, baseline", "vcut, lossless", "vcut, cut form"})
    for name in (CONTENDERS["diffusers-same"], "vcut, baseline", "vcut, lossless"):
        assert max(errors(rows[name])) < EXACT, name
    for name in (sampling.TGATE, sampling.DEEPCACHE):
        assert name in rows or f"{name}, float32," in section.missing, "what does not run is named, and why"
        assert name not in rows or errors(rows[name])[0] > EXACT


@pytest.mark.parity
def test_diffusers_accelerated(tmp_path: Path) -> None:
    section = command.run("accelerated", CHAPTERS["accelerated"].quick, tmp_path)
    rows = checked(section, {CONTENDERS["diffusers"], *sampling.ACCELERATED})
    lossless, cut = sampling.ACCELERATED
    assert max(errors(rows[lossless])) < EXACT
    assert errors(rows[cut])[0] > EXACT, "the control: the cut is another run"


@pytest.mark.parity
def test_decoding(tmp_path: Path) -> None:
    rows = checked(command.run("vae_decode", CHAPTERS["vae_decode"].quick, tmp_path), {*CONTENDERS.values()})
    assert max(max(errors(row)) for row in rows.values()) < EXACT


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled(tmp_path: Path) -> None:
    """Per block alone: networks/test_unet_compiles_to_two_graphs.py compiles a whole one."""
    settings = dataclasses.replace(
        CHAPTERS["compiled"].quick, contenders=("plain", "packed", "compiled per block")
    )
    rows = checked(command.run("compiled", settings, tmp_path), {"vcut, plain", "vcut, compiled per block"})
    assert max(max(errors(row)) for row in rows.values()) < EXACT
    assert rows["vcut, compiled per block"].details["compiling, s"] > 1


@pytest.mark.slow
def test_forms_of_packed_weights(tmp_path: Path) -> None:
    ways = ("plain", "packed", "packed:matrices=blocks", "packed:filtering=none,upsampling=plain")
    quick = dataclasses.replace(CHAPTERS["scaling"].quick, contenders=ways, clips=("1x64x64",))
    rows = checked(command.run("scaling", quick, tmp_path), {f"vcut, {way}" for way in ways})
    assert max(max(errors(row)) for row in rows.values()) < EXACT


@pytest.mark.parity
def test_loading(tmp_path: Path) -> None:
    rows = {row.contender: row for row in command.run("loading", CHAPTERS["loading"].quick, tmp_path).rows}
    assert {*loading.FORMS, CONTENDERS["diffusers"]} == rows.keys() - {CONTENDERS["diffusers-same"]}
    assert max(errors(rows["vcut, baseline"])) < EXACT
    assert all(row.details["tensors, GiB"] > 0 for row in rows.values())


@pytest.mark.slow
def test_loading_one_file_of_the_published_layout(tmp_path: Path) -> None:
    settings = dataclasses.replace(CHAPTERS["loading"].quick, single_file=True)
    rows = command.run("loading", settings, tmp_path).rows
    assert {row.contender for row in rows} == {*loading.FORMS}
    assert (tmp_path / "tiny-float32.safetensors").is_file()
    assert all(row.details["tensors, GiB"] > 0 for row in rows)


@pytest.mark.slow
def test_one_call_alone_is_measured_beside_what_was_counted(tmp_path: Path) -> None:
    (row,) = command.run("full_size", CHAPTERS["full_size"].quick, tmp_path).rows
    assert row.peak is None or row.peak >= 0
    assert len(row.seconds) == 1
    assert row.seconds[0] > 0
    assert row.flop
    assert row.details["counted by vcut cost, GiB"] > 0


def test_numbers_survive_the_file_and_replace_only_their_own(tmp_path: Path) -> None:
    row = Row("case", CONTENDERS["diffusers"], [2.0, 1.0, 4.0], peak=2**30, flop=10**9, difference=(0.0, 0.0))
    other = dataclasses.replace(
        row, contender="vcut", seconds=[1.0], difference=(1e-6, 1e-7), details={"a": 1.0}
    )
    calls = Section("unet_call", "Calls", (row, other), ("note",), {"T": "why"}, {"CPU": "one"}, "command")
    runs = dataclasses.replace(calls, name="sampling", title="Runs")
    file = tmp_path / "numbers.json"
    assert report.load(file) == []
    report.save(file, [calls])
    assert report.load(file) == [calls]
    again = dataclasses.replace(calls, title="Calls again")
    assert report.merged([calls, runs], [again], list(CHAPTERS)) == [again, runs]
    text = calls.markdown()
    assert "| vcut | 1.00 | 1.00 to 1.00 (1) | 2.00 |" in text
    assert "T did not run: `why`" in text


def test_the_report_has_every_section_and_a_picture(tmp_path: Path) -> None:
    rows = tuple(Row(f"{n} frames of 64x64", "vcut", [2.0 * n, 1.0 * n], flop=10**9) for n in (1, 2))
    sections = [Section(name, f"Title of {name}", rows) for name in ("unet_call", "scaling")]
    text = report.page(sections)
    assert all(f"## {section.title}" in text for section in sections)
    pytest.importorskip("matplotlib", reason="of the bench extra")
    plot.plot(sections, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.slow
def test_threads_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: {"OMP_NUM_THREADS": str(number)} for number, name in ((1, "one"), (2, "two"))}
    monkeypatch.setattr(waiting, "environments", lambda threads: chosen)
    clips = waiting._clips
    monkeypatch.setattr(waiting, "_clips", lambda case, _, *rest: clips(case, {}, *rest))
    rows = command.run("waiting", CHAPTERS["waiting"].quick, tmp_path).rows
    commands, calls = rows[:2], rows[2:]
    assert [row.contender for row in commands] == 2 * ["as the command chooses"]
    assert [row.contender for row in calls] == 2 * ["one", "two"]
    assert len({row.case for row in rows}) == 4
    assert all(max(errors(row)) < EXACT for row in calls)


def test_the_difference_is_relative_to_the_second() -> None:
    expected = np.array([3.0, -4.0], dtype=np.float32)
    assert difference(expected, expected) == (0.0, 0.0)
    assert difference(2 * expected, expected) == (1.0, 1.0)
    with pytest.raises(ValueError, match="shapes"):
        difference(expected[:1], expected)


def test_every_chapter_has_settings_that_options_can_change() -> None:
    for name, chapter in CHAPTERS.items():
        assert type(chapter.full) is type(chapter.quick), name
        assert chapter.full.model == "svd-xt"
        assert chapter.quick.model == ("one-level" if name == "compiled" else "tiny")


def test_options_change_the_settings_and_are_named_in_the_command() -> None:
    parser = argparse.ArgumentParser()
    command.add_settings(parser, {"loading": CHAPTERS["loading"].full})
    base = CHAPTERS["loading"].full
    assert command.changed(base, parser.parse_args([])) == base
    given = "--to bfloat16 float16 --rounds 5 --single-file"
    settings = command.changed(base, parser.parse_args(given.split()))
    assert settings == dataclasses.replace(base, to=("bfloat16", "float16"), rounds=5, single_file=True)
    assert " ".join(command.options(settings, base)) == given


def test_the_published_numbers_can_be_read_and_name_commands_that_exist() -> None:
    sections = report.load(ROOT / "docs" / "benchmarks.json")
    assert {section.name for section in sections} == CHAPTERS.keys()
    for section in sections:
        assert section.title == CHAPTERS[section.name].title
        assert "date" in section.machine
        _, _, module, *options = section.command.split()
        assert module == CHAPTERS[section.name].run.__module__
        parser = argparse.ArgumentParser()
        command.add_shared(parser, CHAPTERS)
        command.add_settings(parser, {section.name: CHAPTERS[section.name].full})
        parser.parse_args(options)
    assert (ROOT / "docs" / "benchmarks.md").read_text() == report.page(sections), "made with --report"
