"""Reading a network's structure off the names and shapes of its tensors, in any layout.

Three callers need it beyond the published sizes, which are recognised at once: single files of other sizes that carry
no configuration (small models in the sgm layout, a UNet by itself); damaged files, whose faults are named against the
structure that they were meant to have; and configurations that come with weights, which are checked against it.

It takes two steps. Neither looks for a particular key, so that a damaged file still shows its structure. First comes
the skeleton (how many levels, layers, blocks): the one with most of its modules in the file and fewest missing. Then
every number (channels, context width) is put to the vote of all axes that should have it.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from weights_tools.errors import CheckpointError
from weights_tools.fold import modes
from weights_tools.layouts import Shape, entries, landmarks
from weights_tools.model import Mode
from weights_tools.structure import (
    PUBLISHED,
    CLIPStructure,
    Layout,
    Part,
    Structure,
    UNetStructure,
    VAEStructure,
)

_NUMBERS: dict[Part, tuple[str, ...]] = {
    "unet": ("channels", "in_channels", "out_channels", "context_dim", "label_dim"),
    "vae": ("channels", "latent_channels"),
    "clip": ("width", "mlp_dim", "embed_dim", "patch_size", "tokens"),
}

# Stand-ins for the numbers: odd primes, so that no sum of two and no multiple of one is another.
_MARKS = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091, 10093, 10099, 10103)
_MAX_LEVELS, _MAX_LAYERS_PER_LEVEL, _MAX_DEPTH, _MAX_LAYERS = 6, 4, 4, 64

_FORMS: tuple[Mode, ...] = (True, "linear_cached", False)


def infer(shapes: Mapping[str, Shape], part: Part, layout: Layout) -> Structure:
    """The structure that explains best the part-local names and ``shapes`` of one network."""
    known = _known(shapes, part, layout)
    for structure in known:  # a published checkpoint is recognised at once
        if dict(entry.stored(layout)[::2] for entry in entries(structure)) == shapes:
            return structure

    def present_minus_missing(names: Iterable[str]) -> int:
        return sum(1 if name in shapes else -1 for name in names)

    def score(structure: Structure) -> int:
        return present_minus_missing(landmarks(structure, layout))

    likely = heapq.nlargest(4, (s for start in known for s in _sizes(start)), key=score)
    best = max(likely, key=lambda s: present_minus_missing(e.stored(layout)[0] for e in entries(s)))
    while score(near := max(_neighbours(best, layout), key=score)) > score(best):
        best = near
    return _measure(best, shapes, part, layout)


def _known(names: Collection[str], part: Part, layout: Layout) -> tuple[Structure, ...]:
    published = PUBLISHED[part]
    if isinstance(published, VAEStructure):
        return published, replace(published, temporal=False)
    if isinstance(published, UNetStructure) and layout == "vcut":
        # in a damaged file the form of the cross-attentions has to be found like everything else
        with contextlib.suppress(CheckpointError):
            tca, sca = modes(names)
            return (replace(published, tca=tca, sca=sca),)
    return (published,)


def _sizes(structure: Structure) -> Iterator[Structure]:
    """Skeletons of every number of levels and layers, without attention: resnets and resampling tell the size."""
    if isinstance(structure, CLIPStructure):
        yield from (replace(structure, layers=n) for n in range(1, _MAX_LAYERS + 1))
        return
    for levels in range(1, _MAX_LEVELS + 1):
        for layers in range(1, _MAX_LAYERS_PER_LEVEL + 1):
            resized = replace(structure, channels=_resized(structure.channels, levels), layers=layers)
            yield (
                replace(resized, attention=(False,) * levels)
                if isinstance(resized, UNetStructure)
                else resized
            )


def _neighbours(structure: Structure, layout: Layout) -> Iterator[Structure]:
    """The skeleton itself, and all that differ from it in one thing."""
    yield structure
    if not isinstance(structure, UNetStructure):
        return
    for i, flag in enumerate(structure.attention):
        yield replace(
            structure, attention=(*structure.attention[:i], not flag, *structure.attention[i + 1 :])
        )
    for depth in range(1, _MAX_DEPTH + 1):
        yield replace(structure, depth=depth)
    if layout == "vcut":
        yield from (replace(structure, tca=tca, sca=sca) for tca in _FORMS for sca in _FORMS)


def _resized(values: tuple[Any, ...], n: int) -> tuple[Any, ...]:
    """The values of ``n`` levels: the first ones as they are, then the last one as often as needed."""
    return values[: n - 1] + (values[-1],) * (n - len(values[: n - 1]))


def _measure(skeleton: Structure, shapes: Mapping[str, Shape], part: Part, layout: Layout) -> Structure:
    """``skeleton`` with its numbers read off ``shapes``: each is the size that most of its axes have."""
    marks = iter(_MARKS)
    marked: dict[str, Any] = {}
    for field in _NUMBERS[part]:
        value = getattr(skeleton, field)
        marked[field] = tuple(next(marks) for _ in value) if isinstance(value, tuple) else next(marks)

    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for entry in entries(replace(skeleton, **marked)):
        key, _, expected = entry.stored(layout)
        found = shapes.get(key, ())
        if len(found) == len(expected):
            for mark, size in zip(expected, found, strict=True):
                votes[mark][size] += 1

    def elected(field: str, mark: int, default: int) -> int:
        counts = {size: n for size, n in votes[mark].items() if _possible(field, size)}
        return max(counts, key=lambda size: (counts[size], size == default), default=default)

    numbers: dict[str, Any] = {}
    for field, mark in marked.items():
        default = getattr(skeleton, field)  # the published number, where nothing else is known
        numbers[field] = (
            tuple(elected(field, m, d) for m, d in zip(mark, default, strict=True))
            if isinstance(mark, tuple)
            else elected(field, mark, default)
        )
    return replace(skeleton, **numbers)


def _possible(field: str, size: int) -> bool:
    if field == "tokens":  # a square of patches and the class
        return size > 1 and math.isqrt(size - 1) ** 2 == size - 1
    return size > 0 and (field != "label_dim" or size % 3 == 0)
