"""The options of ``vcut generate``."""

from __future__ import annotations

import argparse

from vcut.cli import values
from vcut.config import CONFIGS, PRESETS

EXAMPLES = """\
examples:
  vcut generate photo.jpg                          photo.mp4 beside it, from the model in the box
  vcut generate photo.jpg -o clip.gif --seed 7     the suffix picks the format
  vcut generate photo.jpg -o frames                frames/000.png, frames/001.png, ...
  vcut generate photo.jpg --clips 5 -o clips/      clips/photo-0.mp4 ... clips/photo-4.mp4
  vcut generate photos/ -o clips/                  a clip of each picture; those that exist are skipped
  vcut generate photo.jpg --model svd-xt           the real thing, cut at step 17 of 25
  vcut generate photo.jpg --model weights.safetensors --preset baseline
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that ``vcut generate`` takes, in four groups."""
    group = parser.add_argument_group("pictures in, clips out")
    group.add_argument(
        "pictures", nargs="+", type=values.path, metavar="PICTURE", help="a picture, or a folder of them"
    )
    group.add_argument(
        "-o",
        "--output",
        type=values.name,
        metavar="PATH",
        help="a file (.mp4, .gif, .webp); without suffix a folder of the clip's PNG frames; with a / at the end, "
        "with --format or for several clips a folder for clips named after their pictures (default: beside each)",
    )
    group.add_argument(
        "--format",
        choices=("mp4", "gif", "webp", "png"),
        help="of clips named after their pictures; png is a folder of frames (default: mp4)",
    )
    group.add_argument(
        "--clips", type=values.count, default=1, metavar="N", help="clips of each picture (default: 1)"
    )
    group.add_argument(
        "--seed",
        type=values.seed,
        metavar="N",
        help="clip i of a picture is made from seed N + i (default: random, printed)",
    )
    group.add_argument(
        "--size",
        type=values.size,
        metavar="WxH",
        help="width x height in pixels, multiples of 64 (default: the model's, 1024x576)",
    )
    group.add_argument(
        "--fit",
        choices=("crop", "resize", "pad"),
        default="crop",
        help="how pictures of another shape get there: fill and cut, squash, or black bars (default: crop)",
    )
    group.add_argument(
        "--sheet", type=values.path, metavar="PNG", help="also write all frames as one picture"
    )
    group.add_argument(
        "--enlarge",
        type=values.count,
        default=1,
        metavar="N",
        help="write every pixel N times along each side: the model in the box makes 32x32 (default: 1)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace clips that exist")
    group.add_argument("--quiet", action="store_true", help="print errors and notes on the model only")

    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=values.name,
        default="tiny",
        metavar="NAME|PATH",
        help=f"{', '.join(CONFIGS)}; or a .safetensors file or a diffusers folder (default: tiny)",
    )
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="vcut",
        help="baseline: as published; lossless: equal output, less work; vcut: the paper's cut (default)",
    )
    for flag, kind in (("--tca", "temporal"), ("--sca", "spatial")):
        group.add_argument(
            flag,
            type=values.mode,
            metavar="true|linear_cached|false",
            help=f"{kind} cross-attention, instead of the preset's",
        )
    group.add_argument("--variant", choices=("fp16",), help="download half-precision weights, half as large")

    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--steps", type=values.count, default=25, metavar="N", help="denoising steps (default: 25)"
    )
    group.add_argument(
        "--cut",
        type=values.cut,
        default="preset",
        metavar="N|none",
        help="first step without guidance, from 1; none never cuts (default: the preset's, vcut: 17 of 25)",
    )
    for part in ("context", "latents"):
        group.add_argument(
            f"--after-{part}",
            choices=("cond", "mean", "uncond"),
            default="mean" if part == "context" else "cond",
            help=f"{part} of the steps after the cut (default: %(default)s)",
        )
    group.add_argument(
        "--embedding",
        type=values.steps,
        metavar="all|none|A-B",
        help="steps whose passes receive the image embedding, the rest get zeros: the experiment of the paper's "
        "figure 2 (default: all)",
    )
    group.add_argument(
        "--guidance-min",
        type=values.finite,
        default=1.0,
        metavar="X",
        help="at the first frame (default: 1.0)",
    )
    group.add_argument(
        "--guidance-max",
        type=values.finite,
        default=3.0,
        metavar="X",
        help="at the last frame (default: 3.0)",
    )
    group.add_argument(
        "--guidance-shape",
        choices=("linear", "triangle"),
        default="linear",
        help="triangle reaches the maximum at the middle frame and comes back (default: linear)",
    )
    group.add_argument("--frames", type=values.count, metavar="N", help="default: the model's, 14 or 25")
    group.add_argument(
        "--fps",
        type=values.rate,
        metavar="N",
        help="frames per second, of the file and told to the model (default: 7)",
    )
    group.add_argument(
        "--motion-bucket",
        type=values.whole,
        metavar="N",
        help="amount of motion, more is more (default: 127, of about 1 to 255)",
    )
    group.add_argument(
        "--noise-aug",
        type=values.strength,
        default=0.02,
        metavar="X",
        help="noise on the picture: more frees the motion from it (default: 0.02)",
    )

    group = parser.add_argument_group("speed and memory")
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="auto: float16 on a GPU, float32 on the CPU (default)",
    )
    group.add_argument(
        "--vae-dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="float16 overflows with the published VAE (default: float32)",
    )
    group.add_argument(
        "--decode-dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the VAE's decoder, if another: half as much memory (default: as --vae-dtype)",
    )
    group.add_argument(
        "--decode-chunk",
        type=values.count,
        default=14,
        metavar="N",
        help="frames decoded at a time; fewer need less memory, and change the frames a little (default: 14)",
    )
    group.add_argument(
        "--sequential",
        action="store_true",
        help="the two passes of a guided step one after the other: slower, less memory, equal output",
    )
    group.add_argument(
        "--offload",
        action="store_true",
        help="keep the networks in main memory, each on the device only while it is at work: equal output",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the UNet: minutes for the first clip; on a CPU what is done without it is faster",
    )
    group.add_argument(
        "--matmul-precision",
        choices=("highest", "high", "medium"),
        help="of float32 matrix products, as torch names them: medium is faster on many CPUs, and rounds to bfloat16 "
        "on those with such units (default: highest)",
    )
