"""What controls say as a recipe: every kind of the catalogue, intervals on the levels of any schedule, refusals."""

from dataclasses import replace

import pytest

from edm2_guidance.explorer.settings import Settings, fields_of, kinds, settled, spec_of
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.guide import Guide, classifier_guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Rule, Sampler, Schedule, Weight, constant
from edm2_guidance.recipe.recipe import Recipe

USUAL = {"sampler": Sampler, "schedule": Schedule, "rule": Rule, "weight": Weight}


def recipe(*weights, interval=None, steps=16, **more):
    return Recipe("main.pkl", [Guide(f"{n}.pkl", w, interval) for n, w in enumerate(weights)], steps, **more)


@pytest.mark.parametrize("axis", USUAL)
def test_controls_have_every_kind_of_the_catalogue_with_its_fields(axis):
    given = USUAL[axis].parse(catalog.kinds(axis)[0])
    for kind in catalog.kinds(axis):
        if kind in catalog.OF_FUNCTIONS.values():
            assert kind not in kinds(given)
            continue
        fields = fields_of(kind, given)
        assert all(each.help for each in fields)
        assert kind in kinds(given)
        assert spec_of(kind, given, {each.name: each.text for each in fields}) == catalog.find(axis, kind)()


def test_fields_begin_with_what_is_given_and_their_texts_count():
    given = Rule.parse("rescale:phi=0.25")
    assert [(each.name, each.text) for each in fields_of("rescale", given)] == [("phi", "0.25")]
    assert spec_of("rescale", given, {"phi": " 0.5 "}) == Rule.parse("rescale:phi=0.5")
    assert spec_of("cosine", constant(2), {}, 3.5) == Weight.parse("cosine:w=3.5")


@pytest.mark.parametrize(
    "start",
    [
        recipe(),
        recipe(1.5),
        recipe("cosine:w=2", interval=(3, 5), rule="rescale:phi=0.5", sampler="euler", schedule="logsnr"),
        recipe(1.25, 1.75, interval=(0, 4)),
        Recipe("main.pkl", [classifier_guide("c.pkl", 0.5, "heun", (2, 2))], 8),
        Recipe("main.pkl", [classifier_guide("c.pkl", 2, "ddpm")], sampler="ddpm", schedule="timesteps:steps=50"),
    ],
    ids=["none", "one", "kinds", "two", "classifier", "ddpm"],
)
def test_settings_of_a_recipe_make_it_again(start):
    settings = Settings.of(start, 4)
    assert settings.recipe(start) == start
    assert settings.on(start.schedule, start.num_steps) == settings


def test_each_setting_is_put_in():
    start, settings = recipe(1.5, 1.5), Settings.of(recipe(1.5, 1.5), 4)
    assert (settings.weight.w, settings.alpha) == (2, 0.5)
    moved = replace(settings, weight=constant(3), alpha=0.25, interval=StepInterval(2, 3), num_steps=8).recipe(start)
    assert [guide.weight.w for guide in moved.guides] == [2.5, 1.5]
    assert {guide.interval for guide in moved.guides} == {StepInterval(2, 3)}
    assert moved.num_steps == 8
    with_scale = Recipe("main.pkl", [classifier_guide("c.pkl", 0.5, "heun")], 8)
    assert replace(Settings.of(with_scale, 4), scale=2.0).recipe(with_scale).guides[0].scale == 2


def test_the_interval_keeps_its_noise_levels_on_other_schedules():
    settings = Settings.of(recipe(1.5, interval=(17, 22), steps=32), 4)
    assert (round(settings.sigmas.lo, 2), round(settings.sigmas.hi, 2)) == (0.19, 1.61)  # the interval paper's
    fewer = settings.on(settings.schedule, 16)
    levels = fewer.levels()
    inside = [step for step, level in enumerate(levels) if settings.sigmas.lo < level <= settings.sigmas.hi]
    assert [fewer.interval.first, fewer.interval.last] == [inside[0], inside[-1]]
    assert {fewer.sigmas.hi, fewer.sigmas.lo} <= set(levels)
    few = settings.on(settings.schedule, 2)  # 80 and 0.002, neither inside
    assert few.interval.first == few.interval.last
    assert Settings.of(recipe(1.5), 4).on(settings.schedule, 2).interval is None


def test_an_interval_of_all_steps_is_none():
    settings = Settings.of(recipe(1.5, interval=(3, 5)), 4)
    assert settings.ends == StepInterval(3, 5)
    assert settings.placed(StepInterval(0, 15)).interval is None
    assert settings.placed(StepInterval(0, 15)).ends == StepInterval(0, 15)
    assert settings.placed(StepInterval(0, 14)).interval == StepInterval(0, 14)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (recipe(1.5, 1.5, 1.5), "up to two guiding networks"),
        (Recipe("a.pkl", [Guide("b.pkl", 2, (0, 1)), Guide("c.pkl", 2)]), "one interval for all guides"),
        (recipe(1.5, interval=SigmaInterval(1.0, 1.001)).resolved()[0], "holds no sampling step"),
        (recipe("cosine:w=2", 2), "one weight schedule for all guides"),
    ],
)
def test_what_one_control_cannot_say_is_refused(start, message):
    with pytest.raises(ValueError, match=message):
        Settings.of(start, 4)


def test_what_does_not_go_together_is_refused_with_its_reason():
    settings = Settings.of(recipe(1.5), 4)
    with pytest.raises(ValueError, match="phi=2: must be at least 0 and at most 1"):
        spec_of("rescale", settings.rule, {"phi": "2"})
    with pytest.raises(ValueError, match="'x' is not a number"):
        spec_of("edm", settings.schedule, {"rho": "x"})
    with pytest.raises(ValueError, match="steps 3-20"):
        replace(settings, interval=StepInterval(3, 20)).recipe(recipe(1.5))


@pytest.mark.parametrize(
    ("typed", "whole", "holds"),
    [
        (None, True, 16),
        (1, True, 2),
        (65, True, 64),
        (2.7, True, 3),
        (63.5, True, 64),
        (2.7, False, 2.7),
        (-3, False, 2),
    ],
)
def test_a_typed_number_is_settled_within_its_bounds(typed, whole, holds):
    assert settled(typed, 16, 2, 64, whole=whole) == holds
