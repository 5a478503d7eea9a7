"""What a plot of scores shows: read from its artists, and from the file."""

import pytest
from PIL import Image

from dnnlib import figures
from edm2_guidance.metrics.uncertainty import Interval
from edm2_guidance.papers.plots import Look, Panel, arranged, check, draw

pytest.importorskip("matplotlib")

BLOCKS = Panel({"cfg": {1.0: [1, 1.5], 2.0: [0.5, 0.7]}, "autog": {1.0: [1, 1.2], 2.0: [0.3, 0.9]}}, "w")


PLAIN = Look()


def ends(axes):
    """Lowest and highest of each bar, curve by curve."""
    bars = [container.lines[2][0].get_segments() for container in axes.containers if container.has_yerr]
    return [[pytest.approx(tuple(segment[:, 1])) for segment in each] for each in bars]


def shown(panels, look=PLAIN, ylabel="fd_mnist@8"):
    with figures.styled(look.style):
        return arranged(panels, ylabel, look)


def test_curves_are_means_and_bars_run_over_the_blocks():
    (axes,) = shown([BLOCKS]).axes
    cfg, autog = (container.lines[0] for container in axes.containers)
    assert cfg.get_xydata().tolist() == [[1, 1.25], [2, 0.6]]
    assert autog.get_xydata().tolist() == [[1, 1.1], [2, 0.6]]
    assert ends(axes) == [[(1, 1.5), (0.5, 0.7)], [(1, 1.2), (0.3, 0.9)]]
    assert (cfg.get_color(), cfg.get_marker()) == ("#0072b2", "o")
    assert (autog.get_color(), autog.get_marker()) == ("#d55e00", "s")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cfg: 0.600", "autog: 0.600"]
    assert axes.get_ylabel() == "fd_mnist@8\n(bars: lowest to highest block)"
    places = [container.lines[0].get_transform().transform((1, 1))[0] for container in axes.containers]
    assert places[1] - places[0] == pytest.approx(2.5 / 72 * axes.figure.dpi), "side by side"


def test_known_intervals_are_the_bars():
    known = {"cfg": {2.0: Interval(0.4, 0.9, 0.1)}}
    panel = Panel(BLOCKS.curves, "w", intervals=known, higher=True)
    (axes,) = shown([panel]).axes
    assert ends(axes) == [[(1.25, 1.25), (0.4, 0.9)]]
    assert axes.get_ylabel() == "fd_mnist@8\n(bars: 95 % intervals)"
    stars = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "*"]
    assert stars == [[[1, 1.25]], [[1, 1.1]]], "the highest"


def test_single_scores_have_no_bars():
    (axes,) = shown([Panel({"a": {0.1: [1], 0.2: [2]}}, "s", log=True)]).axes
    assert not axes.containers[0].has_yerr
    assert (axes.get_ylabel(), axes.get_xscale()) == ("fd_mnist@8", "log")


def test_differences_stand_about_a_line_of_the_baseline():
    panel = Panel({"autog": {1.0: [0.0], 2.0: [-0.2]}}, "w", baseline="cfg")
    (axes,) = shown([panel]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["autog", "cfg"]
    assert axes.lines[-1].get_ydata() == [0, 0]
    assert not [line for line in axes.lines if line.get_marker() == "*"], "no best of differences"
    (axes,) = shown([panel], Look(["A", "B"])).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["A", "B"]


def test_a_column_is_as_wide_as_asked_and_panels_go_below_each_other(tmp_path):
    panels = [Panel({"a": {1.0: [1]}}, "first end", log=True, fixed="lower end open"), Panel({"a": {2.0: [3]}}, "last")]
    look = Look(width=3.3, style="print", title="Both ends")
    figure = shown(panels, look)
    assert [axes.get_subplotspec().get_geometry()[:2] for axes in figure.axes] == [(2, 1)] * 2
    assert figure.axes[0].get_xlabel() == "first end\n(lower end open)"
    assert {axes.xaxis.label.get_size() for axes in figure.axes} == {8}
    assert figure.get_suptitle() == "Both ends"
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert boxes[0].y0 >= boxes[1].y1, "nothing overlaps"
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes), "nor is cut off"
    assert [axes.get_subplotspec().get_geometry()[:2] for axes in shown(panels).axes] == [(1, 2)] * 2
    draw(panels, "score", tmp_path / "a.png", look)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 3.3 * 300


def test_a_plot_appears_whole_or_not_at_all(tmp_path):
    draw([BLOCKS], "score", tmp_path / "plot.svg", Look(["<one>", "two"]))
    text = (tmp_path / "plot.svg").read_text()
    assert ">&lt;one&gt;</text>" in text
    assert ">two</text>" in text
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([Panel({"cfg": {}}, "w")], "score", tmp_path / "none.png")
    with pytest.raises(ValueError, match="3 labels for 2 curves: one each for cfg, autog"):
        check([BLOCKS], Look(["a", "b", "c"]))
    assert [path.name for path in tmp_path.iterdir()] == ["plot.svg"]
