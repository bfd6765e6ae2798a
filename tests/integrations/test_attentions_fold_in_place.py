"""Folded in place, the cross-attentions of diffusers' kind of UNet give the same, whatever the order of rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers_like import CONTEXT, Pipe, UNet, close, embedding
from torch import nn

from vcut.errors import ConfigError
from vcut.integrations.diffusers import accelerate
from vcut.integrations.folding import FoldedAttention

ATTENTION = "transformers.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize("rows", [2, 6], ids=["a context per clip", "a context per frame"])
@pytest.mark.parametrize("order", ["(b p)", "(p b)"])
def test_lossless_is_equal(order: Any, rows: int) -> None:
    pipe = Pipe(UNet(order))
    expected = pipe(embedding(rows))
    with accelerate(pipe) as accelerated:
        assert len(accelerated.folds.folded) == 4
        assert close(pipe(embedding(rows)), expected)


def test_the_orders_differ() -> None:
    """The control: with two clips in a batch, the old order mixes their contexts."""
    assert not close(Pipe(UNet("(p b)"))(embedding()), Pipe(UNet())(embedding()), 1e-3)


def test_frames_as_tokens_of_the_input() -> None:
    """Some projects hand the UNet ``[b, f, d]`` and make rows of it inside."""
    pipe, context = Pipe(), embedding(2, 3)
    expected = pipe(context)
    with accelerate(pipe):
        assert close(pipe(context), expected)


@pytest.mark.parametrize("channels", [9, 12])
def test_other_numbers_of_input_channels(channels: int) -> None:
    unet = UNet(in_channels=channels)
    given = (torch.randn(2, 3, channels, 2, 2), 0.3, embedding(), torch.zeros(2, 3))
    expected = unet(*given).sample
    with accelerate(unet):
        assert close(unet(*given).sample, expected)


def test_the_product_is_rounded_once() -> None:
    unet = UNet().to(torch.bfloat16)
    old = unet.get_submodule(ATTENTION)
    w_o, w_v = old.to_out[0].weight, old.to_v.weight
    with accelerate(unet):
        new = unet.get_submodule(ATTENTION)
        assert torch.equal(new.linear.weight, (w_o.double() @ w_v.double()).bfloat16())
        assert not new.linear.weight.requires_grad


def test_neither_queries_nor_the_norm_are_computed() -> None:
    pipe = Pipe()
    for block in (
        b for t in pipe.unet.transformers for b in (*t.transformer_blocks, *t.temporal_transformer_blocks)
    ):
        block.attn2.to_q.weight.data.fill_(0)
        block.norm2.weight.data.fill_(1)
    with accelerate(pipe):
        for module in pipe.unet.modules():
            if isinstance(module, FoldedAttention):
                module.norm.weight.data.fill_(torch.nan)
                module.attention.to_q.weight.data.fill_(torch.nan)
        assert pipe(embedding()).isfinite().all()


def test_vcut_drops_the_temporal_ones() -> None:
    """The same as temporal attentions whose output is zero."""
    pipe = Pipe()
    zeroed = copy.deepcopy(pipe.unet)
    for transformer in zeroed.transformers:
        for parameter in transformer.temporal_transformer_blocks[0].attn2.to_out[0].parameters():
            parameter.data.fill_(0)
    with accelerate(pipe, "vcut", cut=6) as accelerated:
        assert (len(accelerated.folds.folded), len(accelerated.folds.dropped)) == (2, 2)
        assert close(pipe(embedding()), Pipe(zeroed)(embedding()))


@pytest.mark.parametrize("preset", ["lossless", "vcut"])
def test_removal_restores_everything(preset: Any) -> None:
    pipe = Pipe()
    before = pipe(embedding())
    state = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    modules = dict(pipe.unet.named_modules())
    accelerated = accelerate(pipe, preset, cut=3)
    assert dict(pipe.unet.named_modules()) != modules
    accelerated.remove()
    accelerated.remove()
    assert dict(pipe.unet.named_modules()) == modules
    assert list(pipe.unet.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in pipe.unet.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.unet.modules())
    assert torch.equal(pipe(embedding()), before)


def test_what_was_replaced_is_cast_and_moved_along() -> None:
    pipe = Pipe()
    with accelerate(pipe):
        pipe.unet.to(torch.float64)
        copied = copy.deepcopy(pipe.unet)
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float64}
    given = (torch.randn(2, 3, 8, 2, 2).double(), 0.3, embedding().double(), torch.zeros(2, 3))
    assert close(copied(*given).sample, pipe.unet(*given).sample, 1e-6)


def test_more_than_one_token_is_refused_at_the_call() -> None:
    pipe = Pipe()
    with (
        accelerate(pipe),
        pytest.raises(ConfigError, match=rf"one token, \[rows, 1, {CONTEXT}\], got \[\d+, 2, {CONTEXT}\]"),
    ):
        pipe(embedding(2, 2))


def test_more_than_one_token_goes_to_the_trained_attention() -> None:
    pipe = Pipe()
    expected = pipe(embedding(2, 2))
    with accelerate(pipe, on_unsupported="keep"):
        assert torch.equal(pipe(embedding(2, 2)), expected)
        assert close(pipe(embedding()), Pipe()(embedding()))


def test_an_argument_besides_is_refused_at_the_call() -> None:
    """Such as a scale for tracklets or adapters, which goes to the attention alone."""
    pipe = Pipe()
    expected = pipe(embedding(), gate=0.5)
    with accelerate(pipe), pytest.raises(ConfigError, match="got the argument gate"):
        pipe(embedding(), gate=0.5)
    with accelerate(pipe, on_unsupported="keep"):
        assert close(pipe(embedding(), gate=0.5), expected)


class Adapted(nn.Linear):
    """A product with a low-rank change beside it, as adapters make them."""

    lora_layer = object()


class Custom:
    """A processor of somebody's own."""


def lora(attention: Any) -> None:
    attention.to_v = Adapted(CONTEXT, 8, bias=False)


def adapter_module(attention: Any) -> None:
    attention.to_out[0] = nn.Sequential(attention.to_out[0])


def processor(attention: Any) -> None:
    attention.processor = Custom()


def hook(attention: Any) -> None:
    attention.to_q.register_forward_hook(lambda *_: None)


def packed(attention: Any) -> None:
    attention.to_v.weight = nn.Parameter(attention.to_v.weight.to(torch.int8), requires_grad=False)


def scaled(attention: Any) -> None:
    attention.forward = lambda *args, **kwargs: 2 * type(attention).forward(attention, *args, **kwargs)


def other_names(attention: Any) -> None:
    del attention.to_out


CHANGES = {
    lora: "Adapted: fuse and unload a LoRA first",
    adapter_module: "Sequential: fuse and unload a LoRA first",
    processor: r"its processor is .*\.Custom",
    hook: "to_q has a forward hook",
    packed: "its weights are torch.int8",
    scaled: "does not compute W_o W_v e",
    other_names: "Attention has no to_v and to_out",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_more_than_plain_attention_is_named(change: Any) -> None:
    unet = UNet()
    change(unet.get_submodule(ATTENTION))
    modules = dict(unet.named_modules())
    with pytest.raises(ConfigError, match=f"1 of 4 cross-attentions.*\n  {ATTENTION}: .*{CHANGES[change]}"):
        accelerate(unet)
    assert dict(unet.named_modules()) == modules  # nothing was touched
    with accelerate(unet, on_unsupported="keep") as accelerated:
        assert len(accelerated.folds.folded) == 3
        assert ATTENTION in repr(accelerated)
        assert unet.get_submodule(ATTENTION) is modules[ATTENTION]


def test_a_norm_of_another_kind_is_named() -> None:
    unet = UNet()
    unet.transformers[0].transformer_blocks[0].norm2 = nn.Identity()
    with pytest.raises(ConfigError, match="the norm before it is Identity"):
        accelerate(unet)


def test_it_says_what_it_did() -> None:
    pipe = Pipe()
    accelerated = accelerate(pipe, cut=3)
    assert repr(accelerated).startswith("<UNet, lossless: 4 cross-attentions folded, 0 dropped; ")
    assert "guidance stops at step 3" in repr(accelerated)
    whole = sum(p.numel() for p in UNet().parameters())
    # q, k, v, o and its bias, the norm, less the folded product and its bias
    idle = 4 * (2 * 8 * 8 + 2 * 8 * CONTEXT + 8 + 2 * 8 - 8 * CONTEXT - 8)
    assert f"{idle:,} of {whole:,} weights idle" in repr(accelerated)
    accelerated.remove()
    assert repr(accelerated) == "<UNet, lossless: removed>"


@pytest.mark.parametrize(
    ("give", "settings", "says"),
    [
        (lambda: Pipe(), {"preset": "baseline"}, "changes nothing"),
        (lambda: Pipe(), {"preset": "slow"}, "there is no preset"),
        (lambda: Pipe(), {"preset": "fast"}, "settings of vcut's own sampler: take lossless"),
        (lambda: Pipe(), {"on_unsupported": "skip"}, "'raise' or 'keep'"),
        (lambda: Pipe(), {"cut": 0}, "cut step"),
        (lambda: Pipe(), {"cut": 3, "after": "none"}, "after must be 'mean', 'cond' or 'uncond', got 'none'"),
        (lambda: Pipe(), {"after": "none"}, "after must be 'mean', 'cond' or 'uncond', got 'none'"),
        (
            lambda: Pipe(),
            {"after": "cond"},
            "after is for .* a cut on, and preset lossless has none: give cut",
        ),
        (lambda: Pipe(), {"scheduler": "mine"}, "scheduler is for .* preset lossless has none"),
        (lambda: UNet(), {"cut": 3}, "give the pipeline, or scheduler="),
        (lambda: nn.Linear(1, 1), {}, "has no cross-attentions in spatio-temporal transformers"),
        (lambda: 3, {}, "a pipeline with a unet, or a UNet, got int"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_are_checked(give: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        accelerate(give(), **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"preset": "baseline", "cut": 3}], ids=["folded", "guidance stopped"]
)
def test_twice_is_refused(settings: dict[str, Any]) -> None:
    pipe = Pipe()
    with accelerate(pipe, **settings), pytest.raises(ConfigError, match="accelerated already"):
        accelerate(pipe)
