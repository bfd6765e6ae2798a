"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vcut import cli, media

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("bash", "python")}


def test_the_research_example_runs() -> None:
    (example,) = [block for block in BLOCKS["python"] if "from vcut.unet import" in block]
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["out"].shape == (1, 5, 4, 16, 16)


def test_the_first_command_writes_a_clip_that_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size, frame count and rate are read back from the file."""
    command = BLOCKS["bash"][0].strip().split("vcut generate ")[1].split()
    assert command[:2] == ["examples/rocket.jpg", "-o"]
    monkeypatch.chdir(ROOT)
    out = tmp_path / command[2]
    assert cli.main(["generate", command[0], "-o", str(out), *command[3:], "--quiet"]) == 0
    frames, fps = media.read(out)
    assert frames.shape == (8, 3, 64, 64)
    assert fps == 7


def test_ci_runs_the_test_command() -> None:
    (command,) = [block for block in BLOCKS["bash"] if "pytest" in block]
    ci = (ROOT / ".ci" / "run").read_text()
    install, test = command.strip().split(" && ")[1:]
    assert install.removeprefix(".venv/bin/pip install ") in ci
    assert test == ".venv/bin/pytest"
    assert '"$venv/bin/pytest"\n' in ci


def test_files_named_in_the_documents_exist() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
