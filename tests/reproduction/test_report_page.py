"""The report as a page: the ledger's numbers, texts of others as texts, one file that loads nothing."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from dnnlib.terminal import printable
from edm2_guidance.commands.reproduce import main
from edm2_guidance.images.sources import content_sha256
from edm2_guidance.metrics.ledger import checked_line
from edm2_guidance.metrics.ranking import Ranking
from edm2_guidance.papers.listing import as_csv
from edm2_guidance.reproduction.report_pictures import Order
from tests.browser import opened
from tests.papers.ledger_lines import line
from tests.pictures import write_set
from tests.web_pages import checked_page

EVIL = ["<script>document.title = 'run'</script>", "</title><img src=x onerror=\"document.title='run'\">",
        "'\"><svg onload=alert(1)>", "javascript:alert(1)", "&lt;b&gt; &amp;", "\x1b[2J\u202e", "a\nb"]  # fmt: skip
SECTIONS = ["Published and own scores", "What was flagged", "Curves", "Precision against recall",
            "Scores against the number of images", "Classes", "Samples", "Recipes to copy", "Every score"]  # fmt: skip


def made(folder, lines, *args):
    """The page of these lines, and how the command ended."""
    ledger, out = folder / "ledger.jsonl", folder / "report.html"
    ledger.write_bytes(b"".join(map(checked_line, lines)))
    done = CliRunner().invoke(main, ["report", "mnist16", f"--ledger={ledger}", f"--html={out}", *args])
    return (out.read_bytes() if out.exists() else None), done


def scores():
    """Of searches, of several counts of images, with and without intervals, in two metrics, and flagged."""
    cfg = {w: 1 + (w - 1.5) ** 2 / 3 for w in (1.25, 1.5, 2.0)}
    lines = [line(value, search="cfg", point={"weight": w}, num=500, interval=(value - 0.1, value + 0.2))
             for w, value in cfg.items()]  # fmt: skip
    lines += [line(0.123456, num=5000), line(0.6789, num=100), line(0.4321, num=5000, name="mnist16-autog")]
    lines += [
        line(
            value,
            metric=f"{metric}/mnist",
            search="both",
            point={"weight": w},
            num=500,
            interval=(value - 0.02, value + 0.02),
        )
        for metric, values in (("precision", (0.81, 0.82)), ("recall", (0.71, 0.72)))
        for w, value in zip((1.5, 2.0), values, strict=True)
    ]
    lines[-1]["flags"] = ["only few images"]
    return lines


def hostile():
    """Every text of a line that is anybody's, in turn."""
    lines = scores()
    for at, text in enumerate(EVIL):
        lines[at]["flags"] = [text]
        lines[at]["note"] = lines[at]["row"] = None
        lines.append(line(1 + at, search=text, point={"weight": 1.0}, seeds=text))
        lines.append(line(1 + at, search=text, point={"weight": 2.0, text: 1.0}))
        lines.append({**line(2, num=5000), "note": text, "labels": text, "time": text, "name": text})
        recipe = line(0)["recipe"]
        recipe["net"]["source"], recipe["labels"] = text, text
        for num in (50, 60):
            lines.append({**line(at, num=num), "recipe": recipe, "recipe_hash": text})
        where = {"kind": "zip", "path": text, "content_sha256": text}
        lines.append({**line(3), "images": where, "recipe": None, "recipe_hash": None})
        lines.append({**line(4), "reference": {"source": text}, "detector": {"resize": text}})
        lines.append({**line(5), "metric": text})
    lines += [line(value, search="huge", point={"weight": value}, num=num) for value in (-1.7e308, 1.7e308, 5e-324)
              for num in (10**19, 2)]  # fmt: skip
    return lines


def test_the_page_has_the_numbers_of_the_ledger(tmp_path):
    lines = scores()
    data, done = made(tmp_path, lines)
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'report.html'}\n")
    page = checked_page(data)
    assert [text for text in page.texts if text in SECTIONS] == SECTIONS * 2  # links, and headings
    for each in lines:
        assert f"{each['value']:.4f}" in page.texts  # every score
    assert "0.1235" in page.texts  # of the row
    assert "1.0208 [0.9208, 1.2208]" in page.texts  # of the curve
    assert "row 10: only few images" in page.texts
    assert "500 images, not 5,000" in page.text
    assert {"recall/mnist@500", "fd_mnist against number of images (bars: 95 % intervals)"} <= set(page.texts)
    assert made(tmp_path, lines)[0] == data


def test_recipes_are_there_to_copy(tmp_path):
    data, _ = made(tmp_path, scores())
    page = checked_page(data)
    blocks = [text for text in page.texts if text.startswith(("python ", "{"))]
    assert len(blocks) == 4  # of two recipes
    assert json.loads(blocks[1]) == scores()[0]["recipe"]
    sample, score = blocks[0].splitlines()
    assert sample.startswith("python generate_images.py --net=mnist16-cond --gnet=mnist16-uncond --guidance=1.5 ")
    assert score.endswith(" --ref=mnist16-refs --metrics=fd_mnist --num-images=500")
    assert page.said("button", "hidden") == ["hidden"] * 4  # until the script shows them


def test_texts_of_a_hostile_ledger_stay_texts(tmp_path):
    data, done = made(tmp_path, hostile())
    assert done.exit_code == 0, done.output
    page = checked_page(data)
    for text in EVIL:
        assert printable(text) in page.text or text in page.text
        assert page.text.count(printable(text)) >= 3 or "\n" in text
    assert page.said("title", "x") == []
    assert [tag for tag, _ in page.elements if tag in ("img", "b")] == []
    plain = checked_page(made(tmp_path, scores())[0])
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements} | {"svg"}


def test_an_empty_ledger_says_what_would_fill_each_section(tmp_path):
    page = checked_page(made(tmp_path, [])[0])
    said = [text for text in page.texts if text.startswith("Nothing")]
    assert len(said) == len(SECTIONS) - 1  # rows that did not run are named
    assert sum("python " in text for text in said) == len(SECTIONS) - 2
    assert "not run yet: python reproduce.py run mnist16-unguided" in page.text


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A ZIP of 30 digits of three classes, a line that scores it, and their ranking."""
    folder = tmp_path_factory.mktemp("digits")
    items = [np.full([8, 8, 3], 8 * number, np.uint8) for number in range(30)]
    path = write_set(folder / "a&b.zip", items, [number % 3 for number in range(30)])
    images = {"path": str(path), "content_sha256": content_sha256(path), "kind": "zip", "num_images": 30}
    rows = [f"{30 - number},00000/img{number:08d}.png,{number},,{number / 10},1.0,x" for number in reversed(range(30))]
    ranking = folder / "ranked.csv"
    ranking.write_text("\n".join(["rank,name,seed,label,realism,distance,nearest", *rows]) + "\n")
    return path, {**line(1, num=30), "images": images}, ranking


def test_images_that_were_scored_are_shown_with_their_classes(tmp_path, digits):
    _, scored, _ = digits
    data, done = made(tmp_path, [scored, {**scored, "value": 2.0}])
    assert done.exit_code == 0, done.output
    page = checked_page(data)
    assert len(page.said("img", "src")) == 24
    assert len(set(page.said("img", "src"))) == 24
    assert "24 images of a&b.zip by chance" in page.texts
    said = "a&b.zip: 30 images of 3 classes; counts by the rule random are as far off as draws are (p = 1.000)"
    assert page.texts.count(said) == 2  # to be seen, and to be heard
    assert {"class 0: 10", "class 1: 10", "class 2: 10"} <= set(page.texts)


def test_other_files_that_a_ledger_names_are_not_shown(tmp_path, digits):
    path, scored, _ = digits
    other = {**scored, "images": {**scored["images"], "content_sha256": "0" * 64}}
    unknown = {**scored, "images": {**scored["images"], "content_sha256": None}}
    gone = {**scored, "images": {**scored["images"], "path": "gone.zip"}}
    page = checked_page(made(tmp_path, [other, unknown, gone])[0])
    assert page.said("img", "src") == []
    assert f"{path} does not hold the images that were scored: left out" in page.texts


def test_best_and_worst_are_the_ends_of_a_ranking(tmp_path, digits):
    path, scored, ranking = digits
    data, done = made(tmp_path, [scored], f"--samples={path}", f"--ranking={ranking}")
    assert done.exit_code == 0, done.output
    page = checked_page(data)
    assert "counts by the rule random" in page.text
    names = page.said("img", "title")
    assert [int(re.findall(r"\d{8}", name)[0]) for name in names[24:]] == [*range(29, 5, -1), *range(24)]
    at = page.texts.index("Best by realism")
    assert page.texts[at + 1 : at + 3] == ["2.900", "2.800"]
    assert "Worst by realism" in page.texts


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--format=json"], "--format=json is of a report in text"),
        (["--out=x.md"], "--out=x.md is of a report in text"),
        (["--ranking=x.csv"], "--ranking=x.csv orders the images of a set: name it by --samples"),
        (["--samples=none.zip"], "none.zip does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(tmp_path, args, said):
    data, done = made(tmp_path, scores(), *args)
    assert (data, done.exit_code) == (None, 2)
    assert said in done.output


def test_rankings_are_those_that_rank_prints(tmp_path):
    made = Ranking("realism", np.array([0.5, 2.0]), np.zeros(2), np.zeros(2, np.int64))
    images = SimpleNamespace(names=["a.png", "b.png"], seeds=None, labels=None)
    (tmp_path / "r.csv").write_text(as_csv(made.rows("realism", images)))
    assert Order.read(str(tmp_path / "r.csv")) == Order("realism", {"b.png": 2.0, "a.png": 0.5})


def test_rankings_of_other_images_and_other_files_are_refused(tmp_path, digits):
    path, _, ranking = digits
    for text, said in (
        (ranking.read_text().replace("img00000004", "img99"), "the ranking is of other images"),
        ("a,b\n1,2\n", "is no ranking of images"),
        ("", "is no ranking of images"),
    ):
        (tmp_path / "r.csv").write_text(text)
        data, done = made(tmp_path, [], f"--samples={path}", f"--ranking={tmp_path / 'r.csv'}")
        assert (data, done.exit_code) == (None, 2)
        assert said in done.output


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_pages_fit_their_window_and_run_nothing_of_others(tmp_path, digits, width):
    path, scored, ranking = digits
    made(tmp_path, [*hostile(), scored], f"--samples={path}", f"--ranking={ranking}")
    with opened((tmp_path / "report.html").as_uri(), width) as page:
        assert page.title() == "Scores of ledger.jsonl"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.title() == "Scores of ledger.jsonl"


@pytest.mark.browser
def test_a_button_copies_the_recipe(tmp_path):
    made(tmp_path, scores())
    with opened((tmp_path / "report.html").as_uri()) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator("#recipes-to-copy summary").first.click()
        button = page.locator("button.copy").first
        button.click()
        page.wait_for_function("document.querySelector('button.copy').textContent === 'copied'")
        copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("python generate_images.py --net=mnist16-cond")
