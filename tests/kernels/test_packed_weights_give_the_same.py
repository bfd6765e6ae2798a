"""Weights packed for this CPU compute what the plain ones do, and say so where they cannot follow."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import vcut
from tests.micro import MICRO
from vcut.errors import ConfigError
from vcut.kernels import onednn, parts
from vcut.kernels.choice import Form
from vcut.kernels.onednn import can_pack
from vcut.layers import (
    GEGLU,
    Conv,
    Packing,
    TemporalConv,
    UpsamplingConv,
    is_packed,
    pack,
    packed,
    packed_bytes,
    packing,
    packing_of,
)
from vcut.layers.packing import MANY, NARROW, Packed, SideBySideConv
from vcut.loading import random_model
from vcut.unet import UNet, fold

FLOAT32 = 2e-5
"""Relative: other orders of summation, over a network."""


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(24, 40),
        nn.Linear(24, 40, bias=False),
        GEGLU(24, 40),
        Conv(24, 64, 3, padding=1),
        Conv(24, 64, 3, stride=2),
        TemporalConv(24, 64),
        Conv(24, 3, 1),
        UpsamplingConv(24, 64),
        Conv(128, 136, 3, padding=1),
        TemporalConv(640, 704),
        UpsamplingConv(128, 136),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["blocks", "plain"], ids=["AVX-512", "AVX2"])
@torch.no_grad()
def test_a_product(module: nn.Module, dtype: torch.dtype, form: Form) -> None:
    plain = nn.Sequential(copy.deepcopy(module)).to(dtype).requires_grad_(False)
    network = copy.deepcopy(plain)
    weight = next(network.parameters())
    channels = weight.shape[1]
    filters = isinstance(module, nn.Conv2d) and weight[0, 0].numel() > 1
    in_blocks = form == "blocks" and onednn.same_blocks(len(weight))
    stays = filters and not in_blocks and (channels < MANY or dtype != torch.float32)
    packing = Packing(form, form)
    assert pack(network, packing=packing) == is_packed(network) == (can_pack(weight) and not stays)
    assert packing_of(network) == (packing if is_packed(network) else None)
    x = torch.randn(2, 3, 7, 9, channels, dtype=dtype)
    got, expected = network(x), plain(x)
    assert got.is_contiguous()
    assert got.shape == expected.shape
    assert relative(got, expected) < (3e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("width", range(1, NARROW + 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_narrow_maps_do_not_see_each_other(
    width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WIDE", 24)
    plain = Conv(24, 32, 3, padding=1).to(dtype).requires_grad_(False)
    if not can_pack(plain.weight):
        pytest.skip(f"this CPU does not pack {dtype}")
    side_by_side = packed(plain, packing=Packing(filters="blocks"))
    assert isinstance(side_by_side, SideBySideConv)
    x = torch.randn(1, 5, 3, width, 24, dtype=dtype)
    got, expected = side_by_side(x), plain(x)
    assert got.is_contiguous()
    assert relative(got, expected) < (1e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_packed_weights_are_told_before(dtype: torch.dtype) -> None:
    layers = (
        nn.Linear(24, 40),
        Conv(128, 192, 3, padding=1),
        TemporalConv(640, 648),
        UpsamplingConv(128, 136),
    )
    plain = nn.Sequential(*layers).to(dtype).requires_grad_(False)
    if not can_pack(plain[0].weight):
        pytest.skip(f"this CPU does not pack {dtype}")
    told = packed_bytes(copy.deepcopy(plain).to("meta"))
    pack(plain)
    assert told == sum(weight.numel() * dtype.itemsize for weight in plain.parameters())
    assert told > 1.7 * 2 * 192 * 128 * 9


@torch.no_grad()
def test_upsampling_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Sequential(UpsamplingConv(24, 32)).requires_grad_(False)
    network = copy.deepcopy(plain)
    assert pack(network, packing=Packing(upsampling="four")) == can_pack(next(plain.parameters()))
    x = torch.randn(2, 5, 3, 4, 24)
    expected = plain(x)
    monkeypatch.setattr(parts, "PART_BYTES", {"cpu": 1})
    assert relative(network(x), expected) < 1e-6


CALLS = """
import sys
import torch
from vcut.kernels import onednn

dtype = getattr(torch, sys.argv[1])
for channels in filter(onednn.same_blocks, (3, 4, 16, 32, 48, 64, 96, 128, 192, 320, 384, 512, 640)):
    for kernel, padding in (((3, 3), (1, 1)), ((3, 1), (1, 0))):
        weight = torch.randn(channels, 64, *kernel, dtype=dtype)
        print("to pack", channels, flush=True)
        filters = onednn.packed_filters(weight, padding=padding)
        for n, i, j in ((14, 4, 4), (14, 8, 8), (2, 64, 64), (1, 9, 130)):
            onednn.convolution(torch.randn(n, i, j, 64, dtype=dtype), filters, None, padding=padding)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_call_rearranges_packed_filters_by_slow_code(dtype: str) -> None:
    """As oneDNN itself says. In bfloat16 it may rearrange them still, as it does plain ones, by fast code."""
    if not (can_pack(torch.zeros(1, dtype=getattr(torch, dtype))) and Packing().filters == "blocks"):
        pytest.skip(f"this CPU does not pack filters in {dtype}")
    command, environment = [sys.executable, "-c", CALLS, dtype], os.environ | {"ONEDNN_VERBOSE": "1"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    _, *packed = said.split("to pack ")
    assert len(packed) == 18
    assert [text.split()[0] for text in packed if "reorder,jit" not in text or "reorder,simple" in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["baseline", "lossless", "vcut"])
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
    ours, theirs = trained.time_embed.linear_1, cut.time_embed.linear_1
    assert isinstance(theirs, Packed)
    assert ours.weight is theirs.weight
    assert ours is not theirs, "a hook on one must not run in the other"


def test_nothing_is_packed_that_wants_a_gradient() -> None:
    network = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    with pytest.raises(ConfigError, match="requires_grad_"):
        pack(network)
    assert not is_packed(network)


def test_what_the_cpu_cannot_do_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(4, 4).double()).requires_grad_(False)
    assert not pack(network)
    assert not is_packed(network)
    with pytest.raises(ConfigError, match="cannot be packed"):
        packed(network[0])


def test_one_layer_is_no_network() -> None:
    with pytest.raises(ConfigError, match=r"packed\(layer\) makes one"):
        pack(nn.Linear(4, 4).requires_grad_(False))


@pytest.fixture
def packed_unet() -> UNet:
    unet = random_model(MICRO, preset="vcut").unet
    assert pack(unet)
    return unet


def call(unet: UNet) -> torch.Tensor:
    torch.manual_seed(0)
    x, context = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 1, MICRO.unet.context_dim)
    return unet(x.to(unet.dtype), 0.3, context, torch.tensor([[6.0, 127.0, 0.02]]))


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda unet: unet.to("meta"), "moved or cast to meta"),
        (lambda unet: unet.to(torch.bfloat16), "in float32 cannot be moved or cast to cpu, bfloat16"),
        (lambda unet: unet.half(), "moved or cast to cpu, float16"),
        (lambda unet: unet.double(), "moved or cast to cpu, float64"),
        (copy.deepcopy, "copied or pickled"),
        (pickle.dumps, "copied or pickled"),
        (lambda unet: torch.save(unet, io.BytesIO()), "copied or pickled"),
        (lambda unet: unet.state_dict(), "saved"),
        (
            lambda unet: unet.load_state_dict(random_model(MICRO, preset="vcut").unet.state_dict()),
            "load first",
        ),
        (lambda unet: fold(unet, tca=False, sca="linear_cached"), "fold first"),
    ],
)
def test_what_a_packed_network_cannot_do_it_refuses_and_stays_as_it_was(
    packed_unet: UNet, attempt: Callable[[UNet], object], said: str
) -> None:
    with torch.no_grad():
        expected = call(packed_unet)
    with pytest.raises(ConfigError, match=said):
        attempt(packed_unet)
    with torch.no_grad():
        assert torch.equal(call(packed_unet), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_packed_network_does_not_go_to_a_gpu(packed_unet: UNet) -> None:
    with pytest.raises(ConfigError, match="moved or cast to cuda"):
        packed_unet.cuda()


@torch.no_grad()
def test_moving_to_where_it_is_changes_nothing(packed_unet: UNet) -> None:
    expected = call(packed_unet)
    weight = packed_unet.conv_in.weight
    assert packed_unet.to("cpu").to(torch.float32).float().cpu() is packed_unet
    assert packed_unet.conv_in.weight is weight
    assert torch.equal(call(packed_unet), expected)


def test_a_default_device_is_not_taken_for_where_it_is(packed_unet: UNet) -> None:
    with torch.device("meta"):
        assert packed_unet.to("cpu") is packed_unet
        with pytest.raises(ConfigError, match="moved or cast to meta"):
            packed_unet.to("meta")


@torch.no_grad()
def test_autocast_is_refused(packed_unet: UNet) -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=r"torch\.autocast"):
        call(packed_unet)


def test_training_is_refused(packed_unet: UNet) -> None:
    call(packed_unet)  # gradients are enabled, and nothing wants one
    packed_unet.requires_grad_(True)
    with pytest.raises(ConfigError, match="trained, differentiated or transformed"):
        call(packed_unet)
    packed_unet.requires_grad_(False)
    x = torch.randn(1, 2, 8, 8, 8, requires_grad=True)
    with pytest.raises(ConfigError, match="trained, differentiated or transformed"):
        packed_unet(x, 0.3, torch.randn(1, 1, MICRO.unet.context_dim), torch.zeros(1, 3))


def test_folding_comes_before_packing() -> None:
    unet = random_model(MICRO, preset="baseline").unet
    pack(unet)
    with pytest.raises(ConfigError, match="fold first"):
        fold(unet, tca=False, sca="linear_cached")


def test_loading_packs_when_asked() -> None:
    assert is_packed(vcut.load("tiny", pack=True).unet)
    assert not is_packed(vcut.load("tiny").unet)
    assert not is_packed(vcut.load("tiny", pack=True, offload=True).unet), "each use would pack again"
