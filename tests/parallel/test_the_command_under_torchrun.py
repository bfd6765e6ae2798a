"""`vcut generate` in several processes: one writes and speaks, all end together, and no rank is left waiting."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import results_of, run

import vcut
from vcut import cli
from vcut.parallel import world

PICTURE = Path(__file__).parents[2] / "examples" / "disc.png"
GONE = (
    "another process of this run has ended, as its last line or torchrun says: without it there is no clip\n"
)

Ended = tuple[int, str, str]
"""Exit code, stdout and stderr of a command."""


def command(*words: str, killed: int | None = None) -> Ended:
    """Run a command line; rank ``killed`` is killed in its second call of the UNet."""
    if os.environ["RANK"] == str(killed):
        _kill_in_the_second_call()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["generate", *words])
    return code, out.getvalue(), err.getvalue()


def killed(rank: int, *words: str) -> Ended:
    return command(*words, killed=rank)


def _kill_in_the_second_call() -> None:
    evaluated, calls = world._evaluated, iter(range(10))

    def dying(*arguments: Any) -> Any:
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluated(*arguments)

    world._evaluated = dying


@pytest.mark.slow
def test_rank_0_writes_the_clip_of_one_process_and_the_others_say_nothing(tmp_path: Path) -> None:
    tuned = vcut.load_unet("tiny", device="cpu")  # a UNet of its own, which every process has to load
    with torch.no_grad():
        tuned.conv_out.weight.neg_()
    vcut.save(tuned, tmp_path / "tuned.safetensors")
    frames = {}
    for size in (1, 2):
        path = tmp_path / str(size)
        words = (str(PICTURE), "-o", str(path), "--seed", "3", "--steps", "2", "--cut", "2")
        words += ("--unet", str(tmp_path / "tuned.safetensors"))
        (code, out, err), *others = results_of(size, command, *words)
        assert (code, others) == (0, [(0, "", "")] * (size - 1))
        assert "seed     3" in out
        assert "step" in err  # the bar
        frames[size] = np.stack([np.asarray(Image.open(path / f"{i:03}.png"), dtype=int) for i in range(8)])
    assert np.abs(frames[1] - frames[2]).max() <= 1  # rounding


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rank"), [(3, 2), (2, 0)])
def test_a_rank_that_dies_ends_every_other_with_one_sentence(tmp_path: Path, size: int, rank: int) -> None:
    words = (str(PICTURE), "-o", str(tmp_path / "clip"), "--steps", "2", "--cut", "2", "--quiet")
    ended = run(size, killed, rank, *words)
    assert ended.pop(rank) == (-signal.SIGKILL, None)
    for code, (status, out, err) in ended:
        assert (code, status, out) == (0, 2, "")
        assert err.endswith(f"vcut: error: {GONE}")
        assert len([line for line in err.splitlines() if line.startswith("vcut: error")]) == 1
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_rank_0_refuses_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    first, second = results_of(2, command, str(PICTURE), "-o", str(tmp_path / "clip"))
    assert first[0] == 2
    assert first[2].startswith("vcut: error: ")
    assert first[2].count("\n") == 1
    assert second == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--frames", "1"], "2 processes cannot share 1 frames: start at most 1"),
        (["--compile"], "a UNet that 2 processes share cannot be compiled: leave out --compile"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(tmp_path: Path, words: list[str], says: str) -> None:
    always = (str(PICTURE), "-o", str(tmp_path / "clip"), "--quiet")
    (code, _, err), other = results_of(2, command, *always, *words)
    assert code == 2
    assert err.endswith(f"vcut: error: {says}\n")
    assert other == (0, "", "")


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_processes_that_share_a_clip_choose_their_own_gpus(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["generate", str(PICTURE), "--device", device]) == 2
    says = f"each of 2 processes takes a GPU of its own: leave out --device {device}"
    assert capsys.readouterr().err == f"vcut: error: {says}\n"


@pytest.mark.parametrize("size", ["two", "0", ""])
def test_a_number_of_processes_that_is_none_is_refused(
    size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    assert cli.main(["generate", str(PICTURE)]) == 2
    err = capsys.readouterr().err
    assert "WORLD_SIZE" in err
    assert err.count("\n") == 1
