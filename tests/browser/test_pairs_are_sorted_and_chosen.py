"""Pairs in the order of any score, the worst first; those of one image; the settings that are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coded_sweep
import pytest
from seen import frames, until, wait_for_clips

from vcut.scores import page as compare_page

pytestmark = pytest.mark.browser
PSNR = {"disc": (31.0, 24.0), "ring": (22.0, 29.0), "star": (35.0, 36.0)}  # of c17 and of c10
FLICKER = {"disc": (1.0, 3.0, 1.0), "ring": (4.0, 4.5, 4.2), "star": (2.0, 2.0, 1.0)}  # of all three settings


@pytest.fixture
def page(tmp_path: Path, open_page: Any) -> Any:
    coded_sweep.write_sweep(tmp_path)
    values: dict[tuple[str, str, int], dict[str, float]] = {}
    for name in PSNR:
        for setting, flicker in zip(coded_sweep.SETTINGS, FLICKER[name], strict=True):
            values[setting, name, 0] = {"flicker": flicker}
        for setting, psnr in zip(coded_sweep.SETTINGS[1:], PSNR[name], strict=True):
            values[setting, name, 0]["psnr"] = psnr
    coded_sweep.write_scores(tmp_path, values)
    page = open_page(compare_page.write(tmp_path))
    wait_for_clips(page, 9)
    return page


def order(page: Any) -> list[str]:
    return page.locator("#pairs .name").all_inner_texts()


def captions(page: Any) -> list[str]:
    return page.locator("#pairs > li").first.locator("figcaption b").all_inner_texts()


def test_the_worst_pair_comes_first(page: Any) -> None:
    """PSNR has no baseline: the lowest value of any setting counts."""
    assert order(page) == ["ring-0", "disc-0", "star-0"]
    page.select_option("#of", "c10")
    assert order(page) == ["disc-0", "ring-0", "star-0"]
    page.select_option("#order", "best")
    assert order(page) == ["star-0", "ring-0", "disc-0"]
    page.select_option("#sort", label="name")
    assert order(page) == ["disc-0", "ring-0", "star-0"]
    assert not page.locator("#of").is_visible()


def test_a_head_of_the_table_sorts_by_the_difference_from_the_baseline(page: Any) -> None:
    page.get_by_role("button", name="Flicker").click()
    assert order(page) == ["disc-0", "ring-0", "star-0"]  # worse by 2, 0.5 and 0
    page.select_option("#sort", '["value","flicker"]')
    assert order(page) == ["ring-0", "disc-0", "star-0"]  # 4.5, 3, 2


def test_a_setting_that_is_hidden_does_not_count(page: Any) -> None:
    page.locator("#settings button", has_text="c17").click()
    assert order(page) == ["disc-0", "ring-0", "star-0"]
    assert captions(page) == ["baseline", "c10"]
    page.keyboard.press("2")
    assert captions(page) == ["baseline", "c17", "c10"]
    for key in "123":
        page.keyboard.press(key)
    assert captions(page) == ["c10"]  # the last one stays


def test_the_filter_finds_images(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("RIN")
    assert order(page) == ["ring-0"]
    assert page.locator("#count").inner_text() == "1 of 3 pairs"
    page.locator("#filter").fill("nothing like it")
    assert page.locator("#pairs").inner_text() == "No picture has such a name."
    page.locator("#filter").fill("")
    assert len(order(page)) == 3
    wait_for_clips(page, 9)
    assert set(frames(page)[0]) == {0}


def test_the_table_has_means_intervals_and_differences(page: Any) -> None:
    rows = [row.inner_text().split("\t") for row in page.locator("#scores tbody tr").all()]
    assert [row[0] for row in rows] == ["baseline", "c17", "c10"]
    baseline, c17, _ = rows
    assert baseline[1:4] == ["baseline", "3", "2.00"]
    assert baseline[4] == "–"
    assert c17[1] == "vcut, cut 17"
    assert c17[3].split() == ["1.50", "×0.75"]
    assert c17[4] == "29.33 ±0.40"
    assert c17[5].split("\n") == ["3.17 ±0.40", "▲ −0.50 [−0.90, −0.10]", "42 clips for 0.3"]


def test_the_difference_is_taken_frame_by_frame(page: Any) -> None:
    page.keyboard.press("d")
    page.keyboard.press("End")
    bits = """(canvas) => [0.2, 0.8].map((v) =>
      [...canvas.getContext("2d").getImageData(canvas.width / 2, v * canvas.height, 1, 1).data].slice(0, 3))"""
    first = page.locator("#pairs > li").first.locator("canvas")
    until(lambda: first.nth(1).evaluate("(c) => c.classList.contains('difference')"), "a difference is drawn")
    above, below = first.nth(1).evaluate(bits)
    assert max(above) < 8  # equal grey
    assert below[0] > 180  # red there, green here
    assert below[1] > 180
    assert first.nth(0).evaluate(bits)[0][0] > 200  # the baseline stays as it is


def test_a_pair_opens_large_and_zooms_as_one(page: Any) -> None:
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="ring-0").click()
    wait_for_clips(page, 3, "#large canvas")
    assert frames(page, "#large canvas")[0] == [1, 1, 1]
    page.keyboard.press("ArrowRight")
    assert frames(page, "#large canvas")[0] == [2, 2, 2]
    canvas = page.locator("#large canvas")
    before = canvas.first.bounding_box()["width"]
    page.keyboard.press("+")
    box = canvas.nth(1).locator("..").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.wheel(0, -300)
    sizes = [each.bounding_box() for each in canvas.all()]
    assert sizes[0]["width"] > 1.6 * before
    offsets = {
        round(s["x"] - e.locator("..").bounding_box()["x"]) for s, e in zip(sizes, canvas.all(), strict=True)
    }
    assert len({round(each["width"]) for each in sizes}) == len(offsets) == 1
    page.keyboard.press("0")
    assert canvas.first.bounding_box()["width"] == pytest.approx(before)
    page.keyboard.press("ArrowDown")
    assert page.locator("#pair-title").inner_text() == "disc-0"
    assert page.locator("#pair-seed").inner_text() == f"seed {coded_sweep.SEED}"
    cells = page.locator("#pair-scores tbody tr").nth(2).locator("td").all_inner_texts()
    assert [cell.split() for cell in cells] == [
        ["1.50"],
        ["24.00"],
        ["1.00", "0.00"],
    ]
    page.keyboard.press("Escape")
    assert not page.locator("#pair").is_visible()
    page.locator("#play").click()  # the player is back on the page
    assert page.get_by_label("Pause").is_visible()
