"""Scores are kept clip by clip: what is there is not computed again, what a kill cut off is, and what changed is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import started
from sweep_samples import write_sweep

from vcut import cli
from vcut.errors import ConfigError
from vcut.scores import cache, groups, scoring
from vcut.scores.cache import Measure
from vcut.scores.features import Encoder
from vcut.scores.groups import Clip, Group
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Key, Record

Lines = dict[str, list[str]]


def lines(out: Path) -> Lines:
    return {file.name: file.read_text().splitlines() for file in sorted((out / "scores").iterdir())}


def score(out: Path, *options: str) -> int:
    return cli.main(["score", str(out), "--quiet", "--device", "cpu", *options])


def one_frame(frames: int) -> Record:
    kept = {"versions": {}, "settings": {}}
    rest = {field.name: "" for field in dataclasses.fields(Record)}
    return Record(**{**rest, **kept, "frames": frames})  # type: ignore[arg-type]


def counting(seen: list[str], name: str = "counted", source: str = "") -> Group:
    """A group that notes the clips that it is given."""
    measure = Measure(name, name, "higher", "nothing")

    def count(clip: Clip) -> dict[str, float | list[float]]:
        seen.append(clip.record.file)
        return {name: float(len(seen))}

    return Group(name, (measure,), lambda record: source, count)


def run(out: Path, *chosen: Group) -> set[Key]:
    return scoring.score(out, manifest.read(out), chosen, {}, warn=print)


def test_the_second_run_computes_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path, images=2, clips=1)
    assert score(tmp_path / "out") == 0
    before, table = lines(tmp_path / "out"), (tmp_path / "out" / "scores.json").read_text()
    # a clip of 2 images in 3 settings each, but those of lossless may be the baseline's to the byte
    assert len(before["fidelity.jsonl"]) == 1 + 4
    assert set(before) == {"clip.jsonl", "fidelity.jsonl", "pixels.jsonl"}
    assert score(tmp_path / "out") == 0
    assert lines(tmp_path / "out") == before
    assert (tmp_path / "out" / "scores.json").read_text() == table


def test_a_measure_that_comes_later_computes_itself_alone(tmp_path: Path) -> None:
    out, first, second = tmp_path / "out", list[str](), list[str]()
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    run(out, counting(first, "first"))
    assert len(first) == 4
    run(out, counting(first, "first"), counting(second, "second"))
    assert (len(first), len(second)) == (4, 4)
    # other weights, for example, are another source
    run(out, counting(first, "first", "other weights"))
    assert len(first) == 8


def test_ssim_waits_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, ["baseline", "c17"], images=1, clips=1)
    out = tmp_path / "out"
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        assert score(out) == 0
    assert "SSIM is left out, for it needs torchmetrics" in capsys.readouterr().err
    assert "ssim" not in json.loads((out / "scores.json").read_text())["summary"]["c17"]
    assert score(out) == 0
    assert json.loads((out / "scores.json").read_text())["summary"]["c17"]["ssim"]["mean"] <= 1


def test_a_clip_that_was_made_again_is_scored_again(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", list[str]()
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    run(out, counting(seen))
    record = manifest.read(out)[0]
    other = out / "c17" / "scene1-0.mp4"
    (out / record.file).write_bytes(other.read_bytes())
    size, digest = other.stat().st_size, manifest.file_sha256(other)
    fresh = dataclasses.replace(record, bytes=size, file_sha256=digest, finished="2030")
    manifest.append(out / "manifest.jsonl", fresh)
    # it is equal to a clip that is scored already
    run(out, counting(seen))
    assert len(seen) == 4
    (_, collected) = scoring.collect(out, manifest.read(out), [counting(seen)])
    assert collected[0][1] == collected[3][1]


@pytest.mark.parametrize("cut", [2, 30, 80])
def test_a_line_that_was_cut_off_is_computed_again(tmp_path: Path, cut: int) -> None:
    out, seen = tmp_path / "out", list[str]()
    write_sweep(tmp_path, ["baseline"], images=3, clips=1)
    run(out, counting(seen))
    file = out / "scores" / "counted.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    run(out, counting(seen))
    assert seen[3:] == seen[2:3]
    assert len(cache.read(file).scores) == 3
    assert run(out, counting(seen)) == set()
    assert len(seen) == 4


def test_another_baseline_has_other_fidelities_and_the_old_ones_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    found = {}
    for baseline in ("baseline", "c17", "baseline"):
        assert score(out, "--baseline", baseline) == 0
        found[baseline] = json.loads((out / "scores.json").read_text())
        assert found[baseline]["baseline"] == baseline
        assert "psnr" not in found[baseline]["summary"][baseline]
    assert sum("scores" in json.loads(line) for line in lines(out)["fidelity.jsonl"]) == 4
    ours, theirs = (
        found[a]["summary"][b]["psnr"]["mean"] for a, b in (("baseline", "c17"), ("c17", "baseline"))
    )
    assert ours == pytest.approx(theirs)


def test_a_damaged_clip_is_told_of_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    (out / "c17" / "scene0-0.mp4").write_bytes(b"")
    assert score(out) == 2
    said = capsys.readouterr().err
    assert "c17/scene0-0.mp4 is not the clip of the manifest" in said
    assert (
        said.splitlines()[-1] == "vcut: error: 1 of 4 clips could not be scored; the tables have all others"
    )
    summary = json.loads((out / "scores.json").read_text())["summary"]
    assert summary["c17"]["psnr"]["images"] == 1
    assert summary["baseline"]["clip_consistency_vbench_style"]["images"] == 2


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("fault", ["gone", "cut off"])
def test_a_damaged_clip_has_no_scores_whether_it_was_scored_before_or_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, scored: bool
) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    assert not scored or score(out) == 0
    clip = out / "baseline" / "scene0-0.mp4"
    clip.unlink() if fault == "gone" else clip.write_bytes(clip.read_bytes()[:-1])
    capsys.readouterr()
    assert score(out) == 2
    why = f"{clip} is not the clip of the manifest, or is gone: run the sweep again"
    assert [line for line in capsys.readouterr().err.splitlines() if "note" not in line] == [
        f"vcut: skipped: {why}",
        f"vcut: skipped: {out / 'c17' / 'scene0-0.mp4'}, for {why}",
        "vcut: error: 2 of 4 clips could not be scored; the tables have all others",
    ]
    written = json.loads((out / "scores.json").read_text())
    assert [bool(clip["scores"]) for clip in written["clips"]] == [False, True, False, True]
    assert written["summary"]["baseline"]["temporal_flicker_vbench_style"]["images"] == 1


def test_a_clip_that_equals_a_damaged_one_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    _, first = write_sweep(tmp_path, ["baseline", "c17"], images=1, clips=1)
    twin = dataclasses.replace(first, setting="twin", file="twin/scene0-0.mp4")
    (out / "twin").mkdir()
    shutil.copy(out / first.file, out / twin.file)
    manifest.append(out / "manifest.jsonl", twin)
    damaged = bytearray((out / first.file).read_bytes())
    damaged[-1] ^= 1
    (out / first.file).write_bytes(damaged)
    assert score(out) == 2
    assert "1 of 3 clips could not be scored" in capsys.readouterr().err
    written = json.loads((out / "scores.json").read_text())["clips"]
    assert {clip["setting"]: bool(clip["scores"]) for clip in written} == {
        "baseline": True,
        "c17": False,
        "twin": True,
    }


def test_where_the_scores_belong_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    (tmp_path / "out" / "scores").write_text("a file")
    assert score(tmp_path / "out") == 2
    assert "out/scores cannot be made: File exists" in capsys.readouterr().err


def test_damaged_latents_of_an_older_manifest_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which has neither their size nor their hash."""
    records = write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1, latents=True)
    kept = tmp_path / "out" / (records[2].latents or "")
    kept.write_bytes(b"no latents")
    assert score(tmp_path / "out") == 2
    says = capsys.readouterr().err
    assert f"skipped: {kept} holds no latents" in says
    assert "remove it and run the sweep again" in says
    assert "1 of 4 clips could not be scored" in says


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_a_picture_that_is_not_the_sweeps_stops_before_the_first_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    write_sweep(tmp_path, ["baseline"], images=2, clips=1)
    picture = tmp_path / "images" / "scene1.png"
    picture.unlink() if fault == "gone" else picture.write_bytes(b"other")
    assert score(tmp_path / "out") == 2
    assert "scene1.png" in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores").exists()


def test_what_is_no_score_is_refused_by_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"measures": []}\n{"file_sha256": "a"}\n')
    with pytest.raises(ConfigError, match=r"x.jsonl, line 2 is no score"):
        cache.read(file)
    with pytest.raises(ConfigError, match="psnr of a clip is nan"):
        cache.append(file, "a", "", {"psnr": float("nan")})
    measure = {"name": "psnr", "label": "PSNR", "better": "sideways", "of": "baseline"}
    for line in (
        '{"file_sha256": "a", "source": "", "scores": {"psnr": NaN}}',
        '{"file_sha256": "a", "source": "", "scores": {"psnr": "high"}}',
        '{"file_sha256": "a", "source": "", "scores": 5}',
        json.dumps({"file_sha256": "a", "source": "", "scores": {"psnr": 10**400}}),
        json.dumps({"measures": [measure]}),
    ):
        file.write_text(line)
        with pytest.raises(ConfigError, match=r"x.jsonl, line 1 is no score"):
            cache.read(file)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--baseline", "other"], "no such setting, only baseline"),
        (["--dino", "none.safetensors"], "none.safetensors: no such file"),
        (["--vbench", "none.json"], "none.json holds no results of VBench"),
    ],
)
def test_faults_show_before_the_first_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    assert score(tmp_path / "out", *options) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores").exists()


def test_a_picture_whose_name_is_in_no_encoding_is_scored(tmp_path: Path) -> None:
    """As Linux allows, and as the sweep's clip is then called."""
    out, odd = tmp_path / "out", "scene\udcff"
    (record,) = write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    (out / record.file).rename(out / "baseline" / f"{odd}-0.mp4")
    manifest.append(
        out / "manifest.jsonl", dataclasses.replace(record, name=odd, file=f"baseline/{odd}-0.mp4")
    )
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text(lines[-1])
    assert score(out) == 0
    assert json.loads((out / "scores.json").read_text())["clips"][0]["name"] == odd


def test_a_folder_without_a_sweep_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(tmp_path) == 2
    assert "holds no clips of a sweep: vcut sweep IMAGES -o" in capsys.readouterr().err


def test_fidelity_is_of_equal_seeds_and_not_of_the_baseline_itself(tmp_path: Path) -> None:
    records = write_sweep(tmp_path, ["baseline", "c17"], images=1, clips=2)
    base = {(record.name, record.index): record for record in records[:2]}
    source: Callable[[Record], str | None] = groups.baseline_fidelity(
        tmp_path / "out", "baseline", base
    ).source
    assert source(records[0]) is None
    assert source(records[2]) == records[0].file_sha256
    assert source(dataclasses.replace(records[2], seed=records[2].seed + 1)) is None
    assert source(dataclasses.replace(records[2], name="other")) is None
    # a setting may have another number of frames: its clips are scored, and not compared frame by frame
    assert source(dataclasses.replace(records[2], frames=4)) is None


def test_a_clip_of_one_frame_has_no_consistency() -> None:
    encoder = Encoder("none", "", lambda frames: frames, torch.device("cpu"))
    for group in (groups.pixels(), groups.consistency("x", "clip", encoder, clip=True)):
        assert group.source(one_frame(1)) is None
        assert group.source(one_frame(2)) is not None


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, images=8, clips=2)
    words = ["score", str(out), "--quiet", "--device", "cpu"]
    file, killed = out / "scores" / "clip.jsonl", 0
    for wanted in (1, 5, 12):
        with started(words) as process:
            while process.is_alive() and (not file.exists() or file.read_bytes().count(b"\n") <= wanted):
                time.sleep(0.002)
            killed += process.is_alive()
    assert killed
    assert cli.main(words) == 0
    found = json.loads((out / "scores.json").read_text())
    for other in (out / "scores").iterdir():
        keys = [json.loads(line)["file_sha256"] for line in other.read_text().splitlines()[1:]]
        assert len(keys) == len(set(keys))
        other.unlink()
    assert cli.main(words) == 0
    assert json.loads((out / "scores.json").read_text()) == found
