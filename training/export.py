"""Join the trained networks in one file of the ``vcut`` layout, in half precision.

python -m training.export runs/vae runs/clip runs/unet tiny.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training import card
from training.clip import Objective, accuracy
from training.common import averaged, finished, load, read_curve
from vcut.clip import CLIPVisionEncoder
from vcut.config import TINY, SVDConfig
from vcut.unet import UNet
from vcut.vae import VAE
from weights_tools.outputs import replacing


def trained_unet(folder: Path) -> UNet:
    """The moving average of a run of :mod:`training.unet`, in the form with softmax attention."""
    unet = UNet(TINY.unet)
    unet.load_state_dict({name.removeprefix("unet."): t for name, t in averaged(folder).items()})
    return unet.eval().requires_grad_(False)


def configuration(unet_folder: Path) -> SVDConfig:
    """The configuration that was trained, with the scale that its VAE's latents turned out to need."""
    scale = round(load(unet_folder / "data.pt")["scale"], 5)
    return dataclasses.replace(TINY, vae=dataclasses.replace(TINY.vae, scale=scale))


def record(vae: Path, clip: Path, unet: Path) -> dict[str, Any]:
    """The training of the networks, from their runs' folders: steps, hours on the clock, and the loss."""
    runs = {"VAE, pictures": vae / "images", "VAE, clips": vae / "clips", "CLIP": clip, "UNet": unet}
    stages = {}
    for name, folder in runs.items():
        curve = read_curve(folder / "curve.jsonl")
        tenths = [curve[max(len(curve) * i // 10 - 1, 0)]["step"] for i in range(1, 11)]
        stages[name] = {
            "steps": int(curve[-1]["step"]),
            "hours": round(curve[-1]["seconds"] / 3600, 2),
            "loss": {str(int(step)): _smooth(curve, step) for step in tenths},
        }
    named = Objective(TINY.clip)
    named.load_state_dict(averaged(clip))
    return {"stages": stages, "clip_accuracy": {k: round(v, 4) for k, v in accuracy(named).items()}}


def _smooth(curve: list[dict[str, float]], step: float) -> float:
    """The mean loss of the 100 steps up to ``step``."""
    losses = [line["loss"] for line in curve if step - 100 < line["step"] <= step]
    return round(sum(losses) / len(losses), 4)


def export(
    path: Path,
    config: SVDConfig,
    unet: UNet,
    vae: VAE,
    clip: CLIPVisionEncoder,
    dtype: torch.dtype = torch.float16,
    training: dict[str, Any] | None = None,
) -> None:
    """Write the three networks and ``config`` to ``path``, whole or not at all, with ``training`` in its header.

    Raises:
        FloatingPointError: ``dtype`` cannot hold a weight.
    """
    parts: dict[str, nn.Module] = {"unet": unet, "vae": vae, "clip": clip}
    tensors: dict[str, Tensor] = {}
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            stored = tensor.to(dtype).contiguous()
            if not torch.isfinite(stored).all():
                raise FloatingPointError(f"{part}.{name} does not fit into {dtype}")
            tensors[f"{part}.{name}"] = stored
    metadata = {"format": "vcut", "config": json.dumps(config.to_dict())}
    if training is not None:
        metadata["training"] = json.dumps(training)
    with replacing(path, overwrite=True) as part_path:
        save_file(tensors, part_path, metadata)


def main() -> None:
    """Export the networks, and print the card of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("vae", "clip", "unet"):
        parser.add_argument(name, type=Path, help=f"folder of training.{name}")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    config = configuration(arguments.unet)
    networks = (
        trained_unet(arguments.unet),
        finished(VAE(config.vae), arguments.vae),
        finished(CLIPVisionEncoder(config.clip), arguments.clip),
    )
    training = record(arguments.vae, arguments.clip, arguments.unet)
    export(arguments.output, config, *networks, training=training)
    print("\n".join(card.lines(arguments.output)))


if __name__ == "__main__":
    main()
