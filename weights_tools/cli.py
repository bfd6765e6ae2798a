"""``python -m weights_tools``: look into checkpoints and convert them.

Exit codes: 0 done, 2 a fault in the checkpoint or the request, said on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from weights_tools.arguments import Parser
from weights_tools.configs import Hints
from weights_tools.convert import convert
from weights_tools.describe import Checkpoint, describe
from weights_tools.errors import ConfigError, VcutError
from weights_tools.fold import Mode
from weights_tools.interrupts import stoppable
from weights_tools.structure import LAYOUTS, UNetStructure
from weights_tools.writer import Progress

FAILED = 2
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
    try:
        with stoppable():
            args = _parser().parse_args(argv)
            code: int = args.run(args)
            sys.stdout.flush()
        return code
    except SystemExit as done:  # argparse after --help
        return int(done.code or 0)
    except BrokenPipeError:  # the reader has gone, as in `inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return FAILED
    except (VcutError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def parse_fold(text: str) -> tuple[Mode | None, Mode | None]:
    """``(tca, sca)`` of ``baseline``, ``lossless``, ``vcut`` or ``tca=MODE,sca=MODE``; None where not said."""
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
    parser = Parser(
        prog="python -m weights_tools",
        description="Look into Stable Video Diffusion checkpoints and convert them between layouts.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    inspect = commands.add_parser("inspect", help="say what is in a checkpoint, reading its headers alone")
    inspect.add_argument("file", help=".safetensors file or diffusers folder")
    inspect.add_argument("--variant", choices=["fp16"], help="prefer the folder's half-precision files")
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
    conv.add_argument("--variant", choices=["fp16"], help="prefer the folder's half-precision files")
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


def _inspect(args: argparse.Namespace) -> int:
    found = describe(args.file, args.variant)
    if args.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        print("\n".join(as_text(found)))
    return FAILED if found.faults else 0


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
        progress=_progress() if sys.stderr.isatty() else None,
    )
    print(f"wrote {args.out}")
    for note in notes:
        print(f"note: {note}")
    return 0


def as_json(found: Checkpoint) -> dict[str, Any]:
    """A checkpoint's description as plain values."""
    return {
        "path": str(found.path),
        "layout": found.layout,
        "parts": {
            name: {**dataclasses.asdict(part), "structure": dataclasses.asdict(part.structure)}
            for name, part in found.parts.items()
        },
        "missing_parts": list(found.missing_parts),
        "unused_keys": found.unused,
        "faults": list(found.faults),
        "metadata": found.metadata,
    }


def as_text(found: Checkpoint) -> list[str]:
    """A checkpoint's description, in lines."""
    lines = [f"{found.path}: {found.layout} layout"]
    for name, part in found.parts.items():
        lines.append(
            f"{name:5} {part.keys:5} tensors  {part.parameters:13,} parameters  {', '.join(part.dtypes)}"
        )
        structure = dataclasses.asdict(part.structure)
        if isinstance(part.structure, UNetStructure):
            tca, sca = structure.pop("tca"), structure.pop("sca")
            lines.append(f"      cross-attention: temporal (tca) {tca}, spatial (sca) {sca}")
        lines.append("      " + ", ".join(f"{key} {_short(value)}" for key, value in structure.items()))
    if found.missing_parts:
        lines.append(f"not in it: {', '.join(found.missing_parts)}")
    if found.unused:
        lines.append(f"{found.unused} tensors known and not needed")
    lines += [f"fault: {fault}" for fault in found.faults]
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
