"""Every clip in sight shows the same frame: while playing, after a step, after a scrub; however it is decoded."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import itertools
import threading
from pathlib import Path
from typing import Any

import coded_sweep
import pytest
from coded_sweep import FPS, FRAMES
from seen import frames, on_screen, until, wait_for_clips

from vcut import media
from vcut.scores import page as compare_page
from vcut.sweeps import manifest

pytestmark = pytest.mark.browser
NO_DECODER = "delete window.VideoDecoder"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    coded_sweep.write_sweep(out)
    return out


@pytest.fixture
def page(sweep: Path, open_page: Any) -> Any:
    page = open_page(compare_page.write(sweep))
    wait_for_clips(page, 9)
    return page


def test_all_clips_show_one_frame_while_they_play(page: Any) -> None:
    page.select_option("#speed", "0.5")
    page.click("#play")
    seen = frames(page, samples=300)  # 5 s or more, of a clip that lasts 3
    assert all(len(each) == 9 and len(set(each)) == 1 for each in seen)
    order = [each[0] for each in seen]
    changes = [(a, b) for a, b in itertools.pairwise(order) if a != b]
    assert {a for a, _ in changes} == set(range(FRAMES))
    assert all((b - a) % FRAMES <= 3 for a, b in changes)  # a busy machine may skip some


def test_clips_play_at_their_rate(page: Any) -> None:
    watch = """async () => {
      const times = [];
      let last = document.querySelector("#frame").textContent;
      while (times.length < 13) {
        const now = await new Promise(requestAnimationFrame);
        const text = document.querySelector("#frame").textContent;
        if (text !== last) times.push(now);
        last = text;
      }
      return (times.at(-1) - times[0]) / 12;
    }"""
    for speed, factor in (("1", 1), ("2", 2)):
        page.select_option("#speed", speed)
        page.click("#play")
        # a busy machine shows frames late, but none early
        assert 0.85 < page.evaluate(watch) / (1000 / FPS / factor) < 5
        page.click("#play")


def test_the_window_itself_shows_the_frame(page: Any) -> None:
    said = page.locator("#frame")
    for n in (0, 5, FRAMES - 1):
        page.locator("#scrub").fill(str(n))
        # a busy machine paints a moment later
        until(lambda n=n: said.inner_text() == f"{n + 1} / {FRAMES}", f"the bar says frame {n + 1}")
        until(lambda n=n: set(on_screen(page)) == {n}, f"the window shows frame {n}")
        assert len(on_screen(page)) >= 6


def test_keys_step_frame_by_frame(page: Any) -> None:
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", FRAMES - 1),
        ("ArrowRight", 0),
        ("ArrowLeft", FRAMES - 1),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert set(frames(page)[0]) == {expected}, key


def test_without_loop_the_last_frame_stays(page: Any) -> None:
    page.keyboard.press("l")
    page.select_option("#speed", "4")
    page.click("#play")
    until(lambda: page.get_by_label("Play", exact=True).is_visible(), "it stops")
    assert set(frames(page)[0]) == {FRAMES - 1}
    page.keyboard.press("ArrowRight")
    assert set(frames(page)[0]) == {FRAMES - 1}
    page.click("#play")
    assert frames(page)[0][0] < FRAMES - 1


@pytest.mark.parametrize("script", ["", NO_DECODER])
def test_every_frame_is_found_with_and_without_a_decoder(script: str, sweep: Path, open_page: Any) -> None:
    check_every_frame(open_page(compare_page.write(sweep, images=("disc",)), script))


def check_every_frame(page: Any) -> None:
    wait_for_clips(page, 3)
    for n in range(FRAMES):
        page.locator("#scrub").fill(str(n))
        assert frames(page)[0] == [n, n, n]


def test_linked_clips_play_from_disk(sweep: Path, tmp_path: Path, open_page: Any) -> None:
    page = open_page(compare_page.write(sweep, tmp_path / "page.html", images=("disc",), link=True))
    wait_for_clips(page, 3)
    for n in (0, 1, FRAMES - 1):  # the page may show them, and not read them: only the window tells
        page.locator("#scrub").fill(str(n))
        assert on_screen(page) == [n, n, n]


def test_linked_clips_play_from_a_server(sweep: Path, open_page: Any) -> None:
    compare_page.write(sweep, images=("ring",), link=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(sweep))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        check_every_frame(open_page(f"http://127.0.0.1:{server.server_port}/compare.html"))
        server.shutdown()


def test_clips_of_two_rates_keep_one_time(tmp_path: Path, open_page: Any) -> None:
    coded_sweep.write_sweep(tmp_path, names=("disc",), settings=("baseline",))
    (tmp_path / "slow").mkdir()
    media.write(coded_sweep.clip(1, FRAMES // 2), tmp_path / "slow" / "disc-0.mp4", FPS // 2)
    slow = coded_sweep.record(tmp_path, "slow", "disc", 0)
    slow = dataclasses.replace(slow, frames=FRAMES // 2, fps=FPS // 2)
    manifest.append(tmp_path / "manifest.jsonl", slow)
    page = open_page(compare_page.write(tmp_path))
    wait_for_clips(page, 2)
    for n in range(FRAMES):
        page.locator("#scrub").fill(str(n))
        assert frames(page)[0] == [n, n // 2]


def test_only_what_is_in_sight_is_decoded(tmp_path: Path, open_page: Any) -> None:
    names = [f"picture{i:02}" for i in range(24)]
    coded_sweep.write_sweep(tmp_path, names=names, settings=("baseline", "c17"))
    page = open_page(compare_page.write(tmp_path), viewport={"width": 700, "height": 700})
    drawn = "[...document.querySelectorAll('#pairs canvas')].filter((each) => each.width).length"
    until(lambda: page.evaluate(drawn) >= 2, "the first clips are decoded")
    page.wait_for_timeout(500)
    assert page.evaluate(drawn) <= 16
    page.locator("#pairs > li").last.scroll_into_view_if_needed()
    until(
        lambda: page.locator("#pairs > li").last.locator("canvas").first.evaluate("(c) => c.width"),
        "the last",
    )
    until(lambda: not page.locator("#pairs canvas").first.evaluate("(c) => c.width"), "the first is let go")
