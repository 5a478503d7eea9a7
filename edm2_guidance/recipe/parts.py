"""The parts of a recipe: what every kind of each axis promises. No torch when imported.

Each kind is one file in `sampling/` and one line in the catalogue. A reference says what D is moved away from, a weight
how far, a rule how; a sampler writes one step, and the engine (`sampling/engine.py`) loops. What else is done is around
(`recipe/around.py`).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from edm2_guidance.recipe.perturbation import Perturbation, Perturbed
from edm2_guidance.recipe.spec import Spec, number_text, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network makes of a noisy batch.

    denoised: D(x; sigma) [N,C,H,W], in the shape, dtype and device of x. mix: where a network learns the variance of
    the sampler's noise too, how far between its bounds, about in [0, 1], in the shape of x.
    """

    denoised: "Tensor"
    mix: "Tensor | None" = None


class Denoise(Protocol):
    """The guided denoiser inside one step."""

    def __call__(self, x: "Tensor", sigma: float) -> "Tensor":
        """D(x; sigma) [N,C,H,W], given x [N,C,H,W] and sigma > 0."""

    def predict(self, x: "Tensor", sigma: float) -> Prediction:
        """The same, beside it what the main network knows of the variance."""

    def end(self, step: "Step") -> "Step":
        """The step is made: as it goes on, once what is around has moved its end. Weights look at where that is."""


# Unit normal noise of the shape of x [N,C,H,W], each image's from its own seed.
RandnLike = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class StepInfo:
    """What is known of a sampling step before anything is evaluated.

    Attributes:
        index: 0 = the noisiest; on through all legs, where there are several.
        num_steps: Of all legs.
        level: The noise level of the schedule that the step starts from. It alone decides what is on, once per step,
            for predictor and corrector alike (arXiv 2404.07724, App. A).
        sigma: The level that the step really starts from: above `level` under churn.
        sigma_next: The level that it ends at; 0 for the last.
        variances: Of an ancestral sampler, the least and the largest variance of the noise that it adds at the end.
        lands: The level that the move from x to D ends at, before a sampler adds noise at the end; None: `sigma_next`.
        levels: That all steps of the recipe start from, leg after leg.
        renoise: The standard deviation of the noise that is added before it, where a leg begins; what was kept of the
            steps before starts anew.
        guided: Whether guides may be on.
        stop: The index after the next step that leads to 0; None = that of the last.
        share: Of legs, what `progress` is.
    """

    index: int
    num_steps: int
    level: float
    sigma: float
    sigma_next: float
    variances: tuple[float, float] | None = None
    levels: tuple[float, ...] = ()
    lands: float | None = None
    renoise: float = 0.0
    guided: bool = True
    stop: int | None = None
    share: float | None = None

    def variance(self, mix: "Tensor | None") -> "float | Tensor":
        """The variance of an ancestral step: at `mix` in between, in logarithms; the least where nothing is learned."""
        assert self.variances is not None
        least, largest = self.variances
        return least if mix is None else least * (mix * math.log(largest / least)).exp()

    @property
    def progress(self) -> float:
        """The share of the way from noise to data, in steps: 0 at the first, 1 at the last, or only, one.

        Of legs, where the schedule of a single way would be at this level.
        """
        if self.share is not None:
            return self.share
        return self.index / (self.num_steps - 1) if self.num_steps > 1 else 1.0

    @property
    def left(self) -> int:
        """How many steps lead to 0, with this one."""
        return (self.num_steps if self.stop is None else self.stop) - self.index


@dataclass(frozen=True)
class Probe:
    """Another place [N,C,H,W] where a step asked for D, at the noise level sigma > 0, beside its start."""

    x: "Tensor"
    denoised: "Tensor"
    sigma: float


@dataclass(frozen=True)
class Step:
    """A step that was made: x [N,C,H,W] at `info.sigma_next`, and D at its start, from `start`.

    probe: of samplers that have one, but in a step to 0.
    """

    info: StepInfo
    start: "Tensor"
    denoised: "Tensor"
    x: "Tensor"
    probe: Probe | None = None


class Schedule(Spec):
    """The noise levels that steps start from, falling from sigma_max to sigma_min; the last step leads to 0."""

    axis: ClassVar[str] = "schedule"

    @property
    def num_steps(self) -> int | None:
        """How many steps it has of its own; None if it takes any number."""
        return None

    @property
    def usual_steps(self) -> int:
        """How many steps it has unless another number is asked for."""
        return self.num_steps or 32

    @property
    def measured_on(self) -> str:
        """SHA-256 of the network that its levels were measured on; empty for those of any."""
        return ""

    @abstractmethod
    def levels(self, num_steps: int) -> list[float]:
        """`num_steps` noise levels, falling, all above 0. ValueError for a number that it cannot have."""

    def between(self, top: float, bottom: float) -> Self:
        """The same from one level to another. ValueError for a schedule whose levels are a list, or measured."""
        raise ValueError(
            f"the schedule {self.kind} has levels of its own, and none between {top:g} and {bottom:g}: take another, "
            "such as --schedule=edm"
        )

    def within(self, low: float, high: float) -> Self:
        """The same between ends that are moved into [low, high]; a schedule without such ends stays as it is.

        As the published sampler does with the levels that a network is for (arXiv 2206.00364).
        """
        return self


class Sampler(Spec):
    """One step at a time from noise to data.

    Attributes:
        memory: How many past steps it looks at.
        ancestral: Whether it adds noise at the end of a step, whose `variances` it plans.
        probes: Whether its steps have a `Step.probe`, at their end level or inside.
    """

    axis: ClassVar[str] = "sampler"
    memory: ClassVar[int] = 0
    ancestral: ClassVar[bool] = False
    probes: ClassVar[bool] = False

    @property
    def clips(self) -> bool:
        """Whether D is held within [-1, 1], the range of pixels."""
        return False

    def start(self, level: float) -> float:
        """The standard deviation of the noise that sampling starts from, at the first level."""
        return level

    @abstractmethod
    def evaluations(self, levels: Sequence[float]) -> list[int]:
        """How often each step that starts from these levels evaluates D."""

    def plan(self, info: StepInfo, levels: Sequence[float]) -> StepInfo:
        """The step as it is really made: `sigma` raised, if noise is added first. levels: that all steps start from."""
        return info

    @abstractmethod
    def step(self, x: "Tensor", info: StepInfo, denoise: Denoise, randn_like: RandnLike, past: Sequence[Step]) -> Step:
        """Make one planned step from x at `info.level`. past: the last `memory` steps, oldest first."""


def planned(sampler: Sampler, levels: Sequence[float]) -> list[StepInfo]:
    """The steps that start from these falling levels, as the sampler makes them; the last one leads to 0."""
    ends, known = [*levels[1:], 0.0], tuple(levels)
    steps = [
        StepInfo(index, len(levels), level, level, end, levels=known)
        for index, (level, end) in enumerate(zip(levels, ends, strict=True))
    ]
    return [sampler.plan(step, levels) for step in steps]


@dataclass(frozen=True)
class Seen:
    """What a weight may look at: x, D of the main network, and the push away from the reference, all [N,C,H,W].

    sigma: the noise level of x. mix: of the main network's `Prediction`. labels: the class of each image; None without
    classes. memory: what the weight has kept of these images, under names of its own; empty at the first step.
    """

    x: "Tensor"
    main: "Tensor"
    push: "Tensor"
    sigma: float
    mix: "Tensor | None" = None
    labels: "list[int] | None" = None
    memory: "dict[str, Tensor]" = field(default_factory=dict)


@dataclass(frozen=True)
class Weight(Spec):
    """How far D moves away from a reference: by (w - 1) times the push, so 1 is off.

    Attributes:
        remembers: Whether it looks back at all steps, so that its guide has no interval.
        instead: Its fields that do for one that remembers what an interval does, in words that continue "give it ...".
        alone: Whether it makes sense for the only guide, under the linear rule.
        one_way: Whether it makes sense on a single way from noise to data alone, and not on legs.
    """

    axis: ClassVar[str] = "weight"
    remembers: ClassVar[bool] = False
    instead: ClassVar[str] = ""
    alone: ClassVar[bool] = False
    one_way: ClassVar[bool] = False

    w: float = option(1.0, "Guidance weight; 1 = off")

    @property
    def schedule(self) -> str:
        """All of its text but w, such as "cosine"; empty for one that stays."""
        return "" if self.kind == "constant" else str(self.with_fields({"w": 1.0}))

    @property
    def amount(self) -> str:
        """How far, without the schedule: "w = 1.5"."""
        return f"w = {self.w:g}"

    @property
    def short(self) -> str:
        """The weight in few characters: "w=1.5", and after what schedule, if it does not stay."""
        return f"w={number_text(self.w)} {self.schedule}".rstrip()

    @property
    def moves(self) -> bool:
        """Whether D is moved anywhere: w = 1 is off."""
        return self.w != 1

    @property
    def stated(self) -> bool:
        """Whether it says how far by itself, so that another w beside it contradicts it."""
        return self.w != 1

    def check_use(self, sampler: Sampler, reference: "Reference") -> None:
        """ValueError if this weight makes no sense with the sampler or the reference."""

    @abstractmethod
    def off(self, step: StepInfo) -> bool:
        """Whether nothing is moved at this step. The reference is then not evaluated."""

    @abstractmethod
    def at(self, step: StepInfo, seen: Seen) -> "float | Tensor":
        """The weight at a step: a number, or a tensor that broadcasts over [N,C,H,W]."""

    def observe(self, done: Step, seen: Seen) -> None:
        """Look at where a step led, and keep in `seen.memory` what counts. seen: at the step's first evaluation."""


@dataclass(frozen=True)
class Scheduled(Weight):
    """A weight that depends on the step alone."""

    @abstractmethod
    def value(self, step: StepInfo) -> float:
        """The weight at a step."""

    def off(self, step: StepInfo) -> bool:
        return self.value(step) == 1

    def at(self, step: StepInfo, seen: Seen) -> float:
        return self.value(step)


class Call(Protocol):
    """One evaluation of the guided denoiser, as rules and references see it."""

    x: "Tensor"  # [N,C,H,W]
    sigma: float
    step: StepInfo
    labels: "list[int] | None"  # the class of each image; None without classes
    num_classes: int
    first: bool  # of the step; a corrector's is not
    memory: "dict[str, Tensor]"  # what the reference at work has kept of these images; empty at the first step

    @property
    def mix(self) -> "Tensor | None":
        """Of the main network's prediction here."""

    def main(self) -> "Tensor":
        """D of the main network here; evaluated once, however often it is asked for."""

    @property
    def gradient(self) -> "Tensor":
        """d(sum of D_m) / dx here [N,C,H,W], for rules that take it."""

    def guide(
        self, labels: "list[int] | None", x: "Tensor | None" = None, perturbed: Perturbation | None = None
    ) -> "Tensor":
        """D of the network that the guide at work names (the main one if it names none), here, for these classes.

        x: in the place of the call's own, such as a crop of it. perturbed: what the network computes otherwise.
        """

    def log_probs(self, x: "Tensor") -> "Tensor":
        """log p(class | x) [N, num_classes] of the classifier that the guide at work names, at this noise level."""

    def draw(self, purpose: str, high: int) -> list[int]:
        """An integer in [0, high) per image, by its seed and the purpose: no batch and no other draw changes it."""

    def normal(self, purpose: str, shape: Sequence[int]) -> "Tensor":
        """Unit normal [N, *shape] in the same way, in the dtype and on the device of x."""


class Reference(Spec):
    """What D is moved away from: a network, asked in some way.

    Attributes:
        of_main: Whether the main network itself may be asked.
        of_other: Whether the guide may name another network.
        of_classifier: Whether the guide names a classifier, whose gradient is the push. It moves D after the rule,
            which mixes networks, and after the clipping.
        needs_labels: Whether it makes sense for images with classes only.
        needs: What its network must support (`models.base.Model.supports`); empty = nothing.
        remembers: Whether it observes the main network at every step.
    """

    axis: ClassVar[str] = "reference"
    of_main: ClassVar[bool] = False
    of_other: ClassVar[bool] = True
    of_classifier: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    needs: ClassVar[str] = ""
    remembers: ClassVar[bool] = False

    def check_network(self, network: Perturbed) -> None:
        """ValueError, naming what is missing, for a network that it cannot ask."""
        if self.needs and self.needs not in network.supports:
            known = ", ".join(sorted(network.supports)) or "nothing"
            raise ValueError(
                f"the reference '{self}' needs a network that supports {self.needs}, and {network.source} supports "
                f"{known}: take another reference"
            )

    def evaluations(self) -> int:
        """How often a call evaluates its network."""
        return 1

    def other_labels(self, call: Call) -> list[int] | None:
        """The classes, if all that it does is to ask its network for other ones; asked once per call at most."""
        return None

    @abstractmethod
    def denoise(self, call: Call) -> "Tensor":
        """D of the reference [N,C,H,W]."""

    def push(self, call: Call) -> "Tensor":
        """D of the main network minus D of the reference [N,C,H,W]."""
        return call.main() - self.denoise(call)

    def observe(self, main: "Tensor", memory: "dict[str, Tensor]") -> None:
        """A step is made, whether its guide was on or not: keep what counts. Asked of those that remember.

        main: D of the main network at its start. memory: as `Call.memory`.
        """


class Acting(Protocol):
    """A guide that is on in a call."""

    @property
    def memory(self) -> "dict[str, Tensor]":
        """What the rule has kept of these images for this guide, under names of its own; empty at the first step."""

    def push(self) -> "Tensor":
        """D of the main network minus D of the reference [N,C,H,W]."""

    def weight(self, push: "Tensor") -> "float | Tensor":
        """Its weight here, given its push [N,C,H,W]: as `Weight.at`."""


class Rule(Spec):
    """How main and references make D.

    D = D_m + sum_i (w_i - 1) * shape(D_m - D_i), unless a kind overrides `denoise`.

    Attributes:
        takes_gradient: Whether it looks at `Call.gradient`. The main network must then let gradients through.
    """

    axis: ClassVar[str] = "rule"
    takes_gradient: ClassVar[bool] = False

    def check_shape(self, shape: Sequence[int]) -> None:
        """ValueError for what is denoised, (C, H, W) or [N,C,H,W], if the rule cannot shape its pushes."""

    def still(self, step: StepInfo) -> bool:
        """Whether D is made without any network at this step, and `guides` is empty.

        None is then evaluated, but the main one for what else looks at its D: a classifier that guides, an ancestral
        sampler, a reference that remembers.
        """
        return False

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        """What is made of a push before it is weighed. memory: of the guide, see `Acting`."""
        return push

    def denoise(self, call: Call, guides: Sequence[Acting]) -> "Tensor":
        """The guided D [N,C,H,W]; guides: those that are on, one at least, unless this step is `still`."""
        return moved(call.main(), call, guides, self.shape)


def moved(
    denoised: "Tensor",
    call: Call,
    guides: Sequence[Acting],
    shape: "Callable[[Tensor, Call, dict[str, Tensor]], Tensor]" = lambda push, call, memory: push,
) -> "Tensor":
    """D [N,C,H,W] moved along the push of every guide, by w - 1 times its shape."""
    for guide in guides:
        push = guide.push()
        denoised = denoised + (guide.weight(push) - 1) * shape(push, call, guide.memory)
    return denoised


def constant(w: float | Real) -> Weight:
    """The same weight at all steps."""
    return Weight.parse("constant").with_fields({"w": w})
