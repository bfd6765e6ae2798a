"""The page holds its clips, or links to them; takes the pairs that are asked for; replaces nothing but a page."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import coded_sweep
import pytest

from vcut import cli
from vcut.errors import VcutError
from vcut.scores import page
from vcut.sweeps import manifest

ROOT = Path(__file__).parents[2]
NAMES = ("cat 1", "cat 2", "dog", "12")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A sweep whose clips are a few bytes: the page does not look into them."""
    out = tmp_path / "sweep"
    for setting in ("baseline", "c17"):
        (out / setting).mkdir(parents=True)
        for name in NAMES:
            for index in range(2):
                file = f"{setting}/{name}-{index}.mp4"
                (out / file).write_bytes(file.encode())
                record = coded_sweep.record(out, setting, name, index)
                manifest.append(out / "manifest.jsonl", record)
    return out


def data(path: Path) -> dict[str, Any]:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL
    )
    return json.loads(text)


def clips(path: Path) -> dict[str, bytes]:
    found = re.findall(r'<script type="text/plain" id="([\w-]+)">(.*?)</script>', path.read_text())
    return {name: base64.b64decode(text) for name, text in found}


def pairs(path: Path) -> set[str]:
    return {f"{clip['name']}-{clip['index']}" for clip in data(path)["clips"]}


def score(out: Path, values: dict[str, tuple[float | None, float]]) -> None:
    """Give the baseline's and c17's clip of each pair a flicker."""
    scores: dict[tuple[str, str, int], dict[str, float]] = {}
    for pair, (base, own) in values.items():
        name, _, index = pair.rpartition("-")
        scores["c17", name, int(index)] = {"flicker": own, "psnr": 50 - own}
        if base is not None:
            scores["baseline", name, int(index)] = {"flicker": base}
    coded_sweep.write_scores(out, scores)


def test_every_clip_is_in_the_page(out: Path) -> None:
    path = page.write(out)
    assert path == out / "compare.html"
    known, held = data(path)["clips"], clips(path)
    assert len(known) == len(held) == 16
    for clip in known:
        assert held[clip["id"]] == f"{clip['setting']}/{clip['name']}-{clip['index']}.mp4".encode()
        assert clip["link"] is None
    assert [each["name"] for each in data(path)["settings"]] == ["baseline", "c17"]


def test_links_lead_to_the_clips_from_wherever_the_page_is(out: Path, tmp_path: Path) -> None:
    for place in (out / "compare.html", tmp_path / "pages" / "deep" / "page.html"):
        place.parent.mkdir(parents=True, exist_ok=True)
        page.write(out, place, link=True)
        assert clips(place) == {}
        for clip in data(place)["clips"]:
            assert " " not in clip["link"]
            target = place.parent / unquote(clip["link"])
            assert (
                target.resolve() == (out / clip["setting"] / f"{clip['name']}-{clip['index']}.mp4").resolve()
            )


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["dog"], {"dog"}),
        (["cat*"], {"cat 1", "cat 2"}),
        (["dog", "cat 1"], {"dog", "cat 1"}),
        (["3"], {"12", "cat 1", "cat 2"}),
        (["12"], {"12"}),  # an image's name comes before a number
        ([], set(NAMES)),
    ],
)
def test_images_are_chosen_by_name_pattern_or_number(
    images: list[str], expected: set[str], out: Path
) -> None:
    assert {clip["name"] for clip in data(page.write(out, images=images))["clips"]} == expected


def test_the_worst_pairs_are_furthest_from_the_baseline(out: Path) -> None:
    score(out, {"cat 1-0": (5.0, 6.0), "cat 2-1": (1.0, 4.0), "dog-0": (9.0, 9.1), "dog-1": (1.0, 0.5)})
    assert pairs(page.write(out, worst=2, by="flicker")) == {"cat 2-1", "cat 1-0"}
    assert pairs(page.write(out, worst=1)) == {"dog-0"}  # PSNR, of which the baseline has none: the lowest
    assert data(page.write(out, by="flicker"))["sort"] == "flicker"
    assert pairs(page.write(out, worst=9, images=["cat*"])) == {"cat 1-0", "cat 2-1"}


def test_scores_without_a_number_are_none(out: Path) -> None:
    score(out, {"dog-0": (1.0, float("nan"))})
    clip = next(clip for clip in data(page.write(out))["clips"] if clip["scores"].get("flicker", 0) is None)
    assert (clip["setting"], clip["name"]) == ("c17", "dog")


def fails(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_page_that_is_too_large_names_the_ways_out(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "LIMIT", 120)  # 16 clips of 16 bytes, a third more in base64
    error = fails(str(out), capsys=capsys)
    assert "--images 1 or --worst 1" in error
    assert "--link" in error
    assert not (out / "compare.html").exists()
    page.write(out, link=True)
    page.write(out, images=["1"])


def test_faults_are_told_in_one_line(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no finished clips" in fails(str(tmp_path / "nowhere"), capsys=capsys)
    assert "no clip is called so" in fails(str(out), "--images", "bird", capsys=capsys)
    assert "vcut score comes first" in fails(str(out), "--worst", "3", capsys=capsys)
    score(out, {"dog-0": (1.0, 2.0)})
    assert "no such measure; there are psnr, flicker" in fails(str(out), "--by", "fvd", capsys=capsys)
    whole = json.loads((out / "scores.json").read_text())
    clip = whole["clips"][0]
    for fault in (
        {"clips": [{}]},
        {"clips": [{**clip, "setting": []}]},
        {"clips": [{**clip, "scores": 5}]},
        {"summary": "x"},
        {"measures": [{**whole["measures"][0], "better": "sideways"}]},
    ):
        (out / "scores.json").write_text(json.dumps({**whole, **fault}))
        assert "is not as vcut score writes it" in fails(str(out), capsys=capsys)
    (out / "scores.json").unlink()
    changed = out / "c17" / "dog-0.mp4"
    for content in (b"c17/dog-1.mp4", None):
        changed.write_bytes(content) if content else changed.unlink()
        assert "dog-0.mp4 is not the clip of the manifest, or is gone" in fails(str(out), capsys=capsys)


def test_only_an_earlier_page_is_replaced(out: Path) -> None:
    page.write(out)
    page.write(out)
    precious = out / "thesis.html"
    precious.write_text("<!doctype html>\n<p>")
    with pytest.raises(VcutError, match=r"thesis\.html exists already and is no page"):
        page.write(out, precious)
    assert precious.read_text() == "<!doctype html>\n<p>"


def test_the_command_says_where_the_page_is(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(out), "-o", str(out / "a.html"), "--images", "1"]) == 0
    assert re.fullmatch(rf"wrote    {re.escape(str(out))}/a\.html: 0\.\d MB; .*\n", capsys.readouterr().out)


def test_names_do_not_leave_their_json(out: Path) -> None:
    name = "</script><!-- clips --><!-- data -->/* page.js */ é 猫"
    odd = dataclasses.replace(coded_sweep.record(out, "c17", "dog", 0), name=name, image=name)
    manifest.append(out / "manifest.jsonl", odd)
    path = page.write(out)
    assert name in {clip["name"] for clip in data(path)["clips"]}
    assert len(clips(path)) == 17
    assert (
        path.read_text().count("</script>")
        == page.write(out, images=["dog"]).read_text().count("</script>") + 13
    )


def test_all_scripts_are_in_the_page() -> None:
    web = ROOT / "vcut" / "scores" / "web"
    assert {file.stem for file in web.glob("*.js")} == set(page.SCRIPTS)
