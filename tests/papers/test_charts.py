"""Charts: where points, bars and ticks are."""

import math
import re

import pytest

from dnnlib.web_page import web_page
from edm2_guidance.papers.charts import Point, Series, axis, bars, chart
from tests.web_pages import checked_page


def test_axes_reach_beyond_their_values_and_have_round_ticks():
    linear = axis("w", [1, 2, 3])
    assert (linear.low, linear.high) == pytest.approx((0.9, 3.1))
    assert list(linear.ticks) == pytest.approx([1, 1.5, 2, 2.5, 3])
    log = axis("images", [100, 10000], log=True)
    assert log.share(1000) == pytest.approx(0.5)
    assert list(log.ticks) == pytest.approx([100, 200, 500, 1000, 2000, 5000, 10000])
    assert list(axis("w", [-1e-3, 0]).ticks) == pytest.approx([-1e-3, -5e-4, 0])


@pytest.mark.parametrize(
    ("values", "log"), [([2.0], False), ([0.0], False), ([50], True), ([0, 5], True), ([5e-324, 0], False)]
)
def test_axes_of_one_value_or_of_zero(values, log):
    made = axis("x", values, log)
    assert made.low < min(values) <= max(values) < made.high
    assert made.log == (min(values) > 0 and log)
    assert made.ticks


def test_no_value_is_too_much_for_an_axis():
    made = axis("x", [-1.7e308, 1.7e308, float("nan"), float("inf")])
    assert math.isfinite(made.share(1.7e308))
    assert len(made.ticks) > 2


def place(attributes):
    return [float(number) for number in re.findall(r"-?[\d.]+", attributes["transform"])]


def test_points_lie_where_their_values_are():
    points = [Point(0, 0, said="zero"), Point(1, 2, low=1, high=4, label="w = 1"), Point(2, 4)]
    made = chart("scores", [Series("mine", points, points[1])], "w", "fd")
    page = checked_page(web_page("t", [made]))
    marks = [attributes for tag, attributes in page.elements if tag == "path" and attributes["class"] == "mark"]
    (x0, y0), (x1, y1), (x2, y2), _ = map(place, marks)  # the last is the legend's
    assert (x1 - x0, y0 - y1) == pytest.approx((x2 - x1, y1 - y2), abs=0.02)
    assert x0 < x1
    assert y0 > y2  # upwards on paper
    bar = next(a for tag, a in page.elements if tag == "line" and a["class"] == "bar")
    assert [float(bar[name]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx(
        [x1, (y0 + y1) / 2, x1, y2], abs=0.02
    )
    assert marks[1]["d"] != marks[0]["d"]  # the best
    assert {"scores", "mine", "mine: zero", "w = 1", "zero", "w", "fd"} <= set(page.texts)
    assert page.said("polyline", "points") == [" ".join(f"{x:.2f},{y:.2f}" for x, y in ((x0, y0), (x1, y1), (x2, y2)))]


def test_bars_are_as_high_as_their_counts():
    page = checked_page(web_page("t", [bars("digits", [10, 0, 5], "class", ["a", "b", "c"], 5.0)]))
    heights = [float(height) for height in page.said("rect", "height")]
    assert heights[0] == pytest.approx(2 * heights[2], abs=0.02)
    assert heights[1] == 0
    (expected,) = [a for tag, a in page.elements if tag == "line" and a["class"] == "expected"]
    assert float(expected["y1"]) == pytest.approx(float(page.said("rect", "y")[2]), abs=0.02)
    assert {"a: 10", "b: 0", "c: 5"} <= set(page.texts)
