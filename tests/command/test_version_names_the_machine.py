"""`vcut --version --verbose` says what a bug report needs, even where torch does not work."""

from __future__ import annotations

import builtins
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vcut
from vcut import cli
from vcut.cli import version
from vcut.kernels import onednn
from vcut.layers import Packing

ROOT = Path(__file__).parents[2]


def lines(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, str]:
    assert cli.main(list(args)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {name: text.strip() for name, _, text in (line.partition(" ") for line in out.splitlines())}


def test_the_version_is_one_line_and_loads_no_torch() -> None:
    code = "import sys; from vcut import cli; cli.main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == [f"vcut {vcut.__version__}", "False"]


@pytest.mark.parametrize("args", [("--version", "--verbose"), ("--verbose", "--version")])
def test_the_report_names_libraries_and_devices(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    told = lines(capsys, *args)
    assert told["vcut"] == vcut.__version__
    assert told["Python"].startswith(platform.python_version())
    assert told["torch"] == torch.__version__
    assert {*version.NEEDED, *version.OPTIONAL} <= set(told)
    assert told["threads"].startswith(str(torch.get_num_threads()))
    assert torch.backends.cpu.get_cpu_capability() in told["processor"]
    if onednn.packs(torch.float32):
        assert "float32" in told["packed"]
        assert Packing.parse(told["packed"].rpartition(" ")[2]) == Packing()
    assert "mps" in told


def test_a_missing_library_is_named_and_said_to_be_optional_or_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "installed", lambda name: None)
    told = lines(capsys, "--version", "--verbose")
    assert told["einops"] == "missing"
    assert told["av"] == "not installed (optional)"


def test_a_torch_that_does_not_load_is_part_of_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **options: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.12: cannot open shared object file")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    told = lines(capsys, "--version", "--verbose")
    assert told["devices"] == "unknown: OSError: libcudart.so.12: cannot open shared object file"


@pytest.mark.parametrize(("major", "own"), [(8, True), (7, False)])
def test_a_gpu_is_named_with_its_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, major: int, own: bool
) -> None:
    card = SimpleNamespace(name="Card 9000", total_memory=24 * 2**30, major=major, minor=6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    told = lines(capsys, "--version", "--verbose")
    assert told["cuda:0"].startswith(f"Card 9000, 24.0 GiB, compute capability {major}.6")
    assert ("bfloat16" in told["cuda:0"]) == own


@pytest.mark.parametrize("args", [["--verbose"], ["--verbose", "generate", "photo.jpg"]])
def test_verbose_alone_is_refused(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert cli.main(args) == 2
    assert "--verbose needs --version" in capsys.readouterr().err
