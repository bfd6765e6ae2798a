"""``vcut tables``: our counts and the paper's printed figures in one row, and nothing invented."""

from __future__ import annotations

import json

import pytest

from vcut.analysis.paper_tables import CUTS, MODELS, PRINTED_SECONDS, PaperTables, tables

TERA = 1e12


@pytest.fixture(scope="module")
def found() -> PaperTables:
    return tables()


def test_every_model_and_every_cut_has_its_row(found: PaperTables) -> None:
    every = [(config.name, cut) for config in MODELS for cut in CUTS]
    assert [(row["model"], row["cut"]) for row in found.saved] == every
    assert [(row["model"], row["cut"]) for row in found.latency] == every
    assert len(found.calls) == 4 * len(MODELS)


def test_what_the_paper_prints_is_met_within_its_tolerance(found: PaperTables) -> None:
    for row in found.calls:
        if row["printed_macs"] is not None:
            assert row["layers"] / TERA == pytest.approx(row["printed_macs"], rel=0.003)
            assert row["paper_macs"] / TERA == pytest.approx(row["printed_macs"], rel=0.003)
        if row["printed_parameters"] is not None:
            assert row["parameters"] / 1e9 == pytest.approx(row["printed_parameters"], abs=0.001)
    assert sum(row["printed_macs"] is not None for row in found.calls) == 6


def test_the_322_of_the_paper_comes_out_both_ways(found: PaperTables) -> None:
    (row,) = (row for row in found.saved if row["printed"] is not None)
    assert (row["model"], row["cut"], row["printed"]) == ("svd-xt", 17, 322)
    assert round(row["paper"] / TERA) == round(row["from_printed_calls"]) == 322
    assert round(row["paper_layers"] / TERA) == 321
    assert (round(row["vcut_layers"] / TERA), round(row["vcut_with_products"] / TERA)) == (351, 421)


def test_lossless_saves_what_vcut_saves(found: PaperTables) -> None:
    for row in found.saved:
        assert (row["lossless_layers"], row["lossless_with_products"]) == (
            row["vcut_layers"],
            row["vcut_with_products"],
        )


def test_a_later_cut_saves_less_and_takes_longer(found: PaperTables) -> None:
    for config in MODELS:
        saved = [row["vcut_with_products"] for row in found.saved if row["model"] == config.name]
        ratios = [row["vcut_ratio"] for row in found.latency if row["model"] == config.name]
        measured = [row["printed_ratio"] for row in found.latency if row["model"] == config.name]
        assert saved == sorted(saved, reverse=True)
        assert ratios == sorted(ratios)
        assert measured == sorted(measured)


def test_macs_predict_the_measured_latency_within_five_points(found: PaperTables) -> None:
    for row in found.latency:
        assert row["printed_ratio"] == pytest.approx(
            row["printed_seconds"] / PRINTED_SECONDS[row["model"]][0]
        )
        for predicted in (row["paper_ratio"], row["vcut_ratio"], row["lossless_ratio"], row["whole_ratio"]):
            assert predicted == pytest.approx(row["printed_ratio"], abs=0.05)


def test_unknown_figures_stay_empty_and_every_mark_has_its_note(found: PaperTables) -> None:
    _, saved, _ = found.tables()
    assert [row[1] for row in saved.rows] == ["", "", "", "", "322", "", "", "", ""]
    for table in found.tables():
        marks = {word for cell in table.head for word in cell.split() if word.startswith("[")}
        assert marks == {note.split()[0] for note in table.notes if note.startswith("[")}


def test_json_and_markdown_carry_the_same_rows(found: PaperTables) -> None:
    data = json.loads(json.dumps(found.to_dict()))
    for rows, table in zip(("calls", "saved", "latency"), found.tables(), strict=True):
        assert data[rows] == list(getattr(found, rows))
        assert [row["name"] for row in data[rows]] == [row[0] for row in table.rows]
    assert len(data["notes"]) == 3
    lines = found.markdown().splitlines()
    assert sum(line.startswith("| svd") for line in lines) == 12 + 9 + 9
    assert "svd-xt, c = 17" in str(found)
