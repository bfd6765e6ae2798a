"""``vcut audit``: is each cross-attention of a model the constant that the mathematics says it is?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcut.cli import values
from vcut.config import CONFIGS, PRESETS
from vcut.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from vcut.pipeline import Pipeline

EXPLANATION = """\
columns:
  tokens        pixels of the map at the small size that is run
  |logit|       the largest logit that the softmax was given
  |softmax-1|   the largest deviation of its weights from 1; 0 means equal in every bit
  |att-linear|  the largest difference of the whole layer from its folded form, relative
  allowed       what rounding in this dtype explains of it
  constant      root mean square of what the layer adds, over that of the stream it is added to
  dead          parameters that no output depends on

exit code 0 if every layer is that constant, 2 if not.
"""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "audit",
        help="check the single-token identity on a model's own weights",
        description="Check on a model's own weights that every cross-attention adds one constant vector.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=audit)
    parser.add_argument(
        "model",
        nargs="?",
        type=values.name,
        default="tiny",
        metavar="MODEL",
        help=f"{', '.join(CONFIGS)}; or a .safetensors file or a diffusers folder (default: tiny)",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="baseline",
        help="the form to audit (default: baseline, all softmax)",
    )
    parser.add_argument(
        "--image",
        type=values.path,
        metavar="PICTURE",
        help="whose CLIP embedding is the context (default: unit noise)",
    )
    parser.add_argument(
        "--seed", type=values.seed, default=0, metavar="N", help="of all that is drawn (default: 0)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32", "float16", "bfloat16"),
        default="float32",
        help="of the UNet (default: float32)",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def audit(args: argparse.Namespace) -> None:
    """Print the audit that ``args`` ask for."""
    if args.image is not None:  # a fault of the picture is found before the model is loaded
        from vcut.media import images

        images.pixels(args.image)
    device = values.device(args.device)

    import torch

    import vcut
    from vcut.analysis.audit import audit as measure

    pipe = vcut.load(args.model, preset=args.preset, dtype=getattr(torch, args.dtype), device=device)
    embedding = None if args.image is None else _embedding(pipe, args.image)
    unet = pipe.unet
    del pipe  # the other networks are not needed: let them go
    report = measure(unet, embedding, seed=args.seed)
    print(json.dumps(report.to_dict(), indent=2) if args.json else report.table())
    failed = [row.place for row in report.rows if not row.holds]
    if failed:
        raise CheckpointError(
            f"{args.model}: {len(failed)} of {len(report.rows)} cross-attentions are not the constant that they "
            f"should be, first {failed[0]}"
        )


def _embedding(pipe: Pipeline, picture: Path) -> Tensor:
    """CLIP's embedding of the picture, ``[1, 1, d]``."""
    import torch

    from vcut.clip import preprocess
    from vcut.media import images

    pixels = images.to_tensor(picture, pipe.config.height, pipe.config.width, "crop")
    weight = pipe.clip.proj.weight
    with torch.no_grad():
        prepared = preprocess(pixels[None].to(weight.device), pipe.config.clip.image_size)
        return pipe.clip(prepared.to(weight.dtype))[:, None]
