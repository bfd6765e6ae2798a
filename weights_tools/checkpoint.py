"""Checkpoints on disk: which file holds which tensor of which network, in which layout.

Three forms: one file with all networks (the sgm layout, or vcut's own), a folder of folders (diffusers), or one
network's file by itself. They are told apart by names and shapes. A checkpoint is opened once, by its headers alone;
no tensor is read until it is asked for.
"""

from __future__ import annotations

import heapq
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

from weights_tools.errors import CheckpointError, shown
from weights_tools.families import family
from weights_tools.fold import made, recipe
from weights_tools.layouts import Form, Shape, entries
from weights_tools.model import Mode
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
from weights_tools.tensor_file import LARGEST_HEADER, PICKLES, Reader, read_header

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
    # as one file holds modules that were trained together
    "diffusers": (("unet.", "unet", ""), ("vae.", "vae", ""), ("image_encoder.", "clip", "")),
}

# The rest of an sgm file: a second encoder, the conditioning VAE's other half, CLIP's text tower or its remains;
# and what training leaves: averaged weights, losses, the tables of noise levels.
_TEXT = "conditioner.embedders.0.open_clip.model."
SGM_UNUSED = (
    "first_stage_model.encoder.",
    "first_stage_model.quant_conv.",
    "first_stage_model.loss.",
    "conditioner.embedders.3.encoder.decoder.",
    "conditioner.embedders.3.encoder.post_quant_conv.",
    "conditioner.embedders.3.encoder.loss.",
    f"{_TEXT}transformer.",
    f"{_TEXT}token_embedding.weight",
    f"{_TEXT}positional_embedding",
    f"{_TEXT}attn_mask",
    f"{_TEXT}ln_final.weight",
    f"{_TEXT}ln_final.bias",
    f"{_TEXT}text_projection",
    f"{_TEXT}logit_scale",
    "model_ema.",
    "denoiser.",
    "loss_fn.",
)
_TABLES = re.compile(
    r"betas|(sqrt_|log_)?(one_minus_)?(recipm?1?_)?alphas_cumprod(_prev)?|posterior_\w+|logvar|scale_factor|lvlb_weights"
)

FOLDERS: dict[Part, tuple[str, str]] = {
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "clip": ("image_encoder", "model"),
}
"""The folder of each network in a diffusers checkpoint, and its file without ``.safetensors``."""

# Names of the modules that DDP, torch.compile, FSDP and checkpointing put around a network.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
)

_UPSAMPLE = re.compile(r"^up\.(\d+)\.upsample")

SCHEDULER = "scheduler/scheduler_config.json"
"""The file of a diffusers checkpoint that says how it is sampled."""

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
        tensor = made([unpack(self._read(stored), form) for stored, form in self._sources[name]], self._dtype)
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
    names without what wraps networks in training. With ``ignore_unknown`` tensors of unknown names are no faults,
    wherever they are. ``configs`` are the config.json files of a diffusers checkpoint, ``scheduler`` and ``settings``
    its :data:`SCHEDULER` and :data:`SETTINGS` files.
    """

    path: Path
    layout: Layout
    parts: dict[Part, Network]
    unused: dict[str, Stored] = field(default_factory=dict)
    unknown: dict[str, Stored] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    configs: dict[Part, dict[str, Any]] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    ignore_unknown: bool = False

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
        """The configuration that a file written by vcut carries; :class:`CheckpointError` if it cannot be read."""
        try:
            data = json.loads(self.metadata.get("config", "null"))
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict) and "unet" in data:
            return data
        if self.metadata.get("format") == "vcut" and "config" in self.metadata:
            raise CheckpointError(
                f"{self.path}: the configuration in its header cannot be read: take a whole copy"
            )
        return None

    @property
    def faults(self) -> tuple[str, ...]:
        """Sentences: one for each tensor that is wrong or belongs to nothing, or one for networks that do not fit."""
        found = list(map(str, self._faults(*self.parts.values())))
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
        refuse(self._faults(network), f"a complete {part} in the {network.layout} layout", self.path)
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
            key, form, _ = entry.stored(network.layout)
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

    def _faults(self, *networks: Network) -> list[Fault]:
        """Faults of these networks, and the tensors that belong to none, so far as they count."""
        found = [fault for network in networks for fault in network.faults]
        found += [Fault(key, None, stored.shape) for key, stored in sorted(self.unknown.items())]
        return [fault for fault in found if not (self.ignore_unknown and fault.expected is None)]


def not_finite(checkpoint: Checkpoint) -> list[str]:
    """Names, in the files, of the networks' tensors that hold NaN or infinity. Every number is read."""
    stored = [each for network in checkpoint.parts.values() for each in network.tensors.values()]
    stored.sort(key=lambda each: (each.file, each.key))
    tensors = Tensors({str(i): [(each, Form.SAME)] for i, each in enumerate(stored)})
    return [each.key for i, each in enumerate(stored) if not is_finite(tensors[str(i)])]


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of ``tensor`` is NaN or infinite, in any dtype."""
    if not tensor.is_floating_point():
        return True
    # a part at a time, since isfinite makes masks; it has no kernel for the types of 8 bits
    parts = torch.split(tensor.reshape(-1), 1 << 24)
    return all(bool((part.half() if part.itemsize == 1 else part).isfinite().all()) for part in parts)


def whole_name(routes: Routes, part: Part, name: str) -> str:
    """A tensor's name in a whole checkpoint, from its name in a network."""
    for prefix, owner, local in routes:
        if owner == part and name.startswith(local):
            return prefix + name.removeprefix(local)
    return name


def open_checkpoint(
    path: str | os.PathLike[str],
    variant: str | None = None,
    parts: Sequence[Part] = PARTS,
    *,
    ignore_unknown: bool = False,
) -> Checkpoint:
    """Find the files of a checkpoint, read their headers and sort their tensors by network.

    What is wrong with single tensors is not raised but listed in :attr:`Checkpoint.faults`.

    Args:
        path: a .safetensors file; or a folder that has ``unet/``, ``vae/`` or ``image_encoder/``; or one of those.
        variant: ``'fp16'`` takes the ``*.fp16.safetensors`` of a folder. By default the plain files come first, and
            the others are taken where there are no plain ones.
        parts: of a folder, the networks whose files are opened.
        ignore_unknown: tensors of unknown names are no faults.

    Raises:
        CheckpointError: there are no weights, or not in this variant; a file is damaged; nothing of Stable Video
            Diffusion is in it.
    """
    path = Path(path)
    if not path.is_dir():
        if variant is not None:
            raise CheckpointError(f"{path} is one file, of one precision: leave out the variant {variant}")
        return _from_files(path, _read((path,)), ignore_unknown)
    places = {part: FOLDERS[part] for part in PARTS if part in parts}
    files = {part: _find(path / folder, stem, variant) for part, (folder, stem) in places.items()}
    present = {part: found for part, found in files.items() if found}
    if not present:
        for stem in dict.fromkeys(stem for _, stem in FOLDERS.values()):
            if found := _find(path, stem, variant):
                return _from_files(found[0], _read(found), ignore_unknown)
        raise CheckpointError(_nothing_in(path, places.values()))
    networks = {part: Network(part, "diffusers", _read(found)[0], ()) for part, found in present.items()}
    configs = {part: _json(path / FOLDERS[part][0] / "config.json") for part in present}
    return Checkpoint(
        path,
        "diffusers",
        networks,
        configs=configs,
        scheduler=_json(path / SCHEDULER),
        settings=_json(path / SETTINGS),
        ignore_unknown=ignore_unknown,
    )


Opened = tuple[dict[str, Stored], dict[str, str]]
"""Tensors by name, of one file or of several shards, and the free text of the first."""


def _read(files: Sequence[Path]) -> Opened:
    """Read the headers of the files that together hold one set of tensors.

    The names are those of the networks' own modules: what wraps them in training is taken off.

    Raises:
        CheckpointError: a file is damaged, two tensors have one name, or they are of another model.
    """
    tensors: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    for file in files:
        header = read_header(file)
        metadata = metadata or header.metadata
        for key, shape in header.shapes.items():
            name = _WRAPPERS.sub("", key)
            if name in tensors:
                raise CheckpointError(
                    f"{file}: {shown(key)} is there twice, the other as {shown(tensors[name].key)} in "
                    f"{tensors[name].file.name}: remove one"
                )
            tensors[name] = Stored(file, key, shape, header.dtypes[key])
    if other := family({name: stored.shape for name, stored in tensors.items()}):
        raise CheckpointError(
            f"{files[0]} is {other}, not Stable Video Diffusion: take a checkpoint of svd, svd-xt or svd-xt-1-1"
        )
    return tensors, metadata


def _from_files(path: Path, opened: Opened, ignore_unknown: bool) -> Checkpoint:
    stored_tensors, metadata = opened
    configs: dict[Part, dict[str, Any]] = {}
    layout = _whole_layout(stored_tensors)
    if layout is not None:
        routes = ROUTES[layout]
    else:
        layout, part = _recognise(path, stored_tensors)
        routes = (("", part, ""),)
        if layout == "diffusers" and path.name.startswith(FOLDERS[part][1]):
            configs[part] = _json(path.parent / "config.json")

    tensors: dict[Part, dict[str, Stored]] = {}
    unused: dict[str, Stored] = {}
    unknown: dict[str, Stored] = {}
    for key, stored in stored_tensors.items():
        if (place := _place(routes, key)) is not None:
            part, name = place
            tensors.setdefault(part, {})[name] = stored
        else:
            known = layout == "sgm" and (key.startswith(SGM_UNUSED) or _TABLES.fullmatch(key))
            (unused if known else unknown)[key] = stored
    if layout == "vcut" and "unet" in tensors:
        tensors["unet"] = _with_todays_names(tensors["unet"])
    parts = {part: Network(part, layout, tensors[part], routes) for part in PARTS if part in tensors}
    return Checkpoint(path, layout, parts, unused, unknown, metadata, configs, ignore_unknown=ignore_unknown)


def _whole_layout(names: Collection[str]) -> Layout | None:
    """The layout of a file that names its networks; None if no name tells."""
    counts = {
        layout: sum(key.startswith(tuple(route[0] for route in routes)) for key in names)
        for layout, routes in ROUTES.items()
    }
    # two layouts have the same prefixes: the names behind them decide
    known = {layout: _known(layout, names) for layout in ROUTES}
    layout = max(counts, key=lambda layout: (counts[layout], known[layout]))
    return layout if counts[layout] else None


def _known(layout: Layout, names: Collection[str]) -> int:
    """Number of names of the published networks, in this layout, among those of a whole file."""
    whole = (
        whole_name(ROUTES[layout], part, entry.stored(layout)[0])
        for part in PARTS
        for entry in entries(PUBLISHED[part])
    )
    return sum(name in names for name in whole)


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


def _recognise(path: Path, names: Collection[str]) -> tuple[Layout, Part]:
    """Layout and network of a file that holds one network by itself."""
    scores = {
        (layout, part): sum(entry.stored(layout)[0] in names for entry in entries(PUBLISHED[part]))
        for layout in LAYOUTS
        for part in PARTS
    }
    best = max(scores, key=lambda pair: scores[pair])
    if not scores[best]:
        some = ", ".join(map(shown, heapq.nsmallest(3, names)))
        raise CheckpointError(f"{path} is no Stable Video Diffusion checkpoint: its tensors are {some}, ...")
    return best


def _find(folder: Path, stem: str, variant: str | None) -> tuple[Path, ...]:
    """The files of one network, whole or in shards; none if the folder has nothing of it.

    Raises:
        CheckpointError: the folder has the network, but not in this variant.
    """
    found = {of: _whole_or_shards(folder, stem, of) for of in (None, "fp16")}
    if variant is None:
        return found[None] or found["fp16"]
    if found[None] and not found[variant]:
        raise CheckpointError(
            f"{folder} has no {stem}.{variant}.safetensors: leave out the variant {variant} to take what it has, "
            f"{found[None][0].name}"
        )
    return found[variant]


def _whole_or_shards(folder: Path, stem: str, variant: str | None) -> tuple[Path, ...]:
    dot = f".{variant}" if variant else ""
    whole = folder / f"{stem}{dot}.safetensors"
    if whole.is_file():
        return (whole,)
    index = folder / f"{stem}.safetensors.index{dot}.json"
    if not index.is_file():
        return ()
    places = _json(index).get("weight_map")
    names: list[Any] = list(places.values()) if isinstance(places, dict) and places else [places]
    # a plain name only: an index must not lead out of its folder
    for name in names:
        if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name)):
            raise CheckpointError(
                f"{index}: weight_map must give the name of a .safetensors file beside it for each tensor, got "
                f"{name!r:.200}"
            )
    return tuple(folder / name for name in sorted(set(names)))


def _nothing_in(folder: Path, places: Collection[tuple[str, str]]) -> str:
    pickles = sorted(file.name for file in folder.glob("**/*") if file.suffix.lower() in PICKLES)
    expected = ", ".join(f"{folder}/{stem}.safetensors" for folder, stem in places)
    also = f"; it has only pickles ({', '.join(pickles[:3])}), which are refused" if pickles else ""
    return f"no weights in the folder {folder}: expected {expected}, or name a .safetensors file{also}"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_HEADER:
            raise ValueError("too large")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}, expected a JSON object")
    return data
