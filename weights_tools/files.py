"""Checkpoints on disk: which file holds which tensor of which network, in which layout.

Three forms: one file with all networks (the sgm layout, or vcut's own), a folder of folders (diffusers), or one
network's file by itself. They are told apart by names and shapes; no tensor is read until it is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weights_tools.errors import CheckpointError
from weights_tools.fold import Mode, folding
from weights_tools.layouts import Shape, entries
from weights_tools.reader import PICKLES, Header, Reader, read_header
from weights_tools.remap import Fault, Lazy, Plan, lazily_from_layout, plan, refuse
from weights_tools.structure import (
    LAYOUTS,
    PARTS,
    PUBLISHED,
    Layout,
    Part,
    Structure,
    UNetStructure,
    reformed,
)

Routes = tuple[tuple[str, Part, str], ...]
"""Prefix in a whole checkpoint, the network it belongs to, prefix within the network."""

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

# What an sgm file has besides: a second encoder, the conditioning VAE's other half, remains of CLIP's text tower.
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

SETTINGS = "vcut.json"
"""What a diffusers checkpoint that was exported from vcut says besides: the settings that its own files have not."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    file: Path
    key: str
    shape: Shape
    dtype: torch.dtype


Fetch = Callable[[Stored], Tensor]


@dataclass(frozen=True)
class Source:
    """A checkpoint whose headers have been read.

    ``parts`` has part-local names in ``layout``, which ``routes`` leads back to the names in the file; ``unused`` is
    what is known and not needed, ``unknown`` what belongs to nothing, both under the names in the file. ``configs``
    are the config.json of a diffusers checkpoint, ``settings`` its :data:`SETTINGS` file.
    """

    path: Path
    layout: Layout
    parts: dict[Part, dict[str, Stored]]
    unused: dict[str, Stored]
    unknown: dict[str, Stored]
    metadata: dict[str, str]
    configs: dict[Part, dict[str, Any]]
    routes: Routes
    settings: dict[str, Any] = field(default_factory=dict)

    def shapes(self, part: Part) -> dict[str, Shape]:
        """Name -> shape of one network, as stored."""
        self.require(part)
        return {name: stored.shape for name, stored in self.parts[part].items()}

    def require(self, part: Part) -> None:
        """Raise :class:`CheckpointError` unless the checkpoint has this network."""
        if part not in self.parts:
            found = ", ".join(self.parts) or "nothing"
            raise CheckpointError(f"{self.path} has no {part}, only: {found}")

    def plan(self, part: Part) -> Plan:
        """:func:`weights_tools.remap.plan` of one network; its faults have the names in the file."""
        found = plan(self.shapes(part), part, self.layout)
        faults = (fault._replace(key=whole_name(self.routes, part, fault.key)) for fault in found.faults)
        return Plan(found.structure, tuple(faults))

    def structure(self, part: Part) -> Structure:
        """The structure of one network; :class:`CheckpointError` unless it is complete and nothing is left over."""
        found = self.plan(part)
        refuse(
            (*found.faults, *self.unknown_faults()),
            f"a complete {part} in the {self.layout} layout",
            self.path,
        )
        return found.structure

    def unknown_faults(self) -> tuple[Fault, ...]:
        """One fault for each tensor that belongs to nothing."""
        return tuple(Fault(key, None, stored.shape) for key, stored in sorted(self.unknown.items()))


def whole_name(routes: Routes, part: Part, name: str) -> str:
    """A tensor's name in a whole checkpoint, from its name in a network."""
    for prefix, owner, local in routes:
        if owner == part and name.startswith(local):
            return prefix + name.removeprefix(local)
    return name


def locate(path: str | os.PathLike[str], variant: str | None = None) -> Source:
    """Find the files of a checkpoint, read their headers and sort their tensors by network.

    Args:
        path: a .safetensors file, or a folder that has ``unet/``, ``vae/`` or ``image_encoder/``, or one of those.
        variant: ``'fp16'`` prefers ``*.fp16.safetensors`` in folders; otherwise the plain files come first. Whichever
            exists is taken.

    Raises:
        CheckpointError: there are no weights, or a file is damaged, or nothing of Stable Video Diffusion is in it.
    """
    path = Path(path)
    if not path.is_dir():
        return _locate_file(path)
    files = {part: _find(path / folder, stem, variant) for part, (folder, stem) in FOLDERS.items()}
    present = {part: file for part, file in files.items() if file is not None}
    if not present:
        stems = dict.fromkeys(stem for _, stem in FOLDERS.values())
        if file := next(filter(None, (_find(path, stem, variant) for stem in stems)), None):
            return _locate_file(file)
        raise CheckpointError(_nothing_in(path))
    parts: dict[Part, dict[str, Stored]] = {}
    for part, file in present.items():
        parts[part] = dict(_stored(file, read_header(file)))
    configs = {part: _json(file.parent / "config.json") for part, file in present.items()}
    return Source(path, "diffusers", parts, {}, {}, {}, configs, (), _json(path / SETTINGS))


def read(
    path: str | os.PathLike[str],
    part: Part,
    *,
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> dict[str, Tensor]:
    """All tensors of one network under vcut's names, strictly: see :func:`weights_tools.remap.from_layout`.

    Without ``dtype`` the tensors are views of the file in memory, of the stored dtype, private to this process: use
    ``load_state_dict(..., assign=True)``. With it they are cast one at a time, and peak memory stays near the
    result's size.

    Args:
        path: as :func:`locate` takes it.
        part: which network.
        tca: form of the UNet's temporal cross-attentions; None leaves it as stored.
        sca: form of its spatial cross-attentions.
        dtype: cast floating-point tensors to this.
        variant: as :func:`locate` takes it.

    Raises:
        CheckpointError: something is wrong with the file; all faults of the network are listed.
        ConfigError: the wanted form cannot be made from the stored one.
    """
    source = locate(path, variant)
    have = source.structure(part)
    state = vcut_state(source, part, have, reformed(have, tca, sca), reading(release=dtype is not None))
    return {name: cast(state[name], dtype) for name in state}


def vcut_state(source: Source, part: Part, have: Structure, want: Structure, fetch: Fetch) -> Lazy:
    """One network of ``source``, of the structure ``have``, under vcut's names, folded to the forms of ``want``.

    ``fetch`` makes each tensor when it is asked for.
    """
    stored = Lazy({name: partial(fetch, where) for name, where in source.parts[part].items()})
    state = lazily_from_layout(stored, source.layout, have)
    return Lazy(folding(state, want.tca, want.sca)) if isinstance(want, UNetStructure) else state


def reading(*, release: bool) -> Fetch:
    """Fetches tensors from their files; ``release`` as in :class:`~weights_tools.reader.Reader`."""
    readers: dict[Path, Reader] = {}

    def fetch(stored: Stored) -> Tensor:
        if stored.file not in readers:
            readers[stored.file] = Reader(stored.file, release=release)
        return readers[stored.file][stored.key]

    return fetch


def sketching(stored: Stored) -> Tensor:
    """Fetches a tensor of the right shape and dtype without any data, on the meta device."""
    return torch.empty(stored.shape, dtype=stored.dtype, device="meta")


def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``tensor`` in ``dtype`` if that is given and the tensor is floating-point."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _locate_file(path: Path) -> Source:
    header = read_header(path)
    counts = {
        layout: sum(key.startswith(tuple(route[0] for route in routes)) for key in header.shapes)
        for layout, routes in ROUTES.items()
    }
    layout = max(counts, key=lambda layout: counts[layout])
    routes = ROUTES[layout] if counts[layout] else ()
    if not routes:
        layout, part = _recognise(path, header)
        routes = (("", part, ""),)

    parts: dict[Part, dict[str, Stored]] = {}
    unused: dict[str, Stored] = {}
    unknown: dict[str, Stored] = {}
    for key, stored in _stored(path, header):
        for prefix, part, local in routes:
            if key.startswith(prefix):
                parts.setdefault(part, {})[local + key.removeprefix(prefix)] = stored
                break
        else:
            (unused if layout == "sgm" and key.startswith(SGM_UNUSED) else unknown)[key] = stored
    return Source(path, layout, parts, unused, unknown, header.metadata, {}, routes)


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
    plain, fp16 = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
    order = (fp16, plain) if variant == "fp16" else (plain, fp16)
    return next((file for file in order if file.is_file()), None)


def _nothing_in(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.glob("**/*") if file.suffix.lower() in PICKLES)
    expected = ", ".join(f"{folder}/{stem}.safetensors" for folder, stem in FOLDERS.values())
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
