"""The candidates: the paper's Table IV, rules beside it, and the peers' settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.better_cut.peers import Peer
from experiments.better_cut.rules import Rule
from training.evaluate import NO_CUT, Row
from vcut.config import Mode
from vcut.sampling import Branch, Ramp, karras_sigmas
from vcut.settings import Settings

CUTS = (10, 17, 20)

PAPER = "the paper's Table IV"
"""Group of the rows that every other is compared with."""

PEERS, PLAIN = "peers", "diffusers"
"""Group of the rows that diffusers makes, and name of that without a method."""


@dataclass(frozen=True)
class Candidate:
    """One way to make clips: the model's form and the settings, and a rule or a peer in place of their own plan."""

    group: str
    row: Row
    rule: Rule | Peer | None = None

    @property
    def name(self) -> str:
        """Name that is unique among the candidates."""
        return self.row.name

    def described(self) -> dict[str, Any]:
        """Everything that decides the clips besides weights and scenes, as JSON has it."""
        rule = (
            None if self.rule is None else {"kind": type(self.rule).__name__, **dataclasses.asdict(self.rule)}
        )
        return {
            "tca": self.row.tca,
            "sca": self.row.sca,
            "settings": self.row.settings.to_dict(),
            "rule": rule,
        }


KEEPING: tuple[Mode, Mode] = ("linear_cached", "linear_cached")
DROPPING: tuple[Mode, Mode] = (False, "linear_cached")
"""Modes of temporal and spatial cross-attention: with all constants, and as the paper has it."""

INTERVAL = (0.3, 25.0)
"""Noise levels at which guidance matters, found on the tuning scenes: steps 12 to 20 of Karras' 25."""


def candidates() -> list[Candidate]:
    """All candidates, the baseline first."""
    ours = (table_iv, scales, intervals, fewer_levels, after_the_cut, kept_differences, reuse)
    return [each for group in (*ours, in_diffusers) for each in group()]


def scales() -> list[Candidate]:
    """Less guidance at every step, and none: how much of what a rule changes is the guidance that it leaves out."""
    rows = [
        Row("lossless, guidance 1, one pass a step", *KEEPING, Settings(cut=None, guidance=Ramp(1.0, 1.0))),
        Row("lossless, guidance 1.5 on every frame", *KEEPING, Settings(cut=None, guidance=Ramp(1.5, 1.5))),
    ]
    return [Candidate("guidance scale", row) for row in rows]


def intervals() -> list[Candidate]:
    """Guidance in an interval of noise levels; its lower end alone is a cut by noise level."""
    found = []
    for low, high in (
        INTERVAL,
        (0.3, 12.0),
        (0.3, 50.0),
        (0.3, 100.0),
        (1.0, 50.0),
        (1.0, 100.0),
        (0.3, 700.0),
    ):
        settings = Settings(cut=None, guidance_interval=(low, high))
        found.append(Row(f"lossless, guided in {low:g}..{high:g}", *KEEPING, settings))
    found.append(
        Row("Modified, guided in 0.3..25", *DROPPING, Settings(cut=None, guidance_interval=INTERVAL))
    )
    return [Candidate("guidance interval", row) for row in found]


def fewer_levels() -> list[Candidate]:
    """Fewer steps, and guidance in the interval alone: high levels left out, other levels, second order; controls."""
    karras = karras_sigmas(25).tolist()
    jumping = (karras[0], *karras[10:25])
    ays = Settings(cut=None, sigmas="ays", steps=10)
    chosen = {
        "16 levels, 700 to 50 in one": Settings(cut=None, sigmas=jumping),
        "10 levels of Align Your Steps": ays,
        "10 levels of Align Your Steps, dpmpp_2m": ays.replace(sampler="dpmpp_2m"),
        "16 levels, dpmpp_2m": Settings(cut=None, steps=16, sampler="dpmpp_2m"),
        "9 steps of Heun": Settings(cut=None, steps=9, sampler="heun"),
    }
    inside = [
        Row(f"{name}, guided in 0.3..25", *KEEPING, settings.replace(guidance_interval=INTERVAL))
        for name, settings in chosen.items()
    ]
    controls = [
        Row("10 levels of Align Your Steps, guided at all", *KEEPING, ays),
        Row("10 levels of Karras, guided at all", *KEEPING, Settings(cut=None, steps=10)),
        Row(
            "10 levels of Karras, guided in 0.3..25",
            *KEEPING,
            Settings(cut=None, steps=10, guidance_interval=INTERVAL),
        ),
    ]
    return [Candidate("fewer steps", row) for row in (*inside, *controls)]


def after_the_cut() -> list[Candidate]:
    """Another embedding in the single pass after a cut at 10: the whole, and mixtures that go beyond it."""
    cond = Row("lossless, c=10, cond", *KEEPING, Settings(cut=10, after=Branch("cond", "cond")))
    mixed = [
        Candidate(
            "embedding after the cut",
            Row(f"lossless, c=10, {factor:g} cond", *KEEPING),
            Rule(tuple(range(1, 10)), embedding=factor),
        )
        for factor in (0.75, 1.3, 1.6)
    ]
    return [Candidate("embedding after the cut", cond), *mixed]


def kept_differences() -> list[Candidate]:
    """The last guided difference kept, whole or falling with the noise level, after a cut or between renewals."""
    rules = {
        "lossless, c=10, difference falls as sigma": Rule(tuple(range(1, 10)), keep=1.0),
        "lossless, c=17, difference falls as sigma": Rule(tuple(range(1, 17)), keep=1.0),
        "lossless, guided every 2nd step, difference kept": Rule(tuple(range(1, 26, 2)), keep=0.0),
        "lossless, guided every 3rd step, difference kept": Rule(tuple(range(1, 26, 3)), keep=0.0),
        "lossless, guided at 12, 14 .. 20, falls as root of sigma": Rule(tuple(range(12, 21, 2)), keep=0.5),
    }
    return [Candidate("kept difference", Row(name, *KEEPING), rule) for name, rule in rules.items()]


def reuse() -> list[Candidate]:
    """Deep features used again, with guidance at every step and in the interval alone."""
    every, inside = tuple(range(1, 26)), tuple(range(12, 21))
    rules = {
        "lossless, deep features every 2nd pass": Rule(every, renew=2),
        "lossless, deep features every 3rd pass": Rule(every, renew=3),
        "lossless, guided in 0.3..25, deep features every 2nd pass": Rule(inside, renew=2),
        "lossless, guided in 0.3..25, deep features every 3rd pass": Rule(inside, renew=3),
    }
    return [Candidate("deep features", Row(name, *KEEPING), rule) for name, rule in rules.items()]


def in_diffusers() -> list[Candidate]:
    """The published model in diffusers' own pipeline, and what DeepCache and T-GATE make of it there."""
    peers = {
        PLAIN: Peer(),
        **{f"DeepCache, every {k}": Peer(interval=k) for k in (2, 3, 5)},
        **{f"T-GATE, gate at {k}": Peer(gate=k) for k in (10, 15, 20)},
    }
    return [Candidate(PEERS, Row(name, True, True), peer) for name, peer in peers.items()]


def table_iv(cuts: Sequence[int] = CUTS) -> list[Candidate]:
    """The paper's rows, and the same cuts with all of the temporal cross-attention's constants kept."""

    def cut(at: int) -> Settings:
        return Settings(cut=at, after=Branch("mean", "cond"))

    rows = [
        Row("baseline", True, True, NO_CUT),
        Row("Modified, no cut", *DROPPING, NO_CUT),
        *(Row(f"Modified, c={at}", *DROPPING, cut(at)) for at in cuts),
        Row("lossless", *KEEPING, NO_CUT),
        *(Row(f"lossless, c={at}", *KEEPING, cut(at)) for at in cuts),
    ]
    return [Candidate(PAPER, row) for row in rows]
