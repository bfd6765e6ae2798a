"""Weights packed for this CPU compute what the plain ones do, and say so where they cannot follow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import vcut
from tests.micro import MICRO
from vcut.config import PRESETS
from vcut.errors import ConfigError
from vcut.kernels import parts
from vcut.kernels.onednn import can_pack
from vcut.layers import GEGLU, Linear, UpsamplingConv, conv, is_packed, pack
from vcut.layers.conv import NARROW, Conv2d, UpsamplingConv2d
from vcut.loading import random_model
from vcut.unet import fold

FLOAT32 = 2e-5
"""Relative: other orders of summation, over a network."""


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize(
    "module",
    [
        Linear(24, 40),
        Linear(24, 40, bias=False),
        GEGLU(24, 40),
        Conv2d(24, 40, 3, padding=1),
        Conv2d(24, 40, 3, stride=2),
        Conv2d(24, 40, (3, 1), padding=(1, 0)),
        Conv2d(24, 3, 1),
        UpsamplingConv2d(24, 40),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_product(module: nn.Module, dtype: torch.dtype) -> None:
    plain = copy.deepcopy(module).to(dtype).requires_grad_(False)
    packed = copy.deepcopy(plain)
    weight = next(packed.parameters())
    assert pack(packed) == can_pack(weight) == is_packed(packed)
    x = torch.randn(2, 7, 9, 24, dtype=dtype)
    got, expected = packed(x), plain(x)
    assert got.is_contiguous()
    assert relative(got, expected) < (1e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("width", range(1, NARROW + 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_narrow_maps_do_not_see_each_other(
    width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "WIDE", 24)
    plain = Conv2d(24, 40, 3, padding=1).to(dtype).requires_grad_(False)
    packed = copy.deepcopy(plain)
    assert pack(packed) == can_pack(plain.weight)
    x = torch.randn(5, 3, width, 24, dtype=dtype)
    got, expected = packed(x), plain(x)
    assert got.is_contiguous()
    assert relative(got, expected) < (1e-6 if dtype == torch.float32 else 0.01)


@torch.no_grad()
def test_upsampling_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = UpsamplingConv(24, 40).requires_grad_(False)
    packed = copy.deepcopy(plain)
    assert pack(packed) == can_pack(plain.weight)
    x = torch.randn(2, 5, 3, 4, 24)
    expected = plain(x)
    monkeypatch.setattr(parts, "PART_BYTES", {"cpu": 1})
    assert relative(packed(x), expected) < 1e-6


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_a_whole_clip(preset: str) -> None:
    plain, packed = (random_model(MICRO, preset=preset) for _ in range(2))
    assert pack(packed.unet, packed.vae)
    image = torch.rand(3, 64, 64)
    expected = plain.generate(image, seed=0, frames=3, height=64, width=64, steps=3)
    got = packed.generate(image, seed=0, frames=3, height=64, width=64, steps=3)
    assert relative(got, expected) < FLOAT32


@torch.no_grad()
def test_shared_weights_are_packed_once() -> None:
    trained = random_model(MICRO, preset="baseline").unet
    cut = fold(trained, tca=False, sca="linear_cached")
    pack(trained, cut)
    assert trained.conv_in.weight is cut.conv_in.weight
    assert cut.conv_in.weight.is_mkldnn


def test_nothing_is_packed_that_wants_a_gradient() -> None:
    linear = Linear(4, 4)
    with pytest.raises(ConfigError, match="requires_grad_"):
        pack(linear)
    assert not is_packed(linear)


def test_what_the_cpu_cannot_do_stays_as_it_is() -> None:
    linear = Linear(4, 4).double().requires_grad_(False)
    assert not pack(linear)
    assert not is_packed(linear)


def test_folding_comes_before_packing() -> None:
    unet = random_model(MICRO, preset="baseline").unet
    pack(unet)
    with pytest.raises(ConfigError, match="fold first"):
        fold(unet, tca=False, sca="linear_cached")


def test_loading_packs_when_asked() -> None:
    assert is_packed(vcut.load("tiny", pack=True).unet)
    assert not is_packed(vcut.load("tiny").unet)
    assert not is_packed(vcut.load("tiny", pack=True, offload=True).unet), "each use would pack again"
