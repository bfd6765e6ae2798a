"""Errors against the true future are written for the clips of known pictures, and come into the tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from sweep_samples import write_sweep

from training import score, world
from training.example import named
from vcut import cli, media
from vcut.sweeps import manifest


def held_out(name: str) -> world.Scenes:
    scene = named(name)
    assert scene is not None
    return scene


def test_the_true_clip_has_no_error_and_a_still_one_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    scene = held_out("disc").asked(fps=7, motion_bucket=127)
    truth = world.render(scene, 8, 32)[0]
    for record, frames in ((records[0], truth), (records[2], truth[:1].expand_as(truth))):
        file = f"{record.setting}/disc-0.mp4"
        media.write(frames, out / file, 7)
        size, digest = (out / file).stat().st_size, manifest.file_sha256(out / file)
        made = dataclasses.replace(record, name="disc", file=file, bytes=size, file_sha256=digest)
        manifest.append(out / "manifest.jsonl", made)
    score.main([str(out)])
    written = (out / "scores" / "future.jsonl").read_text()
    score.main([str(out)])
    assert (out / "scores" / "future.jsonl").read_text() == written
    assert cli.main(["score", str(out), "--quiet", "--device", "cpu"]) == 0
    summary = json.loads((out / "scores.json").read_text())["summary"]
    # the pictures of no known scene are left out
    assert summary["baseline"]["future_psnr"]["images"] == 1
    assert summary["baseline"]["future_position_error"]["mean"] < 1
    assert summary["c17"]["future_position_error"]["mean"] > 5
    assert summary["c17"]["future_psnr"]["difference"]["mean"] < -5


def test_a_shape_that_stays_has_no_position_error(tmp_path: Path) -> None:
    (record,) = write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    found = score.scores(tmp_path / "out", dataclasses.replace(record, name="bar"), held_out("bar-1"))
    assert set(found) == {"future_psnr"}
    assert found["future_psnr"] == pytest.approx(12, abs=8)


def test_other_names_are_of_no_scene() -> None:
    assert [named(name) for name in ("cat", "disc-x", "disc-999", "disc-0.5")] == [None] * 4
    assert not torch.equal(held_out("disc").start, held_out("disc-1").start)
