"""Conversion of any layout to any layout, folding and casting on the way, one tensor in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePath

import torch

from weights_tools.checkpoint import FOLDERS, ROUTES, Checkpoint, Tensors, open_checkpoint, whole_name
from weights_tools.configs import DIFFUSERS_FILES, Hints, configuration, diffusers_files, folded_configuration
from weights_tools.errors import ConfigError
from weights_tools.fold import modes
from weights_tools.layouts import Form
from weights_tools.model import Mode
from weights_tools.outputs import check_file, check_folder, replacing
from weights_tools.remap import Lazy, lazily_to_layout
from weights_tools.structure import PARTS, Layout, Part, reformed
from weights_tools.tensor_file import Progress, specs, write

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

# sgm stores the encoder twice, in the conditioner and in the first stage; vcut stores it once.
_SGM_COPIES = {
    "conditioner.embedders.3.encoder.encoder.": "first_stage_model.encoder.",
    "conditioner.embedders.3.encoder.quant_conv.": "first_stage_model.quant_conv.",
}


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
    ignore_unknown: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Write the checkpoint ``source`` to ``out``: one file (vcut, sgm) or a folder (diffusers), whole or not at all.

    A notice about the licence is written beside it, or into the folder, as part of the same whole.

    Args:
        source: a file or a folder, as :func:`weights_tools.checkpoint.open_checkpoint` takes it, with all networks.
        out: the new file or folder.
        to: its layout.
        tca: mode of the temporal cross-attentions, by default as stored. Only vcut has folded ones.
        sca: mode of the spatial ones, by default as stored.
        dtype: cast floating-point tensors to this.
        variant: ``'fp16'`` prefers the half-precision files of a folder.
        hints: settings that the tensors do not say.
        overwrite: replace ``out`` if it exists; a folder only if it holds nothing but files that this writes.
        ignore_unknown: leave out tensors of unknown names instead of refusing them.
        progress: function that is told the bytes written of each file.

    Returns:
        Sentences that the user should read.

    Raises:
        OutputExistsError: ``out`` or its notice exists and ``overwrite`` is false, or it is not to be replaced.
        CheckpointError: the source is damaged or not whole.
        ConfigError: the wanted form or layout cannot be made from it; ``out`` is, contains or lies inside ``source``.
        VcutError: the output cannot be written.
    """
    out = Path(out)
    if to != "diffusers" and out.suffix.lower() != ".safetensors":
        raise ConfigError(f"the output {out} must end in .safetensors")
    _check_places(out, to, overwrite)  # before the work, not after
    found = open_checkpoint(source, variant, ignore_unknown=ignore_unknown)
    _check_apart(found, out)
    config = configuration(found, hints)
    config = folded_configuration(config, *modes(found.tensors("unet", tca=tca, sca=sca)))
    sketches = _contents(found, to, tca, sca, dtype, data=False)
    contents = _contents(found, to, tca, sca, dtype, data=True)
    if to == "diffusers":
        with replacing(out, overwrite, _written_into_a_folder) as folder:
            for name, content in diffusers_files(config).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
            for name, tensors in contents.items():
                write(folder / name, specs(sketches[name]), tensors, {"format": "pt"}, progress)
    else:
        metadata = {"format": "vcut" if to == "vcut" else "pt", "config": json.dumps(config)}
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(out, overwrite))
            if not _has_notice(out):  # moved before the weights, which are never without it
                notice = stack.enter_context(replacing(_notice_of(out), overwrite))
                notice.write_text(NOTICE, encoding="utf-8")
            write(temporary, specs(sketches[""]), contents[""], metadata, progress)
    return (REMINDER, LEFT_OUT) if to == "sgm" and found.layout != "sgm" else (REMINDER,)


def _contents(
    found: Checkpoint,
    to: Layout,
    tca: Mode | None,
    sca: Mode | None,
    dtype: torch.dtype | None,
    *,
    data: bool,
) -> dict[str, Lazy]:
    """The tensors of each file of the output, by its path in a folder; a single file's path is empty."""
    networks = {part: found.tensors(part, tca=tca, sca=sca, dtype=dtype, data=data) for part in PARTS}
    if to == "vcut":
        return {"": Lazy.of({f"{part}.": networks[part] for part in PARTS})}
    exported = {
        part: lazily_to_layout(networks[part], to, reformed(found.parts[part].structure, tca, sca))
        for part in PARTS
    }
    if to == "diffusers":
        return {f"{folder}/{stem}.safetensors": exported[part] for part, (folder, stem) in FOLDERS.items()}
    unused = {key: [(stored, Form.SAME)] for key, stored in found.unused.items()}
    return {"": _sgm_file(exported, Tensors(unused, dtype, data=data))}


def _sgm_file(exported: Mapping[Part, Lazy], unused: Tensors) -> Lazy:
    """All networks under sgm's names, with the copies that this layout has.

    Tensors of an sgm source that vcut does not use are carried over.
    """
    makers = {
        whole_name(ROUTES["sgm"], part, name): make
        for part in PARTS
        for name, make in exported[part].makers.items()
    }
    image_decoder = any(key.startswith("first_stage_model.post_quant_conv.") for key in makers)
    for original, copy in _SGM_COPIES.items():
        if image_decoder or copy == "first_stage_model.encoder.":
            makers |= {
                copy + key.removeprefix(original): make
                for key, make in makers.items()
                if key.startswith(original)
            }
    return Lazy({**makers, **Lazy.of({"": unused}).makers})


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


def _check_apart(source: Checkpoint, out: Path) -> None:
    """Raise unless ``out`` and what is read are apart; overwriting the only copy of the weights loses them."""
    files = {stored.file for network in source.parts.values() for stored in network.tensors.values()}
    new = out.resolve()
    for place in (source.path, *sorted(files)):
        old = place.resolve()
        same = out.exists() and out.samefile(place)
        if same or new in (old, *old.parents) or old in new.parents:
            raise ConfigError(
                f"the output {out} is, contains or lies inside the input {place}; choose another place"
            )
