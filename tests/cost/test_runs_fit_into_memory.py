"""A run is fitted into a given memory: equal output first, nothing taken back, and no more than it says."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from micro import MICRO

from vcut import cli
from vcut.analysis.fit import WORKSPACE, Way, fit, peak
from vcut.config import PRESETS, Level
from vcut.layers import Packing
from vcut.settings import Run, Settings, resolve

pytestmark = pytest.mark.slow  # every form is run on the meta device

GIB = 2**30
ASKED = Way(offload=False, sequential=False, dtype=torch.float16, decode_dtype=torch.float32, decode_chunk=14)
LARGE = dataclasses.replace(MICRO, frames=16, height=512, width=512)
PICTURE = str(Path(__file__).parents[2] / "examples" / "disc.png")


def run(**settings: object) -> Run:
    return resolve(Settings(**settings), LARGE, PRESETS["lossless"])  # type: ignore[arg-type]


def test_with_enough_memory_nothing_is_changed() -> None:
    way = fit(LARGE, run(), ASKED, 100 * GIB, vae_dtype=torch.float32)
    assert dataclasses.replace(way, peak=0) == ASKED
    assert way.differs(ASKED) == "everything as asked"


def test_with_too_little_the_least_is_found_and_said() -> None:
    way = fit(LARGE, run(), ASKED, 1, vae_dtype=torch.float32)
    assert (
        way.offload
    )  # what takes most then is encoding, and further steps would change the output for nothing
    assert way.decode_dtype == torch.float16
    assert way.decode_chunk is not None
    assert way.decode_chunk < 14
    assert all(word in way.differs(ASKED) for word in ("offloaded", "float16", f"{way.decode_chunk} frames"))
    assert way.peak > WORKSPACE


@pytest.mark.parametrize("tenths", range(0, 61, 6))
def test_less_memory_takes_no_less_from_the_output(tenths: int) -> None:
    most, least = (
        fit(LARGE, run(), ASKED, budget, vae_dtype=torch.float32).peak for budget in (100 * GIB, 1)
    )
    budget = least + (most - least) * tenths // 60
    way, roomier = (
        fit(LARGE, run(), ASKED, size, vae_dtype=torch.float32)
        for size in (budget, budget + (most - least) // 10)
    )
    assert way.peak <= budget
    assert (roomier.decode_chunk or 99) >= (way.decode_chunk or 99)
    if (way.decode_dtype, way.decode_chunk) == (ASKED.decode_dtype, ASKED.decode_chunk):
        assert (roomier.decode_dtype, roomier.decode_chunk) == (way.decode_dtype, way.decode_chunk)


def test_what_was_asked_for_is_not_taken_back() -> None:
    asked = dataclasses.replace(ASKED, offload=True, sequential=True, decode_chunk=2)
    for budget in (100 * GIB, 1):
        way = fit(LARGE, run(), asked, budget, vae_dtype=torch.float32)
        assert way.offload
        assert way.sequential
        assert (way.decode_chunk or 99) <= 2
    assert not fit(LARGE, run(), ASKED, 1, may_offload=False, vae_dtype=torch.float32).offload


def test_float32_gives_way_to_half_precision_before_the_chunks_do() -> None:
    full = dataclasses.replace(ASKED, dtype=torch.float32)
    least = fit(LARGE, run(), full, 1, vae_dtype=torch.float32, half=torch.bfloat16)
    assert (least.dtype, least.decode_dtype) == (torch.bfloat16, torch.bfloat16)
    assert "UNet and CLIP are in bfloat16 (rounding)" in least.differs(full)
    whole = dataclasses.replace(least, decode_chunk=14)
    roomier = fit(LARGE, run(), full, peak(LARGE, run(), whole, torch.float32), vae_dtype=torch.float32,
                  half=torch.bfloat16)  # fmt: skip
    assert roomier.decode_chunk == 14
    assert fit(LARGE, run(), full, 1, vae_dtype=torch.float32).dtype == torch.float32


def test_on_a_cpu_weights_are_left_unpacked_first() -> None:
    unet = dataclasses.replace(LARGE.unet, levels=(Level(32, 2), Level(128, 4)))  # wide enough to grow
    wide = dataclasses.replace(LARGE, unet=unet)
    asked = dataclasses.replace(ASKED, dtype=torch.float32, packing=Packing())
    most = peak(wide, run(), asked, torch.float32)
    assert fit(wide, run(), asked, most, vae_dtype=torch.float32, may_offload=False).packing
    way = fit(wide, run(), asked, most - 1, vae_dtype=torch.float32, may_offload=False)
    assert dataclasses.replace(way, peak=0) == dataclasses.replace(asked, packing=None)
    assert way.peak < most
    assert way.differs(asked) == "weights are not packed (equal output to rounding, slower)"


def test_a_run_without_guidance_is_sequential_already() -> None:
    one = run(guidance=(1.0, 1.0))
    ways = (dataclasses.replace(ASKED, offload=True, sequential=s) for s in (False, True))
    alone, together = (peak(LARGE, one, way, torch.float32) for way in ways)
    assert alone == together


def test_the_command_says_what_it_chose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "generate",
        PICTURE,
        "-o",
        str(tmp_path / "a.gif"),
        "--steps",
        "1",
        "--seed",
        "0",
        "--device",
        "cpu",
    ]
    assert cli.main([*words, "--memory", "4"]) == 0
    assert "of 4.00 GiB: everything as asked" in capsys.readouterr().out
    assert cli.main([*words, "--overwrite", "--offload", "--no-pack", "--memory", "4"]) == 0
    assert "of 4.00 GiB: everything as asked" in capsys.readouterr().out
    assert cli.main([*words, "--overwrite", "--memory", "auto"]) == 2
    assert "give a number of GiB" in capsys.readouterr().err


def test_the_command_names_the_least_that_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", PICTURE, "-o", str(tmp_path / "a.gif"), "--steps", "1", "--device", "cpu"]
    for given in ("0.01", "0.25", "0.499"):
        assert cli.main([*words, "--memory", given]) == 2
        start, says, advice = capsys.readouterr().err.removeprefix("vcut: error: ").split(": ")
        assert start == f"--memory {given}"
        assert advice == "take a smaller size or fewer frames\n"
    least = re.fullmatch(r"the least that this run takes is (0\.\d\d) GiB", says)
    assert least
    assert cli.main([*words, "--memory", least[1]]) == 0
    assert f"memory   {least[1]} of {least[1]} GiB: " in capsys.readouterr().out


def test_on_a_cpu_offloading_is_not_counted_as_a_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def record(_config: object, _run: object, asked: Way, _budget: int, **options: object) -> Way:
        seen.append((asked.offload, options["may_offload"]))
        return asked

    monkeypatch.setattr("vcut.analysis.fit.fit", record)
    words = ["generate", PICTURE, "-o", str(tmp_path / "a.gif"), "--steps", "1", "--device", "cpu"]
    assert cli.main([*words, "--offload", "--memory", "4"]) == 0
    assert seen == [(False, False)]
