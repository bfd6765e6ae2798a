"""``vcut generate PICTURE --model FILE`` finds, reads and infers everything once: checks hand on what they found."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vcut.settings
import weights_tools.checkpoint
import weights_tools.remap
from vcut import cli, hub
from vcut.loading import BOXED
from vcut.media import files
from vcut.pipeline import Pipeline
from vcut.sweeps import runner

QUICK = ("--steps", "1", "--frames", "2", "--quiet", "--model", "weights.safetensors", "--device", "cpu")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often each step was taken, in a folder with a model and pictures."""
    found: Counter[str] = Counter()

    def count(place: Any, name: str, label: str = "") -> None:
        original = getattr(place, name)

        def counted(*args: Any, **options: Any) -> Any:
            found[label or name] += 1
            return original(*args, **options)

        monkeypatch.setattr(place, name, counted)

    count(hub, "find")
    count(weights_tools.checkpoint, "read_header")
    count(weights_tools.remap, "infer")
    count(files, "load", "decoded")
    count(vcut.settings, "resolve")
    monkeypatch.chdir(tmp_path)
    shutil.copy(BOXED, "weights.safetensors")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(f"{i}.png")
    return found


def test_everything_happens_once(counts: Counter[str]) -> None:
    assert cli.main(["generate", "0.png", *QUICK]) == 0
    assert Path("0.mp4").exists()
    assert counts == {
        "find": 1,
        "read_header": 1,
        "infer": 3,  # UNet, VAE and CLIP
        "decoded": 1,
        "resolve": 1,
    }


def test_each_picture_is_decoded_once_however_many_clips_it_gives(counts: Counter[str]) -> None:
    assert cli.main(["generate", "0.png", "1.png", "2.png", *QUICK, "--clips", "2", "-o", "clips"]) == 0
    assert len(list(Path("clips").iterdir())) == 6
    assert counts["decoded"] == 3
    assert (counts["read_header"], counts["infer"]) == (1, 3)


def test_more_named_pictures_than_are_kept_are_all_checked_first(
    counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "HELD", 2)
    assert cli.main(["generate", "0.png", "1.png", "2.png", *QUICK, "-o", "clips"]) == 0
    assert counts["decoded"] == 4  # the third is read again when its turn comes
    Path("2.png").write_bytes(Path("2.png").read_bytes()[:500])
    assert cli.main(["generate", "0.png", "1.png", "2.png", *QUICK, "-o", "other"]) == 2
    assert not Path("other").exists()


def test_pictures_of_a_folder_are_read_when_their_turn_comes(counts: Counter[str]) -> None:
    Path("in").mkdir()
    for i in range(3):
        shutil.move(f"{i}.png", f"in/{i}.png")
    assert cli.main(["generate", "in", *QUICK, "-o", "clips"]) == 0
    assert counts["decoded"] == 3


def test_the_clip_is_the_one_that_the_library_makes(
    counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, although the command fits the picture to the frame before the model sees it."""
    clips: list[torch.Tensor] = []
    decode = Pipeline.decode

    def kept(self: Pipeline, *args: Any, **options: Any) -> torch.Tensor:
        clips.append(decode(self, *args, **options))
        return clips[-1]

    monkeypatch.setattr(Pipeline, "decode", kept)
    assert cli.main(["generate", "0.png", *QUICK, "--fit", "pad", "--seed", "3"]) == 0
    svd = vcut.load("weights.safetensors", device="cpu", pack=True)
    svd.generate("0.png", steps=1, frames=2, fit="pad", seed=3)
    assert torch.equal(*clips)
