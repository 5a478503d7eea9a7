"""The search finds minima that are known, at the cost that the papers' procedure has, and scores nothing twice."""

import itertools

import pytest

from edm2_guidance.papers.search import Axis, expected_points, search

W = Axis("w", tuple(round(1 + 0.05 * i, 2) for i in range(51)))
FIRST = Axis("first", tuple(range(32)))
LAST = Axis("last", tuple(range(31, -1, -1)))


class Counted:
    def __init__(self, function):
        self.function = function
        self.asked = []

    def __call__(self, point):
        self.asked.append(tuple(sorted(point.items())))
        return self.function(point)


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("best", [1.0, 1.05, 1.4, 2.1, 3.5])
def test_one_axis_to_the_last_digit(best, better):
    sign = 1 if better == "lower" else -1
    score = Counted(lambda p: 5 + sign * (p["w"] - best) ** 2)
    found = search(score, {"w": 2}, [[W]], stride=8, better=better)
    assert (found.point, found.score) == ({"w": best}, 5)
    assert dict(found.scores[0][0]) == {"w": 1.0}
    assert found.scores[0][1] == 5 + sign * (1 - best) ** 2
    assert len(score.asked) == len(set(score.asked)) < 20 < len(W.values)
    assert [dict(key) for key in score.asked] == [point for point, _ in found.scores]


def test_two_axes_that_depend_on_each_other():
    axes = [Axis(name, tuple(range(20))) for name in ("main", "guide")]
    score = Counted(lambda p: (p["main"] - 7) ** 2 + (p["guide"] - 13) ** 2 + 1.5 * (p["main"] - 7) * (p["guide"] - 13))
    found = search(score, {"main": 0, "guide": 0}, [axes], stride=4)
    assert found.point == {"main": 7, "guide": 13}
    assert len(score.asked) < 100


def test_the_interval_papers_order_upper_end_first():
    """With the lower end open, only `first` moves; then only `last`; ends that cross are never asked."""
    score = Counted(lambda p: (p["first"] - 17) ** 2 + (p["last"] - 22) ** 2)
    found = search(
        score, {"first": 0, "last": 31}, [[FIRST], [LAST]], stride=4, valid=lambda p: p["first"] <= p["last"]
    )
    assert found.point == {"first": 17, "last": 22}
    changed = [dict(key) for key in score.asked]
    turn = next(i for i, point in enumerate(changed) if point["last"] != 31)
    assert all(point["last"] == 31 for point in changed[:turn])
    assert all(point["first"] == 17 for point in changed[turn:])
    assert all(point["first"] <= point["last"] for point in changed)


def test_stride_one_is_the_full_grid():
    axes = [Axis("a", (0, 1, 2)), Axis("b", (5, 6))]
    score = Counted(lambda p: -p["a"] * p["b"])
    assert search(score, {}, [axes], stride=1).point == {"a": 2, "b": 6}
    assert len(score.asked) == len(list(itertools.product((0, 1, 2), (5, 6))))


def test_refused():
    with pytest.raises(ValueError, match="rise or fall"):
        Axis("w", (1, 3, 2))
    with pytest.raises(ValueError, match="rise or fall"):
        Axis("w", ())
    with pytest.raises(ValueError, match="stride 0"):
        search(lambda p: 0, {}, [[W]], stride=0)
    with pytest.raises(ValueError, match=r"no value of first goes with"):
        search(lambda p: 0, {"last": -1}, [[FIRST]], valid=lambda p: p["first"] <= p["last"])


@pytest.mark.parametrize(
    ("stages", "stride", "count"),
    [
        ([[Axis("a", (0, 1, 2)), Axis("b", (5, 6))]], 1, 6),  # the full grid
        ([[Axis("a", tuple(range(9)))]], 8, 7),  # 0 8, then 4, which is the best, then 2 6 and 3 5
        ([[Axis("a", (0, 1, 2))], [Axis("b", (5, 6))]], 1, 4),  # the best of a is shared
    ],
)
def test_how_many_points_are_to_come(stages, stride, count):
    start = {axis.name: axis.values[0] for axes in stages for axis in axes}
    assert expected_points(start, stages, stride=stride) == count
