"""The card of a trained file: networks, size, and how it was trained.

python -m training.card tiny
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

import vcut
from vcut.loading import BOXED


def lines(path: Path) -> Iterator[str]:
    """The card of the file at ``path`` in Markdown, line by line."""
    model = vcut.load(path, preset="baseline", device="cpu")
    networks = {"UNet": model.unet, "VAE": model.vae, "CLIP": model.clip}
    for name, network in networks.items():
        yield f"- {name}: {sum(p.numel() for p in network.parameters()):,} parameters"
    yield f"- {path.stat().st_size / 1e6:.2f} MB; VAE scale {model.config.vae.scale}"
    with safe_open(path, "pt") as file:
        training = json.loads(file.metadata().get("training", "null"))
    if training is None:
        return
    named = training["clip_accuracy"]
    yield (
        f"- CLIP's embedding names the kinds in {named['kind']:.1%} and the colours in {named['hue']:.1%} of "
        "held-out frames"
    )
    yield ""
    yield "| stage | steps | hours | loss at 10 %, 20 %, ... of them |"
    yield "|---|--:|--:|---|"
    for name, stage in training["stages"].items():
        losses = ", ".join(f"{loss:.3f}" for loss in stage["loss"].values())
        yield f"| {name} | {stage['steps']:,} | {stage['hours']} | {losses} |"


def main() -> None:
    """Print the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="tiny, or a file")
    model = parser.parse_args().model
    print("\n".join(lines(BOXED if str(model) == "tiny" else model)))


if __name__ == "__main__":
    main()
