"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vcut import cli, media
from vcut.media import images

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("bash", "python")}


def test_the_research_example_runs() -> None:
    (example,) = [block for block in BLOCKS["python"] if "from vcut.unet import" in block]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["out"].shape == (1, 5, 4, 16, 16)


@pytest.mark.slow
def test_the_first_example_in_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(BLOCKS["python"][0], names)
    assert names["frames"].shape == (14, 3, 64, 64)
    assert media.read(tmp_path / "disc.gif")[0].shape == (14, 3, 256, 256)


@pytest.mark.slow
def test_the_first_command_writes_a_clip_that_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size, frame count and rate are read back from the file; the pictures shown below it are what it makes."""
    command = BLOCKS["bash"][0].strip().split("vcut generate ")[1].split()
    assert command[1::2] == ["-o", "--sheet", "--enlarge", "--seed"]
    monkeypatch.chdir(ROOT)
    clip, sheet = tmp_path / command[2], tmp_path / command[4]
    options = [command[0], "-o", str(clip), "--sheet", str(sheet), *command[5:], "--quiet"]
    assert cli.main(["generate", *options]) == 0
    frames, fps = media.read(clip)
    assert frames.shape == (14, 3, 256, 256)
    assert fps == pytest.approx(12, abs=0.2)  # a GIF's clock ticks in hundredths
    shown, _ = media.read(ROOT / "docs" / "clip.gif")
    assert (frames - shown).abs().mean() < 0.01
    assert (
        images.to_tensor(sheet, 260, 520) - images.to_tensor(ROOT / "docs" / "clip.png", 260, 520)
    ).abs().max() < 0.1


def test_ci_runs_the_test_command() -> None:
    (command,) = [block for block in BLOCKS["bash"] if "pytest" in block]
    ci = (ROOT / ".ci" / "run").read_text()
    install, test = command.strip().split(" && ")[1:]
    assert install.removeprefix(".venv/bin/pip install ") in ci
    assert test == ".venv/bin/pytest"
    assert '"$venv/bin/pytest"\n' in ci


def test_files_named_in_the_documents_exist() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_tests_named_anywhere_exist() -> None:
    code = [path for room in ("vcut", "weights_tools", "training") for path in (ROOT / room).rglob("*.py")]
    named = [
        (file.name, name)
        for file in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *code)
        for name in re.findall(r"\btests/[\w/]+\.py", file.read_text())
    ]
    assert named
    for where, name in named:
        assert (ROOT / name).exists(), f"{where}: {name}"
