"""Claim 11. Every clip's temporal cross-attention sees that clip's first frame's context, at every pixel.

Temporal tokens of a batch lie in rows (b n), so contexts must be repeated in that order. Here they are never
repeated: a clip's queries meet its context in one call, or its vector is broadcast. The wrong order is an experiment,
see ``tests/experiments/test_row_order.py``.
"""

from __future__ import annotations

import pytest
import torch
from proof_models import inputs, shared_unet
from torch import Tensor

from vcut.config import Mode
from vcut.unet import UNet
from vcut.unet.attention import Cached, KeyValue

FORMS: list[tuple[Mode, Mode]] = [(True, True), ("linear_cached", "linear_cached")]
every_form = pytest.mark.parametrize(("tca", "sca"), FORMS, ids=str)


def added(unet: UNet, context: Tensor) -> list[Tensor]:
    """What each temporal cross-attention adds in a real pass: ``[b, f, n, c]``, or what broadcasts to it."""
    seen: list[Tensor] = []
    layers = [block.cross for t in unet.transformers() for block in t.temporal]
    handles = [layer.register_forward_hook(lambda _m, _a, out: seen.append(out)) for layer in layers if layer]
    x, c_noise, _, time_ids = inputs(b=len(context))
    unet(x, c_noise, context, time_ids)
    for handle in handles:
        handle.remove()
    return seen


@every_form
@torch.no_grad()
def test_each_clip_of_a_batch_is_added_the_vector_that_it_is_added_alone(tca: Mode, sca: Mode) -> None:
    unet, context = shared_unet(tca, sca), inputs(b=3).context
    together = added(unet, context)
    assert len(together) == 16
    for i in range(3):
        for batched, alone in zip(together, added(unet, context[i : i + 1]), strict=True):
            vector = alone[0, 0, 0]
            torch.testing.assert_close(batched[i], vector.expand_as(batched[i]), rtol=1e-13, atol=1e-14)
            assert (batched[(i + 1) % 3] - vector).abs().max() > 1e-3


@every_form
@torch.no_grad()
def test_swapping_the_clips_of_a_batch_swaps_their_outputs(tca: Mode, sca: Mode) -> None:
    unet, args = shared_unet(tca, sca), inputs()
    out = unet(*args)
    swapped = unet(*(a.flip(0) for a in args))
    torch.testing.assert_close(swapped.flip(0), out, rtol=1e-12, atol=1e-12)


@every_form
@torch.no_grad()
def test_swapping_the_contexts_alone_changes_both(tca: Mode, sca: Mode) -> None:
    unet, (x, c_noise, context, time_ids) = shared_unet(tca, sca), inputs()
    change = unet(x, c_noise, context.flip(0), time_ids) - unet(x, c_noise, context, time_ids)
    assert (change.abs().amax(dim=(1, 2, 3, 4)) > 1e-3).all()


@every_form
@torch.no_grad()
def test_temporal_cross_attention_sees_the_first_frames_context_only(tca: Mode, sca: Mode) -> None:
    unet = shared_unet(tca, sca)
    contexts = torch.randn(2, 3, 1, 12, dtype=torch.float64)
    later = contexts.clone()
    later[:, 1:] += 1
    first = contexts.clone()
    first[:, 0] += 1

    def values(cached: Cached) -> Tensor:
        assert cached is not None
        return cached.value if isinstance(cached, KeyValue) else cached

    base, with_later, with_first = (unet.cache_context(c, frames=3).blocks for c in (contexts, later, first))
    for a, b, c in zip(base, with_later, with_first, strict=True):
        assert torch.equal(values(a.temporal), values(b.temporal))
        assert (values(a.temporal) - values(c.temporal)).abs().max() > 1e-2
        assert (values(a.spatial) - values(b.spatial)).abs().amax(dim=(0, 2, 3)).tolist()[0] == 0
        assert ((values(a.spatial) - values(b.spatial)).abs().amax(dim=(0, 2, 3))[1:] > 1e-2).all()


@every_form
@torch.no_grad()
def test_a_context_for_every_frame_that_is_the_same_is_one_context(tca: Mode, sca: Mode) -> None:
    unet, (x, c_noise, context, time_ids) = shared_unet(tca, sca), inputs()
    repeated = context.unsqueeze(1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        unet(x, c_noise, repeated, time_ids), unet(x, c_noise, context, time_ids), rtol=1e-12, atol=1e-12
    )
