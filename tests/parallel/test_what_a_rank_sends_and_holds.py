"""A rank sends the bytes of the formula, and holds its part of what one process holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import made_up
from torch import Tensor

from benchmarks.parallel import traffic
from vcut.analysis.counting import build_unet, on_meta, unet_call
from vcut.analysis.memory import peak_bytes
from vcut.config import SVD, SVD_XT, TINY, SVDConfig
from vcut.parallel import Team, shared_unet, shared_vae
from vcut.unet import UNet
from vcut.vae import VAE

HALF = torch.float16


def full_width(config: SVDConfig) -> UNet:
    return build_unet(dataclasses.replace(config.unet, tca="linear_cached", sca="linear_cached")).to(HALF)


def peak(unet: UNet, clips: int, frames: int, team: Team) -> int:
    """Bytes that a call holds at its peak at the published size."""
    c = unet.config
    shared = shared_unet(unet, team, frames)
    with torch.no_grad():
        context = shared.cache_context(on_meta(clips, 1, c.context_dim, dtype=HALF), frames)
    x = on_meta(clips, team.shares(frames)[team.number], c.in_channels, 72, 128, dtype=HALF)
    return peak_bytes(lambda: shared(x, on_meta(1), context, on_meta(clips, 3)))


@pytest.mark.slow
def test_a_rank_of_four_holds_at_most_two_fifths() -> None:
    """Rank 0 has the largest share, 7 of 25 frames."""
    config = SVD_XT
    unet = full_width(config)
    guided, single = (peak_bytes(unet_call(unet, clips, config.frames, 72, 128)) for clips in (2, 1))
    with made_up(4) as team:
        assert peak(unet, 1, config.frames, team) <= 0.4 * single
        # a branch for each half
        assert peak(unet, 1, config.frames, Team(2, 0)) <= 0.4 * guided
        with torch.device("meta"):
            vae = VAE(config.vae)
        latents = on_meta(1, config.frames, 4, 24, 40)
        own = shared_vae(vae, team, config.frames)
        part = peak_bytes(lambda: own.decode(latents[:, team.own(config.frames)]))
        assert part <= 0.4 * peak_bytes(lambda: vae.decode(latents))


@pytest.mark.slow
@pytest.mark.parametrize(("config", "size", "number"), [(TINY, 2, 0), (TINY, 3, 2), (SVD, 8, 7)])
def test_a_rank_sends_what_the_formula_says(
    config: SVDConfig, size: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {"activations": 0, "moments": 0, "collectives": 0}

    def exchange(received: Tensor, given: Tensor, coming: list[int], going: list[int], group: Any) -> None:
        assert (sum(coming), sum(going)) == (received.numel(), given.numel())
        sent["activations"] += (sum(going) - going[number]) * given.element_size()
        sent["collectives"] += 1

    def gather(found: list[Tensor], own: Tensor, group: Any) -> None:
        sent["moments"] += (len(found) - 1) * own.numel() * own.element_size()
        sent["collectives"] += 1

    unet = full_width(config)
    with made_up(size, number) as team:
        monkeypatch.setattr(dist, "all_to_all_single", exchange)
        monkeypatch.setattr(dist, "all_gather", gather)
        peak(unet, 2, 14, team)
    assert sent == vars(traffic(unet.config, team, 2, 14, 72, 128))


@given(st.integers(1, 9), st.integers(0, 40))
def test_every_thing_has_one_rank_and_shares_are_even(size: int, count: int) -> None:
    team = Team(size, 0)
    things = [thing for each in team.slices(count) for thing in range(count)[each]]
    assert things == list(range(count))
    assert max(team.shares(count)) - min(team.shares(count)) <= 1
    pixels = team.pixels(count)
    assert {thing for each in pixels for thing in range(count)[each]} == set(range(count))
    assert all(range(count)[each] for each in pixels) or not count
