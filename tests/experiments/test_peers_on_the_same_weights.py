"""The search for a better cut runs the peers on its model, where plain diffusers makes the baseline's clips."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from goldens_io import relative_error
from torch import Tensor

from experiments.better_cut.candidates import PLAIN, Candidate, candidates
from experiments.better_cut.clips import Bench, latents
from experiments.better_cut.peers import Peer
from vcut.loading import find

pytestmark = [pytest.mark.parity, pytest.mark.slow]

NAMED = {each.name: each for each in candidates()}
CLIPS, STEPS, FRAMES = 2, 8, 5
TOLERANCE = 2e-4
"""Relative, float32: a trained network over guided steps adds up more rounding than a random one."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    out = tmp_path_factory.mktemp("better-cut")
    return Bench(find("tiny"), out, NAMED["baseline"], CLIPS, tuning=True, batch=CLIPS)


def short(candidate: Candidate) -> Candidate:
    """The candidate with few steps and frames, which show the same."""
    settings = candidate.row.settings.replace(steps=STEPS, frames=FRAMES)
    row = dataclasses.replace(candidate.row, settings=settings)
    return dataclasses.replace(candidate, row=row)


def made(bench: Bench, candidate: Candidate) -> tuple[Tensor, float]:
    with torch.no_grad():
        return latents(bench, short(candidate), lambda _: None)


@pytest.fixture(scope="module")
def plain(bench: Bench) -> Tensor:
    return made(bench, NAMED[PLAIN])[0]


def test_plain_diffusers_is_the_baseline(bench: Bench, plain: Tensor) -> None:
    """From the same noise, pictures and micro-conditioning, in a batch of clips; the control is another clip's."""
    baseline, passes = made(bench, NAMED["baseline"])
    assert passes == 2 * STEPS
    assert relative_error(plain, baseline) < TOLERANCE
    assert relative_error(plain, baseline.flip(0)) > 1e3 * TOLERANCE


@pytest.mark.parametrize(
    ("peer", "passes", "middle"),
    [
        (Peer(), 16, 8),
        (Peer(interval=1), 16, 8),
        (Peer(interval=3), 16, 3),
        (Peer(gate=4), 12, 8),
        (Peer(gate=8), 16, 8),
    ],
    ids=str,
)
def test_a_peer_does_what_its_number_says(
    bench: Bench, plain: Tensor, peer: Peer, passes: float, middle: int
) -> None:
    """DeepCache leaves the middle out between its steps; T-GATE's second passes end at its gate.

    T-GATE changes the clips even with its gate at the last step, for self-attention is used again before it.
    """
    candidate = dataclasses.replace(NAMED[PLAIN], rule=peer)
    found, counted = made(bench, candidate)
    assert counted == passes
    same = peer in (Peer(), Peer(interval=1))
    assert (relative_error(found, plain) < TOLERANCE) == same
    assert relative_error(found, plain) < 1

    unet, make = bench.load(short(candidate))
    calls: list[int] = []
    unet.mid_block.resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first, again = (make(bench.scenes, tuple(range(CLIPS))) for _ in range(2))
    assert len(calls) == 2 * middle
    assert torch.equal(first, again), "nothing is left of a run"
