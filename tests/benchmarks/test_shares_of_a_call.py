"""The shares of a call are told by its operators: what multiplies by weights has a peak, the rest moves bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import shares
from benchmarks.harness import command

WIDE = 2 * shares.NARROW
ROWS = torch.randn(300, WIDE)


@torch.no_grad()
def operators_of(call):
    return shares.timed(call)


def test_a_product_is_known_by_its_sizes() -> None:
    layer = torch.nn.Linear(WIDE, 3 * WIDE)
    (operator,) = operators_of(lambda: layer(ROWS))
    assert operator.kind == shares.MATRICES
    assert operator.product == (1, 300, WIDE, 3 * WIDE)
    assert operator.product.flop == 2 * 300 * WIDE * 3 * WIDE
    assert operator.seconds > 0


def test_filters_of_many_places_are_told_from_attention_and_transforms() -> None:
    matrices = torch.randn(16, WIDE, WIDE)
    values = torch.randn(16, 9, WIDE)
    head = torch.randn(16, 9, shares.NARROW)
    turned, transform = head.transpose(1, 2), torch.randn(36, 36)
    for call, kind in (
        (lambda: torch.bmm(values, matrices), shares.FILTERED),
        (lambda: torch.bmm(head, turned), shares.ATTENTION),
        (lambda: torch.softmax(head, -1), shares.ATTENTION),
        (lambda: torch.mm(transform, ROWS[:36]), shares.TRANSFORMS),
    ):
        (operator,) = [each for each in operators_of(call) if each.kind != "elementwise"]
        assert operator.kind == kind


def test_the_rest_is_counted_by_the_bytes_it_moves() -> None:
    target = torch.empty_like(ROWS)
    for call, tensors in (
        (lambda: ROWS + ROWS, 3),
        (lambda: target.copy_(ROWS), 2),
        (lambda: torch.mul(ROWS, 2.0, out=target), 2),
    ):
        (operator,) = operators_of(call)
        assert operator.product is None
        assert operator.moved == tensors * ROWS.nbytes


def test_views_and_empty_tensors_take_no_part() -> None:
    assert operators_of(lambda: (ROWS.view(-1, 2).transpose(0, 1), torch.empty(9), ROWS[:5])) == []


@pytest.mark.parametrize("product", [shares.Product(1, 5, WIDE, 64), shares.Product(4, 5, 64, WIDE)])
def test_the_peak_of_a_product_is_the_time_of_the_faster_library(product: shares.Product) -> None:
    assert 0 < shares.peak(product, torch.float32) < 1


@pytest.mark.slow
def test_the_shares_make_up_the_call(tmp_path: Path) -> None:
    section = command.run("shares", command.chapters()["shares"].quick, tmp_path)
    *kinds, whole = section.rows
    assert sum(row.details["% of the call"] for row in kinds) == pytest.approx(100)
    assert whole.contender == "the whole call"
    assert whole.flop
    assert whole.details["% of the peak"] > 0
    assert {shares.MATRICES, shares.ATTENTION} <= {row.contender for row in kinds}
    assert all(("GB/s" in row.details) != ("% of the peak" in row.details) for row in kinds)
