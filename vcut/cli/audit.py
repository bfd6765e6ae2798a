"""``vcut audit``: is each cross-attention of a model the constant that the mathematics says it is?"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vcut.cli import lines, models, options, values
from vcut.config import PRESETS
from weights_tools import command

if TYPE_CHECKING:
    from torch import Tensor

    from vcut.unet import UNet

EXPLANATION = """\
columns:
  tokens        pixels of the map, at the small size that is run
  |logit|       largest logit that the softmax was given
  |softmax-1|   largest deviation of the softmax's weights from 1; 0 means equal in every bit
  |att-linear|  largest difference of the whole layer from its folded form, relative
  allowed       largest difference that rounding in this dtype explains
  constant      root mean square of what the layer adds, over that of the stream it is added to
  dead          parameters that no output depends on

exit code: 0 if every layer is that constant, 1 if one is not, 2 if the audit could not be done.
"""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser: options.Subcommand = commands.add_parser(
        "audit",
        help="check the single-token identity on a model's own weights",
        description="Check on a model's own weights that every cross-attention adds one constant vector. "
        "Only the UNet is read; with --image, CLIP too.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=audit)
    parser.add_options = _add_options


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        type=values.name,
        default="tiny",
        metavar="MODEL",
        help=f"{options.MODELS}, a whole model or a UNet alone (default: tiny)",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="baseline",
        help="form of the cross-attentions to audit (default: baseline, all softmax)",
    )
    parser.add_argument(
        "--image",
        type=values.path,
        metavar="PICTURE",
        help="picture whose CLIP embedding is the context (default: unit noise)",
    )
    parser.add_argument(
        "--seed",
        type=values.seed,
        default=0,
        metavar="N",
        help="seed of the context and of the latents that are drawn (default: 0)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float64", *options.DTYPES),
        default="float32",
        help="number type of the UNet (default: float32)",
    )
    models.add_source(parser)
    options.add_device(parser, default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON")


def audit(args: argparse.Namespace) -> int:
    """Print the audit that ``args`` ask for; return 1 if it finds a fault."""
    import vcut

    unet, embedding = _subject(args)
    report = vcut.audit(unet, embedding, seed=args.seed)
    print(json.dumps(report.to_dict(), indent=2) if args.json else report.table())
    failed = [row.place for row in report.rows if not row.holds]
    if not failed:
        return 0
    lines.warn(
        f"fault: {args.model}: {len(failed)} of {len(report.rows)} cross-attentions are not the constant that "
        f"they should be, first {failed[0]}"
    )
    return command.FOUND_A_FAULT


def _subject(args: argparse.Namespace) -> tuple[UNet, Tensor | None]:
    """The UNet to audit, and the embedding of the picture if one is given."""
    import torch

    import vcut
    from vcut.media import images

    dtype, device = getattr(torch, args.dtype), values.device(args.device)
    if args.image is None:
        unet = vcut.load_unet(
            args.model, preset=args.preset, dtype=dtype, device=device, **models.source(args)
        )
        return unet, None
    # a fault of the picture is found before the model is loaded
    model, config = options.configuration(args.model, **models.source(args))
    picture = images.to_tensor(args.image, config.height, config.width)
    how = models.source(args, model)
    pipe = vcut.load(model, preset=args.preset, dtype=dtype, device=device, **how)
    return pipe.unet, pipe.embed(picture[None])
