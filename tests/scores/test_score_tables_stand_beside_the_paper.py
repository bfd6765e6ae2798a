"""The tables, the JSON and the CSV say the same, and what the paper says stands where it belongs."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from sweep_samples import write_sweep

from vcut import cli
from vcut.analysis.paper_tables import PRINTED_SECONDS
from vcut.scores.cache import Measure, Scores
from vcut.scores.report import Report, report
from vcut.scores.table import cut_of, tables
from vcut.scores.vbench import DIMENSIONS
from vcut.sweeps.manifest import Record

CONSISTENCY = Measure("clip_consistency_vbench_style", "CLIP consistency", "higher", "model's CLIP")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return write_sweep(tmp_path_factory.mktemp("sweep"), images=3, clips=2)


def made_up(records: list[Record]) -> Report:
    """Scores that are 90 plus the image's number, in c17 0.5 lower and in one clip more."""
    clips: list[tuple[Record, Scores]] = []
    for record in records:
        lower = 0.5 + 0.3 * (record.index == 1) if record.setting == "c17" else 0.0
        clips.append((record, {CONSISTENCY.name: 90 + int(record.name[-1]) - lower, "a_curve": [1.0, 2.0]}))
    return report("baseline", [CONSISTENCY], clips)


def test_means_are_over_images_and_differences_paired(records: list[Record]) -> None:
    found = json.loads(made_up(records).json())
    baseline, c17 = (found["summary"][setting][CONSISTENCY.name] for setting in ("baseline", "c17"))
    assert (baseline["mean"], baseline["images"]) == (91, 3)
    # t_0.975 of 2 degrees of freedom is 4.3027, the deviation 1
    assert baseline["high"] - 91 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert "difference" not in baseline
    assert c17["difference"]["mean"] == pytest.approx(-0.65)
    # every image has the same difference
    assert c17["difference"]["high"] - c17["difference"]["low"] < 1e-9
    assert c17["difference"]["clips_for_0.3"] == 4


def test_the_json_keeps_the_contract(records: list[Record]) -> None:
    found = json.loads(made_up(records).json())
    assert set(found) == {"baseline", "measures", "settings", "summary", "clips"}
    assert found["measures"] == [dataclasses.asdict(CONSISTENCY)]
    assert found["settings"] == ["baseline", "lossless", "c17"]
    assert found["clips"][-1] == {
        "setting": "c17",
        "name": "scene2",
        "index": 1,
        "file": "c17/scene2-1.mp4",
        "scores": {CONSISTENCY.name: 91.2},
        "curves": {"a_curve": [1.0, 2.0]},
    }


def test_the_csv_has_a_line_for_each_clip(records: list[Record]) -> None:
    rows = list(csv.DictReader(made_up(records).csv().splitlines()))
    assert len(rows) == 18
    assert rows[0]["setting"] == "baseline"
    assert [float(row[CONSISTENCY.name]) for row in rows[-2:]] == [91.5, 91.2]


def test_the_papers_columns_and_words_are_there(records: list[Record]) -> None:
    quality, others, differences, latency = tables(made_up(records))
    assert quality.head == ("", *(label for label, _ in DIMENSIONS.values()))
    assert others.rows[0] == ("baseline", "91.00 ± 2.48")
    by_name = {row[0]: row for row in differences.rows}
    assert by_name["the paper, quality [2]"] == ("the paper, quality [2]", "", "", "within 0.3 points", "")
    assert by_name["CLIP consistency (model's CLIP)"][3] == "-0.65 ± 0.00"
    printed = PRINTED_SECONDS["svd-xt"]
    assert latency.rows[2] == ("c17", "0.80", "0.80", f"{printed[2] / printed[0]:.2f}")
    assert latency.rows[0][3] == ""


@pytest.mark.parametrize(
    ("preset", "settings", "cut"),
    [
        ("baseline", {}, None),
        ("vcut", {}, 17),
        ("vcut", {"cut": 10}, 10),
        ("lossless", {"cut": 20}, 20),
        ("vcut", {"cut": None}, None),
        ("vcut", {"cut": 26}, None),
        ("vcut", {"steps": 10}, None),
        ("vcut*", {}, None),
    ],
)
def test_the_cut_is_known_where_the_paper_has_one(
    records: list[Record], preset: str, settings: dict[str, int | None], cut: int | None
) -> None:
    assert cut_of(dataclasses.replace(records[0], preset=preset, settings=settings)) == cut


def test_the_command_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1, latents=True)
    assert cli.main(["score", str(tmp_path / "out"), "--device", "cpu"]) == 0
    printed, written = capsys.readouterr().out, (tmp_path / "out" / "scores.md").read_text()
    for text in (printed, written):
        assert "Temporal flickering [1]" in text
        assert "Latent distance (baseline)" in text
        assert "within 0.3 points" in text
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    c17 = found["summary"]["c17"]
    # noise of deviation 0.05 on the true frames: 26 dB
    assert 24 < c17["psnr"]["mean"] < 29
    assert c17["latent_distance"]["mean"] > 0.05
    (clip,) = (each for each in found["clips"] if each["file"] == "c17/scene1-0.mp4")
    assert len(clip["curves"]["psnr_curve"]) == 8


def test_cosines_are_left_alone_if_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    assert cli.main(["score", str(out), "--quiet", "--device", "cpu"]) == 0
    assert cli.main(["score", str(out), "--quiet", "--device", "cpu", "--unclipped"]) == 0
    (scores,) = (clip["scores"] for clip in json.loads((out / "scores.json").read_text())["clips"])
    assert scores["clip_consistency_unclipped"] <= scores["clip_consistency_vbench_style"]
