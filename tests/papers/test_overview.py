"""What a ledger can be drawn as: which lines are on which curve."""

from edm2_guidance.metrics.uncertainty import mean_interval
from edm2_guidance.papers import overview
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


def test_precision_and_recall_of_searches_are_drawn_against_each_other():
    values = {1.0: (3, 0.6, 0.5), 2.0: (2, 0.8, 0.4)}
    metrics = ("fd_mnist", "precision/mnist", "recall/mnist")
    lines = [
        line(value, metric=metric, search=name, point={"weight": w}, by="fd_mnist")
        for name in ("cfg", "autog") for w, each in values.items() for metric, value in zip(metrics, each, strict=True)
    ]  # fmt: skip
    lines += [line(0.1, metric="precision/mnist", search="alone", point={"weight": w}) for w in (1, 2)]
    ((num, both),) = overview.trade_offs(lines)
    assert (num, both.metrics) == (10, ("precision/mnist", "recall/mnist"))
    assert both.fidelity.curves == {"autog": {1: [0.6], 2: [0.8]}, "cfg": {1: [0.6], 2: [0.8]}}
    assert both.diversity.curves["cfg"] == {1: [0.5], 2: [0.4]}
    found, problems = overview.searches(lines)
    assert problems == []
    assert {name: [*panel.curves] for name, panel in found} == {
        "fd_mnist@10": ["cfg", "autog"],
        "precision/mnist@10": ["cfg", "autog", "alone"],
        "recall/mnist@10": ["cfg", "autog"],
    }


def test_curves_of_metrics_beside_that_of_a_search_have_its_best_in_all_else():
    lines = [
        line(value, metric=metric, search="s", point={"first": 0.0, "last": last, "weight": w}, by="fd_mnist")
        for (w, last), values in {(1.0, 15.0): (3, 0.9), (2.0, 15.0): (1, 0.5), (2.0, 7.0): (2, 0.8)}.items()
        for metric, value in zip(("fd_mnist", "precision/mnist"), values, strict=True)
    ]
    found, _ = overview.searches(lines)
    assert [(name, panel.xlabel.partition(" ")[0]) for name, panel in found if name.startswith("precision")] == [
        ("precision/mnist@10", "guidance")
    ]
    assert {"upper", "lower"} < {panel.xlabel.partition(" ")[0] for name, panel in found if name.startswith("fd")}
    assert found[-1][1].curves == {"s": {1: [0.9], 2: [0.5]}}  # where fd_mnist is best, not precision


def test_metrics_of_fidelity_and_diversity_are_paired():
    three = ["precision/mnist", "density/mnist", "fd_mnist", "recall/mnist", "coverage/mnist", "of another program"]
    assert overview._pairs(three) == [("density/mnist", "coverage/mnist"), ("precision/mnist", "recall/mnist")]
    assert overview._pairs(three[:4]) == [("density/mnist", "recall/mnist"), ("precision/mnist", "recall/mnist")]
    assert overview._pairs(["fd_mnist", "recall/mnist"]) == []
