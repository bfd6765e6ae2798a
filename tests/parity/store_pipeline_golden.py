"""Writes ``tests/data/pipeline_micro.safetensors``: diffusers' own 25 steps on the micro model's weights.

    python tests/parity/store_pipeline_golden.py

The default test run compares with it, so that the whole pipeline is proven without diffusers installed; the parity
tests compare it with diffusers itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import diffusers
import torch
from pipeline_golden import FILE, SEED, micro_like_diffusers
from safetensors.torch import save_file
from test_pipeline_equals_diffusers import as_pil, theirs_step_by_step


def main() -> None:
    pipe = micro_like_diffusers()
    states, frames = theirs_step_by_step(pipe, as_pil(), SEED, height=32, width=32)
    tensors = {"latents": torch.stack(states), "frames": frames.contiguous()}
    save_file(tensors, FILE, metadata={"diffusers": diffusers.__version__})
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
