"""``docs/audit.md`` names a test for every claim, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
DOCUMENT = (ROOT / "docs" / "audit.md").read_text()
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT)
CLAIMS = re.split(r"^\*\*(?=\d+\. )", DOCUMENT, flags=re.MULTILINE)[1:]


def functions(file: str) -> set[str]:
    (path,) = TESTS.rglob(file)
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_it_names_exists(file: str) -> None:
    missing = {name for named, name in NAMED if named == file} - functions(file)
    assert not missing


def test_nothing_that_looks_like_a_test_escapes_the_check() -> None:
    assert len(re.findall(r"\w+\.py::", DOCUMENT)) == len(NAMED)
    assert len(NAMED) == len(set(NAMED)) > 40


def test_every_claim_names_one() -> None:
    assert [claim.split(".")[0] for claim in CLAIMS] == [str(i + 1) for i in range(12)]
    for claim in CLAIMS:
        assert "::test_" in claim, claim.splitlines()[0]


def test_every_proof_is_part_of_the_argument() -> None:
    proofs = {file.name for file in (TESTS / "proofs").glob("test_*.py")}
    assert proofs <= {file for file, _ in NAMED}


def test_its_other_paths_exist() -> None:
    for path in re.findall(r"\b(?:benchmarks|vcut|docs)/[\w/]+\.\w+", DOCUMENT):
        assert (ROOT / path).exists(), path
