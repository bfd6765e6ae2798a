"""Errors against the true future are written for the clips of known pictures, and come into the tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from sweep_samples import write_sweep

from training import example, score, world
from training.example import SIDE, named
from vcut import cli, media
from vcut.sweeps import manifest
from vcut.sweeps.manifest import Record


def held_out(name: str) -> world.Scenes:
    scene = named(name)
    assert scene is not None
    return scene


def drawn(folder: Path, name: str) -> Path:
    """The picture of a scene, as training.example draws it."""
    folder.mkdir(exist_ok=True)
    frame = world.render(held_out(name), 1, SIDE)[0, 0].permute(1, 2, 0)
    Image.fromarray((frame * 255).round().byte().numpy()).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def of_scene(record: Record, picture: Path, out: Path, frames: torch.Tensor) -> Record:
    """A record of a clip with these frames, made of this picture."""
    file = f"{record.setting}/{picture.stem}-0.mp4"
    media.write(frames, out / file, 7)
    size, digest = (out / file).stat().st_size, manifest.file_sha256(out / file)
    made = {"name": picture.stem, "image": str(picture), "image_sha256": manifest.file_sha256(picture)}
    return dataclasses.replace(record, **made, file=file, bytes=size, file_sha256=digest)


def test_the_true_clip_has_no_error_and_a_still_one_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=1)
    picture = drawn(tmp_path / "drawn", "disc")
    truth = world.render(held_out("disc").asked(fps=7, motion_bucket=127), 8, 32)[0]
    for record, frames in ((records[0], truth), (records[2], truth[:1].expand_as(truth))):
        manifest.append(out / "manifest.jsonl", of_scene(record, picture, out, frames))
    assert score.main([str(out)]) == 0
    written = (out / "scores" / "future.jsonl").read_text()
    assert score.main([str(out)]) == 0
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
    frames = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    record = of_scene(record, drawn(tmp_path, "bar-1"), tmp_path / "out", frames)
    manifest.append(tmp_path / "out" / "manifest.jsonl", record)
    assert score.main([str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "scores" / "future.jsonl").read_text().splitlines()
    assert set(json.loads(lines[-1])["scores"]) == {"future_psnr"}


def test_another_picture_of_the_same_name_has_no_known_future(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    other = Path(record.image).rename(tmp_path / "disc.png")
    record = of_scene(record, other, tmp_path / "out", torch.zeros(8, 3, 32, 32))
    (tmp_path / "out" / "manifest.jsonl").unlink()
    manifest.append(tmp_path / "out" / "manifest.jsonl", record)
    assert score.main([str(tmp_path / "out")]) == 2
    assert "holds no clips of a sweep of the pictures of training.example" in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores").exists()


def test_other_names_are_of_no_scene() -> None:
    assert [named(name) for name in ("cat", "disc-x", "disc-999", "disc-0.5")] == [None] * 4
    assert not torch.equal(held_out("disc").start, held_out("disc-1").start)


def test_pictures_of_scenes_are_written_or_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main([str(tmp_path / "new" / "folder")]) == 0
    made = {file.stem for file in (tmp_path / "new" / "folder").iterdir()}
    assert made == set(world.KINDS)
    (tmp_path / "file").touch()
    assert example.main([str(tmp_path / "file")]) == 2
    assert example.main([str(tmp_path / "never"), "--each", "24"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in first
    assert second == "training.example: error: there is no scene disc-23: ask for fewer, --each"
    assert not (tmp_path / "never").exists()
