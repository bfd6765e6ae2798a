"""Seeds depend on name and number alone; shards are a partition, whatever their number and what started them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_stub import PRESETS, make_sweep

from vcut.config import TINY
from vcut.errors import ConfigError
from vcut.settings import check_seed
from vcut.sweeps.settings_table import from_presets
from vcut.sweeps.shards import Shard, from_environment
from vcut.sweeps.suite import Picture
from vcut.sweeps.sweep import all_tasks, seed_of

PICTURES = tuple(Picture(f"p{i}", Path(f"p{i}.png")) for i in range(7))


def test_seeds_stay_what_they_are() -> None:
    assert seed_of("disc", 0) == 35783878871552816
    assert seed_of("disc", 1) == 1374893054403549197
    assert seed_of("disc", 0, 7) == 2466228292393638421


@given(name=st.text(), index=st.integers(0, 10**4), base=st.integers(0, 2**63 - 1))
def test_every_seed_is_one_that_torch_takes(name: str, index: int, base: int) -> None:
    assert check_seed(seed_of(name, index, base)) == seed_of(name, index, base)


def test_no_two_clips_of_a_suite_have_one_seed() -> None:
    seeds = {seed_of(f"prompt {i}", index, base) for i in range(400) for index in range(5) for base in (0, 1)}
    assert len(seeds) == 400 * 5 * 2


def test_a_clip_has_the_same_seed_in_every_setting_and_order() -> None:
    settings = from_presets(PRESETS, (), lambda *_: {})
    seeds = {
        task.key: task.seed
        for order in (settings, settings[::-1])
        for pictures in (PICTURES, PICTURES[::-1])
        for task in all_tasks(order, pictures, TINY, clips=3, seed=1)
    }
    for (_, name, index), seed in seeds.items():
        assert seed == seed_of(name, index, 1)


@given(shards=st.integers(1, 60), clips=st.integers(1, 3), number=st.integers(1, 7))
def test_shards_are_a_partition_and_each_setting_is_spread_over_all(
    shards: int, clips: int, number: int
) -> None:
    _, tasks = make_sweep(PICTURES[:number], clips=clips)
    parts = [Shard(number, shards).part(tasks) for number in range(shards)]
    assert sorted(task.key for part in parts for task in part) == sorted(task.key for task in tasks)
    assert len({task.key for task in tasks}) == len(tasks)
    for setting in PRESETS:
        sizes = [sum(task.setting == setting for task in part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_settings_of_one_form_follow_each_other() -> None:
    settings = from_presets(["vcut"], [10], lambda *_: {}) + from_presets(
        ["baseline", "vcut"], [17], lambda *_: {}
    )
    forms = [task.form for task in all_tasks(settings, PICTURES, TINY, clips=1, seed=0)]
    changes = sum(a != b for a, b in itertools.pairwise(forms))
    assert changes == len(set(forms)) - 1 == 1


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        # a shell of salloc has no number of its own
        ({"SLURM_NTASKS": "2"}, (0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}, (2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "2",
                # what Slurm sets for the one process of each array task
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "1",
            },
            (2, 3),
        ),
        # each task of the array starts torchrun
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "1",
                "RANK": "3",
                "WORLD_SIZE": "4",
            },
            (7, 8),
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
    ],
)
def test_what_started_a_process_says_its_shard(variables: dict[str, str], shard: tuple[int, int]) -> None:
    assert from_environment(variables)[:2] == shard


def test_the_variables_are_named() -> None:
    assert from_environment({"RANK": "0", "WORLD_SIZE": "2"}) == Shard(0, 2, "RANK and WORLD_SIZE")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "two", "WORLD_SIZE": "4"}, "RANK must be a whole number, got 'two'"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK and WORLD_SIZE make this process number 4 of 4"),
        (
            {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"},
            "SLURM_ARRAY_TASK_COUNT make this process number 8 of 3",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        from_environment(variables)
