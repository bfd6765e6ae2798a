"""Checkpoints on disk: which file holds which tensor of which network, in which layout.

Three forms: one file with all networks (the sgm layout, or vcut's own), a folder of folders (diffusers), or one
network's file by itself. They are told apart by names and shapes. A checkpoint is opened once, by its headers alone;
no tensor is read until it is asked for.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights_tools.errors import CheckpointError
from weights_tools.fold import Mode, made, recipe
from weights_tools.layouts import Form, Shape, entries
from weights_tools.remap import Comparison, Fault, compare, refuse, unpack
from weights_tools.structure import (
    LAYOUTS,
    PARTS,
    PUBLISHED,
    CLIPStructure,
    Layout,
    Part,
    Structure,
    UNetStructure,
    reformed,
)
from weights_tools.tensor_file import PICKLES, Header, Reader, read_header

Routes = tuple[tuple[str, Part, str], ...]
"""Triples: prefix in a whole checkpoint, the network it belongs to, prefix within the network."""

ROUTES: dict[Layout, Routes] = {
    "sgm": (
        ("model.diffusion_model.", "unet", ""),
        ("first_stage_model.decoder.", "vae", "decoder."),
        ("first_stage_model.post_quant_conv.", "vae", "post_quant_conv."),
        ("conditioner.embedders.3.encoder.encoder.", "vae", "encoder."),
        ("conditioner.embedders.3.encoder.quant_conv.", "vae", "quant_conv."),
        ("conditioner.embedders.0.open_clip.model.visual.", "clip", ""),
    ),
    "vcut": (("unet.", "unet", ""), ("vae.", "vae", ""), ("clip.", "clip", "")),
}

# The rest of an sgm file: a second encoder, the conditioning VAE's other half, remains of CLIP's text tower.
_TEXT = "conditioner.embedders.0.open_clip.model."
SGM_UNUSED = (
    "first_stage_model.encoder.",
    "first_stage_model.quant_conv.",
    "conditioner.embedders.3.encoder.decoder.",
    "conditioner.embedders.3.encoder.post_quant_conv.",
    f"{_TEXT}token_embedding.weight",
    f"{_TEXT}positional_embedding",
    f"{_TEXT}ln_final.weight",
    f"{_TEXT}ln_final.bias",
    f"{_TEXT}text_projection",
    f"{_TEXT}logit_scale",
)

FOLDERS: dict[Part, tuple[str, str]] = {
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "clip": ("image_encoder", "model"),
}
"""The folder of each network in a diffusers checkpoint, and its file without ``.safetensors``."""

_UPSAMPLE = re.compile(r"^up\.(\d+)\.upsample")

SETTINGS = "vcut.json"
"""Extra file in a diffusers folder exported by vcut: settings that diffusers' own JSON files cannot hold."""


@dataclass(frozen=True)
class Stored:
    """One tensor as stored: its file, its name there, its shape and its dtype."""

    file: Path
    key: str
    shape: Shape
    dtype: torch.dtype


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, made when asked for and not kept: read, unpacked, folded and cast.

    Args:
        sources: the stored tensors that each is made from, with their forms: one, or two to multiply
            (:func:`weights_tools.fold.made`).
        dtype: what floating-point tensors are cast to; None leaves them as stored.
        data: False gives tensors on the meta device, with shape and dtype alone, and opens no file.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[tuple[Stored, Form]]],
        dtype: torch.dtype | None = None,
        *,
        data: bool = True,
    ) -> None:
        self._sources, self._dtype, self._data = sources, dtype, data
        self._readers: dict[Path, Reader] = {}

    def __getitem__(self, name: str) -> Tensor:
        tensor = made([unpack(self._read(stored), form) for stored, form in self._sources[name]])
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def _read(self, stored: Stored) -> Tensor:
        if not self._data:
            return torch.empty(stored.shape, dtype=stored.dtype, device="meta")
        if stored.file not in self._readers:
            self._readers[stored.file] = Reader(stored.file)
        return self._readers[stored.file][stored.key]


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint. ``tensors`` have part-local names in ``layout``."""

    part: Part
    layout: Layout
    tensors: dict[str, Stored]
    routes: Routes

    @cached_property
    def _comparison(self) -> Comparison:
        shapes = {name: stored.shape for name, stored in self.tensors.items()}
        return compare(shapes, self.part, self.layout)

    @property
    def structure(self) -> Structure:
        """The structure that explains the tensors best; the only one, if there are no faults."""
        return self._comparison.structure

    @property
    def faults(self) -> tuple[Fault, ...]:
        """One fault for each tensor that is missing, unknown or of another shape, under its name in the file."""
        return tuple(
            fault._replace(key=whole_name(self.routes, self.part, fault.key))
            for fault in self._comparison.faults
        )

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(stored.shape) for stored in self.tensors.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes in which the tensors are stored."""
        return tuple(sorted({str(stored.dtype).removeprefix("torch.") for stored in self.tensors.values()}))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers have been read, as :func:`open_checkpoint` makes it.

    ``unused`` are tensors that are known and not needed, ``unknown`` those that belong to nothing, both under their
    names in the file. ``configs`` are the config.json files of a diffusers checkpoint, ``settings`` its
    :data:`SETTINGS` file.
    """

    path: Path
    layout: Layout
    parts: dict[Part, Network]
    unused: dict[str, Stored] = field(default_factory=dict)
    unknown: dict[str, Stored] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    configs: dict[Part, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors of its networks."""
        networks = self.parts.values()
        return tuple(sorted({stored.file for network in networks for stored in network.tensors.values()}))

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

    @property
    def faults(self) -> tuple[str, ...]:
        """Sentences: one for each tensor that is wrong or belongs to nothing, or one for networks that do not fit."""
        found = [str(fault) for network in self.parts.values() for fault in network.faults]
        found += map(str, self._unknown_faults())
        unet, clip = (self.parts[part].structure if part in self.parts else None for part in ("unet", "clip"))
        if not found and isinstance(unet, UNetStructure) and isinstance(clip, CLIPStructure):
            c, e = unet.context_dim, clip.embed_dim
            found += [f"the unet takes a context of {c} numbers, clip makes {e}"] if c != e else []
        return tuple(found)

    def require(self, part: Part) -> Network:
        """One network; :class:`CheckpointError` if the checkpoint has it not."""
        if part not in self.parts:
            found = ", ".join(self.parts) or "nothing"
            raise CheckpointError(f"{self.path} has no {part}, only: {found}")
        return self.parts[part]

    def complete(self, part: Part) -> Network:
        """One network that is complete, in a checkpoint where nothing is left over.

        Raises:
            CheckpointError: it is not there, or some of its tensors are wrong or belong to nothing; all are listed.
        """
        network = self.require(part)
        faults = (*network.faults, *self._unknown_faults())
        refuse(faults, f"a complete {part} in the {self.layout} layout", self.path)
        return network

    def tensors(
        self,
        part: Part,
        *,
        tca: Mode | None = None,
        sca: Mode | None = None,
        dtype: torch.dtype | None = None,
        data: bool = True,
    ) -> Tensors:
        """The tensors of one network under vcut's names, each made when it is asked for.

        Args:
            part: which network.
            tca: mode of the UNet's temporal cross-attentions, by default as stored.
            sca: mode of its spatial cross-attentions, by default as stored.
            dtype: what floating-point tensors are cast to, by default the stored dtype.
            data: False gives tensors without data, on the meta device.

        Raises:
            CheckpointError: something is wrong with the network; all its faults are listed.
            ConfigError: the wanted form cannot be made from the stored one.
        """
        network = self.complete(part)
        stored: dict[str, tuple[Stored, Form]] = {}
        for entry in entries(network.structure):
            key, form, _ = entry.stored(self.layout)
            stored[entry.name.vcut] = network.tensors[key], form
        want = reformed(network.structure, tca, sca)
        made_of: dict[str, tuple[str, ...]] = {name: (name,) for name in stored}
        if isinstance(want, UNetStructure):
            made_of = recipe(stored, want.tca, want.sca)
        sources = {name: [stored[source] for source in names] for name, names in made_of.items()}
        return Tensors(sources, dtype, data=data)

    def read(
        self,
        part: Part,
        *,
        tca: Mode | None = None,
        sca: Mode | None = None,
        dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """All of :meth:`tensors`. Load them with ``load_state_dict(..., assign=True)``.

        Where the dtype does not change, tensors are views of the file in memory, private to this process. The others
        are cast one at a time, so that peak memory stays near the result's size.
        """
        return dict(self.tensors(part, tca=tca, sca=sca, dtype=dtype))

    def _unknown_faults(self) -> tuple[Fault, ...]:
        return tuple(Fault(key, None, stored.shape) for key, stored in sorted(self.unknown.items()))


def whole_name(routes: Routes, part: Part, name: str) -> str:
    """A tensor's name in a whole checkpoint, from its name in a network."""
    for prefix, owner, local in routes:
        if owner == part and name.startswith(local):
            return prefix + name.removeprefix(local)
    return name


def open_checkpoint(
    path: str | os.PathLike[str], variant: str | None = None, parts: Sequence[Part] = PARTS
) -> Checkpoint:
    """Find the files of a checkpoint, read their headers and sort their tensors by network.

    What is wrong with single tensors is not raised but listed in :attr:`Checkpoint.faults`.

    Args:
        path: a .safetensors file; or a folder that has ``unet/``, ``vae/`` or ``image_encoder/``; or one of those.
        variant: ``'fp16'`` prefers ``*.fp16.safetensors`` in folders; otherwise the plain files come first. Whichever
            exists is taken.
        parts: of a folder, the networks whose files are opened.

    Raises:
        CheckpointError: there are no weights, or a file is damaged, or nothing of Stable Video Diffusion is in it.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    places = {part: FOLDERS[part] for part in PARTS if part in parts}
    files = {part: _find(path / folder, stem, variant) for part, (folder, stem) in places.items()}
    present = {part: file for part, file in files.items() if file is not None}
    if not present:
        stems = dict.fromkeys(stem for _, stem in FOLDERS.values())
        if file := next(filter(None, (_find(path, stem, variant) for stem in stems)), None):
            return _open_file(file)
        raise CheckpointError(_nothing_in(path, places.values()))
    networks = {
        part: Network(part, "diffusers", dict(_stored(file, read_header(file))), ())
        for part, file in present.items()
    }
    configs = {part: _json(file.parent / "config.json") for part, file in present.items()}
    return Checkpoint(path, "diffusers", networks, configs=configs, settings=_json(path / SETTINGS))


def _open_file(path: Path) -> Checkpoint:
    header = read_header(path)
    configs: dict[Part, dict[str, Any]] = {}
    layout = _whole_layout(header)
    if layout is not None:
        routes = ROUTES[layout]
    else:
        layout, part = _recognise(path, header)
        routes = (("", part, ""),)
        if layout == "diffusers" and path.name in _file_names(FOLDERS[part][1]):
            configs[part] = _json(path.parent / "config.json")

    tensors: dict[Part, dict[str, Stored]] = {}
    unused: dict[str, Stored] = {}
    unknown: dict[str, Stored] = {}
    for key, stored in _stored(path, header):
        if (place := _place(routes, key)) is not None:
            part, name = place
            tensors.setdefault(part, {})[name] = stored
        else:
            (unused if layout == "sgm" and key.startswith(SGM_UNUSED) else unknown)[key] = stored
    if layout == "vcut" and "unet" in tensors:
        tensors["unet"] = _with_todays_names(tensors["unet"])
    parts = {part: Network(part, layout, tensors[part], routes) for part in PARTS if part in tensors}
    return Checkpoint(path, layout, parts, unused, unknown, header.metadata, configs)


def _whole_layout(header: Header) -> Layout | None:
    """The layout of a file that names its networks; None if no name tells."""
    counts = {
        layout: sum(key.startswith(tuple(route[0] for route in routes)) for key in header.shapes)
        for layout, routes in ROUTES.items()
    }
    layout = max(counts, key=lambda layout: counts[layout])
    return layout if counts[layout] else None


def _place(routes: Routes, key: str) -> tuple[Part, str] | None:
    """The network that a tensor of a file belongs to, and its name there."""
    for prefix, part, local in routes:
        if key.startswith(prefix):
            return part, local + key.removeprefix(prefix)
    return None


def _with_todays_names(unet: dict[str, Stored]) -> dict[str, Stored]:
    """A UNet of the vcut layout, perhaps of a file whose upsampling is named after the level below, as it once was.

    Such a file has ``up.0.upsample``. Today the first level going up has none.
    """
    if "up.0.upsample.weight" not in unet:
        return unet
    return {_UPSAMPLE.sub(lambda up: f"up.{int(up[1]) + 1}.upsample", name): unet[name] for name in unet}


def _recognise(path: Path, header: Header) -> tuple[Layout, Part]:
    """Layout and network of a file that holds one network by itself."""
    scores = {
        (layout, part): sum(entry.stored(layout)[0] in header.shapes for entry in entries(PUBLISHED[part]))
        for layout in LAYOUTS
        for part in PARTS
    }
    best = max(scores, key=lambda pair: scores[pair])
    if not scores[best]:
        some = ", ".join(sorted(header.shapes)[:3])
        raise CheckpointError(f"{path} is no Stable Video Diffusion checkpoint: its tensors are {some}, ...")
    return best


def _stored(path: Path, header: Header) -> Iterator[tuple[str, Stored]]:
    for key, shape in header.shapes.items():
        yield key, Stored(path, key, shape, header.dtypes[key])


def _find(folder: Path, stem: str, variant: str | None) -> Path | None:
    names = _file_names(stem)
    files = [folder / name for name in (reversed(names) if variant == "fp16" else names)]
    return next((file for file in files if file.is_file()), None)


def _file_names(stem: str) -> tuple[str, str]:
    """Names of a network's file in full and in half precision."""
    return f"{stem}.safetensors", f"{stem}.fp16.safetensors"


def _nothing_in(folder: Path, places: Collection[tuple[str, str]]) -> str:
    pickles = sorted(file.name for file in folder.glob("**/*") if file.suffix.lower() in PICKLES)
    expected = ", ".join(f"{folder}/{stem}.safetensors" for folder, stem in places)
    also = f"; it has only pickles ({', '.join(pickles[:3])}), which are refused" if pickles else ""
    return f"no weights in the folder {folder}: expected {expected}, or name a .safetensors file{also}"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}, expected a JSON object")
    return data
