"""Random weights of a configuration, written once as a diffusers checkpoint, which everyone maps from the file.

Each process maps the same pages, so three contenders take the memory of one. A tensor's values depend on its name
alone: a bfloat16 file holds the rounded values of the float32 one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcut.clip import CLIPVisionEncoder
from vcut.config import CONFIGS, TINY, SVDConfig
from vcut.kernels import runtime
from vcut.unet import UNet
from vcut.vae import VAE
from weights_tools.checkpoint import FOLDERS
from weights_tools.configs import diffusers_files
from weights_tools.convert import convert
from weights_tools.remap import Lazy, compare, lazily_to_layout
from weights_tools.structure import PARTS, Part
from weights_tools.tensor_file import write

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KINDS: dict[Part, Callable[[Any], nn.Module]] = {"unet": UNet, "vae": VAE, "clip": CLIPVisionEncoder}


def configuration(model: str) -> SVDConfig:
    """The configuration of that name, with the resnet eps of diffusers: 1e-6 where the official code has 1e-5.

    ``one-level`` is the model in the box with one level of its UNet and attention in the middle alone, for 4 frames
    of 32x32: it is compiled in a third of the time, and no CPU takes long to compute it in float16.
    """
    level = dataclasses.replace(TINY.unet.levels[0], attention=False)
    one_level = dataclasses.replace(TINY.unet, levels=(level,))
    small = dataclasses.replace(TINY, name="one-level", unet=one_level, frames=4, width=32, height=32)
    config = {**CONFIGS, small.name: small}[model]
    return dataclasses.replace(config, unet=dataclasses.replace(config.unet, diffusers_norm_eps=True))


def native(dtypes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The dtypes that this CPU computes itself, and a reason for each that it does not."""
    emulated = [dtype for dtype in dtypes if runtime.is_emulated(DTYPES[dtype])]
    own = [dtype for dtype in dtypes if dtype not in emulated]
    return own, dict.fromkeys(emulated, "this CPU has no such arithmetic")


def write_part(folder: Path, config: SVDConfig, part: Part, dtype: str) -> Path:
    """The folder of one network below ``folder``, with its config.json; written if it is not there."""
    subfolder, stem = FOLDERS[part]
    out = folder / f"{config.name}-{dtype}" / subfolder
    if (out / "config.json").is_file():
        return out
    out.mkdir(parents=True)
    with torch.device("meta"):
        sketch = KINDS[part](getattr(config, part)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in sketch.items()}
    structure = compare(shapes, part, "vcut").structure
    precision = DTYPES[dtype]
    drawn = Lazy({name: partial(_draw, name, tensor, precision) for name, tensor in sketch.items()})
    stored = lazily_to_layout(sketch, "diffusers", structure)
    specs = {name: (precision, tuple(stored[name].shape)) for name in stored}
    tensors = lazily_to_layout(drawn, "diffusers", structure)
    write(out / f"{stem}.safetensors", specs, tensors, {"format": "pt"})
    settings = diffusers_files(config.to_dict())[f"{subfolder}/config.json"]
    (out / "config.json").write_text(json.dumps(settings))  # last: where it is, the weights are whole
    return out


def write_model(folder: Path, config: SVDConfig, dtype: str) -> Path:
    """The folder of a whole diffusers checkpoint below ``folder``; what is not there is written."""
    out = folder / f"{config.name}-{dtype}"
    for part in PARTS:
        write_part(folder, config, part, dtype)
    for name, content in diffusers_files(config.to_dict()).items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(content))
    return out


def write_single_file(folder: Path, config: SVDConfig, dtype: str) -> Path:
    """The same checkpoint as one file in the published layout; written, after the folder, if it is not there."""
    out = folder / f"{config.name}-{dtype}.safetensors"
    if not out.is_file():
        convert(write_model(folder, config, dtype), out, "sgm")
    return out


def path_size(folder: Path) -> int:
    """Bytes of the weights in ``folder``."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _draw(name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Values of one tensor: matrices as torch draws them, norms near 1, biases and mix factors near 0."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    bound = 0.1 if like.ndim < 2 else 1 / math.sqrt(like[0].numel())
    values = torch.empty(like.shape).uniform_(-bound, bound, generator=generator)
    if like.ndim < 2 and name.endswith(".weight"):
        values += 1
    return values.to(dtype)
