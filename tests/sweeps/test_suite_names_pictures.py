"""Pictures of a sweep: a folder, a list file, VBench's suite, and the names that their clips get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sweep_stub import make_pictures

from vcut.errors import ConfigError, MediaError, VcutError
from vcut.sweeps.suite import LONGEST, Picture, pictures

BOTH = ["i2v_subject", "subject_consistency", "motion_smoothness"]


def entry(prompt: str, dimension: list[str], image: str | None = None) -> dict[str, Any]:
    """An entry in the form of VBench's file."""
    return {
        "prompt_en": prompt,
        "dimension": dimension,
        "image_type": "single-human",
        "image_name": image or f"{prompt}.jpg",
    }


SUITE = [
    entry("a bear in the water", BOTH),
    entry("a beach", ["i2v_background", "background_consistency"]),
    entry("a beach, camera pans left", ["camera_motion"], "a beach.jpg"),
    entry("a beach, camera zooms in", ["camera_motion"], "a beach.jpg"),
    # the same prompt once more, for another dimension
    entry("a bear in the water", ["dynamic_degree"]),
    entry("a lake", ["camera_motion", "aesthetic_quality"]),
]


def suite(tmp_path: Path, content: Any) -> Path:
    file = tmp_path / "vbench2_i2v_full_info.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def there(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a picture")


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    made = make_pictures(tmp_path / "pictures", 3)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    assert pictures(tmp_path / "pictures") == made
    assert pictures(made[1].path) == made[1:2]


def test_a_list_file_has_a_path_a_line_relative_to_itself(tmp_path: Path) -> None:
    listed, elsewhere = tmp_path / "list.txt", tmp_path / "elsewhere" / "a.jpg"
    there(tmp_path / "pictures/b é.png", elsewhere)
    # with the mark that Windows' editors put at the start, a note, and one picture in several ways
    text = (
        f"\ufeffpictures/b é.png\n\n# others\n{elsewhere}\npictures/b é.png\n./pictures/../pictures/b é.png\n"
    )
    listed.write_text(text, encoding="utf-8")
    assert pictures(listed) == (Picture("b é", tmp_path / "pictures/b é.png"), Picture("a", elsewhere))


def test_what_a_list_names_and_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    there(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n.\n")
    with pytest.raises(MediaError, match=r"list.txt names what is no file: .*/a.png, [^,]*$"):
        pictures(tmp_path / "list.txt")


def test_quality_is_what_is_scored_for_more_than_the_camera(tmp_path: Path) -> None:
    file, folder = suite(tmp_path, SUITE), tmp_path / "crop/16-9"
    there(*(folder / e["image_name"] for e in SUITE))
    quality = pictures(file, None, folder)
    assert quality == pictures(file, "quality", folder)
    assert [picture.name for picture in quality] == ["a bear in the water", "a beach", "a lake"]
    assert quality[0].path == folder / "a bear in the water.jpg"


def test_an_older_file_has_no_pictures_for_the_camera(tmp_path: Path) -> None:
    older = [{k: v for k, v in e.items() if k != "image_name" or e["dimension"] == BOTH} for e in SUITE[:3:2]]
    file, folder = suite(tmp_path, older), tmp_path / "crop/16-9"
    there(folder / "a bear in the water.jpg")
    assert [picture.name for picture in pictures(file, "quality", folder)] == ["a bear in the water"]
    with pytest.raises(ConfigError, match="entry 1: image_name must be a str, got None"):
        pictures(file, "full", folder)


def test_full_is_every_distinct_prompt(tmp_path: Path) -> None:
    there(*(tmp_path / "crop/16-9" / e["image_name"] for e in SUITE))
    full = pictures(suite(tmp_path, SUITE), "full", tmp_path / "crop/16-9")
    assert len(full) == 5
    assert full[2] == Picture("a beach, camera pans left", tmp_path / "crop/16-9/a beach.jpg")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "is not JSON"),
        ({}, "is not VBench's list of prompts, but a dict"),
        ([SUITE[0], {**SUITE[1], "dimension": "aesthetic_quality"}], "entry 1: dimension must be a list"),
        ([{"prompt_en": "a", "dimension": BOTH}], "entry 0: image_name must be a str, got None"),
        (["a"], "entry 0: prompt_en must be a str, got None"),
        (
            [entry("a", BOTH, "a.jpg"), entry("a", BOTH, "b.jpg")],
            r"entry 1: 'a' has the pictures a.jpg and b.jpg",
        ),
        ([entry("up/down", BOTH, "a.jpg")], r"no clip can be called 'up/down': a name has no /"),
        ([entry("a" * (LONGEST + 1), BOTH, "a.jpg")], rf"at most {LONGEST} bytes"),
        ([entry("\ud800", BOTH, "a.jpg")], "no clip can be called"),
        ([], "there are no pictures in it"),
    ],
)
def test_a_fault_of_the_suite_is_named(content: Any, says: str, tmp_path: Path) -> None:
    there(tmp_path / "a.jpg")
    with pytest.raises(VcutError, match=says):
        pictures(suite(tmp_path, content), None, tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("x/Disc.png\ny/disc.jpg\n")
    there(tmp_path / "x/Disc.png", tmp_path / "y/disc.jpg")
    with pytest.raises(ConfigError, match=r"x/Disc.png and .*y/disc.jpg would give clips of one name"):
        pictures(listed)


def test_options_of_vbench_go_with_its_file_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="go with VBench's JSON file"):
        pictures(tmp_path, "full", None)
    with pytest.raises(ConfigError, match="say where its pictures are"):
        pictures(suite(tmp_path, SUITE))


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none is no folder, picture or list that can be read"):
        pictures(tmp_path / "none")


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    from weights_tools.outputs import replacing

    name = "é" * (LONGEST // 2)
    for end in (".mp4", ".safetensors"):
        with replacing(tmp_path / f"{name}-9999{end}") as target:
            target.write_text("")
