"""The candidates: the paper's Table IV, rules beside it, and the peers' settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.better_cut.rules import Rule
from training.evaluate import NO_CUT, Row
from vcut.config import Mode
from vcut.sampling import Branch
from vcut.settings import Settings

CUTS = (10, 17, 20)

PAPER = "the paper's Table IV"
"""Group of the rows that every other is compared with."""


@dataclass(frozen=True)
class Candidate:
    """One way to make clips: the model's form and the settings, and a rule in place of the settings' own plan."""

    group: str
    row: Row
    rule: Rule | None = None

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


def candidates() -> list[Candidate]:
    """All candidates, the baseline first."""
    return table_iv()


def table_iv(cuts: Sequence[int] = CUTS) -> list[Candidate]:
    """The paper's rows, and the same cuts with all of the temporal cross-attention's constants kept."""

    def cut(at: int) -> Settings:
        return Settings(cut=at, after=Branch("mean", "cond"))

    dropping: tuple[Mode, Mode] = (False, "linear_cached")
    keeping: tuple[Mode, Mode] = ("linear_cached", "linear_cached")
    rows = [
        Row("baseline", True, True, NO_CUT),
        Row("Modified, no cut", *dropping, NO_CUT),
        *(Row(f"Modified, c={at}", *dropping, cut(at)) for at in cuts),
        Row("lossless", *keeping, NO_CUT),
        *(Row(f"lossless, c={at}", *keeping, cut(at)) for at in cuts),
    ]
    return [Candidate(PAPER, row) for row in rows]
