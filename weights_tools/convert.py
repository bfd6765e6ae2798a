"""From any layout to any layout, folding and casting on the way, one tensor in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import torch
from torch import Tensor

from weights_tools.atomic import check_file, check_folder, replacing
from weights_tools.configs import DIFFUSERS_FILES, Hints, configuration, diffusers_files, folded_configuration
from weights_tools.describe import describe_source
from weights_tools.errors import ConfigError
from weights_tools.files import (
    FOLDERS,
    ROUTES,
    Fetch,
    Source,
    cast,
    locate,
    reading,
    sketching,
    vcut_state,
    whole_name,
)
from weights_tools.fold import Mode, modes
from weights_tools.remap import Lazy, lazily_to_layout, refuse
from weights_tools.structure import PARTS, Layout, Part, Structure, reformed
from weights_tools.writer import Progress, Specs, write

NOTICE = """\
These model weights were converted from another form of the same weights. If those were Stability AI's, or were made
from Stability AI's:

This Stability AI Model is licensed under the Stability AI Community License, Copyright © Stability AI Ltd. All
Rights Reserved.

Stable Video Diffusion was first released under a non-commercial community licence, with a notice of its own. Which
of the two holds is said by the agreement that came with the download: keep a copy of it with these files, pass it on
with them, and put the notice it asks for in the place of the one above.
"""
REMINDER = "the weights stay under the licence they came with (Stability AI's, for the published ones)"

LEFT_OUT = (
    "left out, as only sgm files have them: the conditioning VAE's unused decoder and post_quant_conv, and six "
    "remains of CLIP's text tower; the official loader reports them as missing and does without"
)

# Where sgm keeps a second copy of what vcut has once: the first stage's own encoder
_SGM_COPIES = {
    "conditioner.embedders.3.encoder.encoder.": "first_stage_model.encoder.",
    "conditioner.embedders.3.encoder.quant_conv.": "first_stage_model.quant_conv.",
}


@dataclass(frozen=True)
class Conversion:
    """What becomes of a source's tensors, whoever fetches them: the real ones, or sketches without data."""

    source: Source
    have: Mapping[Part, Structure]
    want: Mapping[Part, Structure]
    dtype: torch.dtype | None

    def part(self, part: Part, fetch: Fetch) -> Lazy:
        """One network under vcut's names, folded and cast."""
        return self._cast(vcut_state(self.source, part, self.have[part], self.want[part], fetch))

    def exported(self, part: Part, layout: Layout, fetch: Fetch) -> Lazy:
        """One network under ``layout``'s names."""
        return lazily_to_layout(self.part(part, fetch), layout, self.want[part])

    def vcut_file(self, fetch: Fetch) -> Lazy:
        """All networks under vcut's names."""
        return Lazy(
            {f"{part}.{name}": make for part in PARTS for name, make in self.part(part, fetch).makers.items()}
        )

    def sgm_file(self, fetch: Fetch) -> Lazy:
        """All networks under sgm's names, and what that layout has twice.

        What an sgm source has besides, and vcut does not use, is carried over.
        """
        makers: dict[str, Callable[[], Tensor]] = {}
        for part in PARTS:
            for name, make in self.exported(part, "sgm", fetch).makers.items():
                makers[whole_name(ROUTES["sgm"], part, name)] = make
        image_decoder = any(key.startswith("first_stage_model.post_quant_conv.") for key in makers)
        for original, copy in _SGM_COPIES.items():
            if image_decoder or copy == "first_stage_model.encoder.":
                makers |= {
                    copy + key.removeprefix(original): make
                    for key, make in makers.items()
                    if key.startswith(original)
                }
        unused = {key: partial(fetch, stored) for key, stored in self.source.unused.items()}
        return Lazy({**makers, **self._cast(Lazy(unused)).makers})

    def _cast(self, tensors: Lazy) -> Lazy:
        def make(original: Callable[[], Tensor]) -> Tensor:
            return cast(original(), self.dtype)

        return Lazy({name: partial(make, original) for name, original in tensors.makers.items()})


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: Layout,
    *,
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    hints: Hints | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Write the checkpoint ``source`` to ``out``: one file (vcut, sgm) or a folder (diffusers), whole or not at all.

    A notice about the licence is written beside it, or into the folder, as part of the same whole.

    Args:
        source: as :func:`weights_tools.files.locate` takes it. All three networks must be there.
        out: the new file or folder.
        to: its layout.
        tca: form of the temporal cross-attentions; None leaves it as stored. Only vcut has folded forms.
        sca: form of the spatial ones.
        dtype: cast floating-point tensors to this.
        variant: as :func:`weights_tools.files.locate` takes it.
        hints: what the tensors do not say.
        overwrite: replace ``out`` if it exists; a folder only if it holds nothing but files that this writes.
        progress: told the bytes written of each file.

    Returns:
        What the user should know, in sentences.

    Raises:
        OutputExistsError: ``out`` or its notice exists and ``overwrite`` is false, or it is not to be replaced.
        CheckpointError: the source is damaged or not whole.
        ConfigError: the wanted form or layout cannot be made from it; ``out`` is, contains or lies inside ``source``.
        VcutError: the output cannot be written.
    """
    out = Path(out)
    if to != "diffusers" and out.suffix != ".safetensors":
        raise ConfigError(f"the output {out} must end in .safetensors")
    _check_places(out, to, overwrite)  # before the work, not after
    found = locate(source, variant)
    _check_apart(found, out)
    for part in PARTS:
        found.require(part)
    description = describe_source(found)
    refuse(description.faults, f"a complete model in the {found.layout} layout", found.path)
    have = {part: described.structure for part, described in description.parts.items()}
    want = {part: reformed(structure, tca, sca) for part, structure in have.items()}
    conversion = Conversion(found, have, want, dtype)
    forms = modes(conversion.part("unet", sketching))
    config = folded_configuration(configuration(description, hints), *forms)
    notes = [REMINDER]
    if to == "diffusers":
        _write_folder(conversion, out, diffusers_files(config), overwrite, progress)
    else:
        content = conversion.vcut_file if to == "vcut" else conversion.sgm_file
        metadata = {"format": "vcut" if to == "vcut" else "pt", "config": json.dumps(config)}
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(out, overwrite))
            if not _has_notice(out):  # moved before the weights, which are never without it
                notice = stack.enter_context(replacing(_notice_of(out), overwrite))
                notice.write_text(NOTICE, encoding="utf-8")
            write(temporary, _specs(content(sketching)), content(reading(release=True)), metadata, progress)
    if to == "sgm" and found.layout != "sgm":
        notes.append(LEFT_OUT)
    return tuple(notes)


def _specs(sketch: Mapping[str, Tensor]) -> Specs:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in sketch.items()}


def _write_folder(
    conversion: Conversion,
    out: Path,
    files: Mapping[str, object],
    overwrite: bool,
    progress: Progress | None,
) -> None:
    fetch = reading(release=True)
    with replacing(out, overwrite, _written_into_a_folder) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
        for part, (subfolder, stem) in FOLDERS.items():
            specs = _specs(conversion.exported(part, "diffusers", sketching))
            tensors = conversion.exported(part, "diffusers", fetch)
            write(folder / subfolder / f"{stem}.safetensors", specs, tensors, {"format": "pt"}, progress)


def _notice_of(out: Path) -> Path:
    return out.with_suffix(".NOTICE.txt")


def _has_notice(out: Path) -> bool:
    notice = _notice_of(out)
    return notice.is_file() and notice.read_bytes() == NOTICE.encode()


def _written_into_a_folder(file: PurePath) -> bool:
    weights = {f"{folder}/{stem}.safetensors" for folder, stem in FOLDERS.values()}
    return file.as_posix() in {*weights, *DIFFUSERS_FILES, "NOTICE"}


def _check_places(out: Path, to: Layout, overwrite: bool) -> None:
    if to == "diffusers":
        check_folder(out, overwrite, _written_into_a_folder)
        return
    check_file(out, overwrite)
    if not _has_notice(out):
        check_file(_notice_of(out), overwrite)


def _check_apart(source: Source, out: Path) -> None:
    """Raise unless ``out`` and what is read are apart; overwriting the only copy of the weights loses them."""
    files = {stored.file for part in source.parts.values() for stored in part.values()}
    new = out.resolve()
    for place in (source.path, *sorted(files)):
        old = place.resolve()
        same = out.exists() and out.samefile(place)
        if same or new in (old, *old.parents) or old in new.parents:
            raise ConfigError(
                f"the output {out} is, contains or lies inside the input {place}; choose another place"
            )
