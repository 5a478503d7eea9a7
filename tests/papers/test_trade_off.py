"""Precision against recall: the points are those of the ledger, and what is drawn is read from the artists."""

import pytest

from dnnlib import figures
from edm2_guidance.papers.curves import value_panel
from edm2_guidance.papers.plots import Look
from edm2_guidance.papers.trade_off import arranged, trade_off
from tests.papers.test_curves import line

PRECISION = {1.0: 0.6, 1.5: 0.7, 3.0: 0.8}
RECALL = {1.0: 0.9, 1.5: 0.8, 3.0: 0.5}


def beside(name, metric, value, by="fd_mnist", seeds="0-999", **point):
    """A line of a search by another metric."""
    made = line(name, value, seeds=seeds, **point)
    return made | {"metric": metric, "search": {**made["search"], "metric": by}}


def searched(name, off=0.0, seeds="0-999", fd=1.0):
    """Lines of a search over w: fd_mnist is best at 1.5."""
    found = []
    for weight in PRECISION:
        found += [
            beside(name, "fd_mnist", fd + abs(weight - 1.5), seeds=seeds, weight=weight),
            beside(name, "precision/mnist", PRECISION[weight] + off, seeds=seeds, weight=weight),
            beside(name, "recall/mnist", RECALL[weight] + off, seeds=seeds, weight=weight),
        ]
    return found


def figure_of(drawn, **look):
    pytest.importorskip("matplotlib")
    with figures.styled():
        return arranged(drawn, 1000, Look(**look))


def test_points_are_the_ledgers():
    drawn = trade_off([*searched("cfg"), *searched("autog", 0.05)], ["cfg", "autog"], 1000)
    assert drawn.metrics == ("precision/mnist", "recall/mnist")
    assert drawn.notes == []
    (axes,) = figure_of(drawn).axes
    lines = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    points = [[RECALL[weight], PRECISION[weight]] for weight in PRECISION]
    assert lines == [points, [pytest.approx([x + 0.05, y + 0.05]) for x, y in points]]
    assert [text.get_text() for text in axes.texts] == ["1", "1.5", "3"] * 2
    assert [text.xy for text in axes.texts[:3]] == [tuple(point) for point in points]
    assert axes.get_xlabel() == "recall/mnist@1000\n(numbers: guidance weight w)"
    assert axes.get_ylabel() == "precision/mnist@1000"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cfg", "autog"]
    assert not axes.containers[0].has_xerr


def test_bars_are_the_intervals_of_the_ledger_or_run_over_blocks():
    lines = searched("cfg")
    for each in lines:
        each["interval"] = {"low": each["value"] - 0.1, "high": each["value"] + 0.2, "error": 0.07}
    (axes,) = figure_of(trade_off(lines, ["cfg"], 1000)).axes
    ends = [[tuple(end) for end in part.get_segments()[0]] for part in axes.containers[0].lines[2]]
    assert ends == [
        [pytest.approx((0.8, 0.6)), pytest.approx((1.1, 0.6))], [pytest.approx((0.9, 0.5)), pytest.approx((0.9, 0.8))]
    ]  # fmt: skip
    assert axes.get_ylabel().endswith("(bars: 95 % intervals)")
    drawn = trade_off([*searched("cfg"), *searched("cfg", 0.1, "1000-1999")], ["cfg"], 1000)
    assert drawn.fidelity.curves["cfg"][3.0] == [0.8, pytest.approx(0.9)]
    (axes,) = figure_of(drawn, labels=["CFG"], title="A title").axes
    assert axes.get_ylabel().endswith("(bars: lowest to highest block)")
    assert axes.containers[0].lines[0].get_xydata().tolist()[0] == pytest.approx([0.95, 0.65])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["CFG"]


def test_what_was_searched_otherwise_stays_at_its_best():
    """Over weight and EMA length, by fd_mnist; precision alone would be best elsewhere."""
    lines = [
        beside("a", metric, value(weight, ema), weight=weight, ema=ema)
        for metric, value in (
            ("fd_mnist", lambda w, e: abs(w - 2) + e),
            ("precision/mnist", lambda w, e: w / 10 + e),
            ("recall/mnist", lambda w, e: 1 - w / 10 - e),
        )
        for weight in (1.0, 2.0)
        for ema in (0.05, 0.1)
    ]
    drawn = trade_off(lines, ["a"], 1000)
    assert drawn.fidelity.curves["a"] == {1.0: [pytest.approx(0.15)], 2.0: [pytest.approx(0.25)]}
    assert drawn.diversity.curves["a"] == {1.0: [pytest.approx(0.85)], 2.0: [pytest.approx(0.75)]}
    (note,) = drawn.notes
    assert note.startswith("a: 2 of 4 scores are on none of its curves: 2 away from the best")


def test_a_curve_of_scores_is_by_what_was_searched_unless_another_is_named():
    lines = searched("cfg")
    assert value_panel(lines, ["cfg"], 1000).curves["cfg"] == {1.0: [1.5], 1.5: [1.0], 3.0: [2.5]}
    panel = value_panel(lines, ["cfg"], 1000, metric="recall/mnist")
    assert panel.curves["cfg"] == {weight: [value] for weight, value in RECALL.items()}
    assert panel.higher
    assert panel.best("cfg") == (1.0, 0.9)


@pytest.mark.parametrize(
    ("more", "asked", "message"),
    [
        ([], ["precision/mnist"], "one metric of diversity is drawn, and among precision/mnist there is none"),
        (
            [],
            ["precision/mnist", "density/mnist", "recall/mnist"],
            "one metric of fidelity .*precision/mnist, density/mn",
        ),
        (
            [beside("cfg", "coverage/mnist", 1, weight=1.0)],
            [],
            "metric of diversity .* there is recall/mnist, coverage",
        ),
        (
            [beside("cfg", "coverage/mnist", 1, weight=9.0)],
            ["precision/mnist", "coverage/mnist"],
            "no point by both pr",
        ),
        ([], ["density/mnist", "recall/mnist"], "no search 'cfg' at 1000 images by density/mnist in the ledger"),
    ],
)
def test_what_makes_no_curve_is_said(more, asked, message):
    with pytest.raises(ValueError, match=message):
        trade_off([*searched("cfg"), *more], ["cfg"], 1000, asked)


def test_the_two_that_are_named_are_drawn():
    lines = [*searched("cfg"), *(beside("cfg", "coverage/mnist", w / 10, weight=w) for w in RECALL)]
    drawn = trade_off(lines, ["cfg"], 1000, ["coverage/mnist", "precision/mnist"])
    assert drawn.metrics == ("precision/mnist", "coverage/mnist")
    assert drawn.diversity.curves["cfg"] == {w: [w / 10] for w in RECALL}
