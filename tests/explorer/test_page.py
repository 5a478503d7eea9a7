"""The page as its user has it: started as a command, opened in Chromium, a slider moved by hand.

EDM2_SCREENSHOTS=docs draws the picture of the docs again.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.browser import opened

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.browser


@contextmanager
def served(tmp_path, *words):
    """The address of the page, started as a user would; it ends by Ctrl-C, in one line."""
    pytest.importorskip("nicegui", reason="pip install -r requirements-browser.txt")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / "explore.py", f"--port={port}", f"--outdir={tmp_path}", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}  # NiceGUI looks for it
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as server:  # fmt: skip
        try:
            line = server.stdout.readline()
            assert line.startswith(f"http://127.0.0.1:{port} "), server.stderr.read()
            answers(port)
            yield line.split()[0]
            server.send_signal(signal.SIGINT)
            out, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 130
    assert out == ""
    assert said.splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in said


def answers(port):
    """Wait until the server takes connections."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    pytest.fail("the server takes no connections")


def arrived(page):
    page.wait_for_selector(".strip img", timeout=60_000)
    page.wait_for_selector(".guided img", timeout=60_000)


def pixels(page, name):
    """Of the guided or the unguided images, as the browser draws them."""
    return page.evaluate(
        """name => { const image = document.querySelector(`.${name} img`), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext("2d").drawImage(image, 0, 0); return canvas.toDataURL() }""",
        name,
    )


def moved(page, name, key, times, until):
    """Move a slider by keys, and wait for what comes of it: this text in the command line."""
    page.focus(f".q-slider[aria-label='{name}'] [tabindex], .q-slider[aria-label='{name}'][tabindex]")
    for _ in range(times):
        page.keyboard.press(key)
    page.wait_for_selector(f".command:has-text('{until}')", timeout=60_000)


def test_a_slider_makes_other_pixels_and_all_is_said(tmp_path):
    with served(tmp_path) as address, opened(address) as page:
        arrived(page)
        unguided, guided = pixels(page, "unguided"), pixels(page, "guided")
        assert unguided != guided
        moved(page, "images", "ArrowLeft", 12, "--seeds=0-3")
        unguided, guided = pixels(page, "unguided"), pixels(page, "guided")
        moved(page, "weight", "ArrowRight", 20, "--weights=1,2.5")
        assert pixels(page, "unguided") == unguided
        assert pixels(page, "guided") != guided
        assert re.match(r"124 main \+ 32 guide 1 = 156 evaluations, [\d.]+ s for 4 images", page.inner_text(".cost"))
        page.wait_for_selector(".nicegui-echart canvas")
        followed = page.inner_html(".strip")
        page.click(".guided img", position={"x": 5, "y": 5})
        assert "seed 0" in page.inner_text("main")
        page.click(
            ".unguided img", position={"x": page.query_selector(".unguided img").bounding_box()["width"] - 5, "y": 5}
        )
        page.wait_for_function("before => document.querySelector('.strip').innerHTML != before", arg=followed)
        assert "seed 1" in page.inner_text("main")

        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.click("text=Copy")
        page.wait_for_selector("text=Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("python generate_images.py --net=mnist16-cond --gnet=mnist16-uncond ")
        assert copied.split() == page.evaluate("[...document.querySelectorAll('.command span')].map(e => e.innerText)")

        page.click("text=Write the figure")
        page.wait_for_selector(".written:has-text('explore-')")
        (figure,) = tmp_path.glob("explore-*-4.png")
        assert figure.name in page.inner_text(".command")
        assert str(figure) in page.inner_text(".written")


def test_what_makes_no_sense_is_a_line_on_the_page(tmp_path):
    with served(tmp_path, "--seed=7") as address, opened(address) as page:
        arrived(page)
        page.fill("[aria-label='rho']", "x")
        page.wait_for_function("document.querySelector('.wrong').innerText != ''")
        assert page.inner_text(".wrong") == "edm: rho=x: 'x' is not a number"
        page.fill("[aria-label='rho']", "5")
        page.wait_for_function("document.querySelector('.wrong').innerText == ''")
        assert "--rho=5" in page.inner_text(".command")


def test_a_number_box_shows_the_number_that_holds_and_the_interval_lasts(tmp_path):
    """Two steps do not have the noise levels of the interval; with the former steps it is the former again."""
    with served(tmp_path, "--steps=16") as address, opened(address) as page:
        arrived(page)
        interval = page.inner_text("text=/^interval: /")
        assert "all noise levels" not in interval
        for name, typed, by, holds in [
            ("images", "2.7", "Enter", "3"), ("images", "900", "Tab", "64"), ("images", "", "Enter", "64"),
            ("images", "2", "Tab", "2"), ("weight", "-1", "Tab", "0"), ("weight", "-", "Enter", "0"),
            ("weight", "2.5", "Tab", "2.5"), ("steps", "1", "Enter", "2"),
        ]:  # fmt: skip
            box = typed_into(page, name, typed, by)
            page.wait_for_function(
                "([box, holds]) => box.value == holds && !box.validity.badInput", arg=[box.element_handle(), holds]
            )
        page.wait_for_selector(".command:has-text('--steps=2')", timeout=60_000)
        assert "--seeds=0-1" in page.inner_text(".command")
        assert "--weights=1,2.5" in page.inner_text(".command")
        assert page.inner_text("text=/^interval: /") != interval
        typed_into(page, "steps", "16", "Tab")
        page.wait_for_selector(f"text={interval}", timeout=60_000)


def typed_into(page, name, text, by):
    """The number box of a slider, with this text typed over what it had, and a key that ends it."""
    box = page.locator(f"input[aria-label='{name}']")
    for key in ("Control+a", "Delete", *text, by):
        box.press(key)
    return box


@pytest.mark.parametrize("preset", ["mnist16-classifier", "mnist16"])
def test_it_fits_a_telephone(tmp_path, preset):
    with served(tmp_path, f"--preset={preset}", "--steps=3") as address, opened(address, 390, 844) as page:
        arrived(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.is_visible(".q-slider[aria-label='scale']") == (preset == "mnist16-classifier")


def test_it_looks_like_its_picture(tmp_path):
    folder = os.environ.get("EDM2_SCREENSHOTS", tmp_path)
    with served(tmp_path, "--guidance=3") as address, opened(address, 1200, 900) as page:
        arrived(page)
        page.wait_for_selector(".q-spinner", state="hidden", timeout=60_000)
        page.wait_for_timeout(500)  # the chart draws itself
        page.screenshot(path=Path(folder, "explorer.png"), full_page=True)
    assert 50_000 < Path(folder, "explorer.png").stat().st_size < 300_000


def test_it_answers_under_its_own_name_alone(tmp_path):
    """Another site whose name is made to lead here gets nothing."""
    with served(tmp_path) as address:
        with urllib.request.urlopen(address) as page:
            assert b"Guidance explorer" in page.read()
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "example.org"}))


def test_it_ends_in_the_middle_of_long_sampling(tmp_path):
    """Which would take minutes."""
    with served(tmp_path, "--steps=20000") as address, opened(address) as page:
        page.wait_for_selector(".cost:has-text('sampling')")
        page.wait_for_selector(".q-spinner", state="visible")
        assert page.query_selector(".guided img[src^='data:']") is None


def test_pages_of_other_sites_get_nothing(tmp_path):
    """They may open web sockets, show frames and send forms: browsers say whose page asks."""
    with served(tmp_path) as address:
        with urllib.request.urlopen(urllib.request.Request(address, headers={"Origin": address.rstrip("/")})) as page:
            assert page.headers["X-Frame-Options"] == "DENY"
        for path in ("", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
            for origin in ("https://example.org", "http://127.0.0.1:1", "null"):
                asked = urllib.request.Request(address.rstrip("/") + path, headers={"Origin": origin})
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(asked)


def test_the_command_line_can_be_selected_by_hand(tmp_path):
    with served(tmp_path, "--steps=3") as address, opened(address) as page:
        arrived(page)
        page.evaluate("getSelection().selectAllChildren(document.querySelector('.command'))")
        assert "python generate_images.py --net=" in page.evaluate("getSelection().toString()")
