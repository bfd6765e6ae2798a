"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| .* \| .* \| (?P<tests>[^|]+) \|$")


def cited() -> list[tuple[str, str]]:
    """The file and the test of every citation; the test is empty where the whole file is meant."""
    found = []
    for line in (ROOT / "docs" / "reliability.md").read_text().splitlines():
        if not (row := ROW.match(line)) or ".py" not in row["tests"]:
            continue
        for citation in row["tests"].split("<br>"):
            file, _, names = citation.partition(":")
            found += [(file.strip(), name.strip()) for name in names.split(",")]
    return found


def test_every_row_names_tests_that_exist():
    citations = cited()
    assert len(citations) > 150
    for file, name in citations:
        path = ROOT / file if file.startswith(".ci") else ROOT / "tests" / file
        assert path.is_file(), file
        assert not name or re.search(rf"def test_{name}\b", path.read_text()), f"{file}: {name}"


def test_every_row_has_a_test():
    for line in (ROOT / "docs" / "reliability.md").read_text().split("## Mutated files")[0].splitlines():
        if line.startswith("| ") and not line.startswith("| fault"):
            assert ".py" in line, line
