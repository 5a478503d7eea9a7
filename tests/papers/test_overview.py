"""What a ledger can be drawn as: which lines are on which curve."""

import pytest

from edm2_guidance.metrics.uncertainty import mean_interval
from edm2_guidance.papers import overview
from edm2_guidance.papers.tables import find
from edm2_guidance.recipe.search import recipe_at
from tests.papers.ledger_lines import line


def test_searches_along_one_axis_are_drawn_together_and_others_apart():
    lines = [line(w, search="cfg", point={"weight": w}, seeds=seeds) for w in (1.0, 2.0) for seeds in ("0-9", "10-19")]
    lines += [line(3, search="autog", point={"weight": w}, name="mnist16-autog") for w in (1.0, 1.5)]
    lines += [line(4, search="one", point={"weight": 1.5})]
    lines += [line(5, search="more", point={"weight": w}, num=20) for w in (1.0, 2.0)]
    found, problems = overview.searches(lines)
    assert problems == []
    assert [(name, list(panel.curves)) for name, panel in found] == [
        ("fd_mnist@10", ["cfg", "autog"]), ("fd_mnist@20", ["more"]),
    ]  # fmt: skip
    assert found[0][1].curves["cfg"] == {1.0: [1, 1], 2.0: [2, 2]}


def test_every_parameter_that_was_searched_has_its_curve():
    lines = [line(v, search="s", point={"weight": w, "rho": r}) for v, (w, r) in enumerate([(1, 5), (2, 5), (2, 7)])]
    found, _ = overview.searches(lines)
    assert {panel.xlabel: panel.curves["s"] for _, panel in found} == {
        "guidance weight w": {1: [0], 2: [1]}, "rho": {5: [0]},
    }  # fmt: skip


def test_why_a_search_is_no_curve_is_said_and_odd_lines_are_passed_over():
    lines = [line(1, search="s", point={"weight": w}, steps=w) for w in (8, 16)]
    odd = [{**line(1, search="odd", point={"weight": w}), key: None} for w in (1, 2) for key in ("images", "recipe")]
    found, problems = overview.searches([*lines, *odd])
    assert found == []
    assert len(problems) == 1
    assert "different recipes" in problems[0]


def test_convergence_is_of_recipes_with_several_counts():
    lines = [line(3, num=10), line(2, num=20, interval=(1.5, 2.6)), line(9, num=20)]
    lines.append(line(1, num=30, name="mnist16-autog"))
    ((name, panel),) = overview.convergence(lines)
    assert name == "fd_mnist"
    assert panel.log
    ((label, curve),) = panel.curves.items()
    assert label == "mnist16-cond + mnist16-uncond w=1.5"
    assert curve == {10: [3], 20: [2]}  # of several scores of the same images the first
    assert panel.intervals[label] == {20: mean_interval([lines[1]])}


def test_ways_of_the_same_words_are_told_apart():
    lines = [line(n, num=n, steps=steps) for n in (10, 20) for steps in (8, 16)]
    ((_, panel),) = overview.convergence(lines)
    assert [label.rpartition(", ")[0][-7:] for label in panel.curves] == ["8 steps", "6 steps"]


def test_precision_and_recall_are_of_the_same_images():
    cfg = find("mnist16-cfg")[0].recipe()
    lines = []
    for w, values in {1.0: (0.6, 0.5), 2.0: (0.8, 0.4)}.items():
        recipe = recipe_at(cfg, {"weight": w}).effective()
        for shift, seeds in ((0, "0-9"), (0.1, "10-19")):
            for metric, value in zip(("precision/mnist", "recall/mnist"), values, strict=True):
                lines.append(line(value + shift, metric=metric, recipe=recipe, seeds=seeds))
    lines.append(line(0.1, metric="recall/mnist", recipe=recipe, seeds="20-29"))  # alone
    lines.append(line(0.1, metric="precision", recipe=recipe))  # in other features
    ((names, methods),) = overview.tradeoffs(lines).items()
    assert names == ("precision/mnist@10", "recall/mnist@10")
    ((method, points),) = methods.items()
    assert method == "mnist16-cond + mnist16-uncond"
    assert [(p.weights, p.precision, p.recall) for p in points] == [
        ((), pytest.approx(0.65), pytest.approx(0.55)), ((2.0,), pytest.approx(0.85), pytest.approx(0.45)),
    ]  # fmt: skip
    assert points[0].of_precision == mean_interval([{"value": 0.6}, {"value": 0.7}])
