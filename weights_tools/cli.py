"""``python -m weights_tools``: look into checkpoints and convert them.

Exit codes: 0 done, 1 ``inspect`` found faults, 2 it could not be done, said on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from weights_tools import command
from weights_tools.checkpoint import Checkpoint, not_finite, open_checkpoint
from weights_tools.configs import Hints, judge
from weights_tools.convert import convert
from weights_tools.errors import ConfigError, printable, shown
from weights_tools.model import Mode
from weights_tools.remap import LISTED
from weights_tools.structure import LAYOUTS, UNetStructure
from weights_tools.tensor_file import Progress

FOLDS: dict[str, tuple[Mode, Mode]] = {
    "baseline": (True, True),
    "lossless": ("linear_cached", "linear_cached"),
    "vcut": (False, "linear_cached"),
}
MODES: dict[str, Mode] = {"true": True, "linear_cached": "linear_cached", "false": False}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def run() -> NoReturn:
    """The ``vcut-weights`` script."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's, and return its exit code."""
    return command.run(_parser, "vcut-weights", argv)


def parse_fold(text: str) -> tuple[Mode | None, Mode | None]:
    """The modes ``(tca, sca)`` that ``--fold`` names; None for one that it does not name."""
    if text in FOLDS:
        return FOLDS[text]
    chosen: dict[str, Mode | None] = {"tca": None, "sca": None}
    for item in text.split(","):
        flag, _, mode = item.partition("=")
        if flag not in chosen or mode.lower() not in MODES:
            raise ConfigError(
                f"--fold takes {', '.join(FOLDS)} or tca=MODE,sca=MODE with MODE one of {', '.join(MODES)}; "
                f"got {text!r}"
            )
        chosen[flag] = MODES[mode.lower()]
    return chosen["tca"], chosen["sca"]


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog="python -m weights_tools",
        description="Look into Stable Video Diffusion checkpoints and convert them between layouts.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="say what is in a checkpoint, reading its headers alone")
    inspect.add_argument("file", help=".safetensors file or diffusers folder")
    inspect.add_argument("--variant", choices=["fp16"], help="take the folder's half-precision files")
    inspect.add_argument(
        "--deep", action="store_true", help="read every number, and name the tensors with NaN or infinity"
    )
    _add_ignore_unknown(inspect)
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(run=_inspect)

    conv = commands.add_parser("convert", help="rewrite a checkpoint in another layout, form or precision")
    conv.add_argument("source", metavar="IN", help=".safetensors file or diffusers folder")
    conv.add_argument("out", metavar="OUT", help=".safetensors file, or folder for --to diffusers")
    conv.add_argument("--to", required=True, choices=LAYOUTS, help="layout of the output")
    conv.add_argument(
        "--fold",
        metavar="FORM",
        help="fold the cross-attentions: baseline, lossless, vcut, or tca=MODE,sca=MODE (true, linear_cached, "
        "false); only with --to vcut",
    )
    conv.add_argument("--dtype", choices=DTYPES, help="precision of the output; by default the input's")
    conv.add_argument("--variant", choices=["fp16"], help="take the folder's half-precision files")
    _add_ignore_unknown(conv)
    conv.add_argument("--name", help="name of the model; by default guessed from the file's")
    conv.add_argument(
        "--head-dim",
        type=int,
        default=Hints.head_dim,
        help="channels of a UNet attention head, where IN does not say (default %(default)s)",
    )
    conv.add_argument(
        "--clip-head-dim",
        type=int,
        default=Hints.clip_head_dim,
        help="channels of a CLIP attention head, where IN does not say (default %(default)s)",
    )
    conv.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT if it exists; a folder only if it holds nothing but a converted model",
    )
    conv.set_defaults(run=_convert)
    return parser


def _add_ignore_unknown(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ignore-unknown",
        action="store_true",
        help="pass over tensors of unknown names instead of refusing them",
    )


def _inspect(args: argparse.Namespace) -> int:
    found = open_checkpoint(args.file, args.variant, ignore_unknown=args.ignore_unknown)
    faults, notes = judge(found)
    if args.deep:
        faults += tuple(f"{shown(key)} holds NaN or infinity" for key in not_finite(found))
    if len(faults) > LISTED:
        faults = (*faults[:LISTED], f"and {len(faults) - LISTED} more")
    if args.json:
        print(json.dumps({**as_json(found), "faults": faults, "notes": notes}, indent=2))
    else:
        lines = [
            *as_text(found),
            *(f"fault: {fault}" for fault in faults),
            *(f"note: {note}" for note in notes),
        ]
        print("\n".join(map(printable, lines)))
    return command.FOUND_A_FAULT if faults else 0


def _convert(args: argparse.Namespace) -> int:
    if min(args.head_dim, args.clip_head_dim) < 1:
        raise ConfigError("a head size must be positive")
    tca, sca = parse_fold(args.fold) if args.fold else (None, None)
    notes = convert(
        args.source,
        args.out,
        args.to,
        tca=tca,
        sca=sca,
        dtype=DTYPES[args.dtype] if args.dtype else None,
        variant=args.variant,
        hints=Hints(args.head_dim, args.clip_head_dim, args.name),
        overwrite=args.overwrite,
        ignore_unknown=args.ignore_unknown,
        progress=_progress() if sys.stderr.isatty() else None,
    )
    for line in (f"wrote {args.out}", *(f"note: {note}" for note in notes)):
        print(printable(line))
    return 0


def as_json(found: Checkpoint) -> dict[str, Any]:
    """A checkpoint's description as plain values, without what :func:`weights_tools.configs.judge` says of it."""
    return {
        "path": str(found.path),
        "layout": found.layout,
        "parts": {
            part: {
                "structure": dataclasses.asdict(network.structure),
                "keys": len(network.tensors),
                "parameters": network.parameters,
                "dtypes": list(network.dtypes),
                "faults": list(map(str, network.faults[:LISTED])),
            }
            for part, network in found.parts.items()
        },
        "missing_parts": list(found.missing_parts),
        "unused_keys": len(found.unused),
        "metadata": found.metadata,
    }


def as_text(found: Checkpoint) -> list[str]:
    """A checkpoint's description, in lines."""
    lines = [f"{found.path}: {found.layout} layout"]
    for part, network in found.parts.items():
        lines.append(
            f"{part:5} {len(network.tensors):5} tensors  {network.parameters:13,} parameters  "
            f"{', '.join(network.dtypes)}"
        )
        structure = dataclasses.asdict(network.structure)
        if isinstance(network.structure, UNetStructure):
            tca, sca = structure.pop("tca"), structure.pop("sca")
            lines.append(f"      cross-attention: temporal (tca) {tca}, spatial (sca) {sca}")
        lines.append("      " + ", ".join(f"{key} {_short(value)}" for key, value in structure.items()))
    if found.missing_parts:
        lines.append(f"not in it: {', '.join(found.missing_parts)}")
    if found.unused:
        lines.append(f"{len(found.unused)} tensors known and not needed")
    if found.unknown and found.ignore_unknown:
        lines.append(f"{len(found.unknown)} tensors of unknown names, passed over")
    return lines


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _progress() -> Progress:
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total
        if percent != shown:
            shown = percent
            end = "\n" if done == total else ""
            print(
                f"\r{done / 1e9:.2f} of {total / 1e9:.2f} GB ({percent} %)",
                end=end,
                file=sys.stderr,
                flush=True,
            )

    return show
