"""The audit measures what it says, passes sound weights, and catches unsound ones."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from micro import SMALL
from proof_models import inputs, random_unet
from torch import Tensor

from vcut.analysis.audit import audit, rounding
from vcut.config import Mode
from vcut.errors import ConfigError, NotFiniteError
from vcut.unet import UNet, UNetConfig, fold
from vcut.unet.attention import CrossAttention, KeyValue


@pytest.fixture(scope="module")
def unet() -> UNet:
    return random_unet()


def test_every_cross_attention_has_a_row_in_order_of_execution(unet: UNet) -> None:
    report = audit(unet)
    assert len(report.rows) == 32
    names = [name for name, _ in unet.named_modules() if name.endswith(".cross")]
    assert {row.place for row in report.rows} == set(names)
    assert [row.kind for row in report.rows] == ["spatial", "temporal"] * 16
    assert all(f".{row.kind}." in row.place for row in report.rows)
    order = [row.place.split(".")[0] for row in report.rows]
    assert order == ["down"] * 12 + ["mid"] * 2 + ["up"] * 18


def test_sizes_and_dead_parameters_are_those_of_the_layers(unet: UNet) -> None:
    for row in audit(unet, latents=inputs().x).rows:
        layer = unet.get_submodule(row.place)
        c, d = layer.to_v.weight.shape
        assert (row.channels, row.heads) == (c, layer.heads)
        assert row.dead_parameters == c * c + c * d + 2 * c
    tokens = [row.tokens for row in audit(unet, latents=inputs().x).rows[::2]]
    assert tokens == [128, 128, 32, 32, 8, 8, 2, 8, 8, 8, 32, 32, 32, 128, 128, 128]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_random_weights_pass_in_every_dtype(dtype: torch.dtype) -> None:
    report = audit(random_unet().to(dtype))
    assert report.holds
    assert report.worst_deviation == 0
    assert report.worst_difference is not None
    assert 0 < report.worst_difference < max(row.tolerance or 0 for row in report.rows)
    assert report.dtype == str(dtype).removeprefix("torch.")
    assert all(row.largest_logit is not None and row.largest_logit > 1e-2 for row in report.rows)


@pytest.mark.slow
@torch.no_grad()
def test_the_constant_is_the_norm_of_what_is_added_beside_that_of_its_stream(unet: UNet) -> None:
    args = inputs()
    seen = {}
    handles = [
        unet.get_submodule(row.place).register_forward_hook(
            lambda _m, a, out, place=row.place: seen.__setitem__(place, (a[0], out))
        )
        for row in audit(unet).rows
    ]
    report = audit(unet, args.context, latents=args.x)
    for handle in handles:
        handle.remove()
    for row in report.rows:
        stream, added = seen[row.place]
        assert row.constant == pytest.approx(float(added.norm() / stream.norm()), rel=1e-12)
    lossless = audit(fold(unet, tca="linear_cached", sca=True), args.context, latents=args.x)
    for softmax, linear in zip(report.rows, lossless.rows, strict=True):
        assert softmax.constant == pytest.approx(linear.constant, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tca", "sca", "rows", "softmax"),
    [
        (True, True, 32, 32),
        ("linear_cached", True, 32, 16),
        (False, "linear_cached", 16, 0),
        (False, False, 0, 0),
    ],
)
def test_any_form_that_still_has_a_layer_is_audited(tca: Mode, sca: Mode, rows: int, softmax: int) -> None:
    report = audit(random_unet(tca, sca))
    assert report.holds
    assert len(report.rows) == rows
    assert sum(row.form == "softmax" for row in report.rows) == softmax
    for row in report.rows:
        folded = row.form == "linear_cached"
        for value in (row.largest_logit, row.deviation, row.difference, row.tolerance):
            assert (value is None) == folded
        assert row.constant > 0
        assert (row.dead_parameters == 0) == folded
    assert (report.worst_deviation is None) == (softmax == 0)


@torch.no_grad()
def test_with_two_tokens_the_softmax_is_seen_to_deviate(unet: UNet) -> None:
    report = audit(unet, inputs(tokens=2).context)
    assert not report.holds
    assert report.dead_parameters == 0
    for row in report.rows:
        assert row.deviation is not None
        assert row.deviation > 0.4
        assert row.difference is None
    assert "DOES NOT HOLD" in report.summary()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_folded_weight_that_is_wrong_is_caught_in_its_row_alone(dtype: torch.dtype) -> None:
    unet = random_unet().to(dtype)
    folded = copy.deepcopy(fold(unet, tca="linear_cached", sca="linear_cached"))
    place = "up.2.layers.1.transformer.temporal.0.cross"
    folded.get_submodule(place).linear.weight[0] *= 1.001
    report = audit(unet, folded=folded)
    assert [row.place for row in report.rows if not row.holds] == [place]
    assert report.worst_difference == max(row.difference for row in report.rows if row.place == place)


@pytest.mark.slow
@torch.no_grad()
def test_a_layer_whose_attention_is_not_its_fold_is_caught() -> None:
    """Such as one that scales what it returns: the softmax alone would not show it."""
    unet = random_unet()
    layer = unet.get_submodule("mid.transformer.spatial.0.cross")
    handle = layer.register_forward_hook(lambda _m, _a, out: out * 1.0001)
    assert [row.place for row in audit(unet).rows if not row.holds] == ["mid.transformer.spatial.0.cross"]
    handle.remove()
    assert audit(unet).holds


def test_it_leaves_nothing_behind(unet: UNet) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    state = torch.get_rng_state()
    first, second = audit(unet, seed=3), audit(unet, seed=3)
    assert first == second
    assert first != audit(unet, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in unet.modules())
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"sigma": 0}, "sigma must be"),
        ({"sigma": "a"}, "sigma must be"),
        ({"seed": 2.5}, "seed must be a whole number"),
        ({"embedding": torch.randn(32)}, r"embedding must be \[b, 1, "),
        ({"latents": torch.tensor(1.0)}, r"latents must be \[b, f, "),
        ({"folded": 5}, "folded must be a UNet"),
    ],
)
def test_what_it_cannot_measure_is_named(unet: UNet, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        audit(unet, **asked)


@pytest.mark.parametrize(("tca", "sca"), [(True, True), (False, "linear_cached"), ("linear_cached", True)])
def test_a_form_that_is_not_linear_everywhere_is_no_form_to_compare_with(
    unet: UNet, tca: Mode, sca: Mode
) -> None:
    with pytest.raises(ConfigError, match="folded must be the linear form of unet"):
        audit(unet, folded=fold(unet, tca=tca, sca=sca))


def test_its_hooks_go_even_when_it_fails(unet: UNet) -> None:
    with pytest.raises(ConfigError):
        audit(unet, latents=torch.zeros(2, 3, 8, 7, 8))
    assert not any(module._forward_hooks for module in unet.modules())


@torch.no_grad()
def test_nan_is_an_error_and_not_a_maximum() -> None:
    unet = random_unet()
    unet.mid.resnet_1.spatial.conv_1.bias.fill_(math.inf)
    with pytest.raises(NotFiniteError, match=r"mid\.transformer\.spatial\.0\.cross"):
        audit(unet)


@pytest.mark.slow
def test_given_inputs_are_used(unet: UNet) -> None:
    args = inputs(b=3)
    given = audit(unet, args.context, latents=args.x)
    assert given != audit(unet, args.context + 1, latents=args.x)
    assert given != audit(unet, args.context, latents=args.x + 1)
    assert given != audit(unet, args.context, latents=args.x, sigma=100.0)
    per_frame = args.context.unsqueeze(1) + torch.arange(3).view(1, 3, 1, 1)
    assert audit(unet, per_frame, latents=args.x).holds


def test_the_report_is_json_and_a_table(unet: UNet) -> None:
    for report in (audit(unet), audit(fold(unet, tca=False, sca="linear_cached"))):
        data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        assert len(data["layers"]) == len(report.rows)
        assert data["dead_parameters"] == sum(layer["dead_parameters"] for layer in data["layers"])
        text = report.table()
        assert all(row.place in text for row in report.rows)
        assert text.splitlines()[-1] == report.summary()


def test_three_levels_have_20_rows() -> None:
    torch.manual_seed(0)
    report = audit(UNet(SMALL.unet))
    assert len(report.rows) == 20
    assert report.dead_parameters == 135_296


def test_the_allowed_rounding_of_the_full_size() -> None:
    allowed = [
        rounding(dtype, 1280, 1024) for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ]
    assert allowed == pytest.approx([1.04e-13, 5.6e-5, 0.0625, 0.0079], rel=0.01)


@pytest.mark.slow
def test_the_full_size_has_32_rows_and_50_million_dead_parameters() -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    # all matrices share these numbers: to draw 1.5 billion takes a minute, and 6 GB
    drawn = 0.01 * torch.randn(2**25, generator=torch.Generator().manual_seed(0))
    weights = {
        name: drawn[: p.numel()].view(p.shape)
        if p.ndim > 1
        else torch.full(p.shape, float(name.endswith(".weight")))
        for name, p in unet.state_dict().items()
    }
    unet.load_state_dict(weights, assign=True)
    report = audit(unet)
    assert len(report.rows) == 32
    assert report.dead_parameters == 50_389_760
    assert report.holds


@torch.no_grad()
def test_the_largest_logit_is_that_of_the_layers_own_q_and_k() -> None:
    """Against the scaled products written out for the first cross-attention, which sees its inputs first."""
    unet = random_unet()
    layer = next(m for m in unet.modules() if isinstance(m, CrossAttention))
    seen: list[tuple[Tensor, KeyValue]] = []
    handle = layer.register_forward_hook(lambda _m, args, _out: seen.append(args))
    report = audit(unet, seed=3)
    handle.remove()
    ((x, cached),) = seen
    q = layer.to_q(layer.norm(x)).unflatten(-1, (layer.heads, -1))  # [b, f, n, k, e]
    k = cached.key.unflatten(-1, (layer.heads, -1))  # [b, 1, 1, k, e]
    expected = ((q * k).sum(-1) / q.shape[-1] ** 0.5).abs().max().item()
    assert report.rows[0].largest_logit == pytest.approx(expected, rel=1e-5)
