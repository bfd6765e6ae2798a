"""Join the trained networks in one file of the ``vcut`` layout, in half precision.

python -m training.export runs/vae runs/clip runs/unet tiny.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.common import averaged, finished, load
from training.config import CONFIG
from vcut.clip import CLIPVisionEncoder
from vcut.config import SVDConfig
from vcut.unet import UNet
from vcut.vae import VAE
from weights_tools.atomic import replacing


def trained_unet(folder: Path) -> UNet:
    """The moving average of a run of :mod:`training.unet`, softmax attention and all."""
    unet = UNet(CONFIG.unet)
    unet.load_state_dict({name.removeprefix("unet."): t for name, t in averaged(folder).items()})
    return unet.eval().requires_grad_(False)


def configuration(unet_folder: Path) -> SVDConfig:
    """What was trained, with the scale that its VAE's latents turned out to need."""
    scale = round(load(unet_folder / "data.pt")["scale"], 5)
    return dataclasses.replace(CONFIG, vae=dataclasses.replace(CONFIG.vae, scale=scale))


def export(
    path: Path,
    config: SVDConfig,
    unet: UNet,
    vae: VAE,
    clip: CLIPVisionEncoder,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write the three networks and ``config`` to ``path``, whole or not at all.

    Raises:
        FloatingPointError: a weight that ``dtype`` cannot hold.
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
    with replacing(path, overwrite=True) as part_path:
        save_file(tensors, part_path, metadata)


def main() -> None:
    """Export, and say how large it became."""
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
    export(arguments.output, config, *networks)
    for network in networks:
        print(f"{type(network).__name__}: {sum(p.numel() for p in network.parameters()):,} parameters")
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB, VAE scale {config.vae.scale}")


if __name__ == "__main__":
    main()
