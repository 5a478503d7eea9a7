"""The plot of diagnostics: medians, bands and gaps, and the way from the command line."""

from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from dnnlib import figures
from edm2_guidance.commands.reproduce import main
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.papers.diagnostics import arranged, curve_names
from edm2_guidance.papers.plots import Look
from edm2_guidance.work.diagnostics import write_file

pytest.importorskip("matplotlib")

SIGMA = np.float32([80, 1, 0.1])
DIFFERENCE = np.float32([[[k + 1, np.nan], [np.nan, np.nan], [10, np.nan if k else 3]] for k in range(21)])
WEIGHT = np.where(np.isnan(DIFFERENCE), 1, np.float32([2, 3]))
TWO = SimpleNamespace(sigma=SIGMA, difference=DIFFERENCE, weight=WEIGHT, guides=("guide 1", "classifier 2"))
ONE = SimpleNamespace(sigma=SIGMA, difference=DIFFERENCE[:, :, :1], weight=WEIGHT[:, :, :1], guides=("guide 1",))


def test_medians_bands_and_gaps():
    with figures.styled():
        above, below = arranged([("a", TWO), ("b", ONE)], Look(title="Digits")).axes
    names = [text.get_text() for text in above.get_legend().get_texts()]
    assert names == ["a, guide 1", "a, classifier 2", "b"]
    first, second, _ = above.lines
    np.testing.assert_allclose(first.get_xydata(), np.transpose([SIGMA, [11, np.nan, 10]]))
    np.testing.assert_allclose(second.get_ydata(), [np.nan, np.nan, 3])  # of the one image of which it is known
    band = above.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (2, 20)
    np.testing.assert_allclose(below.lines[0].get_ydata(), [2, 1, 2])
    assert first.get_color() == below.lines[0].get_color() != second.get_color()
    assert (above.get_xscale(), above.get_yscale(), below.get_yscale()) == ("log", "log", "linear")


def test_without_guidance_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="a was made without guidance: nothing to draw"):
        curve_names([("b", ONE), ("a", SimpleNamespace(guides=()))])


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts = np.ones((21, 3, 1), np.uint8)
    made = Diagnostics(np.arange(21), None, SIGMA, ONE.difference, ONE.weight, counts, ONE.guides, ("main",))
    write_file("a.zip.diagnostics.npz", made, "")
    words = ["plot", "a.zip.diagnostics.npz", "--kind=diagnostics", "--out=a.svg"]
    return lambda *more: CliRunner().invoke(main, [*words, *more])


def test_from_the_command_line(run, tmp_path):
    done = run("--size=column", "--title=Digits")
    assert (done.exit_code, done.output) == (0, "a.svg\n")
    text = (tmp_path / "a.svg").read_text()
    for label in ("a", "Digits", "noise level sigma", "weight w", "(lines: median of the images; bands: 5 to 95 %)"):
        assert f">{label}</text>" in text
    assert f'width="{3.3 * 72:g}pt"' in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num=100"], "--num=100 is of searches: --kind=diagnostics draws all images of a ZIP"),
        (["--against=a"], "--against=a is of searches"),
        (["--labels=a,b"], "2 labels for 1 curve: one each for a"),
        (["--out=a.gif"], "a.gif: give a name that ends in .png, .pdf, .svg"),
        (["b.zip"], "b.zip"),
        (["--kind=weight"], "--num-images is missing: give --num-images=INT"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, tmp_path, words, message):
    done = run(*words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.diagnostics.npz"]
