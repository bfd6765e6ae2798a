"""The choice among forms that compute the same: which of them is the fastest differs from CPU to CPU.

Only what packing decides is chosen here. What plain networks decide as well (attention written out or fused, the
form of group norm, the size of parts) and the numbers of channels from which on a form pays are constants of their
modules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

import torch

from vcut.errors import ConfigError

Form = Literal["blocks", "plain"]
"""Weights in blocks that fit the CPU's registers, or as they are."""


def _of_instruction_set() -> Form:
    """The form that a CPU with these instructions computes faster: see :mod:`vcut.kernels.matrices`."""
    return "blocks" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "plain"


@dataclass(frozen=True)
class Packing:
    """The forms that layers are packed in. ``Packing()`` is what a model of this CPU's instruction set chooses.

    ``Packing(matrices="blocks")`` leaves the rest to that model. The text of a packing has all of it, and
    :meth:`parse` reads it back. The result of a network is the same up to rounding whichever is chosen.

    Attributes:
        matrices: form of matrices in float32. In half precision they are in blocks: torch has one library for it.
        filters: form of convolutions' filters; blocks only where they serve maps of any size
            (:func:`vcut.kernels.onednn.same_blocks`).
        filtering: minimal filtering of 3x3 and 3x1x1 convolutions over many channels in float32
            (:mod:`vcut.kernels.winograd`): with a tile of ``4`` or of ``2`` results, by ``width`` (4 for up to 640
            channels, 2 for more), or ``none``.
        upsampling: convolutions of upsampled maps. ``filtered`` in float32 over many channels, and elsewhere as four
            of the small map, if their filters have blocks; as ``four`` everywhere; or ``plain``.
        narrow: maps of few columns and many channels, ``joined`` to one wide map, or ``apart``.

    Raises:
        ConfigError: a value that is none of these.
    """

    matrices: Form = field(default_factory=_of_instruction_set)
    filters: Form = field(default_factory=_of_instruction_set)
    filtering: Literal["width", "4", "2", "none"] = "width"
    upsampling: Literal["filtered", "four", "plain"] = "filtered"
    narrow: Literal["joined", "apart"] = "joined"

    def __post_init__(self) -> None:
        for name, values in VALUES.items():
            if (value := getattr(self, name)) not in values:
                raise ConfigError(f"{name}: expected {' or '.join(values)}, got {value!r}")

    def __str__(self) -> str:
        return ",".join(f"{name}={getattr(self, name)}" for name in VALUES)

    @classmethod
    def parse(cls, text: str) -> Packing:
        """The packing of a text such as ``matrices=blocks,filtering=2``; what it does not say is this CPU's.

        Raises:
            ConfigError: the text has a word that is none, or a name twice.
        """
        given: dict[str, Any] = {}
        for word in text.split(","):
            name, _, value = word.partition("=")
            if name not in VALUES:
                raise ConfigError(f"expected some of {'=, '.join(VALUES)}=, got {word!r}")
            if name in given:
                raise ConfigError(f"{name} is given twice: as {given[name]!r} and as {value!r}")
            given[name] = value
        return cls(**given)


VALUES: dict[str, tuple[str, ...]] = {name: get_args(hint) for name, hint in get_type_hints(Packing).items()}
"""The values that each field of a packing can have."""
