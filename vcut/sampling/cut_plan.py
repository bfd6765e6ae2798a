"""The plan of a run: what the network evaluates at each step, known before the run as plain values.

The cut of Taghipour et al. (arXiv 2407.19205) is a plan and nothing else. Steps are numbered from 1. Steps before
the cut step c are guided and take two passes of the network. Steps from c on are cut and take one pass with the mean
context, their equation 4. Every value is known in advance, so no step has to ask a device for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from vcut.config import Sampler, whole_number
from vcut.errors import ConfigError

Mix = Literal["cond", "mean", "uncond"]
"""The value that a pass receives: the conditional one, half of it (equation 4: the mean of it and the unconditional
zero), or zero."""


class Branch(NamedTuple):
    """One pass of the network: the image embedding and the concatenated image latents that it receives."""

    context: Mix = "cond"
    latents: Mix = "cond"


COND = Branch("cond", "cond")
UNCOND = Branch("uncond", "uncond")
MEAN = Branch("mean", "cond")
"""The pass of a cut step. The paper is silent on the image latents: they stay the conditional ones."""


def branch_of(after: Any) -> Branch:
    """The pass that a pair of words, or words by name, stand for.

    Raises:
        ConfigError: ``after`` is nothing of the kind, or a word is none.
    """
    try:
        found = Branch(**after) if isinstance(after, Mapping) else Branch(*_pair(after))
    except (TypeError, ValueError):
        raise ConfigError(f"after must be (context, latents), got {after!r}") from None
    for field, mix in found._asdict().items():
        if not (isinstance(mix, str) and mix in get_args(Mix)):
            raise ConfigError(f"{field} after the cut must be 'cond', 'mean' or 'uncond', got {mix!r}")
    return found


def _pair(words: Any) -> tuple[Any, Any]:
    context, latents = words
    return context, latents


@dataclass(frozen=True)
class Step:
    """One step of a run: its number from 1, its passes, and whether it lies past the cut.

    A guided step has two branches, the unconditional one first as in the official code. An unguided step has one.
    """

    number: int
    branches: tuple[Branch, ...]
    cut: bool = False

    def __post_init__(self) -> None:
        if len(self.branches) not in (1, 2):
            raise ConfigError(f"step {self.number} must have one branch or two, got {self.branches}")

    @property
    def guided(self) -> bool:
        """Whether guidance mixes two passes."""
        return len(self.branches) == 2

    @property
    def stage(self) -> Literal["semantic binding", "quality improvement"]:
        """The paper's name for this part of the run: before the cut step, or from it on."""
        return "quality improvement" if self.cut else "semantic binding"


Plan = tuple[Step, ...]


def plan(
    steps: int,
    cut: int | None = None,
    after: Branch | tuple[Mix, Mix] = MEAN,
    embedding: Collection[int] | None = None,
    guided: Collection[int] | None = None,
) -> Plan:
    """Steps 1 .. cut-1 guided, steps cut .. ``steps`` with the single pass ``after``.

    Args:
        steps: number of steps N, at least 1.
        cut: the first step without guidance, 1 <= cut <= N + 1. N + 1 or None never cuts; 1 never guides.
        after: what the pass of a cut step receives.
        embedding: numbers of the steps that receive the image embedding, guided or not; None is all of them. In the
            other steps every pass has the unconditional (zero) context. This is the experiment of the paper's
            figure 2: ``range(1, 11)`` is the first ten steps, ``range(11, 26)`` the rest, ``()`` none.
        guided: numbers of the steps that are guided if they come before the cut; None is all of them. The others
            take the conditional pass alone, as at guidance 1.

    Raises:
        ConfigError: a number out of range or a mix that does not exist.
    """
    steps = whole_number("steps", steps)
    cut = steps + 1 if cut is None else whole_number("the cut step", cut, most=steps + 1)
    after = branch_of(after)
    every = range(1, steps + 1)
    with_embedding, with_guidance = (
        every if numbers is None else {whole_number(what, number, most=steps) for number in numbers}
        for what, numbers in (("a step with embedding", embedding), ("a guided step", guided))
    )

    def step(number: int) -> Step:
        alone = number not in with_guidance
        branches: tuple[Branch, ...] = (after,) if number >= cut else (COND,) if alone else (UNCOND, COND)
        if number not in with_embedding:
            branches = tuple(branch._replace(context="uncond") for branch in branches)
        return Step(number, branches, cut=number >= cut)

    return tuple(step(number) for number in every)


def without_guidance(plan: Plan) -> Plan:
    """The same run at guidance 1: guided steps keep their conditional pass alone, as D_u + 1 (D_c - D_u) = D_c.

    :func:`vcut.sampling.sample` does this by itself when the scale is 1 on every frame.
    """
    return tuple(replace(step, branches=step.branches[-1:]) for step in plan)


@dataclass(frozen=True)
class Summary:
    """The cost of a plan in steps, and in evaluations of one or two passes.

    A step that is neither guided nor cut is one at guidance 1.
    """

    guided: int
    cut: int
    evaluations: int
    passes: int

    @property
    def calls(self) -> tuple[int, int]:
        """Evaluations of two passes, and evaluations of one."""
        return self.passes - self.evaluations, 2 * self.evaluations - self.passes

    def __str__(self) -> str:
        return f"{self.guided} guided and {self.cut} cut steps, {self.passes} network passes"


def summarize(plan: Plan, sampler: Sampler = "euler") -> Summary:
    """Count the guided steps, the cut steps, and what the network does per clip.

    Heun's method evaluates every step twice but the last, which ends at sigma 0.
    """
    evaluated = plan + plan[:-1] if sampler == "heun" else plan
    return Summary(
        guided=sum(step.guided for step in plan),
        cut=sum(step.cut for step in plan),
        evaluations=len(evaluated),
        passes=sum(len(step.branches) for step in evaluated),
    )
