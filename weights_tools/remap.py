"""Renaming between the layouts, strictly: every tensor used once, none missing, none left over, every shape right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from weights_tools.errors import CheckpointError, ConfigError, shown
from weights_tools.infer import infer
from weights_tools.layouts import Entry, Form, Shape, entries
from weights_tools.structure import Layout, Part, Structure, UNetStructure

LISTED = 50
"""The number of faults that an error lists."""

# Buffers that a file may have or not; they hold the numbers 0, 1, 2... and are not needed.
_OPTIONAL = {("clip", "diffusers"): "vision_model.embeddings.position_ids"}

_THIRDS = (Form.THIRD_1, Form.THIRD_2, Form.THIRD_3)


class Lazy(Mapping[str, Tensor]):
    """Tensors by name, each made by a function when it is asked for, and not kept."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self.makers = makers

    @staticmethod
    def of(tensors: Mapping[str, Mapping[str, Tensor]]) -> Lazy:
        """All tensors of several mappings, each mapping under its prefix."""
        return Lazy(
            {
                prefix + name: partial(named.__getitem__, name)
                for prefix, named in tensors.items()
                for name in named
            }
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


class Fault(NamedTuple):
    """A tensor that is wrong: its shape as ``expected`` and as ``found``.

    ``expected`` is None if there should be no such tensor, ``found`` if there is none.
    """

    key: str
    expected: Shape | None
    found: Shape | None

    def __str__(self) -> str:
        expected = "no tensor of this name" if self.expected is None else list(self.expected)
        found = "nothing" if self.found is None else list(self.found)
        return f"{shown(self.key)}: expected {expected}, found {found}"


@dataclass(frozen=True)
class Comparison:
    """The structure of one network as stored, and every tensor that disagrees with it."""

    structure: Structure
    faults: tuple[Fault, ...]


def compare(shapes: Mapping[str, Shape], part: Part, layout: Layout) -> Comparison:
    """Compare the part-local names and shapes of a network with what its structure asks for."""
    optional = _OPTIONAL.get((part, layout))
    shapes = {key: tuple(shape) for key, shape in shapes.items() if key != optional}
    structure = infer(shapes, part, layout)
    expected = dict(entry.stored(layout)[::2] for entry in entries(structure))
    faults = [
        Fault(key, expected.get(key), shapes.get(key))
        for key in sorted({*expected, *shapes})
        if expected.get(key) != shapes.get(key)
    ]
    return Comparison(structure, tuple(faults))


def refuse(faults: Sequence[Fault | str], what: str, file: str | os.PathLike[str] | None = None) -> None:
    """Raise one :class:`CheckpointError` that lists all of ``faults``; do nothing if there are none."""
    if not faults:
        return
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = [f"{file or 'these weights'}: not {what}: {count}", *map(str, faults[:LISTED])]
    if len(faults) > LISTED:
        lines.append(f"and {len(faults) - LISTED} more")
    raise CheckpointError("\n  ".join(lines))


def from_layout(source: Mapping[str, Tensor], part: Part, layout: Layout) -> dict[str, Tensor]:
    """Rename the tensors of one network from ``layout`` to vcut.

    Args:
        source: part-local names, without ``model.diffusion_model.`` or the like.
        part: which network.
        layout: the layout that the names belong to.

    Returns:
        Every tensor of the network under its vcut name and shape, as views of ``source`` where possible.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape; all of them are listed.
    """
    state = {}
    for entry in entries(_checked(source, part, layout)):
        key, form, _ = entry.stored(layout)
        state[entry.name.vcut] = unpack(source[key], form)
    return state


def to_layout(state: Mapping[str, Tensor], part: Part, layout: Layout) -> dict[str, Tensor]:
    """Rename the tensors of one network from vcut to ``layout``: the inverse of :func:`from_layout`.

    Raises:
        CheckpointError: as :func:`from_layout`.
        ConfigError: the UNet is folded, for which no other layout has a form.
    """
    return dict(lazily_to_layout(state, layout, _checked(state, part, "vcut")))


def lazily_to_layout(state: Mapping[str, Tensor], layout: Layout, structure: Structure) -> Lazy:
    """:func:`to_layout`, tensor by tensor, for a ``state`` known to be of this ``structure``."""
    if (
        isinstance(structure, UNetStructure)
        and layout != "vcut"
        and not (structure.tca is structure.sca is True)
    ):
        raise ConfigError(
            f"the {layout} layout has no form for cross-attentions with tca={structure.tca!r}, "
            f"sca={structure.sca!r}; only trained ones (tca=True, sca=True) can be exported to it"
        )
    stored: dict[str, list[Entry]] = {}
    for entry in entries(structure):
        stored.setdefault(entry.stored(layout)[0], []).append(entry)

    def make(sources: list[Entry]) -> Tensor:
        tensors = [_pack(state[entry.name.vcut], entry.stored(layout)[1]) for entry in sources]
        return tensors[0] if len(tensors) == 1 else _joined(tensors)  # the three thirds come in order

    return Lazy({key: partial(make, sources) for key, sources in stored.items()})


def _checked(state: Mapping[str, Tensor], part: Part, layout: Layout) -> Structure:
    found = compare({key: tuple(tensor.shape) for key, tensor in state.items()}, part, layout)
    refuse(found.faults, f"a complete {part} in the {layout} layout")
    return found.structure


def _joined(thirds: list[Tensor]) -> Tensor:
    if thirds[0].is_meta:  # torch.cat on the meta device would import torch's compiler: seconds
        return thirds[0].new_empty((3 * len(thirds[0]), *thirds[0].shape[1:]))
    return torch.cat(thirds)


def unpack(stored: Tensor, form: Form) -> Tensor:
    """One tensor as vcut has it, from the form that another layout stores it in; a view where possible."""
    if form is Form.VOLUME:
        return stored.squeeze(4)
    if form is Form.POINTWISE:
        return stored.flatten(1)
    if form is Form.TRANSPOSED:
        return stored.t().contiguous()
    return stored if form is Form.SAME else stored.chunk(3)[_THIRDS.index(form)]


def _pack(tensor: Tensor, form: Form) -> Tensor:
    if form is Form.VOLUME:
        return tensor.unsqueeze(4)
    if form is Form.POINTWISE:
        return tensor[:, :, None, None]
    return tensor.t().contiguous() if form is Form.TRANSPOSED else tensor
