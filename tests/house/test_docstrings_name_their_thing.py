"""Every docstring opens with a noun or a verb, so that it reads alone, as in a tooltip.

"Epsilon of every layer norm." says what the name stands for; "Of every layer norm." needs the line above it. A string
under an assignment is the docstring of what is assigned. "Whether" is allowed: it names a yes or no.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("vcut", "weights_tools", "training", "benchmarks", "experiments")
HEADLESS = re.compile(
    r"\W*("
    r"after|against|among|as|at|before|beside|between|by|for|from|if|in|into|like|"
    r"of|on|per|since|so|such|than|that|to|told|unless|until|what|when|where|"
    r"whatever|which|who|whom|whose|why|with|within|without|how"
    r")\b",
    re.IGNORECASE,
)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring: of modules, classes, functions, and strings under an assignment."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        is_documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        for above, statement in zip([None, *body], body, strict=False):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            if not isinstance(statement.value.value, str):
                continue
            if isinstance(above, (ast.Assign, ast.AnnAssign)) or (above is None and is_documented):
                yield statement.lineno, statement.value.value


def headless(source: str) -> list[tuple[int, str]]:
    """Line and first line of every docstring that opens with a word of HEADLESS."""
    return [(line, text.strip().splitlines()[0]) for line, text in docstrings(source) if HEADLESS.match(text)]


def folder(path: Path) -> str:
    """A room, or in ``vcut`` a folder of it: ``vcut/unet``, ``benchmarks``."""
    room, *below = path.relative_to(ROOT).parent.parts
    return f"vcut/{below[0]}" if room == "vcut" and below else room


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
FOLDERS = sorted({folder(path) for path in FILES})


@pytest.mark.parametrize("place", FOLDERS)
def test_every_docstring_opens_with_a_noun_or_a_verb(place: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {says}"
        for path in FILES
        if folder(path) == place
        for line, says in headless(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_every_kind_of_docstring_is_seen() -> None:
    source = '''
"""Of a module."""
A = 1
"""What an assignment gives."""
B: int = 2
"""``Whose`` kind."""

class C:
    """As a class."""
    field: int
    """From a field."""

    def method(self):
        """How it works."""
        def inner():
            """In a function."""

async def f():
    """With a task."""
    x = 1
    """To a local."""
'''
    assert len(headless(source)) == source.count('"""') // 2 == 9
    clean = '"""A module."""\nA = 1\n"""Whether it is one."""\nprint()\n"""of no name"""\n'
    assert headless(clean) == []


def test_every_room_is_read() -> None:
    assert len(FILES) > 60
    assert {"vcut", "vcut/unet", "weights_tools", "training", "benchmarks", "experiments"} <= set(FOLDERS)
