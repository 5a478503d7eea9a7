"""How every kind of guidance and sampling is shown, on the toy and on digits: a line of `gallery.json` each.

A line says what of a kind is not as usual. No torch here.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.files import Network
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Reference, Schedule, Weight
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.spec import Spec

Kind = TypeVar("Kind", bound=Spec)

#: Those that say how steps are made. All others are of guidance.
SOLVERS = ("sampler", "schedule")
#: The networks of the digits, by what they are to guidance.
DIGITS = {
    "main": "mnist16-cond",
    "unconditional": "mnist16-uncond",
    "weak": "mnist16-weak",
    "classifier": "mnist16-classifier",
}
DIGIT_STEPS, DIGIT_W = 16, 1.5
POINT_STEPS, FEW_STEPS = 32, 12  # on the toy; so few of solvers, which are much the same at many
POINT_LEVELS = {"sigma_max": 5.0}
#: What lines leave out.
_OF_GUIDANCE = {"over": "weight", "values": (1.0, 2.0, 3.0, 4.0, 6.0), "w": 4.0}
_OF_SOLVERS = {"over": "num_steps", "values": (4, 6, 8, 12, 16), "w": 2.0}


@dataclass(frozen=True)
class Entry:
    """A kind and how it is shown.

    Attributes:
        axis, kind: Of the catalogue.
        over: What its digits are over: weight, num_steps or a field of the kind.
        values: Of that.
        w: The weight on points.
        fields: Of the kind, as in its text, where its defaults show little: "clip=false".
        on_points: The same for the toy alone.
        own_steps: Whether the kind says how many steps there are.
        beside: Other parts of its recipes by axis, as texts.
        guide: The network that guides, unless the main one does, or a classifier.
        not_on_points: Why the toy has none; empty if it has.
        not_on_digits: The same of the digits.
    """

    axis: str
    kind: str
    over: str
    values: Sequence[Any]
    w: float
    fields: str = ""
    on_points: str = ""
    own_steps: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)
    guide: str = "unconditional"
    not_on_points: str = ""
    not_on_digits: str = ""

    @property
    def name(self) -> str:
        """Of its page, and of its pictures."""
        return f"{self.axis}-{self.kind}"

    @property
    def title(self) -> str:
        """The kind, with the axis where it is the kind of several."""
        several = sum(self.kind in catalog.kinds(axis) for axis in axes()) > 1
        return f"{self.kind} ({self.axis})" if several else self.kind

    @property
    def solves(self) -> bool:
        """Whether it says how steps are made."""
        return self.axis in SOLVERS

    @property
    def cls(self) -> type[Spec]:
        """Of the kind."""
        found: type[Spec] = catalog.find(self.axis, self.kind)
        return found

    @property
    def text(self) -> str:
        """Of the kind as it is shown."""
        return ":".join(filter(None, [self.kind, self.fields]))

    @property
    def text_on_points(self) -> str:
        """The same for the toy."""
        return ":".join(filter(None, [self.text, self.on_points]))

    def caption(self, value: Any) -> str:
        """Of a row of its digits."""
        if self.over == "weight":
            guide = self.of_digits(value).guides[0]
            return f"scale = {guide.scale:g}" if guide.of_classifier else f"w = {value:g}"
        return f"{'steps' if self.over == 'num_steps' else self.over} = {value}"

    def of_digits(self, value: Any) -> Recipe:
        """The recipe of a row of its digits."""
        varied = {} if self.over in ("weight", "num_steps") else {self.over: value}
        w = value if self.over == "weight" else DIGIT_W
        steps = value if self.over == "num_steps" else DIGIT_STEPS
        return replace(
            self._recipe(DIGITS, self.cls.parse(self.text).with_fields(varied), w, steps),
            labels="balanced",
            noise_device="device",
        )

    def of_points(self, nets: Mapping[str, Network]) -> Recipe:
        """The recipe of its points, by the toy's networks: main, unconditional and weak.

        ValueError for a kind that the toy has not.
        """
        if self.not_on_points:
            raise ValueError(f"{self.title} is not on points: {self.not_on_points}")
        steps = FEW_STEPS if self.solves else POINT_STEPS
        return self._recipe(nets, self.cls.parse(self.text_on_points), self.w, steps, POINT_LEVELS)

    def _recipe(
        self,
        nets: Mapping[str, Network],
        shown: Spec,
        w: float,
        steps: int,
        levels: Mapping[str, Any] = MappingProxyType({}),
    ) -> Recipe:
        """levels: fields of the schedule, as far as it has them."""
        usual = {"reference": "network", "weight": "constant", "schedule": "edm"}
        parts: dict[str, Any] = {**usual, **self.beside, self.axis: shown}
        reference, weight, schedule = (_read(axis, parts.pop(axis.axis)) for axis in (Reference, Weight, Schedule))
        role = "classifier" if reference.of_classifier else self.guide
        net = None if reference.of_main else nets[role]
        known = {each.name for each in dataclasses.fields(schedule)}
        schedule = schedule.with_fields({name: value for name, value in levels.items() if name in known})
        return Recipe(
            nets["main"],
            Guide(net, weight.with_fields({"w": w}), reference=reference),
            None if self.own_steps else steps,
            schedule=schedule,
            **parts,
        )


def _read(axis: type[Kind], given: str | Kind) -> Kind:
    return axis.parse(given) if isinstance(given, str) else given


def unguided(nets: Mapping[str, Network]) -> Recipe:
    """The recipe of the toy's points without guidance."""
    return Recipe(nets["main"], num_steps=POINT_STEPS, schedule=Schedule.parse("edm").with_fields(POINT_LEVELS))


def axes() -> list[str]:
    """Those that are shown, in the order of the lines."""
    return list(dict.fromkeys(entry.axis for entry in entries()))


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All lines."""
    return read(Path(__file__).with_name("gallery.json").read_text(encoding="utf-8"))


def read(text: str) -> tuple[Entry, ...]:
    """The lines of a text, a JSON list. TypeError for a name that no line has."""
    lines = json.loads(text)
    return tuple(Entry(**{**(_OF_SOLVERS if line["axis"] in SOLVERS else _OF_GUIDANCE), **line}) for line in lines)
