"""What is written for VBench is found by its own search, and its results come into the tables.

The search is that of ``vbench/__init__.py`` (build_full_info_json) and ``vbench/utils.py``, in our words.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sweep_samples import write_sweep

from vcut import cli

PROMPTS = [f"scene{i}" for i in range(2)]


def suite(tmp_path: Path) -> Path:
    """A file in the form of vbench2_i2v_full_info.json, with an entry more than the sweep has."""
    entries = [
        {
            "prompt_en": prompt,
            "dimension": ["i2v_subject", "subject_consistency"],
            "image_type": "abstract",
            "image_name": f"{prompt}.jpg",
        }
        for prompt in [*PROMPTS, "a red bus"]
    ]
    (tmp_path / "suite.json").write_text(json.dumps(entries))
    return tmp_path / "suite.json"


def commands(out: Path) -> list[dict[str, list[str]]]:
    """Options of each command in run.sh."""
    found = []
    for line in (out / "vbench" / "run.sh").read_text().splitlines():
        if line.startswith("python evaluate_i2v.py "):
            options: dict[str, list[str]] = {}
            for word in shlex.split(line)[2:]:
                if word.startswith("--"):
                    options[word] = values = []
                else:
                    values.append(word)
            found.append(options)
    return found


def found_by_name(options: dict[str, list[str]]) -> dict[str, list[Path]]:
    """The clips that VBench finds of each prompt of its suite: the suffix is that of the first file of all."""
    videos = Path(options["--videos_path"][0])
    names = [path.name for path in videos.iterdir()]
    entries = json.loads(Path(options["--full_json_dir"][0]).read_text())
    return {
        entry["prompt_en"]: [
            videos / name
            for i in range(5)
            if (name := f"{entry['prompt_en']}-{i}{Path(names[0]).suffix}") in names
        ]
        for entry in entries
    }


def found_in_folder(options: dict[str, list[str]]) -> dict[Path, Path]:
    """The picture that VBench finds for each clip in custom mode: of the clip's name without its number."""
    videos, pictures = (Path(options[key][0]) for key in ("--videos_path", "--custom_image_folder"))
    by_stem = {path.stem: path for path in pictures.iterdir() if path.suffix in (".jpg", ".jpeg", ".png")}
    return {
        video: by_stem[re.sub(r"-\d+$", "", video.stem)]
        for video in videos.iterdir()
        if video.suffix.lower() in (".mp4", ".gif")
    }


def test_the_clips_of_a_suite_are_found_by_their_prompts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=2, latents=True)
    assert cli.main(["score", str(out), "--vbench-files", str(suite(tmp_path))]) == 0
    each = commands(out)
    assert [Path(options["--videos_path"][0]).parent.name for options in each] == ["baseline", "c17"]
    for options, setting in zip(each, ("baseline", "c17"), strict=True):
        clips = found_by_name(options)
        assert list(clips) == PROMPTS
        for prompt, paths in clips.items():
            assert [path.resolve() for path in paths] == [
                (out / setting / f"{prompt}-{i}.mp4").resolve() for i in (0, 1)
            ]
        assert options["--ratio"] == ["1-1"]
        assert "camera_motion" not in options["--dimension"]


def test_other_clips_are_found_with_their_pictures(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=2, latents=True)
    Image.new("RGBA", (32, 32), (255, 0, 0, 128)).save(tmp_path / "images" / "scene1.png")
    assert cli.main(["score", str(out), "--vbench-files"]) == 0
    for options in commands(out):
        assert options["--mode"] == ["custom_input"]
        pairs = found_in_folder(options)
        assert len(pairs) == 4
        assert {video.name: picture.name for video, picture in pairs.items()}["scene1-0.mp4"] == "scene1.png"
        for picture in pairs.values():
            # VBench opens it as it is, and its norm takes three channels
            assert Image.open(picture).mode == "RGB"
    shown = np.asarray(Image.open(out / "vbench" / "images" / "scene1.png"))
    assert shown[0, 0].tolist() == [255, 127, 127]


def test_a_suite_of_other_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, ["baseline"], images=3, clips=1)
    assert cli.main(["score", str(tmp_path / "out"), "--vbench-files", str(suite(tmp_path))]) == 2
    assert "has no entry 'scene2'" in capsys.readouterr().err


def results(out: Path, setting: str, dimensions: dict[str, float]) -> dict[str, Any]:
    """Results in VBench's form: the mean, then each clip; imaging quality in points, all others as a share."""
    videos = sorted((out / setting).glob("*.mp4"))
    linked = [out / "vbench" / setting / "videos" / video.name for video in videos]
    return {
        dimension: [
            score,
            [
                {
                    "video_path": str(path),
                    "video_results": score * (100 if dimension == "imaging_quality" else 1),
                }
                for path in linked
            ],
        ]
        for dimension, score in dimensions.items()
    }


def test_results_come_into_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline", "c17"], images=2, clips=2)
    scores = {"i2v_subject": 0.97, "dynamic_degree": 0.5, "imaging_quality": 0.683}
    for setting, lower in (("baseline", 0.0), ("c17", 0.002)):
        data = results(out, setting, {name: score - lower for name, score in scores.items()})
        data["dynamic_degree"][1] = [
            {**each, "video_results": i % 2 == 0} for i, each in enumerate(data["dynamic_degree"][1])
        ]
        (tmp_path / f"{setting}_eval_results.json").write_text(json.dumps(data))
    # one file at a time, as VBench's runs end
    for setting in ("baseline", "c17"):
        assert cli.main(["score", str(out), "--vbench", str(tmp_path / f"{setting}_eval_results.json")]) == 0
    summary = json.loads((out / "scores.json").read_text())["summary"]
    assert summary["baseline"]["vbench_imaging_quality"]["mean"] == pytest.approx(68.3)
    assert summary["baseline"]["vbench_dynamic_degree"]["mean"] == pytest.approx(50)
    difference = summary["c17"]["vbench_i2v_subject"]["difference"]
    assert difference["mean"] == pytest.approx(-0.2)
    assert difference["clips_for_0.3"] == 4
    text = (out / "scores.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| c17 |"))
    assert "96.80 ± 0.00" in row
    # without the files the results stay
    capsys.readouterr()
    assert cli.main(["score", str(out)]) == 0
    assert "96.80 ± 0.00" in capsys.readouterr().out


def test_results_of_camera_motion_have_a_list_more(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    clip = {
        "video_path": str(out / "baseline" / "scene0-0.mp4"),
        "video_results": 1.0,
        "prompt_type": "static",
    }
    data = {"camera_motion": [1.0, {"static": 1.0}, [clip]]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert cli.main(["score", str(out), "--quiet", "--vbench", str(tmp_path / "x.json")]) == 0
    summary = json.loads((out / "scores.json").read_text())["summary"]
    assert summary["baseline"]["vbench_camera_motion"]["mean"] == 100


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "holds no results"),
        ("[1]", "holds no results"),
        ('{"i2v_subject": 0.9}', "holds no results"),
        ('{"i2v_subject": [0.9, [{"video_path": "a/b-0.mp4"}]]}', "holds no results"),
        ('{"i2v_subject": [0.9, [{"video_path": "a/b-0.mp4", "video_results": 1}]]}', "has no such clip"),
        (
            '{"i2v_subject": [0.9, [{"video_path": "baseline/scene0-0.mp4", "video_results": "NaN"}]]}',
            "x.json holds no results of VBench (*_eval_results.json): i2v_subject of a clip must be a finite number",
        ),
    ],
)
def test_what_is_no_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    write_sweep(tmp_path, ["baseline"], images=1, clips=1)
    (tmp_path / "x.json").write_text(text)
    assert cli.main(["score", str(tmp_path / "out"), "--quiet", "--vbench", str(tmp_path / "x.json")]) == 2
    assert says in capsys.readouterr().err
