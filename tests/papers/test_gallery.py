"""The gallery: every kind is in it, its pages are what the code says now, its pictures small and all shown."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands import generate_images, reproduce
from edm2_guidance.commands.reproduction import gallery as making
from edm2_guidance.commands.reproduction.gallery_pages import command, page, pages
from edm2_guidance.papers.gallery import entries, read
from edm2_guidance.recipe.catalog import CATALOG, OF_FUNCTIONS, kinds
from tests.test_docs import LINK
from tests.test_readme import contexts

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "gallery"
METRICS = {"extractor", "measure", "change"}
AGAIN = "python reproduce.py gallery --text writes the pages anew, without --text the pictures too"


def test_every_kind_is_shown_once():
    """But for functions of the user's own. A new kind is a line of gallery.json."""
    wanted = [(axis, kind) for axis in CATALOG if axis not in METRICS for kind in kinds(axis)]
    wanted = [each for each in wanted if OF_FUNCTIONS.get(each[0]) != each[1]]
    assert sorted((entry.axis, entry.kind) for entry in entries()) == sorted(wanted)


def test_the_pages_are_what_the_code_says():
    texts = pages(making.fared(FOLDER.parent / "arena" / "mnist16.jsonl"))
    assert {path.name for path in FOLDER.glob("*.md")} == set(texts), AGAIN
    for name, text in texts.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: {AGAIN}"


def test_every_picture_is_on_a_page_and_small():
    shown = {link for text in pages().values() for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)}
    made = {path.name: path.stat().st_size for path in FOLDER.glob("*.png")}
    assert set(made) == shown, AGAIN
    assert max(made.values()) < 32_000
    assert sum(made.values()) < 1_600_000


def test_links_lead_somewhere():
    for name, text in pages().items():
        for link in LINK.findall(re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.M | re.S)):
            assert "://" in link or (FOLDER / link).resolve().is_file(), f"{name}: {link}"


@pytest.mark.parametrize(
    "entry", [entry for entry in entries() if not entry.not_on_digits], ids=lambda entry: entry.name
)
def test_commands_parse_and_recipes_are_of_what_is_shown(entry):
    words = shlex.split(command(entry))
    contexts(generate_images.main, words[2:])
    recipes = [entry.of_digits(value) for value in entry.values]
    assert len({recipe.hash for recipe in recipes if recipe.effective() == recipe}) >= len(entry.values) - 1
    assert len({entry.caption(value) for value in entry.values}) == len(entry.values)


def test_what_the_arena_found_is_said_where_it_found_something():
    (entry,) = read('[{"axis": "rule", "kind": "linear"}]')
    assert page(entry, "FD 0.45, of 12 the best.").endswith("FD 0.45, of 12 the best.\n")
    assert "arena" not in page(entry)
    assert "rank 1" in pages({"rule-linear": "rank 1"})["rule-linear.md"]


def test_one_page_is_made(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("edm2_guidance.toy.plots.NUM_SAMPLES", 64)
    monkeypatch.setattr("edm2_guidance.toy.plots.NUM_PATHS", 4)
    monkeypatch.setattr("edm2_guidance.toy.plots._PIXELS", 40)
    (entry,) = (replace(each, values=(1.0, 2.0)) for each in entries() if each.name == "rule-tcfg")
    monkeypatch.setattr(making, "entries", lambda: (entry,))
    done = CliRunner().invoke(reproduce.main, ["gallery", "--only=tcfg", f"--outdir={tmp_path}"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.md", "rule-tcfg-digits.png", "rule-tcfg-points.png", "rule-tcfg.md"
    ]  # fmt: skip
    with (
        Image.open(tmp_path / "rule-tcfg-digits.png") as digits,
        Image.open(tmp_path / "rule-tcfg-points.png") as points,
    ):
        assert digits.mode == points.mode == "P"
        assert points.size == tuple(round(side * making.DPI) for side in making.INCHES)


def test_scores_are_those_of_the_checkout_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["gallery", "--text", "--only=apg", "--outdir=made"]
    done = CliRunner().invoke(reproduce.main, command)
    assert (done.exit_code, done.stderr) == (0, "")
    page = tmp_path / "made" / "rule-apg.md"
    assert page.read_text(encoding="utf-8") == (FOLDER / "rule-apg.md").read_text(encoding="utf-8")
    assert "In the arena" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(making, "LEDGER", tmp_path / "none.jsonl")
    done = CliRunner().invoke(reproduce.main, command)
    assert done.exit_code == 0
    assert "none.jsonl is not there: pages do not say how kinds fared in the arena" in done.stderr
    assert "In the arena" not in page.read_text(encoding="utf-8")


def test_kinds_that_are_not_there_are_refused(tmp_path):
    done = CliRunner().invoke(reproduce.main, ["gallery", "--only=nothing", f"--outdir={tmp_path}"])
    assert done.exit_code == 2
    assert "the gallery has no 'nothing'" in done.output
    assert not list(tmp_path.iterdir())
    listed = CliRunner().invoke(reproduce.main, ["gallery", "--only=list"])
    assert "rule: linear, rescale, apg" in listed.output
