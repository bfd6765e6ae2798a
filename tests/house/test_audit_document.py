"""``docs/audit.md`` has a table of tests under every claim, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
DOCUMENT = (ROOT / "docs" / "audit.md").read_text()
CLAIMS = re.split(r"^\*\*(?=\d+\. )", DOCUMENT, flags=re.MULTILINE)[1:]
HEAD = "| what it shows | test |\n| :-- | :-- |\n"
ROW = re.compile(r"\| (.+) \| `(test_\w+\.py)::(test_\w+)` \|")


def tables(text: str) -> list[list[tuple[str, str, str]]]:
    """What each row of each table of tests shows, the file of its test and the test's name."""
    found = []
    for part in text.split(HEAD)[1:]:
        rows = part.split("\n\n")[0].strip().splitlines()
        matches = [ROW.fullmatch(row) for row in rows]
        assert all(matches), rows
        found.append([(m[1], m[2], m[3]) for m in matches if m])
    return found


ROWS = [row for table in tables(DOCUMENT) for row in table]
NAMED = [(file, name) for _, file, name in ROWS]


def functions(file: str) -> set[str]:
    (path,) = TESTS.rglob(file)
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_it_names_exists(file: str) -> None:
    missing = {name for named, name in NAMED if named == file} - functions(file)
    assert not missing


def test_nothing_that_looks_like_a_test_escapes_the_check() -> None:
    assert (
        len(re.findall(r"\w+\.py::", DOCUMENT)) == len(re.findall(r"\btest_\w+\.py", DOCUMENT)) == len(NAMED)
    )
    assert len(NAMED) == len(set(NAMED)) > 55


def test_every_claim_has_one_table() -> None:
    assert [claim.split(".")[0] for claim in CLAIMS] == [str(i + 1) for i in range(12)]
    for claim in CLAIMS:
        own = claim.split("\n## ")[0]
        assert len(tables(own)) == 1, claim.splitlines()[0]
        assert len(tables(own)[0]) >= 2, claim.splitlines()[0]
    measured = DOCUMENT.split("## What `vcut audit` measures")[1]
    assert len(tables(measured)) == 1


def test_every_row_says_what_it_shows_and_controls_are_marked() -> None:
    says = [says for says, _, _ in ROWS]
    assert len(set(says)) == len(says)
    assert all(re.match(r"(\*control:\* )?\w", each) for each in says)
    controlled = [claim.split(".")[0] for claim in CLAIMS if "| *control:* " in claim.split("\n## ")[0]]
    assert {"1", "2", "3", "4", "7", "8", "11"} <= set(controlled)


def test_every_proof_is_part_of_the_argument() -> None:
    proofs = {file.name for file in (TESTS / "proofs").glob("test_*.py")}
    assert proofs <= {file for file, _ in NAMED}


def test_its_other_paths_exist() -> None:
    for path in re.findall(r"\b(?:benchmarks|experiments|vcut|docs|tests)/[\w/]+\.\w+", DOCUMENT):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", DOCUMENT):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
