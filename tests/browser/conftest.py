"""A real Chromium, and pages opened from the disk that may neither complain nor reach out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import launched

Open = Callable[..., Any]
"""Opens the page of a file, or of an address; keywords go to playwright's ``new_page``."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open pages, and at the end check that none had an error or asked the network for anything."""
    pages, faults = [], []

    def asked(request: Any) -> None:
        if request.url.split(":")[0] not in ("file", "blob", "data"):
            faults.append(f"request: {request.url}")

    def said(message: Any) -> None:
        if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
            faults.append(f"console: {message.text}")

    def open_one(path: Path | str, script: str = "", **options: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 1400}, "reduced_motion": "reduce", **options}
        page = browser.new_page(**settings)
        pages.append(page)
        page.on("console", said)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        if isinstance(path, Path):
            page.on("request", asked)
        if script:
            page.add_init_script(script)
        page.goto(path.resolve().as_uri() if isinstance(path, Path) else path)
        return page

    yield open_one
    for page in pages:
        page.close()
    assert not faults
