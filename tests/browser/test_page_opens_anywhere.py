"""The page opens from the disk with any names, one or eight settings, on any screen, for any reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coded_sweep
import pytest
from seen import frames, until, wait_for_clips

from vcut.scores import page as compare_page
from vcut.sweeps import manifest

pytestmark = pytest.mark.browser
HOSTILE = [
    "a \"quoted\" 'name'",
    "<img src=x onerror=alert(1)>",
    "<!-- clips --> <!-- data -->",
    "ünïcödé 猫 🐈",
    "50% #1 ?a=b&c",
    "back\\slash",
]


@pytest.mark.parametrize("link", [False, True])
def test_any_name_is_shown_as_it_is(link: bool, tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path / "<b>out<i> & 'so'", names=HOSTILE, settings=("baseline", "<i>c17<b>"))
    page = open_page(compare_page.write(tmp_path / "<b>out<i> & 'so'", link=link))
    wait_for_clips(page, 2 * len(HOSTILE))
    assert sorted(page.locator("#pairs .name").all_inner_texts()) == sorted(f"{name}-0" for name in HOSTILE)
    assert page.locator("h1").inner_text() == "<b>out<i> & 'so'"
    assert page.locator("#scores tbody th").all_inner_texts() == ["baseline", "<i>c17<b>"]


def test_a_name_cannot_end_the_script(tmp_path: Path, open_page: Any) -> None:
    """No file has a / in its name, but a setting or a manifest may."""
    coded_sweep.write_sweep(tmp_path, names=("disc",), settings=("baseline",))
    text = (tmp_path / "manifest.jsonl").read_text()
    (tmp_path / "manifest.jsonl").write_text(
        text.replace('"disc"', '"</script><script>document.title = 1</script>"')
    )
    page = open_page(compare_page.write(tmp_path))
    wait_for_clips(page, 1)
    assert page.title() == f"{tmp_path.name}: vcut compare"
    assert page.locator("#pairs .name").inner_text() == "</script><script>document.title = 1</script>-0"


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("width", [360, 1920])
def test_one_or_eight_settings_on_a_small_or_a_large_screen(
    count: int, width: int, tmp_path: Path, open_page: Any
) -> None:
    settings = ["baseline", *(f"cut at step {i}" for i in range(2, 9))][:count]
    coded_sweep.write_sweep(tmp_path, names=("disc",), settings=settings)
    page = open_page(compare_page.write(tmp_path), viewport={"width": width, "height": 2400})
    wait_for_clips(page, count)
    assert frames(page)[0] == [0] * count
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#pairs .name").click()
    wait_for_clips(page, count, "#large canvas")
    for box in (each.bounding_box() for each in page.locator("#large .screen").all()):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_a_sweep_that_goes_on_leaves_room_for_what_is_missing(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc", "ring"))
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "manifest.jsonl").write_text("".join(lines[:-1]))
    page = open_page(compare_page.write(tmp_path))
    wait_for_clips(page, 5)
    assert page.locator("#pairs .screen .note").all_inner_texts() == ["", "", "", "", "", "no clip"]


def test_a_damaged_clip_says_so_and_stops_no_other(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",))
    (tmp_path / "c17" / "disc-0.mp4").write_bytes(b"no video")
    manifest.append(tmp_path / "manifest.jsonl", coded_sweep.record(tmp_path, "c17", "disc", 0))
    page = open_page(compare_page.write(tmp_path))
    wait_for_clips(page, 2)
    until(lambda: "Cannot be shown" in page.locator("#pairs").inner_text(), "the fault is named")


def test_every_control_has_a_name_and_the_keyboard_reaches_it(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",))
    page = open_page(compare_page.write(tmp_path))
    wait_for_clips(page, 3)
    page.keyboard.press("?")
    assert page.get_by_role("heading", name="Keys").is_visible()
    page.keyboard.press("Escape")
    nameless = """[...document.querySelectorAll("button, input, select, canvas, dialog, .scroll")].filter(
      (each) => !["aria-label", "aria-labelledby"].some((name) => each.hasAttribute(name)) &&
        !each.labels?.length && !each.textContent.trim()).length"""
    assert page.evaluate(nameless) == 1  # the strip's canvas, before there is one
    name = page.locator("#pairs .name")
    name.focus()
    page.keyboard.press("Enter")
    assert page.locator("#pair").is_visible()
    page.keyboard.press("s")
    until(lambda: page.locator("#strip-save").is_enabled(), "the strip is drawn")
    assert page.evaluate(nameless) == 0
    page.keyboard.press("Escape")
    assert name.evaluate("(each) => each === document.activeElement")


def test_it_plays_at_once_unless_the_reader_wants_no_motion(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",), settings=("baseline",))
    path = compare_page.write(tmp_path)
    assert open_page(path).get_by_label("Play", exact=True).is_visible()
    assert open_page(path, reduced_motion="no-preference").get_by_label("Pause").is_visible()


def test_dark_and_light_follow_the_system(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",), settings=("baseline",))
    path = compare_page.write(tmp_path)
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(path, color_scheme=scheme).evaluate(paper) for scheme in ("light", "dark"))
    assert sum(map(int, light[4:-1].split(", "))) > 700
    assert sum(map(int, dark[4:-1].split(", "))) < 100
