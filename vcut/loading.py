"""From a name, a folder or a file to a :class:`vcut.pipeline.Pipeline`."""

from __future__ import annotations

import dataclasses
from os import PathLike

import torch
from torch import nn

from vcut import hub
from vcut.clip import CLIPVisionEncoder
from vcut.config import CONFIGS, PRESETS, TINY, Mode, Preset, SVDConfig
from vcut.errors import ConfigError
from vcut.pipeline import Pipeline
from vcut.unet import UNet
from vcut.vae import VAE
from weights_tools import files
