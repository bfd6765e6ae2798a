"""A strip is a PNG of settings below each other and chosen frames side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coded_sweep
import numpy as np
import pytest
from PIL import Image
from seen import until, wait_for_clips

from vcut.scores import page as compare_page

pytestmark = pytest.mark.browser
GAP, HEAD = 4, 24  # as in strip.js


def open_strip(page: Any) -> None:
    page.locator("#pairs .name").first.click()
    page.keyboard.press("s")
    until(lambda: page.locator("#strip-save").is_enabled(), "the strip is drawn")


def test_a_strip_holds_the_frames_that_were_asked_for(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("a 'b' <c> é",))
    page = open_page(compare_page.write(tmp_path))
    open_strip(page)
    page.fill("#strip-frames", "2, 4-5 12")
    page.fill("#strip-width", "100")
    with page.expect_download() as download:
        page.click("#strip-save")
    assert download.value.suggested_filename == "strip-a_b_c_é-0.png"
    download.value.save_as(tmp_path / "strip.png")
    image = Image.open(tmp_path / "strip.png")
    assert image.format == "PNG"
    width, height = image.size
    labels = width - 4 * (100 + GAP)
    assert 40 < labels < 140
    assert height == HEAD + 3 * (100 + GAP)
    assert page.locator("#strip-says").inner_text().endswith(f"{width}×{height}.")
    pixels = np.asarray(image.convert("RGB")).astype(int)
    for row in range(3):
        top = HEAD + row * (100 + GAP)
        greys = [pixels[top + 20, labels + column * (100 + GAP) + 50, 0] for column in range(4)]
        assert [coded_sweep.frame_of(grey) + 1 for grey in greys] == [2, 4, 5, 12]
        assert pixels[top + 80, labels + 50].argmax() == row  # each setting has its colour
    assert (pixels[:, : labels - 4] < 100).any()  # the names
    assert (pixels[0] == 255).all()


def test_small_frames_are_enlarged_without_blur(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",))
    page = open_page(compare_page.write(tmp_path))
    open_strip(page)
    assert page.input_value("#strip-width") == "128"
    assert page.input_value("#strip-frames") == "1, 4, 7, 9, 12"


@pytest.mark.parametrize(
    ("frames", "width"), [("0", "64"), ("1, x", "64"), ("13", "64"), ("5-3", "64"), ("", "64"), ("1", "3")]
)
def test_nonsense_is_refused_in_a_sentence(frames: str, width: str, tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",), settings=("baseline",))
    page = open_page(compare_page.write(tmp_path))
    open_strip(page)
    page.fill("#strip-frames", frames)
    page.fill("#strip-width", width)
    assert page.locator("#strip-says").inner_text()
    assert page.locator("#strip-save").is_disabled()


def test_linked_clips_from_disk_say_why_they_cannot_be_saved(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",))
    page = open_page(compare_page.write(tmp_path, link=True))
    wait_for_clips(page, 3)
    open_strip(page)
    page.click("#strip-save")
    until(lambda: "without --link" in page.locator("#strip-says").inner_text(), "it says why")
