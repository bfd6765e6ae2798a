"""What a type checker tells a user of the package: names that do not exist, values that settings cannot have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
import vcut

vcut.nothing
vcut.load(preset="quick")
vcut.load(preset="lossless")
vcut.load_unet("tiny", preset="vcut")
vcut.Settings(guidance=(1.5, 3.0), after=("cond", "cond"), seed=range(3))
vcut.Settings(guidance=2, sigmas=[3.0, 1.0], embedding=range(1, 2), seed=[1])
vcut.Settings(guidance=None)
"""


@pytest.mark.slow
def test_mypy_finds_a_wrong_name_and_wrong_values(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py", "--follow-imports=silent"],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    first, second, third, summary = done.stdout.splitlines()
    assert first.startswith('use.py:4: error: Module has no attribute "nothing"')
    assert second.startswith('use.py:5: error: Argument "preset" to "load" has incompatible type')
    assert third.startswith(
        'use.py:10: error: Argument "guidance" to "Settings" has incompatible type "None"'
    )
    assert summary.startswith("Found 3 errors in 1 file")
