"""DESIGN section 5 comes out: MACs per call in both countings, parameters, and the savings at c = 17."""

from __future__ import annotations

import pytest

from vcut.analysis.cost import CostReport, cost
from vcut.analysis.counting import UNetCounts, unet_counts
from vcut.config import SVD, SVD_XT, SVD_XT_1_1, Mode, UNetConfig

CACHED: Mode = "linear_cached"
TERA = 1e12
# frames, tca, sca: tera MACs of a call on both branches, layers only and with attention products
DESIGN = [
    (25, True, True, 64.375, 79.948),
    (25, False, True, 62.829, 78.400),
    (25, False, CACHED, 61.389, 76.957),
    (25, CACHED, CACHED, 61.389, 76.957),
    (14, True, True, 36.097, 44.802),
    (14, False, True, 35.184, 43.888),
    (14, False, CACHED, 34.378, 43.080),
    (14, CACHED, CACHED, 34.378, 43.080),
]


def counts(frames: int, tca: Mode, sca: Mode) -> UNetCounts:
    return unet_counts(UNetConfig(tca=tca, sca=sca), frames, 72, 128)


@pytest.fixture(scope="module")
def svd_xt() -> CostReport:
    return cost(SVD_XT, preset="vcut", cut=17, memory=False)


def saved(report: CostReport) -> dict[str, float]:
    return {saving.name: saving.saved / TERA for saving in report.savings()}


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "tca", "sca", "layers", "with_products"), DESIGN)
def test_a_call_as_published_meets_design_to_the_printed_digit(
    frames: int, tca: Mode, sca: Mode, layers: float, with_products: float
) -> None:
    call = counts(frames, tca, sca).call(2, published=True)
    assert call.layers / TERA == pytest.approx(layers, abs=0.0005)
    assert call.total / TERA == pytest.approx(with_products, abs=0.0005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frames", "tca", "printed"), [(25, True, 64.41), (25, False, 62.86), (14, True, 36.11)]
)
def test_the_papers_counting_meets_the_papers_print(frames: int, tca: bool, printed: float) -> None:
    unet = counts(frames, tca, True)
    assert int(unet.paper_call(2) / TERA * 100) / 100 == printed  # the paper cuts off: 36.117 is 36.11
    assert unet.call(2, published=True).layers / TERA == pytest.approx(printed, rel=0.003)


def test_the_papers_35_1_is_within_its_last_digit_and_a_half() -> None:
    """The one figure that no counting here meets (35.202 in the paper's own); stated in the tables."""
    assert counts(14, False, True).paper_call(2) / TERA == pytest.approx(35.1, rel=0.003)


def test_vcut_computes_less_than_published_even_without_a_cut() -> None:
    """0.115 tera: mostly the context that the published code projects for every pixel."""
    baseline = counts(25, True, True)
    less = baseline.call(2, published=True).total - baseline.call(2).total
    assert less / TERA == pytest.approx(0.1152, abs=0.0001)
    repeats = {name: count.total * 2 / TERA for name, count in baseline.repeats}
    assert repeats["context projected for every pixel (temporal)"] == pytest.approx(0.1065, abs=0.0001)


def test_savings_of_svd_xt_at_step_17_in_every_counting(svd_xt: CostReport) -> None:
    assert saved(svd_xt) == pytest.approx(
        {"paper": 321.64, "paper, layers": 321.39, "method, layers": 350.90, "method, with products": 421.11},
        abs=0.05,
    )
    assert round(saved(svd_xt)["paper"]) == 322
    runs = {saving.name: (saving.baseline / TERA, saving.run / TERA) for saving in svd_xt.savings()}
    assert runs["method, with products"] == pytest.approx((1998.7, 1577.6), abs=0.05)


def test_the_paper_says_20_percent(svd_xt: CostReport) -> None:
    share = {saving.name: saving.share for saving in svd_xt.savings()}
    assert share["paper"] == pytest.approx(0.20, abs=0.005)


@pytest.mark.parametrize(
    ("tca", "sca", "parameters"),
    [(True, True, 1_524_623_082), (False, True, 1_474_245_802), (False, CACHED, 1_436_660_522)],
)
def test_parameters(tca: Mode, sca: Mode, parameters: int) -> None:
    assert counts(25, tca, sca).parameters == parameters


def test_svd_xt_1_1_costs_what_svd_xt_costs_and_svd_less(svd_xt: CostReport) -> None:
    newer, smaller = (cost(c, preset="vcut", cut=17, memory=False) for c in (SVD_XT_1_1, SVD))
    assert newer.savings() == svd_xt.savings()
    assert smaller.run().total < svd_xt.run().total
