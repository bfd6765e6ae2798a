"""Print a UNet's loss on held-out clips at fixed noise levels: where the loss is, and which of two runs is better.

The moving average of a run is judged, while the run goes on if need be. Every clip is given all its conditions.

    python -m training.heldout runs/vae runs/clip runs/unet
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from training.common import averaged, averaged_steps, generator, load
from training.config import HELD_OUT_SEED, settings
from training.unet import Batch, Data, Objective, encoded, without_dead_weights
from vcut.config import TINY
from vcut.unet import UNet

SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 700.0)
"""Noise levels, in standard deviations of the latents."""


def batch(data: Data, sigma: float) -> Batch:
    """All clips of ``data`` with all their conditions, at one noise level; the noise is the same at every level."""
    return Batch(
        latents=data.latents,
        noise=torch.randn(data.latents.shape, generator=generator(HELD_OUT_SEED)),
        sigma=torch.full_like(data.fps, sigma),
        image=data.images[:, 0],
        embedding=data.embeddings.unsqueeze(1),
        time_ids=torch.stack([data.fps - 1, data.motion_bucket, data.noise_aug[:, 0]], dim=1),
    )


@torch.no_grad()
def losses(objective: Objective, data: Data) -> dict[float, Tensor]:
    """Mean loss of the clips at each of :data:`SIGMAS`, by frame ``[f]``."""
    return {sigma: objective.losses(batch(data, sigma)).mean(0) for sigma in SIGMAS}


def main() -> None:
    """Print the step of the run, and a line for every noise level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("vae", "clip", "unet"):
        parser.add_argument(name, type=Path, help=f"folder of training.{name}")
    parser.add_argument("--clips", type=int, default=32)
    arguments = parser.parse_args()
    settings()
    scale = load(arguments.unet / "data.pt")["scale"]
    data = encoded(arguments.vae, arguments.clip, arguments.clips, HELD_OUT_SEED)
    data = dataclasses.replace(data, latents=data.latents * (scale / data.scale))
    objective = Objective(without_dead_weights(UNet(TINY.unet)))
    objective.load_state_dict(averaged(arguments.unet))
    found = losses(objective, data)
    print(f"step {averaged_steps(arguments.unet)}, mean {torch.stack([*found.values()]).mean():.4f}")
    print("sigma, loss of all frames, of the last frame")
    for sigma, loss in found.items():
        print(f"{sigma:7.2f} {loss.mean():.4f} {loss[-1]:.4f}")


if __name__ == "__main__":
    main()
