"""What is in a checkpoint, from its headers alone."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weights_tools.files import Source, locate
from weights_tools.structure import PARTS, CLIPStructure, Layout, Part, Structure, UNetStructure


@dataclass(frozen=True)
class PartDescription:
    """One network. ``faults`` are sentences, one for each tensor that is missing, unknown or of another shape."""

    structure: Structure
    keys: int
    parameters: int
    dtypes: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. ``faults`` are those of all parts and those that belong to none."""

    path: Path
    layout: Layout
    parts: dict[Part, PartDescription]
    unused: int
    faults: tuple[str, ...]
    metadata: dict[str, str]
    configs: dict[Part, dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def missing_parts(self) -> tuple[Part, ...]:
        """The networks that a whole model has and this checkpoint has not."""
        return tuple(part for part in PARTS if part not in self.parts)

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration that a file written by vcut carries."""
        try:
            data = json.loads(self.metadata.get("config", "null"))
        except ValueError:
            return None
        return data if isinstance(data, dict) and "unet" in data else None


def describe(path: str | os.PathLike[str], variant: str | None = None) -> Checkpoint:
    """Describe a checkpoint without reading a tensor; arguments and errors as :func:`weights_tools.files.locate`.

    What is wrong with single tensors is not raised but listed.
    """
    return describe_source(locate(path, variant))


def describe_source(source: Source) -> Checkpoint:
    """:func:`describe` for a checkpoint already located."""
    parts = {part: _describe_part(source, part) for part in PARTS if part in source.parts}
    faults = [fault for part in parts.values() for fault in part.faults]
    faults += map(str, source.unknown_faults())
    unet, clip = (parts[p].structure if p in parts else None for p in ("unet", "clip"))
    if not faults and isinstance(unet, UNetStructure) and isinstance(clip, CLIPStructure):
        c, e = unet.context_dim, clip.embed_dim
        faults += [f"the unet takes a context of {c} numbers, clip makes {e}"] if c != e else []
    return Checkpoint(
        source.path,
        source.layout,
        parts,
        len(source.unused),
        tuple(faults),
        source.metadata,
        source.configs,
        source.settings,
    )


def _describe_part(source: Source, part: Part) -> PartDescription:
    stored = source.parts[part].values()
    found = source.plan(part)
    return PartDescription(
        structure=found.structure,
        keys=len(stored),
        parameters=sum(math.prod(tensor.shape) for tensor in stored),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored})),
        faults=tuple(map(str, found.faults)),
    )
