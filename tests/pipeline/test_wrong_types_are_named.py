"""Whatever is given where something else belongs: wherever the library is entered, one sentence of ours names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from micro import MICRO, micro

import vcut
from vcut import loading, sampling
from vcut.clip import CLIPVisionEncoder, preprocess
from vcut.errors import ConfigError, VcutError
from vcut.layers import pack
from vcut.unet import UNet, fold
from vcut.vae import VAE

PIPE = micro()
UNET, PICTURE = PIPE.unet, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
X, CONTEXT, IDS = torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 1, 64), torch.ones(1, 3)


def sampled(noise: Any) -> Any:
    return sampling.sample(lambda x, *_: x[None], noise, [1.0], sampling.plan(1), sampling.constant(1))


TENSORS: dict[str, Callable[[Any], Any]] = {
    "x": lambda v: UNET(v, 0.3, CONTEXT, IDS),
    "context": lambda v: UNET(X, 0.3, v, IDS),
    "time_ids": lambda v: UNET(X, 0.3, CONTEXT, v),
    "a context": lambda v: UNET.cache_context(v, 3),
    "images": PIPE.vae.encode,
    "latents": PIPE.vae.decode,
    "latents ": PIPE.decode,
    "pixels": PIPE.embed,
    "pixels ": PIPE.clip,
    "images ": PIPE.clip.embed,
    "images  ": preprocess,
    "the noise": sampled,
}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "c_noise": lambda v: UNET(X, v, CONTEXT, IDS),
    "model": lambda v: vcut.load(v),
    "model ": lambda v: vcut.load_unet(v),
    "model  ": lambda v: loading.load_clip(v),
    "unet": lambda v: fold(v, tca=False, sca=False),
    "unet ": vcut.audit,
    "a network": pack,
    "pack": lambda v: vcut.load(pack=v),
    "config": VAE,
    "config ": CLIPVisionEncoder,
    "config  ": vcut.cost,
}
OPTIONAL: dict[str, Callable[[Any], Any]] = {
    "config": lambda v: vcut.load(config=v),
    "config ": lambda v: vcut.load_unet(config=v),
    "config  ": UNet,
    "variant": lambda v: vcut.load(variant=v),
    "revision": lambda v: vcut.load(revision=v),
    "packing": lambda v: pack(packing=v),
    "settings": lambda v: PIPE.generate(PICTURE, settings=v),
    "settings ": lambda v: vcut.cost(MICRO, settings=v),
    "callback": lambda v: PIPE.generate(PICTURE, callback=v, steps=1),
    "embedding": lambda v: vcut.audit(UNET, v),
    "latents": lambda v: vcut.audit(UNET, latents=v),
}


def refused(name: str, call: Callable[[Any], Any], *values: Any) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=f"^{name.strip()} must be .*, got {type(value).__name__}$"):
            call(value)


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor(name: str) -> None:
    refused(name, TENSORS[name], None, "x", 2.5, [], object())


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else(name: str) -> None:
    refused(name, OTHERS[name], None, [], object())


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_may_be_left_out(name: str) -> None:
    refused(name, OPTIONAL[name], 2.5, [], object())


@pytest.mark.parametrize(
    "call",
    [
        lambda v: UNET.cache_context(CONTEXT, v),
        lambda v: PIPE.decode(torch.zeros(1, 2, 4, 4, 4), v),
        lambda v: preprocess(PICTURE[None], v),
        lambda v: fold(UNET, tca=v, sca=True),
        lambda v: PIPE.generate(v, steps=1),
        lambda v: PIPE.generate(PICTURE, noise=v, steps=1),
        lambda v: vcut.load(dtype=v),
    ],
)
def test_numbers_modes_and_pictures(call: Callable[[Any], Any]) -> None:
    for value in ("x", 2.5, [], object()):
        with pytest.raises(VcutError):
            call(value)


def test_what_is_a_number_is_taken_of_any_type() -> None:
    for c_noise in (1, 0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])):
        assert UNET(X, c_noise, CONTEXT, IDS).shape == (1, 3, 4, 8, 8)
    assert MICRO.unet == UNet(MICRO.unet).config
