"""Which scores stand on one curve, and what a plot shows of them."""

from dataclasses import replace

import pytest

from edm2_guidance.papers.curves import Scores, ema_panel, interval_panels, value_panel
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide, classifier_guide
from edm2_guidance.recipe.parts import Rule, Sampler, Schedule, Weight, constant
from edm2_guidance.recipe.recipe import Recipe

RECIPE = Recipe(NetworkRef("main"), num_steps=16).to_json()


def line(name, value, num=1000, seeds="0-999", **point):
    return {
        "images": {"seeds": seeds},
        "metric": "fd_mnist", "value": value, "num_images": num, "recipe": RECIPE,
        "search": {"name": name, "point": point},
    }  # fmt: skip


def test_blocks_that_all_points_have_are_one_place_of_a_curve():
    records = [
        line("cfg", 1.0, weight=1.5),
        line("cfg", 1.2, seeds="1000-1999", weight=1.5),
        line("cfg", 1.4, weight=2.0),
        line("cfg", 1.1, seeds="1000-1999", weight=2.0),
        line("cfg", 9.0, seeds="2000-2999", weight=2.0),
        line("cfg", 0.1, num=50, weight=9.0),
        line("autog", 0.7, weight=2.0),
        {"value": 3, "num_images": 1000},
    ]
    panel = value_panel(records, ["cfg", "autog"], 1000)
    assert panel.curves == {"cfg": {1.5: [1.0, 1.2], 2.0: [1.4, 1.1]}, "autog": {2.0: [0.7]}}
    assert panel.notes == (
        "cfg: 2 of 6 scores are on none of its curves: 1 of other numbers of images, 1 of seeds that not all points "
        "have, or scored again",
    )


def test_scores_of_other_recipes_make_no_curve_together():
    def of(recipe, **point):
        return {**line("a", 1.0, **point), "recipe": recipe.to_json()}

    net = NetworkRef("main")
    plain = Recipe(net, (Guide(NetworkRef("guide"), constant(2)),))
    rising = Recipe(net, (Guide(NetworkRef("guide"), Weight.parse("cosine:w=2")),))
    unguided = of(Recipe(net), weight=1.0)
    assert value_panel([unguided, of(rising, weight=2.0)], ["a"], 1000).curves == {"a": {1.0: [1.0], 2.0: [1.0]}}
    for other in (rising, replace(plain, sampler=Sampler.parse("euler"))):
        with pytest.raises(ValueError, match=r"holds scores of different recipes \(.* \| .*\).* its own --name"):
            value_panel([unguided, of(plain, weight=2.0), of(other, weight=3.0)], ["a"], 1000)


def test_a_classifier_that_is_off_at_some_points_is_no_other_recipe():
    """Of a search over scale and weight, with a rule, which is of networks alone."""
    net, rule = NetworkRef("main"), Rule.parse("rescale")
    cfg = Guide(NetworkRef("guide"), constant(2))

    def of(scale, weight, sampler="heun"):
        classifier = classifier_guide(NetworkRef("c"), scale, Sampler.parse(sampler))
        guides = (*((cfg,) if weight > 1 else ()), *((classifier,) if scale > 0 else ()))
        recipe = Recipe(net, guides, rule=rule, sampler=Sampler.parse("ddpm")).effective()
        return {**line("a", weight - scale, weight=weight, scale=scale), "recipe": recipe.to_json()}

    records = [of(scale, weight) for scale in (0.0, 1.0) for weight in (1.0, 2.0)]
    assert value_panel(records, ["a"], 1000).curves == {"a": {1.0: [0.0], 2.0: [1.0]}}
    with pytest.raises(ValueError, match="holds scores of different recipes"):
        value_panel([*records, of(2.0, 2.0, "ddpm")], ["a"], 1000)


def test_scores_of_other_metrics_references_steps_or_precision_make_no_curve_together():
    first = line("a", 1.0, weight=1.0)
    for other in (
        {"metric": "kid_mnist"},
        {"reference": {"source": "mine.npz", "sha256": "f"}},
        {"recipe": Recipe(NetworkRef("main"), num_steps=8).to_json()},
        {"recipe": Recipe(NetworkRef("main"), num_steps=16, dtype="float64").to_json()},
        {"images": {"seeds": "0-999", "precision": "bfloat16"}},
        {"images": {"seeds": "0-999", "precision": "float32"}},  # which is on record where float16 is usual
    ):
        with pytest.raises(ValueError, match="scores of different recipes"):
            value_panel([first, line("a", 2.0, weight=2.0) | other], ["a"], 1000)
    usual = line("a", 2.0, weight=2.0) | {"images": {"seeds": "0-999", "precision": "float16"}}
    assert value_panel([first, usual], ["a"], 1000).curves == {"a": {1.0: [1.0], 2.0: [2.0]}}


def test_points_away_from_the_best_are_counted():
    records = [line("a", m + g, ema=m, guide_ema=g) for m in (0.05, 0.1) for g in (0.1, 0.2)]
    (note,) = ema_panel(records, "a", 1000).notes
    assert note == "a: 1 of 4 scores are on none of its curves: 1 away from the best in what is not on the axis"


def test_interval_ends_in_noise_levels_and_in_the_cheap_order():
    levels = Schedule.parse("edm").levels(16)
    records = [
        *(line("i", abs(first - 5) + 1, weight=1.5, first=first, last=15) for first in (0, 4, 5, 8)),
        *(line("i", abs(last - 11) / 10 + 0.5, weight=1.5, first=5, last=last) for last in (11, 13)),
    ]
    upper, lower = interval_panels(records, "i", 1000)
    assert upper.curves["i"] == {levels[0]: [6], levels[4]: [2], levels[5]: [1], levels[8]: [4]}
    assert lower.curves["i"] == {levels[15]: [1], levels[12]: [0.5], levels[14]: [0.7]}
    assert (upper.fixed, lower.fixed) == ("lower end open, w = 1.5", f"upper end at sigma {levels[5]:.3g}, w = 1.5")
    closed = [line("c", last, weight=2.0, first=first, last=last) for first in (0, 3) for last in (11, 15)]
    assert interval_panels(closed, "c", 1000)[1].fixed == "upper end open, w = 2"


def test_ends_of_an_interval_that_were_swept_at_each_others_best():
    """As arXiv 2404.07724, Fig. 5, has them; the lower end is open at one point alone."""
    levels = Recipe(NetworkRef("main"), num_steps=16).levels()
    swept = [(first, 10) for first in range(9)] + [(7, last) for last in (15, *range(13, 7, -1))]
    records = [line("f", abs(first - 7) + abs(last - 10), first=first, last=last) for first, last in set(swept)]
    upper, lower = interval_panels(records, "f", 1000)
    assert upper.curves["f"] == {levels[first]: [abs(first - 7)] for first in range(9)}
    assert lower.curves["f"] == {levels[-1]: [5], **{levels[last + 1]: [abs(last - 10)] for last in range(8, 14)}}
    assert upper.fixed == f"lower end at sigma {levels[11]:.3g}"
    assert lower.fixed == f"upper end at sigma {levels[7]:.3g}"
    assert upper.notes == lower.notes == ()


def test_each_ema_length_at_the_others_best():
    records = [line("a", (m - 0.1) ** 2 + (g - 0.2) ** 2, ema=m, guide_ema=g) for m in (0.05, 0.1) for g in (0.1, 0.2)]
    panel = ema_panel(records, "a", 1000)
    assert panel.curves["main network (guide at 0.2)"] == {0.05: [pytest.approx(0.0025)], 0.1: [0]}
    assert panel.curves["guide (main network at 0.1)"] == {0.1: [pytest.approx(0.01)], 0.2: [0]}


def test_what_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"no search 'x' at 7 images in the ledger; there: cfg \(1000 images\)"):
        Scores([line("cfg", 1.0, weight=2.0)], "x", 7)
    with pytest.raises(ValueError, match="the search 'cfg' holds no score at weight = 5"):
        Scores([line("cfg", 1.0, weight=2.0)], "cfg", 1000).best(weight=5)


@pytest.mark.parametrize(
    ("panel", "point", "message"),
    [
        (interval_panels, {"weight": 2.0}, "'a' did not vary the interval; --kind=weight fits it"),
        (ema_panel, {"weight": 2.0}, "'a' did not vary the EMA lengths; --kind=weight fits it"),
        (interval_panels, {"weight": 2.0, "ema": 0.1}, "the interval; --kind=weight or --kind=ema fits it"),
        (ema_panel, {"guide_ema": 0.1}, "the EMA lengths; no --kind fits it"),
        (
            lambda records, name, num: value_panel(records, [name], num),
            {"first": 1, "last": 5},
            "vary the weight; --k",
        ),
    ],
)
def test_what_was_not_varied_is_said_with_what_was(panel, point, message):
    with pytest.raises(ValueError, match=message):
        panel([line("a", 1.0, **point)], "a", 1000)


def test_the_highest_is_best_where_higher_is_better():
    values = {1.0: 0.5, 2.0: 0.9, 3.0: 0.7}
    lines = [{**line("a", v, weight=w), "metric": "recall"} for w, v in values.items()]
    lines[1]["interval"] = {"low": 0.8, "high": 0.95, "error": 0.04}
    assert Scores(lines, "a", 1000).best() == {"weight": 2.0}
    assert Scores([line("a", v, weight=w) for w, v in values.items()], "a", 1000).best() == {"weight": 1.0}
    panel = value_panel(lines, ["a"], 1000)
    (known,) = panel.intervals["a"].items()
    assert (known[0], known[1].low, known[1].high) == (2.0, pytest.approx(0.8), pytest.approx(0.95))
    assert panel.best("a") == (2.0, 0.9)


def test_a_classifiers_scale_is_an_axis_of_its_own():
    records = [line("c", abs(scale - 1), scale=scale) for scale in (0.5, 1.0, 1.5)]
    panel = value_panel(records, ["c"], 1000, "scale")
    assert (panel.curves, panel.xlabel) == ({"c": {0.5: [0.5], 1.0: [0], 1.5: [0.5]}}, "scale of the classifier")
    with pytest.raises(ValueError, match="'c' did not vary the weight; --kind=scale fits it"):
        value_panel(records, ["c"], 1000)
