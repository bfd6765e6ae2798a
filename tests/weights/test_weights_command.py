"""``python -m weights_tools``: answers on stdout, errors in one line on stderr, exit codes, never a traceback."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from weights_samples import random_model, sgm_file

from weights_tools import cli
from weights_tools.command import Parser, run, stoppable
from weights_tools.errors import ConfigError
from weights_tools.tensor_file import save

HEADS = ("--head-dim", "32", "--clip-head-dim", "16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tmp_path / "svd_xt.safetensors", sgm_file(random_model()), {})
    return tmp_path / "svd_xt.safetensors"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weights_tools", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_inspect_and_convert_in_their_own_process(source: Path, tmp_path: Path) -> None:
    done = command("inspect", source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"{source}: sgm layout\nunet    668 tensors      1,897,494 parameters  float32\n"
    )
    done = command("convert", source, tmp_path / "out.safetensors", "--to", "vcut", "--fold", "vcut", *HEADS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"wrote {tmp_path / 'out.safetensors'}\nnote: ")
    assert "licence" in done.stdout
    done = command("inspect", tmp_path / "missing.safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vcut-weights: error: {tmp_path / 'missing.safetensors'}: no such file\n"


def test_inspect_prints_one_json_object(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layout"] == "sgm"
    assert found["faults"] == found["missing_parts"] == []
    assert found["parts"]["unet"]["structure"]["channels"] == [32, 64, 32]
    assert found["parts"]["unet"]["structure"]["tca"] is True
    assert found["parts"]["clip"]["dtypes"] == ["float32"]


def test_inspect_lists_every_fault_and_exits_with_1(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(source)
    del tensors["model.diffusion_model.out.0.bias"]
    tensors["first_stage_model.decoder.conv_in.bias"] = torch.zeros(3)
    tensors["stray"] = torch.zeros(1, 2)
    save(tmp_path / "bad.safetensors", tensors, {})
    assert cli.main(["inspect", str(tmp_path / "bad.safetensors")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("fault:")] == [
        "fault: model.diffusion_model.out.0.bias: expected [32], found nothing",
        "fault: first_stage_model.decoder.conv_in.bias: expected [32], found [3]",
        "fault: stray: expected no tensor of this name, found [1, 2]",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "sgm", "--fold", "vcut"], "the sgm layout has no form for cross-attentions"),
        (["--to", "vcut", "--fold", "fast"], "--fold takes baseline, lossless, vcut or tca=MODE,sca=MODE"),
        (["--to", "vcut", "--fold", "tca=on"], "--fold takes"),
        (["--to", "vcut", "--head-dim", "many"], "invalid int value: 'many' (see "),
        (["--to", "flax"], "invalid choice: 'flax'"),
        (["--to", "vcut", "--over"], "unrecognized arguments: --over"),
        (["--to", "vcut", "--head-dim", "0"], "a head size must be positive"),
        (["--to", "vcut", "--head-dim", "64"], "say how many channels each head has"),
    ],
)
def test_an_impossible_request_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    out = tmp_path / "out.safetensors"
    assert cli.main(["convert", str(source), str(out), *HEADS, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vcut-weights: error: ")
    assert printed.err.count("\n") == 1
    assert sentence in printed.err
    assert not out.exists()


def test_an_existing_output_is_refused_until_overwrite(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    arguments = ["convert", str(source), str(out), "--to", "vcut", *HEADS]
    assert cli.main(arguments) == 0
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite", "--dtype", "float16", "--name", "mine"]) == 0
    assert all(tensor.dtype == torch.float16 for tensor in load_file(out).values())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_each_percent_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(["convert", str(source), str(tmp_path / "out.safetensors"), "--to", "vcut", *HEADS]) == 0
    told = [int(percent) for percent in re.findall(r"\r[\d.]+ of 0\.01 GB \((\d+) %\)", terminal.getvalue())]
    assert len(told) > 10
    assert told == sorted(set(told))
    assert told[-1] == 100
    assert terminal.getvalue().index("\n") == len(terminal.getvalue()) - 1


def test_an_interrupt_is_said_and_leaves_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weights_tools.convert.write", interrupt)
    assert cli.main(["convert", str(source), str(tmp_path / "o.safetensors"), "--to", "vcut", *HEADS]) == 130
    assert capsys.readouterr().err == "vcut-weights: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["svd_xt.safetensors"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_conversion_as_an_interrupt_does(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    number = getattr(signal, name)

    def terminate(path: Path, *arguments: object, **settings: object) -> None:
        path.write_text("half")
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("weights_tools.convert.write", terminate)
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP, and so would the command
    target = str(tmp_path / "o.safetensors")
    assert cli.main(["convert", str(source), target, "--to", "vcut", *HEADS]) == 128 + number
    assert capsys.readouterr().err == "vcut-weights: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["svd_xt.safetensors"]
    assert signal.signal(number, inherited) == signal.SIG_DFL


def test_a_second_signal_does_not_stop_the_tidying_up_and_an_ignored_one_stays_ignored() -> None:
    tidied = False
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stoppable():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGHUP)
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                tidied = True
    finally:
        signal.signal(signal.SIGHUP, before)
    assert tidied


@pytest.mark.parametrize(
    ("text", "modes"),
    [
        ("baseline", (True, True)),
        ("lossless", ("linear_cached", "linear_cached")),
        ("vcut", (False, "linear_cached")),
        ("tca=false", (False, None)),
        ("sca=linear_cached,tca=True", (True, "linear_cached")),
    ],
)
def test_fold_takes_presets_and_modes(text: str, modes: tuple[object, object]) -> None:
    assert cli.parse_fold(text) == modes


@pytest.mark.parametrize("text", ["", "vcut,", "tca", "tca=2", "foo=true"])
def test_fold_refuses_anything_else(text: str) -> None:
    with pytest.raises(ConfigError, match="--fold takes"):
        cli.parse_fold(text)


def test_a_bug_is_raised_and_what_is_explained_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(args: object) -> None:
        raise RuntimeError("a bug")

    def parser() -> Parser:
        made = Parser(prog="prog")
        made.set_defaults(run=broken)
        return made

    with pytest.raises(RuntimeError, match="a bug"):
        run(parser, "prog", [])
    assert run(parser, "prog", [], explain=lambda error: f"{error}, explained") == 2
    assert capsys.readouterr().err == "prog: error: a bug, explained\n"
    assert run(parser, "prog", ["--help"]) == 0
