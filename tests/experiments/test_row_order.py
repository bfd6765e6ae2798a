"""The experiment: what temporal cross-attention received in diffusers before 0.28, where rows were out of order.

Tokens of a batch lay in rows (b n), contexts in rows (n b). The experiment builds that as a context value; here it
is checked against the computation as it was, with real attention and every row written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from einops import rearrange, repeat
from proof_models import HEIGHT, WIDTH, inputs, random_unet
from torch import Tensor

from experiments.row_order import context_rows, interleaved, main
from vcut.errors import ConfigError
from vcut.unet import UNet, fold


@contextmanager
def rows_written_out(unet: UNet, context: Tensor, order: str) -> Iterator[None]:
    """Run every temporal cross-attention on (b n) sequences of f tokens, its contexts repeated to ``order``."""

    def attend(layer: torch.nn.Module, x: Tensor) -> Tensor:
        b, _, n, _ = x.shape
        rows = repeat(context, f"b m d -> {order} m d", n=n)
        tokens = rearrange(layer.norm(x), "b f n c -> (b n) f c")
        q, k, v = layer.to_q(tokens), layer.to_k(rows), layer.to_v(rows)
        q, k, v = (rearrange(t, "r t (k e) -> r k t e", k=layer.heads) for t in (q, k, v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        out = layer.to_out(rearrange(weights @ v, "r k t e -> r t (k e)"))
        return rearrange(out, "(b n) f c -> b f n c", b=b)

    layers = [block.cross for t in unet.transformers() for block in t.temporal]
    handles = [
        layer.register_forward_hook(lambda layer, args, _: attend(layer, args[0]))
        for layer in layers
        if layer
    ]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("clips", [1, 2, 3])
def test_it_equals_the_computation_as_it_was(clips: int) -> None:
    unet, (x, c_noise, e, time_ids) = random_unet(), inputs(b=clips)
    lossless = fold(unet, tca="linear_cached", sca="linear_cached")
    right, wrong = (
        unet(x, c_noise, e, time_ids),
        lossless(x, c_noise, interleaved(lossless, e, HEIGHT, WIDTH, frames=x.shape[1]), time_ids),
    )
    with rows_written_out(unet, e, "(n b)"):
        torch.testing.assert_close(wrong, unet(x, c_noise, e, time_ids), rtol=1e-11, atol=1e-12)
    with rows_written_out(unet, e, "(b n)"):  # the emulation itself, in the right order
        torch.testing.assert_close(right, unet(x, c_noise, e, time_ids), rtol=1e-11, atol=1e-12)
    if clips == 1:
        torch.testing.assert_close(wrong, right, rtol=1e-11, atol=1e-12)
    else:
        assert ((wrong - right).abs().amax(dim=(1, 2, 3, 4)) > 1e-3).all()


@pytest.mark.parametrize(("clips", "pixels"), [(1, 6), (2, 6), (2, 7), (3, 8), (4, 6)])
def test_the_rule_is_what_flattening_in_the_wrong_order_gives(clips: int, pixels: int) -> None:
    contexts = repeat(torch.arange(clips), "b -> (n b)", n=pixels)
    assert torch.equal(context_rows(clips, pixels), rearrange(contexts, "(b n) -> b n", b=clips))


def test_half_of_a_guided_clips_pixels_had_the_wrong_context_in_both_branches() -> None:
    """In every map at 576x1024. Branch 0 is unconditional, branch 1 conditional."""
    for height, width in ((72, 128), (36, 64), (18, 32), (9, 16)):
        rows = context_rows(2, height * width)
        for branch in range(2):
            assert (rows[branch] != branch).float().mean() == 0.5


def test_both_branches_were_given_the_same_stripes() -> None:
    """An even number of pixels: branch and pixel p get context p mod 2, and the width is even: columns alternate.

    So what temporal cross-attention added had no direct part in the difference that guidance amplifies.
    """
    rows = context_rows(2, 9 * 16)
    assert torch.equal(rows[0], rows[1])
    columns = rows[0].view(9, 16)
    assert torch.equal(columns, columns[:1].expand(9, -1))
    assert columns[0].tolist() == [0, 1] * 8


def test_with_an_odd_number_of_pixels_the_branches_differed() -> None:
    rows = context_rows(2, 9)
    assert torch.equal(rows[0], 1 - rows[1])


def test_of_more_clips_most_pixels_were_wrong() -> None:
    rows = context_rows(4, 64)
    wrong = (rows != torch.arange(4)[:, None]).float().mean(dim=1)
    assert wrong.tolist() == [0.75] * 4


@torch.no_grad()
def test_each_layers_own_resolution_is_used() -> None:
    unet = random_unet("linear_cached", "linear_cached")
    e = inputs().context
    context, right = interleaved(unet, e, HEIGHT, WIDTH, frames=3), unet.cache_context(e, frames=3)
    pixels = [block.temporal.shape[2] for block in context.blocks if isinstance(block.temporal, Tensor)]
    assert pixels == [128, 128, 32, 32, 8, 8, 2, 8, 8, 8, 32, 32, 32, 128, 128, 128]
    for wrong_block, right_block in zip(context.blocks, right.blocks, strict=True):
        assert torch.equal(wrong_block.spatial, right_block.spatial)


@torch.no_grad()
def test_a_single_pass_was_never_wrong() -> None:
    """After the cut there is one branch: the paper's quality improvement stage did not carry the fault."""
    unet, args = random_unet("linear_cached", "linear_cached"), inputs(b=1)
    context = interleaved(unet, args.context, HEIGHT, WIDTH, frames=3)
    assert torch.equal(unet(args.x, args.c_noise, context, args.time_ids), unet(*args))


def test_it_needs_the_lossless_form() -> None:
    for tca in (True, False):
        with pytest.raises(ConfigError, match="needs tca='linear_cached'"):
            interleaved(random_unet(tca, True), inputs().context, HEIGHT, WIDTH, frames=3)


@pytest.mark.slow
def test_the_script_prints_shares_estimates_and_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tiny", "--random", "--latents", "8x4", "--frames", "2", "--steps", "4"])
    lines = capsys.readouterr().out.splitlines()
    (share,) = (line for line in lines if line.startswith("4x8 "))
    assert share.split() == ["4x8", "50%", "50%", "True"]
    rows = [line for line in lines if line.startswith(("sigma", "never cut", "cut at step 4"))]
    assert len(rows) == 6
    assert all(float(value) > 0 for row in rows for value in row.split()[-3:])
