"""Claim 6. With two context tokens there is no identity: the softmax depends on x, and no linear form is allowed."""

from __future__ import annotations

import pytest
import torch
from proof_models import inputs, shared_unet

from experiments.row_order import interleaved
from vcut.analysis.audit import audit
from vcut.config import Mode
from vcut.errors import ConfigError
from vcut.unet.attention import CrossAttention


@torch.no_grad()
def test_the_output_varies_from_pixel_to_pixel() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, 4, 12).double()
    x = torch.randn(2, 3, 10, 32, dtype=torch.float64)

    def spread(tokens: int) -> float:
        out = layer(x, layer.cache(torch.randn(2, 1, tokens, 12, dtype=torch.float64)))
        return float((out - out[:, :1, :1]).abs().max())

    assert spread(1) < 1e-15
    assert spread(2) > 1e-2


@torch.no_grad()
def test_two_equal_tokens_are_one() -> None:
    """The weights then differ from 1, but they still sum to it: what counts is one value, not one key."""
    unet = shared_unet()
    x, c_noise, context, time_ids = inputs()
    twice = context.repeat(1, 2, 1)
    torch.testing.assert_close(
        unet(x, c_noise, twice, time_ids), unet(x, c_noise, context, time_ids), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("tokens", [2, 77])
@pytest.mark.parametrize(
    ("tca", "sca"),
    [
        ("linear_cached", "linear_cached"),
        (False, "linear_cached"),
        (True, "linear_cached"),
        ("linear_cached", True),
    ],
)
def test_every_linear_form_refuses_them_and_says_why(tca: Mode, sca: Mode, tokens: int) -> None:
    unet, args = shared_unet(tca, sca), inputs(tokens=tokens)
    for attempt in (
        lambda: unet(*args),
        lambda: unet.cache_context(args.context, frames=3),
        lambda: audit(unet, args.context),
    ):
        with pytest.raises(ConfigError, match=rf"exactly one token, got {tokens}: only over a single key"):
            attempt()


def test_the_row_order_experiment_refuses_them_too() -> None:
    with pytest.raises(ConfigError, match="exactly one token, got 2"):
        interleaved(shared_unet("linear_cached", "linear_cached"), inputs(tokens=2).context, 8, 16, frames=3)


@torch.no_grad()
def test_the_softmax_form_takes_them() -> None:
    unet, args = shared_unet(), inputs(tokens=2)
    assert (unet(*args) - unet(args.x, args.c_noise, args.context[:, :1], args.time_ids)).abs().max() > 1e-4
