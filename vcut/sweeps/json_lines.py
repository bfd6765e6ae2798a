"""Lines of JSON that survive a kill, and dataclasses made from them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def append(path: Path, data: dict[str, Any]) -> None:
    """Add a line of JSON to a file; on return it is on the disk. A line that was cut off before it stays alone."""
    line = json.dumps(data).encode() + b"\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            # after a line that was cut off, a new one begins
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each line that is a JSON object; those that a kill cut off are left out."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(data, dict):
                yield number, data


def typed(kind: Callable[..., T], data: Any) -> T:
    """A dataclass made from a JSON object.

    Raises:
        TypeError: a field is missing or unknown, or is not of the type that its annotation says.
    """
    made = kind(**data)
    for name, hint in _hints(kind).items():
        if not _fits(value := getattr(made, name), hint):
            raise TypeError(f"{name} is {value!r}, expected {getattr(hint, '__name__', hint)}")
    return made


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)
