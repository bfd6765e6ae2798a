"""The mutation script changes one thing at a time, and every change is another program."""

from __future__ import annotations

import ast

from tests.mutation.mutants import mutants

SOURCE = '''
def area(width: int, height: int = 2) -> int:
    """Width times height: 3 * 4 is 12."""
    if width < 0 and not height:
        raise ValueError(f"{width - 1} is negative")
    return width * height
'''


def test_each_mutant_differs_from_the_source_in_one_line():
    sound = ast.unparse(ast.parse(SOURCE)).splitlines()
    found = list(mutants(SOURCE))
    assert len(found) > 5
    for mutant in found:
        changed = mutant.source().splitlines()
        assert len(changed) == len(sound)
        assert sum(a != b for a, b in zip(sound, changed, strict=True)) == 1, mutant.change


def test_operators_numbers_conditions_raises_and_results_are_changed():
    changes = {mutant.change for mutant in mutants(SOURCE)}
    assert "width * height -> width / height" in changes
    assert "2 -> 3" in changes
    assert "not height -> height" in changes
    assert "width < 0 -> width <= 0" in changes
    assert "width < 0 and (not height) -> width < 0 or not height" in changes
    assert "if width < 0 and (not height): -> if False:" in changes
    assert "return width * height -> return None" in changes
    assert any(change.endswith("-> (nothing)") for change in changes)


def test_a_mutant_knows_its_function():
    for mutant in mutants(SOURCE):
        inside = mutant.change != "2 -> 3"
        assert mutant.function == (("area", range(2, 7)) if inside else None)


def test_docstrings_annotations_and_messages_are_left_alone():
    for mutant in mutants(SOURCE):
        assert "3 * 4 is 12" in mutant.source()
        assert "width: int" in mutant.source()
        assert "width - 1" in mutant.source() or mutant.change.endswith("-> (nothing)")
