"""Values of the commands' options: each function reads one text, or says what it expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeVar

from vcut.config import Mode
from vcut.errors import ConfigError

N = TypeVar("N", int, float)


def name(text: str) -> str:
    """A name that is not empty. An empty one, from an unset shell variable, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return text


def path(text: str) -> Path:
    """A path, which an empty text is not."""
    return Path(name(text))


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _number(text, int, 1, "a whole number of at least 1")


def chunk(text: str) -> int | None:
    """A whole number of at least 1, or ``none``."""
    return None if text == "none" else _number(text, int, 1, "a whole number of at least 1, or none")


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _number(text, int, 0, "a whole number of at least 0")


def seed(text: str) -> int:
    """A seed that torch's generators take."""
    return _number(text, int, 0, "a whole number from 0 to 2^63 - 1", 2**63 - 1)


def rate(text: str) -> int:
    """Frames per second that a video can have."""
    return _number(text, int, 1, "a whole number from 1 to 240", 240)


def finite(text: str) -> float:
    """Any number but NaN and infinity."""
    return _number(text, float, -math.inf, "a number")


def strength(text: str) -> float:
    """A number of at least 0."""
    return _number(text, float, 0, "a number of at least 0")


def _number(text: str, kind: type[N], low: float, wanted: str, high: float = math.inf) -> N:
    try:
        value = kind(text)
    except (ValueError, OverflowError):
        value = None
    if value is None or not low <= value <= high or value in (math.inf, -math.inf):
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
    return value


def cut(text: str) -> int | Literal["preset"] | None:
    """A step counted from 1; ``none``; or ``preset``, to be decided by it."""
    if text == "preset":
        return "preset"
    return None if text == "none" else _number(text, int, 1, "a step counted from 1, none or preset")


def steps(text: str) -> Collection[int] | None:
    """``all`` (None), ``none``, or steps ``A-B`` counted from 1, both included."""
    if text == "all":
        return None
    if text == "none":
        return ()
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected all, none or steps such as 1-10, got {text!r}")
    return range(int(first), int(last) + 1)


def size(text: str) -> tuple[int, int]:
    """``1024x576``: width, then height."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT as in 1024x576, got {text!r}")
    return int(width), int(height)


def shard(text: str) -> tuple[int, int]:
    """``0/3``: the first of three parts."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, as in 0/3, got {text!r}")
    return int(number), int(of)


def mode(text: str) -> Mode:
    """The mode of a cross-attention."""
    modes: dict[str, Mode] = {"true": True, "linear_cached": "linear_cached", "false": False}
    if text.lower() not in modes:
        raise argparse.ArgumentTypeError(f"expected true, linear_cached or false, got {text!r}")
    return modes[text.lower()]


def device(name: str) -> str | None:
    """The device to run on, once torch is known to reach it; None for ``auto``."""
    if name == "auto":
        return None
    import torch

    try:
        kind = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name}: there is no such kind of device; use cpu, cuda or mps"
        ) from error
    there = {
        "cpu": True,
        "meta": False,
        "cuda": torch.cuda.is_available() and (kind.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(kind.type, True):
        raise ConfigError(f"--device {name}: this machine has none that torch can use; try --device cpu")
    return name
