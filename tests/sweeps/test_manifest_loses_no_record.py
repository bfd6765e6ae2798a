"""A manifest survives kills: torn lines are dropped, later records win, and a clip counts only as it was written."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_samples import describe

from vcut.errors import ConfigError, MediaError
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record

RECORD = Record(
    setting="c17",
    name="a disc, drifting",
    index=0,
    file="c17/a disc, drifting-0.mp4",
    image="pictures/disc.png",
    image_sha256="0" * 64,
    seed=7,
    preset="vcut",
    settings={"cut": 17},
    model="tiny",
    weights_sha256="1" * 64,
    versions={"vcut": "0", "torch": "0", "python": "3"},
    device="cpu",
    frames=8,
    height=32,
    width=32,
    fps=7,
    seconds=1.5,
    bytes=4,
    file_sha256="88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589",  # of b"abcd"
    frames_sha256="2" * 64,
    finished="2026-01-01T00:00:00",
)


def put(out: Path, *records: Record, name: str = "manifest.jsonl") -> Path:
    for record in records:
        manifest.append(out / name, record)
    return out / name


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    second = dataclasses.replace(RECORD, index=1, latents="c17/latents/x.safetensors")
    put(tmp_path, second, RECORD)
    assert manifest.read(tmp_path) == [RECORD, second]


def test_a_folder_without_a_manifest_has_no_records(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) == []


def test_records_come_in_the_order_of_the_sweeps_settings_then_name_then_index(tmp_path: Path) -> None:
    manifest.write_sweep(tmp_path, describe(["vcut", "baseline"]))
    keys = [("vcut", "b", 0), ("vcut", "b", 1), ("vcut", "c", 0), ("baseline", "a", 0), ("added", "a", 0)]
    made = [dataclasses.replace(RECORD, setting=s, name=n, index=i) for s, n, i in keys]
    put(tmp_path, *made[3:], name="manifest-1-of-2.jsonl")
    put(tmp_path, *made[2::-1], name="manifest-0-of-2.jsonl")
    assert [record.key for record in manifest.read(tmp_path)] == keys


@given(cut=st.integers(1, 10**9))
def test_a_torn_line_is_dropped_and_the_next_record_stands_on_its_own(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("torn")
    file = put(out, RECORD, dataclasses.replace(RECORD, index=1))
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    torn = whole[: first + cut % (len(whole) - first - 1)]
    file.write_bytes(torn)
    assert manifest.read(out) == [RECORD]
    third = dataclasses.replace(RECORD, index=2)
    put(out, third)
    assert manifest.read(out) == [RECORD, third]


@pytest.mark.parametrize("names", [("manifest.jsonl", "manifest-0-of-2.jsonl"), ("manifest.jsonl",) * 2])
def test_the_later_record_of_a_clip_wins_whichever_file_it_is_in(
    names: tuple[str, str], tmp_path: Path
) -> None:
    later = dataclasses.replace(RECORD, bytes=5, finished="2026-01-02T00:00:00")
    put(tmp_path, RECORD, name=names[0])
    put(tmp_path, later, name=names[1])
    assert manifest.read(tmp_path) == [later]


def test_json_that_is_no_record_is_refused_by_file_and_line(tmp_path: Path) -> None:
    put(tmp_path, RECORD)
    data = dataclasses.asdict(RECORD)
    del data["seed"]
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(data) + "\n")
    with pytest.raises(ConfigError, match=r"manifest.jsonl, line 2 .*'seed'"):
        manifest.read(tmp_path)


def test_a_clip_is_complete_only_as_it_was_written(tmp_path: Path) -> None:
    clip = tmp_path / RECORD.file
    assert not manifest.is_complete(tmp_path, RECORD)
    clip.parent.mkdir()
    for content, complete in ((b"abcd", True), (b"abcx", False), (b"abcde", False), (b"abc", False)):
        clip.write_bytes(content)
        assert manifest.is_complete(tmp_path, RECORD) is complete
    clip.write_bytes(b"abcd")


@pytest.mark.parametrize("hashed", [True, False])
def test_latents_are_complete_only_as_they_were_written(hashed: bool, tmp_path: Path) -> None:
    kept = tmp_path / "c17" / "x.safetensors"
    kept.parent.mkdir()
    (tmp_path / RECORD.file).write_bytes(b"abcd")
    older = dataclasses.replace(RECORD, latents="c17/x.safetensors")
    record = dataclasses.replace(older, latents_bytes=4, latents_sha256=RECORD.file_sha256)
    for content in (None, b"abc", b"abcx") if hashed else (None, b"abc"):
        if content is not None:
            kept.write_bytes(content)
            # which says neither size nor hash
            manifest.check_complete(tmp_path, older, hashed=hashed)
        with pytest.raises(MediaError, match=r"x.safetensors has not the latents .*: run the sweep again"):
            manifest.check_complete(tmp_path, record, hashed=hashed)
    kept.write_bytes(b"abcd")
    manifest.check_complete(tmp_path, record, hashed=hashed)


def test_frames_are_hashed_by_their_values_not_by_their_layout() -> None:
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    other_layout = np.asfortranarray(frames)
    assert manifest.frames_sha256(other_layout) == manifest.frames_sha256(frames)
    assert manifest.frames_sha256(frames[::-1]) != manifest.frames_sha256(frames)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", "0"),
        ("name", ["a"]),
        ("file", None),
        ("settings", []),
        ("seconds", "x"),
        ("frames", "8"),
        ("seed", True),
        ("versions", {"vcut": 1}),
        ("file", "/etc/passwd"),
        ("file", "../other/a-0.mp4"),
        ("setting", ".."),
        ("latents", "../a"),
        ("file", "vcut/nul\0.mp4"),
        ("latents", "vcut/\ud800"),
        pytest.param("seconds", 10**400, id="seconds-10^400"),
        ("seconds", math.nan),
        ("seconds", math.inf),
        ("seconds", -1),
        ("height", 0),
        pytest.param("bytes", 10**400, id="bytes-10^400"),
        ("threads", -3),
    ],
)
def test_a_record_of_other_types_or_of_files_elsewhere_or_out_of_range_is_refused_by_line_and_key(
    field: str, value: object, tmp_path: Path
) -> None:
    put(tmp_path, dataclasses.replace(RECORD, **{field: value}))
    says = rf"manifest.jsonl, line 1 is no record of a clip: {field} (is|must be) "
    with pytest.raises(ConfigError, match=says) as fault:
        manifest.read(tmp_path)
    assert len(str(fault.value)) < 1000


def test_a_line_too_deep_for_json_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text("[" * 200_000 + "\n")
    put(tmp_path, RECORD)
    assert manifest.read(tmp_path) == [RECORD]


@pytest.mark.parametrize(
    "fault",
    [
        {"settings": 5},
        {"settings": ["a"]},
        {"images": None},
        {"clips": "2"},
        {"threads": -3},
        {"threads": 10**9},
        {"enlarge": 0},
    ],
)
def test_a_sweep_of_other_types_or_out_of_range_is_refused_and_says_what_to_do(
    fault: dict[str, object], tmp_path: Path
) -> None:
    (key,) = fault
    whole = dataclasses.asdict(describe(["vcut"]))
    (tmp_path / "sweep.json").write_text(json.dumps({**whole, **fault}))
    with pytest.raises(
        ConfigError, match=rf"sweep.json is not what a sweep writes \({key} .*: restore it, or remove it"
    ):
        manifest.read_sweep(tmp_path)
