"""What the explorer's controls say, as a recipe: every kind of the catalogue, with its fields. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Rule, Sampler, Schedule, Weight
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import recipe_at
from edm2_guidance.recipe.spec import Spec, text_of


@dataclass(frozen=True)
class Settings:
    """What can be moved; the rest of a recipe (networks, classes, references) stays as at the start.

    Attributes:
        num_images: Those of the first so many seeds.
        num_steps: Of a schedule that takes any number.
        weight: Of the guides that are networks, with its w; None without any.
        alpha: Of two such guides, the share of the second (arXiv 2406.02507, Eq. 6); None for another number of them.
        scale: Of a classifier; None without.
        interval: The steps at which all guides are on; None = all.
    """

    num_images: int
    num_steps: int
    sampler: Sampler
    schedule: Schedule
    rule: Rule
    weight: Weight | None = None
    alpha: float | None = None
    scale: float | None = None
    interval: StepInterval | None = None

    @classmethod
    def of(cls, recipe: Recipe, num_images: int) -> "Settings":
        """Those that make this resolved recipe. ValueError if guides differ in what is one control here."""
        networks = [guide for guide in recipe.guides if not guide.of_classifier]
        classifiers = [guide for guide in recipe.guides if guide.of_classifier]
        if len(networks) > 2 or len(classifiers) > 1:
            raise ValueError("the explorer moves up to two guiding networks, and one classifier: leave out the others")
        if len({(guide.interval, guide.never) for guide in recipe.guides}) > 1:
            raise ValueError("the explorer has one interval for all guides: give them the same")
        if any(isinstance(guide.interval, SigmaInterval) for guide in recipe.guides):
            raise ValueError("the explorer's intervals count steps, which legs do not: leave out interval or --around")
        if any(guide.never for guide in recipe.guides):
            raise ValueError("the interval holds no sampling step, so nothing is guided: give another, or none")
        if len({guide.weight.with_fields({"w": 1.0}) for guide in networks}) > 1:
            raise ValueError("the explorer has one weight schedule for all guides: give them the same")
        weight, alpha = _blend(networks)
        first = next(iter(recipe.guides), None)
        interval = first.interval if first is not None and isinstance(first.interval, StepInterval) else None
        scale = classifiers[0].scale if classifiers else None
        return cls(
            num_images, recipe.num_steps, recipe.sampler, recipe.schedule, recipe.rule, weight, alpha, scale, interval
        )

    def recipe(self, start: Recipe) -> Recipe:
        """`start` with these settings. ValueError for those that do not go together."""
        guides = [replace(guide, interval=None, never=False) for guide in start.guides]
        if self.weight is not None:
            guides = [guide if guide.of_classifier else replace(guide, weight=self.weight) for guide in guides]
        changed = replace(
            start, guides=tuple(guides), num_steps=self._num_steps, sampler=self.sampler, schedule=self.schedule,
            rule=self.rule,
        )  # fmt: skip
        point: dict[str, float] = {}
        if self.weight is not None and self.alpha is not None:
            point |= {"weight": self.weight.w, "alpha": self.alpha}
        if self.scale is not None:
            point |= {"scale": self.scale}
        if self.interval is not None:
            point |= {"first": self.interval.first, "last": self.interval.last}
        return recipe_at(changed, point)

    def levels(self) -> list[float]:
        """The noise levels that steps start from, falling. ValueError for a number that the schedule cannot have."""
        return self.schedule.levels(self._num_steps)

    @property
    def ends(self) -> StepInterval:
        """The steps of the interval; without one all."""
        return self.interval or StepInterval(0, len(self.levels()) - 1)

    @property
    def sigmas(self) -> SigmaInterval:
        """The noise levels of the interval, whose ends are levels of the schedule."""
        return self.ends.sigmas(self.levels())

    def placed(self, ends: StepInterval) -> "Settings":
        """The same with the interval at these steps; none if they are all."""
        everywhere = replace(self, interval=None)
        return everywhere if ends == everywhere.ends else replace(self, interval=ends)

    def on(self, schedule: Schedule, num_steps: int) -> "Settings":
        """The same with other levels: the interval keeps its noise levels, as far as the new ones have them."""
        changed = replace(self, schedule=schedule, num_steps=num_steps)
        if self.interval is None:
            return changed
        sigmas, levels = self.sigmas, changed.levels()
        steps, _ = sigmas.steps(levels)
        nearest = min(range(len(levels)), key=lambda step: abs(math.log(levels[step] / sigmas.hi)))
        return replace(changed, interval=steps or StepInterval(nearest, nearest))

    @property
    def _num_steps(self) -> int:
        return self.schedule.num_steps or self.num_steps


def _blend(networks: list[Guide]) -> tuple[Weight | None, float | None]:
    """The weight of all guides together, and the share of the second of two: w_i - 1 = share_i (w - 1)."""
    if not networks:
        return None, None
    weight = networks[0].weight
    if len(networks) == 1:
        return weight, None
    beyond = sum(guide.weight.w - 1 for guide in networks)
    return weight.with_fields({"w": 1 + beyond}), (networks[1].weight.w - 1) / beyond if beyond else 0.0


@dataclass(frozen=True)
class Field:
    """A field of a kind, for a control. choices: all that it may be, as texts; empty for what is written."""

    name: str
    help: str
    text: str
    choices: tuple[str, ...] = ()


def kinds(given: Spec) -> list[str]:
    """The kinds of an axis, functions of the user's own only where the spec at the start is one."""
    own = catalog.OF_FUNCTIONS.get(given.axis)
    return [kind for kind in catalog.kinds(given.axis) if kind != own or kind == given.kind]


def fields_of(kind: str, given: Spec) -> list[Field]:
    """The fields of a kind that controls have, with the values of `given` if it is of this kind, else their defaults.

    w has a control of its own, and parameters of functions stay.
    """
    spec = given if kind == given.kind else catalog.find(given.axis, kind)()
    hints, found = get_type_hints(type(spec)), []
    for each in fields(spec):
        if "about" not in each.metadata or each.name == "w":
            continue
        about, hint = each.metadata["about"], hints[each.name]
        choices = get_args(hint) if get_origin(hint) is Literal else ("false", "true") if hint is bool else ()
        unit = f" [{about.unit}]" if about.unit else ""
        found.append(Field(each.name, f"{about.help}{unit}", text_of(getattr(spec, each.name)), choices))
    return found


def spec_of(kind: str, given: Spec, texts: Mapping[str, str], w: float | None = None) -> Any:
    """The spec of a kind with these texts in its fields, and this w. ValueError for what it does not take.

    given: the spec at the start, which a function of the user's own stays.
    """
    values = {} if w is None else {"w": w}
    if kind == catalog.OF_FUNCTIONS.get(given.axis):
        return given.with_fields(values)
    text = ":".join([kind, *(f"{name}={text.strip()}" for name, text in texts.items())])
    return catalog.find(given.axis, kind).parse(text).with_fields(values)


def settled(typed: float | None, held: float, low: float, high: float, *, whole: bool) -> float:
    """The number that holds once it is typed: rounded if `whole`, within low to high; `held` if nothing was (None)."""
    if typed is None:
        return held
    within = min(max(typed, low), high)
    return round(within) if whole else within
