"""Every choice among the forms of packed layers gives what the plain layers give, is a text, and can be given."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from micro import SMALL
from PIL import Image
from torch import Tensor, nn

import vcut
from vcut import cli
from vcut.errors import ConfigError
from vcut.kernels import onednn
from vcut.kernels.choice import VALUES
from vcut.layers import (
    GEGLU,
    Conv,
    Packing,
    TemporalConv,
    UpsamplingConv,
    pack,
    packed,
    packed_bytes,
    packing,
)
from vcut.layers.packing import FourConvolutions, Packed, WinogradConv, WinogradUpsampling, packing_of
from vcut.loading import random_model
from vcut.unet import UNet

packs = pytest.mark.skipif(not onednn.packs(torch.float32), reason="this CPU does not pack float32")

FLOAT32 = 1e-5
"""The largest difference over the largest value that other orders of summation explain."""

EVERY = [Packing(*values) for values in itertools.product(*VALUES.values())]
EACH = [
    dataclasses.replace(base, **{name: value})  # type: ignore[arg-type]
    for base in (EVERY[0], EVERY[-1])
    for name, values in VALUES.items()
    for value in values
]
"""Each value of each field beside the first values of the others, and beside the last."""

LAYERS: tuple[tuple[nn.Module, int], ...] = (
    (nn.Linear(24, 40), 7),
    (GEGLU(24, 40), 7),
    (Conv(24, 40, 1), 7),
    (Conv(24, 32, 3, padding=1), 9),
    (Conv(32, 64, 3, padding=1), 2),
    (Conv(64, 64, 3, padding=1), 9),
    (Conv(64, 64, 3, stride=2, padding=1), 9),
    (TemporalConv(32, 32), 5),
    (TemporalConv(64, 64), 5),
    (UpsamplingConv(16, 24), 5),
    (UpsamplingConv(64, 40), 5),
)
"""Layers, each with the width of a map: one for every way through the choice, with thresholds as in :func:`small`."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few channels count as many, so that small layers have every form."""
    for name, channels in (("MANY", 32), ("MORE", 64), ("WIDE", 32)):
        monkeypatch.setattr(packing, name, channels)


def off(got: Tensor, expected: Tensor) -> float:
    """Largest difference over largest value."""
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())


def frozen(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).float().requires_grad_(False)


@packs
@torch.no_grad()
def test_every_choice_of_every_layer(small: None) -> None:
    forms: dict[tuple[nn.Module, Packing], tuple[object, ...]] = {}
    for layer, width in LAYERS:
        plain = frozen(layer)
        channels = plain.get_parameter("weight").shape[1]
        x = torch.randn(1, 3, 6, width, channels, generator=torch.Generator().manual_seed(0))
        expected = plain(x)
        for choice in EVERY:
            network = nn.Sequential(copy.deepcopy(plain))
            told = packed_bytes(network, choice)
            pack(network, packing=choice)
            weights = ((weight.shape, weight.is_mkldnn) for weight in network.parameters())
            forms[layer, choice] = type(network[0]), *weights
            assert off(network(x), expected) < FLOAT32, (layer, choice)
            assert told == sum(weight.numel() * 4 for weight in network.parameters()), (layer, choice)
    kinds = {kind for kind in vars(packing).values() if isinstance(kind, type) and issubclass(kind, Packed)}
    met = {kind for kind, *_ in forms.values()}
    assert met == kinds - {Packed} | {Conv, TemporalConv, UpsamplingConv}, (
        "every form, and none where none pays"
    )
    for name, values in VALUES.items():
        for one, other in itertools.combinations(values, 2):
            changed = any(
                form != forms[layer, dataclasses.replace(choice, **{name: other})]  # type: ignore[arg-type]
                for (layer, choice), form in forms.items()
                if getattr(choice, name) == one
            )
            # by width is a tile of 4 for layers as small as these
            assert changed != ({one, other} == {"width", "4"}), (name, one, other)


def unet_call(unet: UNet) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 3, 8, 8, 12, generator=draw), torch.randn(1, 1, 64, generator=draw)
    return unet(x, 0.3, context, torch.tensor([[6.0, 127.0, 0.02]]))


@packs
@pytest.mark.slow
@torch.no_grad()
def test_every_value_of_every_choice_of_a_network(small: None) -> None:
    plain = random_model(SMALL, preset="lossless").unet
    expected = unet_call(plain)
    outputs = {}
    for choice in dict.fromkeys(EACH):
        unet = copy.deepcopy(plain)
        assert pack(unet, packing=choice)
        assert packing_of(unet) == choice
        outputs[choice] = unet_call(unet)
        assert off(outputs[choice], expected) < FLOAT32, choice
    distinct = {output.numpy().tobytes() for output in outputs.values()}
    assert len(distinct) > 5, "the control: they are computed differently"


@packs
@pytest.mark.parametrize("channels", [640, 704])
@pytest.mark.parametrize(
    ("filtering", "products"), [("width", None), ("4", 36), ("2", 16)], ids=["width", "4", "2"]
)
@torch.no_grad()
def test_the_tile_is_as_chosen(channels: int, filtering: Any, products: int | None) -> None:
    """By width, filters of many channels grow least."""
    plain = Conv(128, channels, 3, padding=1).requires_grad_(False)
    choice = Packing(matrices="plain", filtering=filtering)
    layer = packed(plain, packing=choice)
    assert isinstance(layer, WinogradConv)
    assert len(layer.weight) == (products or (36 if channels == 640 else 16))
    x = torch.randn(1, 1, 6, 10, 128)
    assert off(layer(x), plain(x)) < FLOAT32


@packs
def test_upsampling_is_as_chosen() -> None:
    wide = UpsamplingConv(128, 128).requires_grad_(False)
    assert isinstance(packed(wide, packing=Packing(upsampling="filtered")), WinogradUpsampling)
    assert isinstance(packed(wide, packing=Packing(upsampling="four")), FourConvolutions)
    with pytest.raises(ConfigError, match="a UpsamplingConv cannot be packed here"):
        packed(wide, packing=Packing(upsampling="plain"))


@pytest.mark.parametrize(
    ("instructions", "form"),
    [("AVX2", "plain"), ("DEFAULT", "plain"), ("AVX512", "blocks"), ("AVX512_VNNI", "blocks")],
)
def test_the_rest_is_as_the_instructions_of_the_cpu_have_it(
    instructions: str, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert Packing() == Packing(form, form, "width", "filtered", "joined")
    assert Packing.parse("filters=plain,narrow=apart") == Packing(form, "plain", "width", "filtered", "apart")
    assert (
        str(Packing()) == f"matrices={form},filters={form},filtering=width,upsampling=filtered,narrow=joined"
    )


@given(st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}))
def test_a_text_is_read_back(given: dict[str, Any]) -> None:
    choice = Packing(**given)
    assert Packing.parse(str(choice)) == choice
    if given:
        assert Packing.parse(",".join(f"{name}={value}" for name, value in given.items())) == choice


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected some of matrices=, filters=, filtering=, upsampling=, narrow=, got ''"),
        ("matrices", "matrices: expected blocks or plain, got ''"),
        ("matrices=rows", "matrices: expected blocks or plain, got 'rows'"),
        ("filtering=3", "filtering: expected width or 4 or 2 or none, got '3'"),
        ("filters=plain,", "expected some of matrices=, filters=, filtering=, upsampling=, narrow=, got ''"),
        ("filters=plain;narrow=apart", "filters: expected blocks or plain, got 'plain;narrow=apart'"),
        ("rows=plain", "got 'rows=plain'"),
        ("matrices=plain,matrices=blocks", "matrices is given twice: as 'plain' and as 'blocks'"),
    ],
)
def test_a_word_that_is_none_is_named_with_those_expected(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Packing.parse(text)


@packs
def test_a_model_knows_what_it_is_packed_in() -> None:
    choice = Packing(matrices="blocks", filters="plain")
    assert vcut.load("tiny", device="cpu", pack=choice).packing == choice
    assert vcut.load("tiny", device="cpu", pack=True).packing == Packing()
    assert vcut.load("tiny", device="cpu").packing is None


@packs
def test_the_command_takes_the_choice_records_it_and_goes_on_with_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Image.new("RGB", (64, 64), "red").save("pictures/red.png")
    words = [
        "sweep",
        "pictures",
        "-o",
        "OUT",
        "--device",
        "cpu",
        "--steps",
        "1",
        "--frames",
        "2",
        "--cut",
        "none",
    ]
    assert cli.main([*words, "--pack", "matrices=blocks,filters=plain"]) == 0
    recorded = json.loads(Path("OUT/sweep.json").read_text())["packing"]
    assert Packing.parse(recorded) == Packing("blocks", "plain")
    assert f"packed   {recorded}\n" in capsys.readouterr().out
    assert cli.main([*words, "--pack", recorded]) == 0
    assert "1 clips in OUT, 1 of them there already" in capsys.readouterr().out
    assert cli.main([*words, "--pack", "matrices=plain"]) == 2
    assert f"its packing is '{recorded}', asked for is 'matrices=plain," in capsys.readouterr().err
