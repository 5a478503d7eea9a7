"""A guide: which network D is moved away from, how far, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from edm2_guidance.recipe.catalog import CLASSIFIER_WEIGHTS
from edm2_guidance.recipe.files import Network, NetworkRef
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval, interval_of
from edm2_guidance.recipe.parts import Reference, Rule, Sampler, StepInfo, Weight, constant
from edm2_guidance.recipe.spec import canonical, chosen, settle


def _network() -> Reference:
    return Reference.parse("network")


@dataclass(frozen=True)
class Guide:
    """One guide: how far D is moved away from a reference, and at which steps (None = all).

    Attributes:
        net: The network that the reference asks; None = the main one.
        weight: How far.
        interval: Where.
        reference: How the network is asked.
        never: The asked noise levels lie between two steps: guided nowhere.
    """

    net: NetworkRef | None
    weight: Weight
    interval: StepInterval | SigmaInterval | None = None
    reference: Reference = field(default_factory=_network)
    never: bool = False

    if TYPE_CHECKING:  # what may be given; the attributes are what it stands for

        def __init__(
            self,
            net: Network | None,
            weight: "Weight | float | str | Callable[..., Any]",
            interval: StepInterval | SigmaInterval | tuple[int, int] | None = None,
            reference: Reference | str = "network",
            never: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        settle(self, "net", lambda net: None if net is None else NetworkRef.of(net))
        settle(self, "weight", lambda w: constant(w) if isinstance(w, Real) else chosen(Weight, w))
        settle(self, "interval", interval_of)
        settle(self, "reference", partial(chosen, Reference))
        if self.net is None and not self.reference.of_main:
            asked = "a classifier" if self.of_classifier else "another network"
            raise ValueError(f"the reference '{self.reference}' asks {asked}: name it ({self.option})")
        if self.net is not None and not self.reference.of_other:
            raise ValueError(f"the reference '{self.reference}' asks no other network: leave out {self.option}")

    @property
    def name(self) -> str:
        """Of the network that is asked, and how, if not as usual."""
        asked = "the main network" if self.net is None else self.net.name
        if self.of_classifier:
            return f"classifier {asked}"
        return asked if self.as_usual else f"{asked} ({self.reference})"

    @property
    def scale(self) -> float:
        """Of a classifier: w - 1, in as few digits as say it."""
        short = float(f"{self.weight.w - 1:.12g}")
        return short if 1 + short == self.weight.w else self.weight.w - 1

    @property
    def strength(self) -> str:
        """How far D is moved: "w = 1.5 (cosine)", of a classifier "scale 0.5"."""
        number = f"scale {self.scale:g}" if self.of_classifier else self.weight.amount
        return number + (f" ({self.weight.schedule})" if self.weight.schedule else "")

    @property
    def short(self) -> str:
        """Name and strength in few characters: "uncond w=1.5 cosine"."""
        if self.of_classifier:
            return f"{self.name} scale={self.scale:g} {self.weight.schedule}".rstrip()
        return f"{self.name} {self.weight.short}"

    @property
    def asks(self) -> tuple[NetworkRef | None, Reference]:
        """What it evaluates: guides that ask the same need it once."""
        return self.net, self.reference

    @property
    def as_usual(self) -> bool:
        """Whether the network is asked for D as it is."""
        return self.reference == _network()

    @property
    def of_classifier(self) -> bool:
        """Whether `net` is a classifier."""
        return self.reference.of_classifier

    @property
    def option(self) -> str:
        """By which a command line names `net`."""
        return "--classifier" if self.of_classifier else "--gnet"

    def role(self, number: int) -> str:
        """What its network is called, as guide `number`, where evaluations are counted."""
        return f"classifier {number}" if self.of_classifier else f"guide {number}"

    @property
    def off(self) -> bool:
        """Weight 1, or an interval that holds no step: the reference is never evaluated."""
        return self.never or not self.weight.moves

    def on(self, step: StepInfo) -> bool:
        """Whether D is moved at this step of a resolved recipe."""
        inside = step.guided and (self.interval is None or self.interval.holds(step))
        return inside and not self.off and not self.weight.off(step)

    def check_alone(self, guides: "Sequence[Guide]", rule: Rule) -> None:
        """ValueError for a weight of an only guide beside others, or under a rule that is not linear."""
        if not self.weight.alone or self.off:
            return
        others = [other.name for other in guides if other is not self and not other.off]
        if others:
            raise ValueError(f"the weight {self.weight.kind} is of one reference, and {others[0]} guides as well")
        if rule != Rule.parse("linear"):
            raise ValueError(f"the weight {self.weight.kind} is of the linear rule, and means nothing under {rule}")

    def canonical(self) -> dict[str, Any]:
        """What is hashed of it, of a resolved recipe."""
        interval = self.interval
        steps = [interval.first, interval.last] if isinstance(interval, StepInterval) else None
        parts = {
            "net": None if self.net is None else self.net.canonical(),
            "reference": None if self.as_usual else canonical(self.reference),
            "weight": canonical(self.weight),
            "steps": steps,
            "sigmas": self._sigmas,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain data; steps: null = all, [] = none. sigmas: noise levels, of a recipe of legs, if it has some."""
        interval = self.interval
        steps = [interval.first, interval.last] if isinstance(interval, StepInterval) else None
        return {
            "net": None if self.net is None else self.net.to_json(),
            "reference": str(self.reference),
            "weight": str(self.weight),
            "steps": [] if self.never else steps,
            **({} if self._sigmas is None else {"sigmas": self._sigmas}),
        }

    @property
    def _sigmas(self) -> list[Any] | None:
        """Both ends of an interval of noise levels, as plain data."""
        interval = self.interval
        ends: list[Any] = canonical([interval.lo, interval.hi]) if isinstance(interval, SigmaInterval) else []
        return ends or None


def classifier_guide(
    classifier: Network,
    scale: float,
    sampler: Sampler | str,
    interval: StepInterval | SigmaInterval | tuple[int, int] | None = None,
) -> Guide:
    """Guidance by a classifier's gradient, as published with this sampler: scales of one are none for another."""
    kind = chosen(Sampler, sampler).kind
    weight = Weight.parse(CLASSIFIER_WEIGHTS.get(kind, "constant")).with_fields({"w": 1 + scale})
    return Guide(classifier, weight, interval, Reference.parse("classifier"))
