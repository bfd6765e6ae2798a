"""A run's settings as one value: what they take, what they refuse, and how they go through a file."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vcut
from vcut.errors import ConfigError, UnknownSettingError
from vcut.sampling import Branch, Churn, Ramp, constant, karras_sigmas, triangle
from vcut.settings import DEFAULTS, NAMES, OTHER_NAMES, SAYS, Settings, check_names

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
counts = st.integers(1, 1000)
mixes = st.sampled_from(["cond", "mean", "uncond"])
seeds = st.integers(0, 2**63 - 1)
ramps = st.builds(Ramp, finite, finite, st.sampled_from(["linear", "triangle"]))
churns = st.builds(
    lambda churn, low, span, noise: Churn(churn, low, low + span, noise),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(0, 100) | st.just(math.inf),
    st.floats(0, 2),
)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Any settings that are values through and through."""
    steps = draw(st.integers(1, 60))
    values: dict[str, Any] = {"steps": steps}
    if draw(st.booleans()):
        levels = draw(
            st.lists(
                st.floats(0.002, 700, allow_subnormal=False), min_size=steps, max_size=steps, unique=True
            )
        )
        values["sigmas"] = sorted(levels, reverse=True)
    elif draw(st.booleans()):
        values["sigmas"] = "ays"
    optional = {
        "frames": counts,
        "height": counts,
        "width": counts,
        "fit": st.sampled_from(["crop", "resize", "pad"]),
        "cut": st.none() | st.just("preset") | st.integers(1, steps + 1),
        "after": st.builds(Branch, mixes, mixes),
        "embedding": st.none() | st.lists(st.integers(1, steps)),
        "guidance": ramps,
        "guidance_interval": st.none() | st.lists(st.floats(0, 800), min_size=2, max_size=2).map(sorted),
        "fps": counts,
        "motion_bucket": st.integers(0, 1000),
        "noise_aug": st.floats(0, 10),
        "churn": st.none() | churns,
        "decode_chunk": st.none() | counts,
        "sequential": st.booleans(),
        "seed": seeds | st.lists(seeds, min_size=1, max_size=5),
        "clips": st.none() | counts,
    }
    chosen = draw(st.sets(st.sampled_from(sorted(optional))))
    samplers = ["euler", "heun"]
    if "churn" not in chosen:
        samplers += ["dpmpp_2m", "lcm"] if steps <= 40 else ["dpmpp_2m"]
    values["sampler"] = draw(st.sampled_from(samplers))
    return Settings(**values, **{name: draw(optional[name]) for name in sorted(chosen)})


def through_a_file(data: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    return read


@given(settings())
def test_a_file_holds_them_all(given: Settings) -> None:
    assert Settings.from_dict(through_a_file(given.to_dict())) == given


@given(settings(), settings())
def test_replacing_everything_gives_the_other(one: Settings, other: Settings) -> None:
    changes = {name: getattr(other, name) for name in NAMES}
    assert one.replace(**changes) == other
    assert one.replace() == one


def test_the_default_is_an_empty_file() -> None:
    assert Settings().to_dict() == {}
    assert Settings.from_dict({}) == Settings()
    assert {name: getattr(Settings(), name) for name in NAMES} == DEFAULTS


def test_plain_values_as_in_toml() -> None:
    """Lists for tuples, tables for values with fields, 'none' for what TOML cannot say."""
    read = Settings.from_dict(
        {
            "guidance": {"minimum": 1, "maximum": 2.5, "shape": "triangle"},
            "after": ["cond", "uncond"],
            "churn": {"s_churn": 40, "s_tmin": 0.05},
            "embedding": [3, 1, 2, 2],
            "seed": [5, 6],
            "cut": "none",
            "decode_chunk": "none",
        }
    )
    assert read == Settings(
        guidance=triangle(1, 2.5),
        after=Branch("cond", "uncond"),
        churn=Churn(40.0, 0.05),
        embedding=(1, 2, 3),
        seed=(5, 6),
        cut=None,
        decode_chunk=None,
    )
    assert Settings.from_dict({"guidance": [1, 2]}) == Settings(guidance=Ramp(1.0, 2.0))
    assert Settings.from_dict({"after": {"context": "cond", "latents": "cond"}}).after == Branch()


@pytest.mark.parametrize(
    "wrap", [np.int64, np.uint8, np.array, torch.tensor], ids=["int64", "uint8", "array", "tensor"]
)
def test_whole_numbers_of_any_type_become_plain_ones(wrap: Any) -> None:
    names = ("frames", "steps", "cut", "fps", "motion_bucket", "decode_chunk", "seed", "clips")
    wrapped = Settings(**{name: wrap(9) for name in names}, embedding=[wrap(2)])
    assert wrapped == Settings(**dict.fromkeys(names, 9), embedding=(2,))
    assert all(type(getattr(wrapped, name)) is int for name in names)
    assert through_a_file(wrapped.to_dict()) == wrapped.to_dict()


@pytest.mark.parametrize(
    "wrap", [np.float32, np.float64, np.array, torch.tensor], ids=["float32", "float64", "array", "tensor"]
)
def test_numbers_of_any_type_become_plain_ones(wrap: Any) -> None:
    wrapped = Settings(
        noise_aug=wrap(0.5),
        guidance=(wrap(1.5), wrap(2.5)),
        sigmas=wrap([4.0, 2.0]),
        churn=Churn(wrap(8.0), wrap(0.25)),
    )
    assert wrapped == Settings(
        noise_aug=0.5, guidance=(1.5, 2.5), sigmas=[4, 2], churn=Churn(8.0, 0.25, math.inf, 1.0)
    )
    assert through_a_file(wrapped.to_dict()) == wrapped.to_dict()


@pytest.mark.parametrize("wrap", [np.float64, Fraction, Decimal, torch.tensor])
def test_samplers_and_schedules_take_numbers_of_any_type(wrap: Any) -> None:
    """Plain ones are kept: a tensor of one number would round the schedule to its own dtype."""
    assert torch.equal(karras_sigmas(4, wrap(0.5), wrap(64.0), wrap(7)), karras_sigmas(4, 0.5, 64.0, 7))
    churn = Churn(wrap(8.0), wrap(0.5), wrap(50), wrap(1))
    assert all(type(value) is float for value in (churn.s_churn, churn.s_tmin, churn.s_tmax, churn.s_noise))
    assert churn == Churn(8.0, 0.5, 50.0, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda odd: Settings(steps=odd),
        lambda odd: Settings(noise_aug=odd),
        lambda odd: Ramp(1.0, odd),
        lambda odd: Churn(odd),
        lambda odd: Churn(s_tmax=odd),
        lambda odd: karras_sigmas(4, rho=odd),
        lambda odd: karras_sigmas(4, sigma_max=odd),
    ],
)
@pytest.mark.parametrize("odd", [torch.ones((), device="meta"), torch.ones(2), 1j, "1", True, None, math.nan])
def test_what_is_no_number_is_refused(make: Callable[[Any], object], odd: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be a (finite |whole )?number"):
        make(odd)


def test_sigmas_say_how_many_steps_there_are() -> None:
    assert Settings(sigmas=torch.tensor([9.0, 3.0, 0.0])).steps == 2
    assert Settings(sigmas=(9, 3)).sigmas == (9.0, 3.0, 0.0)
    assert Settings(sigmas=(9, 3)).replace(steps=5) == Settings(steps=5)
    assert Settings(steps=5).replace(sigmas=(9, 3)) == Settings(sigmas=(9, 3))
    assert Settings(sigmas="ays").replace(steps=5) == Settings(sigmas="ays", steps=5)


def test_a_sampler_is_checked_with_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="steps of the sampler lcm"):
        Settings(sampler="lcm", steps=41)
    with pytest.raises(ConfigError, match="churn is defined for the samplers euler and heun"):
        Settings(sampler="dpmpp_2m", churn=Churn(1.0))
    assert Settings(sampler="heun", churn=Churn(1.0)).sampler == "heun"
    assert Settings(sampler="lcm", steps=41, sigmas="ays").steps == 41


BAD: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("frames", "height", "steps", "fps", "clips")
        for value in (0, 2.5, "3", True)
    ),
    *(("cut", value) for value in (0, 27, "never", 1.5, True)),
    *(("decode_chunk", value) for value in (0, "14", [14])),
    *(("motion_bucket", value) for value in (-1, 127.0, "127")),
    *(("noise_aug", value) for value in (-0.1, math.nan, math.inf, "0.02", None, torch.ones(2))),
    *(("fit", value) for value in ("stretch", None, ["crop"])),
    *(("sampler", value) for value in ("ddim", "Euler", None, ["heun"])),
    *(
        ("sigmas", value)
        for value in (None, "exponential", [], [1, 2], [math.nan], "9", [[2, 1]], [2, -1], {"a": 1})
    ),
    *(("after", value) for value in ("mean", None, ("half", "cond"), ("cond",), {"context": ["cond"]})),
    *(("embedding", value) for value in (3, [26], [0], "ab", [1.5])),
    *(
        ("guidance", value)
        for value in (True, math.nan, (1, 2, 3), (1, math.inf), "13", None, {"minimum": "x"}, {"low": 1})
    ),
    *(("guidance_interval", value) for value in (1.0, (1,), (2, 1), (-1, 2), (0, math.inf), "12", ("a", 1))),
    *(
        ("churn", value)
        for value in (40, {"s_churn": -1}, {"churn": 1}, {"s_tmin": math.inf}, {"s_noise": "1"})
    ),
    *(("sequential", value) for value in (1, "yes", None)),
    *(("seed", value) for value in (-1, 2**63, 0.5, "7", [1.5], [2**63], None, (), torch.ones(2))),
]


def test_numbers_of_sigmas_and_of_steps_do_not_contradict_each_other() -> None:
    assert Settings(steps=2, sigmas=[9, 3]) == Settings(sigmas=[9, 3, 0])
    assert Settings(sigmas=[9, 3]).replace(sigmas=[9, 3, 1]).steps == 3
    assert Settings(steps=10, sigmas="ays").replace(sigmas=[9, 3]).steps == 2
    for start in (Settings(), Settings(sigmas=[9, 3, 1])):
        with pytest.raises(
            ConfigError, match=r"2 sigmas \(the final 0 aside\) are as many steps, got steps=30"
        ):
            start.replace(steps=30, sigmas=[9, 3])


@pytest.mark.parametrize("seeds", [[5, 6], range(5, 7), np.array([5, 6]), torch.tensor([5, 6])])
def test_seeds_may_be_of_any_kind_of_sequence(seeds: Any) -> None:
    assert Settings(seed=seeds).seed == (5, 6)


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: repr(value)[:20])
def test_a_bad_value_is_named(name: str, value: Any) -> None:
    names = {"churn": r"churn|s_churn|s_tmin|s_noise", "sigmas": "sigma", "after": "after"}
    with pytest.raises(ConfigError, match=names.get(name, name)):
        Settings(**{name: value})


def test_a_function_is_a_setting_but_not_of_a_file() -> None:
    own = Settings(guidance=lambda frames: [2.0] * frames)
    with pytest.raises(ConfigError, match="guidance is a function, which no file can hold"):
        own.to_dict()
    assert Settings.from_dict(Settings(guidance=constant(2)).to_dict()) == Settings(guidance=(2, 2))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("step", "steps"), ("frame", "frames"), ("noise_augmentation", "noise_aug"), *OTHER_NAMES.items()],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    for refuse in (lambda: Settings().replace(**{name: 1}), lambda: Settings.from_dict({name: 1})):
        with pytest.raises(UnknownSettingError, match=f"there is no setting '{name}': did you mean") as error:
            refuse()
        assert hint in str(error.value)
        assert isinstance(error.value, TypeError)


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(UnknownSettingError, match=r"choose from frames, height, .*clips"):
        check_names(["xyzzy"])


def test_help_explains_every_setting_with_its_default() -> None:
    text = " ".join((inspect.getdoc(vcut.Settings) or "").split())
    for name in NAMES:
        assert f"{name}: {SAYS[name]}" in text
        assert "(default: " in SAYS[name]


def test_names_of_other_programs_stand_in_the_document() -> None:
    document = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text()
    assert all(f"`{name}`" in document for name in OTHER_NAMES)
    assert all(f"`{name}" in document for name in NAMES)
