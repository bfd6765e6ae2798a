"""Figure 1 runs on clips of the small world: a still clip is more like itself than a moving one, to both encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sweep_samples import moving_square

from experiments.figure_1 import hog, main
from vcut import media
from vcut.media import images


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    frames = moving_square(1)
    for name, clip in (("still", frames[:1].expand(8, -1, -1, -1)), ("moving", frames)):
        media.write(clip, tmp_path / f"{name}.mp4", 7)
    return [str(tmp_path / "still.mp4"), str(tmp_path / "moving.mp4")]


def test_the_table_and_the_picture(
    clips: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main([*clips, "-o", str(tmp_path / "figure.png"), "--device", "cpu"]) == 0
    *lines, wrote = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote    {tmp_path / 'figure.png'}"
    rows = [line.split() for line in lines[-2:]]
    assert [row[0] for row in rows] == ["model's", "HOG"]
    for row in rows:
        still, moving = (float(cell) for cell in row[-2:])
        assert moving < still
        assert still == pytest.approx(1, abs=0.05)
    assert images.pixels(tmp_path / "figure.png").std() > 0.1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "figure.txt"], "the figure is a .png"),
        (["--dino", ""], "expected a name, got an empty one"),
        (["--dino", "none.safetensors"], "none.safetensors: no such file"),
        (["--model", "nope"], "nope"),
    ],
)
def test_faults_are_told_in_one_line(
    clips: list[str], words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*clips, *words, "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_hog_knows_orientation_and_no_brightness() -> None:
    stripes = (torch.arange(32) // 4 % 2).float().expand(3, 32, 32)
    both = hog(torch.stack([stripes, 0.5 * stripes + 0.2, stripes.mT]))
    assert both.shape == (3, 7 * 7 * 4 * 9)
    assert torch.allclose(both[0], both[1], atol=1e-2)
    assert (both[0] * both[2]).sum() / both[0].norm() / both[2].norm() < 0.1
