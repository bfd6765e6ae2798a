"""Settings of a sweep: TOML tables and repeated options become named ones; a fault names file, table and key."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from vcut.cli import sweep
from vcut.config import SVD_XT, TINY, Preset
from vcut.errors import ConfigError
from vcut.sampling import Branch, Churn, Ramp
from vcut.settings import Settings
from vcut.sweeps.settings_table import Setting, from_presets, from_toml

FILE = r"settings\.toml, table \[a\]: "
GUIDANCE = r'2\.0, \[1\.0, 3\.0\] or \{shape = "triangle", minimum = 1\.0, maximum = 3\.0\}'


def nothing(preset: Preset, defaults: Any) -> dict[str, Any]:
    """What a command without options says of all settings."""
    return {}


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return file


def test_a_table_is_a_setting(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        """
        [baseline]
        preset = "baseline"
        [c17]
        preset = "vcut"
        cut = 17
        guidance = [1.0, 2.5]
        ["only sca"]
        preset = "baseline"
        tca = false
        steps = 30
        """,
    )
    baseline, c17, sca = from_toml(file, lambda preset, defaults: {"steps": 20, "frames": 4})
    assert [setting.name for setting in (baseline, c17, sca)] == ["baseline", "c17", "only sca"]
    assert baseline.settings == Settings(steps=20, frames=4)
    assert c17.settings == Settings(steps=20, frames=4, cut=17, guidance=(1.0, 2.5))
    assert sca.settings == Settings(steps=30, frames=4)
    assert (sca.preset.tca, sca.preset.sca) == (False, True)


def test_what_a_manifest_holds_of_a_setting_reads_back(tmp_path: Path) -> None:
    (setting,) = from_toml(table(tmp_path, '[a]\ncut = "none"\nafter = ["cond", "mean"]'), nothing)
    assert Settings.from_dict(setting.to_dict()["settings"]) == setting.settings


def test_a_table_chooses_its_defaults_and_what_is_given_wins(tmp_path: Path) -> None:
    """A manifest holds them as plain settings."""
    text = """
        [of_the_command]
        [paper]
        defaults = "paper"
        [own]
        defaults = "official"
        steps = 10
        """
    parser = argparse.ArgumentParser()
    sweep._add_options(parser)
    words = f"in -o out --settings {table(tmp_path, text)} --defaults official --guidance-max 2"
    made = sweep._settings(parser.parse_args(words.split()), SVD_XT)
    assert [setting.to_dict()["settings"] for setting in made] == [
        {"steps": 30, "guidance": {"minimum": 1.5, "maximum": 2.0, "shape": "linear"}},
        {"guidance": {"minimum": 1.0, "maximum": 2.0, "shape": "linear"}},
        {"steps": 10, "guidance": {"minimum": 1.5, "maximum": 2.0, "shape": "linear"}},
    ]
    table(tmp_path, "[a]\ndefaults = 3")
    with pytest.raises(
        ConfigError, match=r"table \[a\]: defaults must be one of paper, official, fast, got 3"
    ):
        sweep._settings(parser.parse_args(words.split()), SVD_XT)


def test_the_preset_fast_starts_from_settings_of_its_own(tmp_path: Path) -> None:
    text = """
        [fast]
        preset = "fast"
        [more]
        preset = "fast"
        steps = 20
        [form]
        preset = "fast"
        defaults = "paper"
        [own]
        preset = "fast"
        sigmas = [700.0, 30.0, 1.0]
        """
    parser = argparse.ArgumentParser()
    sweep._add_options(parser)

    def made(words: str) -> list[tuple[str, int, object]]:
        found = sweep._settings(parser.parse_args(f"in -o out {words}".split()), SVD_XT)
        return [(each.name, each.settings.steps, each.settings.sigmas) for each in found]

    file = table(tmp_path, text)
    # levels of a table's own are its steps too
    own = ("own", 3, (700.0, 30.0, 1.0, 0.0))
    assert made(f"--settings {file}") == [
        ("fast", 10, "ays"),
        ("more", 20, "ays"),
        ("form", 25, "karras"),
        own,
    ]
    assert made(f"--settings {file} --steps 8 --defaults paper") == [
        ("fast", 8, "karras"),
        ("more", 20, "karras"),
        ("form", 8, "karras"),
        own,
    ]
    assert made("--preset fast --preset vcut") == [("fast", 10, "ays"), ("vcut", 25, "karras")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[c17]\nstpes = 3",
            r"settings.toml, table \[c17\]: there is no setting 'stpes': did you mean steps",
        ),
        ("[c17]\ncut = 27", r"table \[c17\]: cut must be a whole number from 1 to 26, got 27"),
        ("[c17]\nsteps = 'many'", r"table \[c17\]: steps must be"),
        ("[c17]\npreset = 'vcutt'", r"table \[c17\]: there is no preset 'vcutt'"),
        ("[c17]\npreset = 3", r"table \[c17\]: preset must be a name, got 3"),
        ("[c17]\ntca = 'yes'", r"table \[c17\]: tca must be"),
        ("[c17]\nseed = 3", r"table \[c17\]: seed is the same for all settings of a sweep: --seed"),
        ("[c17]\nclips = 3", r"table \[c17\]: clips is the same"),
        ("[scores]\ncut = 3", r"table \[scores\]: 'scores' cannot be the name"),
        ("[VBench]", r"table \[VBench\]: 'VBench' cannot be the name"),
        ("['sweep.json']", r"'sweep.json' cannot be the name"),
        ("['manifest-1.jsonl']", r"'manifest-1.jsonl' cannot be the name"),
        ("['scores.CSV']", r"'scores.CSV' cannot be the name"),
        ('["a\\nb"]', "cannot be the name"),
        (f"[{'z' * 61}]", "at most 60"),
        ("[a]\n[A]", "two tables whose names differ in capitals alone"),
        ("[a]\nfps = 500", FILE + r"a/\*.mp4: .* at most 240 frames per second"),
        ("[a]\nheight = 60", FILE + r"height 60 is not a multiple of 8"),
        ("[a]\nsteps = 99999999999", "steps must be a whole number from 1 to 10000"),
        ("['a/b']\ncut = 3", r"table \[a/b\]: 'a/b' cannot be the name"),
        ("['..']\ncut = 3", r"'..' cannot be the name"),
        ("cut = 17", r"settings.toml: cut stands outside of a table"),
        ("cuts = [17]", r"settings.toml: cuts stands outside of a table"),
        (
            "[[a]]\ncut = 17",
            r"settings.toml: \[\[a\]\] is an array of tables; each setting is a table, \[c17\]",
        ),
        ("[c17", r"settings.toml cannot be read as TOML: Expected"),
        ("", r"settings.toml: there is no table in it"),
        ("[a]\n[a]", r"settings.toml cannot be read as TOML"),
    ],
)
def test_a_fault_names_file_table_and_key(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        [setting.resolve(TINY) for setting in from_toml(table(tmp_path, text), nothing)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('tca = "yes"', 'tca must be true, "linear_cached" or false, got "yes"'),
        ("sca = 1", 'sca must be true, "linear_cached" or false, got 1'),
        ('cut = "None"', 'cut must be a step counted from 1, "none" or "preset", got "None"'),
        ("cut = true", "cut must be a whole number from 1 to 26, got true"),
        (
            'embedding = "3-1"',
            'embedding must be "all", "none", steps such as "1-10" or a list .*, got "3-1"',
        ),
        ('embedding = "0-1"', 'embedding must be .*, got "0-1"'),
        ("embedding = 3", 'embedding must be "all", .*, got 3'),
        ('embedding = "20-26"', "a step with embedding must be a whole number from 1 to 25, got 26"),
        ("noise_aug = inf", "noise_aug must be a number from 0 to 10000, got inf"),
        ("guidance = [1, 2, 3]", rf"guidance must be {GUIDANCE}, got \[1, 2, 3\]"),
        ("guidance = {min = 1}", rf"guidance must be {GUIDANCE}, got "),
        ('after = "mean"', r'after must be \["mean", "cond"\] or .*, got "mean"'),
        ("churn = true", r'churn must be "none" or a table such as \{s_churn = 5\.0\}, got true'),
        ("sequential = 1", "sequential must be true or false, got 1"),
        ("fps = 2026-01-01", r'fps must be a whole number from 1 to 10000, got "2026-01-01"'),
        ('steps = "none"', r'steps must be a whole number from 1 to 10000, got "none"'),
        ("frames = true", "frames must be .*, got true"),
        ('size = "64x64"', "there is no setting 'size' in a table: give height and width"),
    ],
)
def test_a_fault_speaks_toml_and_not_python(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{FILE}{says}"):
        from_toml(table(tmp_path, f"[a]\n{text}"), nothing)


def test_the_names_that_are_offered_are_those_that_a_table_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"choose from frames, .*, preset, tca, sca, defaults$") as fault:
        from_toml(table(tmp_path, "[a]\nxyzzy = 1"), nothing)
    assert "seed" not in str(fault.value)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('embedding = "all"', Settings()),
        ('embedding = "none"', Settings(embedding=())),
        ('embedding = "2-4"', Settings(embedding=(2, 3, 4))),
        ("embedding = [1, 2]", Settings(embedding=(1, 2))),
        ('cut = "none"', Settings(cut=None)),
        ('cut = "preset"', Settings()),
        ('decode_chunk = "none"', Settings(decode_chunk=None)),
        ("churn = {s_churn = 5.0}", Settings(churn=Churn(5.0))),
        ('after = {context = "mean", latents = "cond"}', Settings(after=Branch("mean", "cond"))),
        ("guidance = 2.0", Settings(guidance=2.0)),
        (
            'guidance = {shape = "triangle", minimum = 1.0, maximum = 3.0}',
            Settings(guidance=Ramp(1.0, 3.0, "triangle")),
        ),
    ],
)
def test_words_and_forms_of_the_command_are_read(text: str, settings: Settings, tmp_path: Path) -> None:
    assert from_toml(table(tmp_path, f"[a]\n{text}"), nothing)[0].settings == settings


@pytest.mark.parametrize(("word", "mode"), [('"true"', True), ("true", True), ('"false"', False)])
def test_modes_are_read_as_the_command_spells_them(word: str, mode: bool, tmp_path: Path) -> None:
    (setting,) = from_toml(table(tmp_path, f"[a]\ntca = {word}\nsca = {word}"), nothing)
    assert (setting.preset.tca, setting.preset.sca) == (mode, mode)


def test_a_mark_at_the_start_as_windows_editors_write_it_is_no_part_of_the_table(tmp_path: Path) -> None:
    assert from_toml(table(tmp_path, "\ufeff[a]\ncut = 3"), nothing)[0].name == "a"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        from_toml(tmp_path / "none.toml", nothing)


def test_presets_and_cuts_make_names() -> None:
    made = from_presets(["baseline", "lossless", "vcut"], [10, "preset", None, 10], lambda *_: {"steps": 30})
    assert {setting.name: (setting.preset.name, setting.settings.cut) for setting in made} == {
        "baseline": ("baseline", "preset"),
        "lossless": ("lossless", "preset"),
        "vcut-c10": ("vcut", 10),
        "vcut": ("vcut", "preset"),
        "vcut-none": ("vcut", None),
    }
    assert all(setting.settings.steps == 30 for setting in made)


def test_a_cut_without_a_preset_to_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match="--cut goes with --preset vcut"):
        from_presets(["baseline"], [10], lambda *_: {})


def test_a_setting_that_does_not_fit_the_model_is_named() -> None:
    (setting,) = from_presets(["baseline"], [], lambda *_: {"height": 33})
    assert isinstance(setting, Setting)
    with pytest.raises(ConfigError, match="setting baseline: height 33 is not a multiple of 8"):
        setting.resolve(TINY)
