"""The package's name, its ranges of versions and its papers agree with what is run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import vcut

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OTHERS = "vcut"  # the name of another project on the package index
TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".json", ""}


def advice(text: str) -> Iterator[str]:
    """What the text tells the reader to install, word by word."""
    for command in re.findall(r"\b(?:install|uv add)((?:[ \t]+[^\s`;&|)]+)+)", text):
        yield from (word.strip("'\".,") for word in command.split())


def names_the_other_project(text: str) -> bool:
    return any(re.fullmatch(rf"{OTHERS}(\[.*\])?([=<>~!@].*)?", word) for word in advice(text))


def texts() -> Iterator[Path]:
    hidden = [ROOT / ".ci", ROOT / ".github", ROOT / ".pre-commit-config.yaml"]
    for place in [*(path for path in ROOT.iterdir() if not path.name.startswith(".")), *hidden]:
        for file in [place] if place.is_file() else place.rglob("*"):
            if file.is_file() and file.suffix in TEXTS and ".egg-info" not in str(file):
                yield file


@pytest.mark.parametrize(
    "text",
    [
        "pip install {}",
        "this needs Pillow: pip install '{}[media]'",
        'pip install -U "{}[media]>=0.1"',
        "`pipx install {}`.",
        "uv add {}==0.1.0",
    ],
)
def test_advice_to_install_the_other_project_is_recognised(text: str) -> None:
    assert names_the_other_project(text.format(OTHERS))
    assert not names_the_other_project(text.format(PROJECT["name"]))


def test_nothing_in_the_tree_advises_installing_the_other_project() -> None:
    files = list(texts())
    assert {ROOT / "README.md", ROOT / "vcut" / "media" / "clips.py"} <= set(files)
    assert [file for file in files if names_the_other_project(file.read_text())] == []


def test_the_extras_refer_to_this_project_by_its_own_name() -> None:
    assert canonicalize_name(PROJECT["name"]) != OTHERS
    refers = [line for lines in EXTRAS.values() for line in lines if line.startswith(OTHERS)]
    assert [Requirement(line).name for line in refers] == [PROJECT["name"]]


def pins(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in lines}


def requirements(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines) if r.name != PROJECT["name"]}


def lower_bound(requirement: Requirement) -> Version:
    (bound,) = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
    return Version(bound)


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """Those of the linters are what the checks run with: another release formats and complains differently."""
    claimed = {name: lower_bound(r) for name, r in requirements("media", "test").items()}
    for linter in ("ruff", "mypy"):
        assert claimed.pop(linter).release[:2] == pins("constraints.txt")[linter].release[:2]
    assert claimed == pins("constraints-oldest.txt")


def test_the_peers_are_claimed_in_the_versions_that_run() -> None:
    run = pins("constraints.txt")
    for extra in EXTRAS["parity"]:
        requirement = Requirement(extra)
        assert lower_bound(requirement).release[:2] == run[requirement.name].release[:2]


def test_the_versions_that_run_are_in_the_claimed_ranges() -> None:
    run = pins("constraints.txt")
    for name, requirement in requirements(*EXTRAS).items():
        assert run[name] in requirement.specifier, requirement


def test_the_workflow_runs_the_oldest_and_the_newest_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())
    job = workflow["jobs"]["checks"]
    oldest, newest = job["strategy"]["matrix"]["python"]
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert (f">={oldest}", newest) == (PROJECT["requires-python"], claimed[-1])
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vcut.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_hooks_call_the_checks_of_the_project() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[0] for hook in hooks] == [
        ".venv/bin/ruff",
        ".venv/bin/ruff",
        ".venv/bin/mypy",
    ]
