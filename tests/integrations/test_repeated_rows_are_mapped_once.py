"""diffusers' transformers repeat a context for each pixel: it is mapped before, and right where that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers_like import CONTEXT, Block, Transformer, UNet, close, embedding
from torch import Tensor, nn

from vcut.config import Mode, Preset
from vcut.integrations.diffusers import accelerate

CLIPS, FRAMES, PIXELS = 2, 3, 20


def call(unet: UNet, context: Tensor, clips: int = CLIPS) -> Tensor:
    x = torch.randn(clips, FRAMES, 8, 4, PIXELS // 4, generator=torch.Generator().manual_seed(1))
    return unet(x, 0.3, context, torch.zeros(clips, 3)).sample


def mapped_rows(unet: UNet, context: Tensor, clips: int = CLIPS) -> list[int]:
    """Numbers of rows in the folded products of a call."""
    rows: list[int] = []
    for name, module in unet.named_modules():
        if name.endswith("attn2.linear"):
            module.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[:-1].numel()))
    call(unet, context, clips)
    return rows


@pytest.mark.parametrize("rows", [CLIPS, CLIPS * FRAMES], ids=["a context per clip", "a context per frame"])
@pytest.mark.parametrize("order", ["(b p)", "(p b)"])
@pytest.mark.parametrize("unsupported", ["raise", "keep"])
def test_every_frame_is_mapped_once(unsupported: Any, order: Any, rows: int) -> None:
    unet = UNet(order)
    expected = call(unet, embedding(rows))
    accelerate(unet, on_unsupported=unsupported)
    assert close(call(unet, embedding(rows)), expected)
    assert mapped_rows(unet, embedding(rows)) == 4 * [CLIPS * FRAMES]


MODES: list[Mode] = [True, "linear_cached", False]


@pytest.mark.parametrize(
    ("tca", "sca"), [(tca, sca) for tca in MODES for sca in MODES if (tca, sca) != (True, True)]
)
def test_beside_trained_and_dropped_ones(tca: Mode, sca: Mode) -> None:
    unet, zeroed = UNet(), UNet()
    for transformer in zeroed.transformers:
        for block in (*transformer.transformer_blocks, *transformer.temporal_transformer_blocks):
            if (tca if block.temporal else sca) is False:
                for parameter in block.attn2.to_out[0].parameters():
                    nn.init.zeros_(parameter)
    with accelerate(unet, Preset("mine", tca, sca), on_unsupported="keep"):
        assert close(call(unet, embedding(6)), call(zeroed, embedding(6)))
        assert close(call(unet, embedding(6, 2)), call(UNet(), embedding(6, 2)))


class OwnTransformer(Transformer):
    """A project's transformer that changes its context."""

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, num_frames: int, **further: Any) -> Tensor:
        shifted = encoder_hidden_states.tanh() + torch.arange(CONTEXT)
        return Transformer.forward(self, x, shifted, num_frames, **further)


class OwnBlock(Block):
    """A project's block that changes its context."""

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, num_frames: int, **further: Any) -> Tensor:
        return super().forward(x, encoder_hidden_states.tanh(), num_frames, **further)


def a_transformer(transformer: Any) -> None:
    transformer.__class__ = OwnTransformer


def a_forward(transformer: Any) -> None:
    transformer.forward = OwnTransformer.forward.__get__(transformer)


def a_block(transformer: Any) -> None:
    transformer.temporal_transformer_blocks[0].__class__ = OwnBlock


def an_attention(transformer: Any) -> None:
    """One that is left as it is, beside one that is folded."""
    transformer.transformer_blocks[0].attn2.processor = object()


CHANGES = {a_transformer: 3, a_forward: 3, a_block: 3, an_attention: 2}
"""What a project changed in the second transformer, and how many products map frames then; one maps pixels."""


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_in_what_a_project_changed_rows_are_mapped_as_given(change: Any, clips: int) -> None:
    unet, context = UNet(), embedding(clips * FRAMES)
    change(unet.transformers[1])
    expected = call(unet, context, clips)
    accelerate(unet, on_unsupported="keep")
    assert close(call(unet, context, clips), expected)
    assert mapped_rows(unet, context, clips) == [*CHANGES[change] * [clips * FRAMES], clips * PIXELS]


def test_a_context_that_is_not_given_by_its_name_is_mapped_too() -> None:
    unet = UNet()
    accelerate(unet)
    given = torch.randn(6, PIXELS, 8), embedding(6)
    by_name = unet.transformers[0](given[0], encoder_hidden_states=given[1], num_frames=FRAMES)
    assert close(unet.transformers[0](*given, FRAMES), by_name)


@pytest.mark.parametrize("change", [a_block, lambda _: None], ids=["a project's own", "diffusers'"])
@pytest.mark.parametrize("tokens", [1, 2])
def test_a_context_of_another_width_is_refused(tokens: int, change: Any) -> None:
    unet = UNet()
    for transformer in unet.transformers:
        change(transformer)
    accelerate(unet, on_unsupported="keep")
    for width in (CONTEXT - 1, CONTEXT + 1, CONTEXT + 8):
        with pytest.raises(RuntimeError):
            call(unet, torch.zeros(6, tokens, width))


def test_under_autocast_the_result_has_its_dtype() -> None:
    """The context may be wider than the product."""
    unet, kinds = UNet(), []
    accelerate(unet)
    for transformer in unet.transformers:
        for block in (*transformer.transformer_blocks, *transformer.temporal_transformer_blocks):
            block.attn2.register_forward_hook(lambda *given: kinds.append(given[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        call(unet, embedding())
    assert kinds == 4 * [torch.bfloat16]
