"""The trace counts what a kernel moves, and the page on GPUs says what it must."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from benchmarks.harness.rounds import ROOT
from benchmarks.roofline import GPU, GPUS, LAYOUT, Peer, our_call, page, tables
from benchmarks.trace import Kernel, moved, trace
from vcut.analysis.counting import on_meta, unet_counts
from vcut.config import SVD_XT, TINY
from vcut.kernels import parts
from vcut.layers import GroupNorm

HALF = torch.float16
PAGE = (ROOT / "docs" / "gpu.md").read_text()


def only(kernels: list[Kernel]) -> tuple[str, str, int, int, int]:
    (kernel,) = kernels
    return kernel.name, kernel.kind, kernel.read, kernel.written, kernel.flop


def test_a_product_reads_its_matrices_once_and_a_view_is_nothing() -> None:
    x, w, b = on_meta(10, 4, dtype=HALF), on_meta(6, 4, dtype=HALF), on_meta(6, dtype=HALF)
    kernels = trace(lambda: F.linear(x, w, b).view(2, 5, 6).mT)
    assert only(kernels) == ("addmm", "matrix product", 2 * (40 + 24 + 6), 120, 2 * 10 * 4 * 6)


def test_repeated_elements_are_read_once_and_results_are_not_read() -> None:
    x, row = on_meta(8, 16), on_meta(16)
    assert only(trace(lambda: x + row.expand(8, 16)))[2:4] == (4 * (128 + 16), 512)
    assert only(trace(lambda: torch.add(x, x, out=on_meta(8, 16))))[2:4] == (2 * 512, 512)
    assert only(trace(lambda: F.silu(x, inplace=True))) == ("silu_", "activation", 512, 512, 0)
    assert only(trace(lambda: x.clone().copy_(x))[1:])[2:4] == (512, 512)


def test_attention_is_one_kernel() -> None:
    q, k = on_meta(1, 2, 5, 8, dtype=HALF), on_meta(1, 2, 7, 8, dtype=HALF)
    kernels = trace(lambda: F.scaled_dot_product_attention(q, k, value=k))
    assert only(kernels) == ("attention", "attention", 2 * (80 + 112 + 112), 160, 4 * 80 * 7)


def test_what_is_worked_on_in_parts_is_counted_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LARGEST_PART_BYTES", 64)

    def doubled() -> None:
        x = on_meta(64)
        some = parts.Parts(x)
        for part in some:
            some.keep_sum(x[part], x[part])

    assert [kernel.written for kernel in trace(doubled)] == [64] * 4


def test_convolutions_of_other_layouts_are_transposed_around() -> None:
    x, w = on_meta(1, 8, 4, 4, dtype=HALF), on_meta(8, 8, 1, 1, dtype=HALF)
    plain, last = (
        trace(lambda: F.conv2d(x, w)),
        trace(lambda: F.conv2d(x.to(memory_format=torch.channels_last), w)),
    )
    assert [kernel.kind for kernel in plain] == ["convolution", LAYOUT]
    assert moved(plain, layout=True) - moved(plain) == 2 * 2 * 2 * 128
    assert LAYOUT not in {kernel.kind for kernel in last}


def test_a_group_norm_moves_four_times_its_input_in_half_precision() -> None:
    norm, x = GroupNorm(32, 64).to("meta", HALF), on_meta(1, 100, 64, dtype=HALF)
    assert moved(trace(lambda: norm(x))) == pytest.approx(4 * 12800, rel=0.25)  # and vectors of the channels
    theirs = torch.nn.GroupNorm(32, 64).to("meta", HALF)
    assert moved(trace(lambda: theirs(x.mT.contiguous().mT.mT))) > 3 * 12800


def test_a_kernel_takes_as_long_as_what_limits_it() -> None:
    card = GPU(half=10.0, tf32=5.0, bandwidth=2.0, source="")
    bound = [
        Kernel("a", "a", 1, 1, 100, HALF),
        Kernel("b", "b", 30, 10, 1, HALF),
        Kernel("c", "c", 0, 0, 10, torch.float32),
    ]
    assert card.seconds(bound) == 10 + 20 + 2


@pytest.mark.slow
def test_the_trace_has_the_operations_that_the_cost_has() -> None:
    size = TINY.frames, TINY.height // TINY.vae.stride, TINY.width // TINY.vae.stride
    counted = unet_counts(TINY.unet, *size).call(2).total
    assert sum(kernel.flop for kernel in our_call(TINY, "baseline", 2, TINY.frames)) == 2 * counted


@pytest.mark.parity
def test_every_table_is_made_of_a_small_model() -> None:
    found, kernels = tables(TINY, paper=False)
    assert moved(kernels) > 0
    assert {len(table.rows) for name, table in found.items() if name in ("gpus", "peaks")} == {len(GPUS)}
    assert "{" not in page({**found, "paper": found["gpus"]})


@pytest.mark.parity
@pytest.mark.slow
def test_lossless_moves_at_most_nine_tenths_of_diffusers_bytes() -> None:
    peer = Peer(SVD_XT)
    theirs, ours = peer.call(peer.unet, 2, 25), our_call(SVD_XT, "lossless", 2, 25)
    assert moved(ours) <= 0.9 * moved(theirs)


def test_the_page_says_so_too() -> None:
    (row,) = re.findall(r"^\| all of these \| .* \|$", PAGE, re.M)[:1]
    shares = [float(share) for share in re.findall(r"\((\d\.\d+)\)", row)]
    assert len(shares) == 3  # baseline, lossless, vcut
    assert max(shares[1:]) <= 0.9
    errors = [float(error) for error in re.findall(r"([+-]\d+\.\d) % \|$", PAGE, re.M)]
    assert len(errors) == 8
    assert max(map(abs, errors)) <= 5
