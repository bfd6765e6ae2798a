"""Values of the commands' options: each function reads one text, or says what it expected."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from vcut.config import LARGEST, Mode
from vcut.errors import ConfigError

if TYPE_CHECKING:
    from vcut.layers import Packing

N = TypeVar("N", int, float)


def name(text: str) -> str:
    """A name that is not empty. An empty one, from an unset shell variable, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return text


def path(text: str) -> Path:
    """A path, which an empty text is not; ``~`` is the user's home also where no shell has said so."""
    return Path(os.path.expanduser(name(text)))  # noqa: PTH111  # pathlib raises for a home that it does not know


def output(text: str) -> str:
    """A path whose last character tells a folder from a file; a backslash does too, on any system."""
    if text == "-":
        raise argparse.ArgumentTypeError("clips are not written to stdout: expected a path (./- is one)")
    text = os.path.expanduser(name(text))  # noqa: PTH111  # a Path would lose the end
    return f"{text[:-1]}/" if text.endswith("\\") else text


def count(text: str) -> int:
    """A whole number of at least 1, and within reason."""
    return _number(text, int, 1, f"a whole number from 1 to {LARGEST}", LARGEST)


def chunk(text: str) -> int | None:
    """A whole number of at least 1, or ``none``."""
    return (
        None
        if text == "none"
        else _number(text, int, 1, f"none or a whole number from 1 to {LARGEST}", LARGEST)
    )


def memory(text: str) -> float | None:
    """A number of GiB, or None for ``auto``."""
    wanted = "auto or a number of GiB from 0.001 to 1000000"
    return None if text == "auto" else _number(text, float, 0.001, wanted, 1e6)


def whole(text: str) -> int:
    """A whole number of at least 0, and within reason."""
    return _number(text, int, 0, f"a whole number from 0 to {LARGEST}", LARGEST)


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
        raise _expected(wanted, text)
    return value


def _two(text: str, between: str, wanted: str) -> tuple[int, int]:
    """Two whole numbers with a character between them."""
    found = re.fullmatch(rf"(\d{{1,999}}){between}(\d{{1,999}})", text)
    if not found:
        raise _expected(wanted, text)
    return int(found[1]), int(found[2])


def _expected(wanted: str, text: str) -> argparse.ArgumentTypeError:
    found = repr(text) if len(text) < 60 else f"{text[:40]!r}... ({len(text)} characters)"
    return argparse.ArgumentTypeError(f"expected {wanted}, got {found}")


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
    wanted = "all, none or steps such as 1-10"
    first, last = _two(text, "-", wanted)
    if not 1 <= first <= last:
        raise _expected(wanted, text)
    return range(first, last + 1)


def size(text: str) -> tuple[int, int]:
    """``1024x576``: width, then height."""
    return _two(text.lower(), "x", "WIDTHxHEIGHT as in 1024x576")


def shard(text: str) -> tuple[int, int]:
    """``0/3``: the first of three parts."""
    wanted = "I/N with I from 0 to N - 1, as in 0/3"
    number, of = _two(text, "/", wanted)
    if number >= of:
        raise _expected(wanted, text)
    return number, of


def mode(text: str) -> Mode:
    """The mode of a cross-attention."""
    modes: dict[str, Mode] = {"true": True, "linear_cached": "linear_cached", "false": False}
    if text.lower() not in modes:
        raise argparse.ArgumentTypeError(f"expected true, linear_cached or false, got {text!r}")
    return modes[text.lower()]


def packing(text: str) -> Packing:
    """The forms that weights are packed in."""
    from vcut.layers import Packing

    try:
        return Packing.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def device(name: str) -> str | None:
    """The device to run on, once torch is known to reach it; None for ``auto``."""
    if name == "auto":
        return None
    from vcut.layers import device_named

    try:
        device = device_named(name)
    except ConfigError as error:
        raise ConfigError(f"--device {name}: {error}") from error
    if device.type == "meta":
        raise ConfigError(f"--device {name}: nothing is computed there")
    return str(device)
