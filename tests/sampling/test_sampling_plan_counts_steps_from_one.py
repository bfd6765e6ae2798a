"""The cut: steps 1 .. c-1 are guided, steps c .. N take one pass. All of it is known before the run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut.errors import ConfigError
from vcut.sampling import COND, MEAN, UNCOND, Branch, Plan, Step, plan, summarize, without_guidance


@st.composite
def steps_and_cut(draw: st.DrawFn) -> tuple[int, int]:
    steps = draw(st.integers(1, 60))
    return steps, draw(st.integers(1, steps + 1))


def contexts(run: Plan) -> list[tuple[str, ...]]:
    return [tuple(branch.context for branch in step.branches) for step in run]


@given(steps_and_cut())
def test_steps_before_the_cut_are_guided_and_steps_from_it_on_are_not(case: tuple[int, int]) -> None:
    steps, cut = case
    run = plan(steps, cut)
    assert [step.number for step in run] == list(range(1, steps + 1))
    for step in run:
        assert step.guided == (step.number < cut)
        assert step.cut == (step.number >= cut)
        assert step.branches == ((UNCOND, COND) if step.number < cut else (MEAN,))
        assert step.stage == ("semantic binding" if step.number < cut else "quality improvement")
    summary = summarize(run)
    assert (summary.guided, summary.cut) == (cut - 1, steps - cut + 1)
    assert summary.passes == 2 * (cut - 1) + steps - cut + 1


def test_the_papers_example_is_16_guided_and_9_cut_steps() -> None:
    assert str(summarize(plan(25, cut=17))) == "16 guided and 9 cut steps, 41 network passes"


def test_the_papers_saving_follows_from_the_plan() -> None:
    """Table: 62.86 T a guided step without temporal cross-attention, 64.41 T with; 322 T saved in 25 steps."""
    summary = summarize(plan(25, cut=17))
    spent = summary.passes * 62.86 / 2
    assert 25 * 64.41 - spent == pytest.approx(322, abs=0.5)


@given(st.integers(1, 60))
def test_no_cut_is_a_cut_after_the_last_step(steps: int) -> None:
    assert plan(steps) == plan(steps, cut=steps + 1)
    assert all(step.guided for step in plan(steps))


@given(st.integers(1, 60))
def test_a_cut_at_step_1_never_guides(steps: int) -> None:
    assert not any(step.guided for step in plan(steps, cut=1))
    assert summarize(plan(steps, cut=1)).passes == steps


@pytest.mark.parametrize("context", ["cond", "mean", "uncond"])
@pytest.mark.parametrize("latents", ["cond", "mean", "uncond"])
def test_the_pass_after_the_cut_is_the_callers_choice(context: str, latents: str) -> None:
    after = Branch(context, latents)  # type: ignore[arg-type]
    assert [step.branches for step in plan(3, 2, after)] == [(UNCOND, COND), (after,), (after,)]


def test_steps_without_the_embedding_have_the_zero_context_and_keep_their_latents() -> None:
    run = plan(4, cut=3, embedding=range(2, 4))
    assert contexts(run) == [("uncond", "uncond"), ("uncond", "cond"), ("mean",), ("uncond",)]
    assert [step.branches[-1].latents for step in run] == ["cond"] * 4


def test_early_late_and_no_embedding() -> None:
    def receive(run: Plan) -> list[int]:
        return [step.number for step in run if step.branches[-1].context == "cond"]

    assert receive(plan(25)) == list(range(1, 26))
    assert receive(plan(25, embedding=range(1, 11))) == list(range(1, 11))
    assert receive(plan(25, embedding=range(11, 26))) == list(range(11, 26))
    assert receive(plan(25, embedding=())) == []


@given(steps_and_cut())
def test_the_embedding_is_independent_of_guidance(case: tuple[int, int]) -> None:
    steps, cut = case
    assert summarize(plan(steps, cut, embedding=())) == summarize(plan(steps, cut))
    assert plan(steps, cut, embedding=range(1, steps + 1)) == plan(steps, cut)


def test_at_guidance_1_the_conditional_pass_remains_and_the_stages_stay() -> None:
    run = without_guidance(plan(3, cut=3))
    assert [step.branches for step in run] == [(COND,), (COND,), (MEAN,)]
    assert [step.cut for step in run] == [False, False, True]
    assert str(summarize(run)) == "0 guided and 1 cut steps, 3 network passes"


@pytest.mark.parametrize("cut", [0, -1, 27, 17.5, "17"])
def test_a_cut_outside_the_run_is_refused(cut: int) -> None:
    with pytest.raises(ConfigError, match="the cut step must be"):
        plan(25, cut)


@pytest.mark.parametrize("steps", [0, -3, 1.5, None])
def test_a_plan_needs_a_step(steps: int) -> None:
    with pytest.raises(ConfigError, match="steps must be"):
        plan(steps)


@pytest.mark.parametrize("embedding", [[0], [26], range(20, 40), ["1"]])
def test_embedding_steps_outside_the_run_are_refused(embedding: list[int]) -> None:
    with pytest.raises(ConfigError, match="a step with embedding must be"):
        plan(25, embedding=embedding)


@pytest.mark.parametrize("guided", [[0], [26], ["a"]])
def test_guided_steps_outside_the_run_are_refused(guided: list[int]) -> None:
    with pytest.raises(ConfigError, match="a guided step must be"):
        plan(25, guided=guided)


@pytest.mark.parametrize("after", ["mean", None, ("cond",), {"context": "cond", "image": "cond"}])
def test_a_pass_that_is_no_pair_is_refused(after: Any) -> None:
    with pytest.raises(ConfigError, match=r"after must be \(context, latents\)"):
        plan(25, 17, after)


@pytest.mark.parametrize("after", [Branch("half"), Branch("mean", "zero")])  # type: ignore[arg-type]
def test_a_mix_that_does_not_exist_is_refused(after: Branch) -> None:
    with pytest.raises(ConfigError, match="after the cut must be"):
        plan(25, 17, after)


def test_a_step_has_one_pass_or_two() -> None:
    with pytest.raises(ConfigError, match="one branch or two"):
        Step(1, ())
