"""The picture of the compare page in the documents.

python -m tests.browser.screenshot OUT docs/compare.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.browser.chromium import launched
from vcut.scores import page as compare_page

WIDTH, HEIGHT = 1280, 1240
DECODED = """[...document.querySelectorAll("#pairs canvas")].every((each) => each.width) &&
  document.querySelector("#pairs canvas") !== null"""


def main(out: Path, picture: Path) -> None:
    """Write the page of the sweep in ``out``, open it, and save its window, at the middle frame, as a PNG."""
    path = compare_page.write(out).resolve()
    with launched() as browser:
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce", color_scheme="light"
        )
        page.goto(path.as_uri())
        frames = int(page.get_attribute("#scrub", "max")) + 1
        for _ in range(frames // 2):
            page.keyboard.press("ArrowRight")
        while not page.evaluate(DECODED):
            page.wait_for_timeout(100)
        page.wait_for_timeout(500)
        page.screenshot(path=picture)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
