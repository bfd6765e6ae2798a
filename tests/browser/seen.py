"""What a page shows: the frame that each canvas holds, read from its pixels."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from coded_sweep import frame_of
from PIL import Image

GREYS = """async ([selector, samples]) => {
  const greys = (canvas) =>
    canvas.width ? canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 5, 1, 1).data[0] : null;
  const seen = [];
  while (seen.length < samples) {
    await new Promise(requestAnimationFrame);
    seen.push([...document.querySelectorAll(selector)].map(greys));
  }
  return seen;
}"""
TILES = "#pairs canvas"


def until(holds: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Wait until ``holds`` returns something true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def frames(page: Any, selector: str = TILES, samples: int = 1) -> list[list[int]]:
    """The frames in the canvases at each of ``samples`` moments at which the browser draws."""
    greys = page.evaluate(GREYS, [selector, samples])
    return [[frame_of(level) for level in each if level is not None] for each in greys]


def wait_for_clips(page: Any, count: int, selector: str = TILES) -> None:
    """Wait until ``count`` canvases have their pictures."""
    drawn = f"[...document.querySelectorAll('{selector}')].filter((each) => each.width).length"
    until(lambda: page.evaluate(drawn) == count, f"{count} clips are decoded")


def on_screen(page: Any, selector: str = TILES) -> list[int]:
    """The frames that a picture of the window shows where the canvases are."""
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    boxes = [each.bounding_box() for each in page.query_selector_all(selector)]
    return [
        frame_of(float(picture[int(box["y"] + box["height"] / 5), int(box["x"] + box["width"] / 2)]))
        for box in boxes
        if box["y"] + box["height"] < 1300  # what the bar of the player covers is not read
    ]
