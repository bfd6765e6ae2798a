"""Equations 5 to 8 and VBench's mix equal VBench's loops on the same features; known clips get known scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vcut.errors import ConfigError
from vcut.scores.consistency import consistency, flicker, i2v_mix, reference_consistency

SEEDS = range(8)


def features(seed: int, frames: int = 6, width: int = 16, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(width, generator=draw)
    return base + spread * torch.randn(frames, width, generator=draw), base


def cosine(x: Tensor, y: Tensor) -> float:
    """A clipped cosine as VBench computes it: float32, normalised twice, taken out as a number."""
    x, y = (F.normalize(each.unsqueeze(0), dim=-1) for each in (x, y))
    return max(0.0, F.cosine_similarity(x, y).item())


def vbench_consistency(rows: Tensor) -> float:
    """The loop of VBench's subject_consistency.py and background_consistency.py, over one clip."""
    total = 0.0
    for i in range(1, len(rows)):
        total += (cosine(rows[i - 1], rows[i]) + cosine(rows[0], rows[i])) / 2
    return total / (len(rows) - 1)


def vbench_i2v(rows: Tensor, picture: Tensor) -> float:
    """The loop of VBench's i2v_subject.py and i2v_background.py, over one clip."""
    to_picture, consecutive = [], []
    for i in range(len(rows)):
        if i != 0:
            consecutive.append(cosine(rows[i - 1], rows[i]))
        to_picture.append(cosine(picture, rows[i]))
    return float(0.4 * np.max(to_picture) + 0.3 * np.mean(consecutive) + 0.3 * np.min(consecutive))


@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_scores_equal_vbenchs_loops(seed: int, spread: float) -> None:
    rows, picture = features(seed, spread=spread)
    assert consistency(rows) == pytest.approx(vbench_consistency(rows), abs=1e-6)
    assert i2v_mix(rows, picture) == pytest.approx(vbench_i2v(rows, picture), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_equal_the_papers_sums(seed: int) -> None:
    """Equations 5 and 6 as they are printed, without clipping, in numpy's float64."""
    rows, picture = features(seed, spread=3.0)
    d = rows.double().numpy()
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    r = picture.double().numpy() / np.linalg.norm(picture.double().numpy())
    count = len(d)
    equation_5 = sum(0.5 * (d[0] @ d[t] + d[t - 1] @ d[t]) for t in range(1, count)) / (count - 1)
    equation_6 = sum(0.5 * (r @ d[t] + d[t - 1] @ d[t]) for t in range(1, count)) / (count - 1)
    assert consistency(rows, clip=False) == pytest.approx(equation_5, abs=1e-6)
    assert reference_consistency(rows, picture, clip=False) == pytest.approx(equation_6, abs=1e-6)


def test_equal_frames_have_one() -> None:
    rows = torch.randn(16, generator=torch.Generator().manual_seed(0)).expand(5, 16)
    assert consistency(rows) == pytest.approx(1)
    assert reference_consistency(rows, 3 * rows[0]) == pytest.approx(1)
    assert i2v_mix(rows, rows[0]) == pytest.approx(1)


def test_orthogonal_frames_have_zero() -> None:
    assert consistency(torch.eye(5)) == 0
    # the picture is the third frame: its cosine alone is not 0
    assert reference_consistency(torch.eye(5), torch.eye(5)[2]) == pytest.approx(0.5 / 4)
    assert i2v_mix(torch.eye(5), torch.eye(5)[2]) == pytest.approx(0.4)


def test_a_negative_cosine_counts_as_none_if_clipped() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert consistency(rows, clip=False) == pytest.approx((-1 + 0) / 2)
    assert consistency(rows) == pytest.approx((0 + 0.5) / 2)


def test_features_that_turn_by_a_known_angle_give_its_cosine() -> None:
    angle = 0.1
    turns = angle * torch.arange(4, dtype=torch.float64)
    rows = torch.stack([turns.cos(), turns.sin()], dim=1)
    expected = np.mean([0.5 * (np.cos(angle * t) + np.cos(angle)) for t in (1, 2, 3)])
    assert consistency(rows) == pytest.approx(expected, abs=1e-12)


@given(
    st.integers(2, 6).flatmap(
        lambda frames: st.lists(
            st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3), min_size=frames, max_size=frames
        )
    ),
    st.floats(0.1, 100),
)
def test_scores_are_bounded_and_know_no_length(rows: list[list[float]], scale: float) -> None:
    x = torch.tensor(rows, dtype=torch.float64)
    for clip, least in ((True, 0), (False, -1)):
        score = consistency(x, clip=clip)
        assert least - 1e-9 <= score <= 1 + 1e-9
        if (x.norm(dim=1) > 1e-3).all():
            assert consistency(scale * x, clip=clip) == pytest.approx(score, abs=1e-9)
    assert consistency(x) >= consistency(x, clip=False) - 1e-12
    assert -1e-9 <= i2v_mix(x, x[0]) <= 1 + 1e-9


def test_flicker_is_vbenchs_on_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8)).astype(np.float32)
    errors = [np.mean(np.abs(a - b)) for a, b in itertools.pairwise(pixels)]
    assert flicker(torch.from_numpy(pixels) / 255) == pytest.approx(
        (255.0 - np.mean(errors)) / 255.0, abs=1e-6
    )
    assert flicker(torch.ones(3, 3, 4, 4)) == 1


@pytest.mark.parametrize(
    ("rows", "reference", "says"),
    [
        (torch.zeros(4, 3), torch.zeros(2), r"\[4, 3\] and \[2\]"),
        (torch.zeros(4), torch.zeros(4), "features"),
        (torch.zeros(1, 3), torch.zeros(3), "at least 2 frames, got 1"),
    ],
)
def test_other_shapes_are_refused(rows: Tensor, reference: Tensor, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        reference_consistency(rows, reference)
