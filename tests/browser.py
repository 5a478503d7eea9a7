"""Pages as a person sees them: Debian's Chromium without a screen, driven by Playwright (marker `browser`)."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# Chromium would ask Google's hosts for updates and settings at every start.
_SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_SWITCHES += ["--disable-component-update", "--disable-sync"]


@contextmanager
def opened(address: str, width: int = 1200, height: int = 900) -> Iterator:
    """The page at `address` (http: or file:) in a window of that size, as a Playwright `Page`.

    After the block it fails if the page wrote an error to the console, raised one, or asked another host for
    anything. Skips where Playwright or Chromium is missing.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-browser.txt")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt install chromium, or set CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_SWITCHES)
        page = browser.new_page(viewport={"width": width, "height": height})
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: None if _is_ours(request.url) else errors.append(f"asked {request.url}"))
        page.goto(address)
        yield page
        browser.close()
    assert errors == []


def _is_ours(address: str) -> bool:
    return address.startswith(("file:", "data:", "blob:", "http://127.0.0.1:", "ws://127.0.0.1:"))
