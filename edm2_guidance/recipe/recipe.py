"""The recipe of a set of images: everything that determines them, apart from the seeds. No torch here.

Two runs with the same recipe make the same image from the same seed. What only touches speed and last bits (batch,
threads, device model, versions) is not part of it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, cast

from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.around import Around, Leg, Program, planned_legs
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.files import ImageSet, Network, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Rule, Sampler, Schedule, StepInfo, planned
from edm2_guidance.recipe.prompts import Prompts, checked_prompts, prompts_json, prompts_sha256
from edm2_guidance.recipe.spec import Spec, canonical, chosen, coerced, digest, settle

MAX_SEED = 2**32 - 1  # generators take seeds modulo 2^32: larger ones would repeat images
LEAST_LEVEL = 1e-30  # of noise; the largest is as far above 1


LabelRule = Literal["random", "balanced", "none", "stored"] | int | ClassName
SeedRule = Literal["edm2", "figure"]
FORMAT = 2  # of recipes in files; 1 had samplers and weights as plain numbers


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an image but its seed.

    A network that enlarges small images has a `base`, which says where they come from: the image of each seed is that
    of the same seed, enlarged. `labels`, `prompts`, `seed_rule` and `noise_device` are those of both stages.

    Prompts are the classes of networks that take text: class n is prompt n, and labels are numbers as for others.
    """

    net: NetworkRef
    guides: tuple[Guide, ...] = ()
    num_steps: int = cast(int, None)  # None = as usual with the schedule: 32, or what it lists
    sampler: Sampler = field(default_factory=lambda: Sampler.parse("heun"))
    schedule: Schedule = field(default_factory=lambda: Schedule.parse("edm"))
    rule: Rule = field(default_factory=lambda: Rule.parse("linear"))
    dtype: Literal["float32", "float64"] = "float32"  # of the sampler's state
    # Drawn per seed | class = seed mod classes | no classes | as the stored base's images | this class, or its name.
    # With prompts, random stands for balanced: seed s gets prompt s mod their number.
    labels: LabelRule = "random"
    seed_rule: SeedRule = "edm2"  # the seed itself | hash of (class, seed), as in the interval paper's figures
    noise_device: str = "cpu"  # generators of CPU and CUDA give different noise for the same seed
    encoder: Mapping[str, Any] = field(default_factory=dict)  # what turns the sampler's result into pixels
    base: "ImageSet | Recipe | None" = None  # the images that the network enlarges: stored, or sampled with it
    around: tuple[Around, ...] = ()  # what else is done, in the order of the catalogue
    prompts: Prompts = ()  # of networks that take text

    if TYPE_CHECKING:  # as of `Guide`

        def __init__(
            self,
            net: Network,
            guides: "Guide | Sequence[Guide]" = (),
            num_steps: int | None = None,
            sampler: Sampler | str = "heun",
            schedule: Schedule | str = "edm",
            rule: "Rule | str | Callable[..., Any]" = "linear",
            dtype: Literal["float32", "float64"] = "float32",
            labels: LabelRule = "random",
            seed_rule: SeedRule = "edm2",
            noise_device: str = "cpu",
            encoder: Mapping[str, Any] = ...,
            base: "ImageSet | Recipe | None" = None,
            around: "Around | str | Sequence[Around | str]" = (),
            prompts: str | Sequence[str] | Prompts = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        settle(self, "net", NetworkRef.of)
        settle(self, "guides", _guides)
        for axis in (Sampler, Schedule, Rule):
            settle(self, axis.axis, partial(chosen, axis))
        settle(self, "around", _around)
        if self.num_steps is None:
            object.__setattr__(self, "num_steps", self.schedule.usual_steps)
        settle(self, "labels", _labels)
        settle(self, "prompts", checked_prompts)
        if self.prompts and isinstance(self.labels, int) and self.labels >= len(self.prompts):
            raise ValueError(f"class {self.labels}: prompts are the classes, 0 to {len(self.prompts) - 1}")
        for name, choices in (("dtype", Literal["float32", "float64"]), ("seed_rule", SeedRule)):
            coerced(name, getattr(self, name), choices)
        stored = self.base_of_all is not None
        if (self.labels == "balanced" and stored) or (self.labels == "stored" and not stored):
            why = "images that are stored keep their classes" if stored else "no stored images are enlarged"
            raise ValueError(f"labels '{self.labels}': {why}")
        if not isinstance(self.num_steps, Integral):
            raise ValueError(f"{self.num_steps!r} sampling steps: not an integer")
        settle(self, "num_steps", int)
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} sampling steps: at least 1 is needed")
        self._check_guides()
        if self.seed_rule == "figure" and not isinstance(self.labels, int):
            raise ValueError("figure seeds are hashed with the class: give a class (--class)")
        self._check_levels()
        self._check_around()
        self._check_still()

    def _check_guides(self) -> None:
        """ValueError for a weight that makes no sense where it stands, and for an interval of steps that are none."""
        for guide in self.guides:
            guide.weight.check_use(self.sampler, guide.reference)
            guide.check_alone(self.guides, self.rule)
            interval = guide.interval
            if guide.weight.remembers and (interval is not None or guide.of_classifier):
                what = "of a classifier" if guide.of_classifier else f"in an interval ({interval})"
                cure = "" if guide.of_classifier or not guide.weight.instead else f"; give it {guide.weight.instead}"
                kind = guide.weight.kind
                raise ValueError(f"the weight {kind} looks back at all steps: not for a guide {what}{cure}")
            if isinstance(interval, StepInterval) and interval.last >= self.num_steps:
                steps = "1 step" if self.num_steps == 1 else f"{self.num_steps} steps"
                raise ValueError(
                    f"guidance on {interval}, but sampling takes {steps} (0 to "
                    f"{self.num_steps - 1}); give the interval as noise levels, --guidance-sigma=LO,HI, "
                    "to use another number of steps"
                )

    def _check_levels(self) -> None:
        """ValueError for noise levels that do not fall, or whose squares are no numbers of a computer."""
        levels, said = self.levels(), f"the schedule {self.schedule.caption}"
        if not LEAST_LEVEL <= levels[-1] <= levels[0] <= 1 / LEAST_LEVEL:
            ends = f"at least {LEAST_LEVEL:g} and at most {1 / LEAST_LEVEL:g}"
            raise ValueError(f"{said} goes from {levels[0]:g} to {levels[-1]:g}: noise levels must be {ends}")
        if not all(a > b for a, b in itertools.pairwise(levels)):
            raise ValueError(f"{self.num_steps} steps of {said} are no falling noise levels: take fewer")

    def _check_around(self) -> None:
        """ValueError for what makes no sense around these guides and steps."""
        named = [each.kind for each in self.around]
        twice = [kind for kind in named if named.count(kind) > 1]
        if twice:
            raise ValueError(f"--around names {twice[0]} twice: once is enough")
        programs = [each.kind for each in self.around if isinstance(each, Program) and each.acts]
        if len(programs) > 1:
            raise ValueError(
                f"{' and '.join(programs)} each say which noise levels follow each other: take one of them"
            )
        for guide in self.guides if programs else ():
            said = f"{programs[0]} goes several ways from noise to data"
            if guide.weight.one_way:
                raise ValueError(f"{said}, and the weight {guide.weight.kind} is of a single one: take another")
            if isinstance(guide.interval, StepInterval):
                raise ValueError(f"{said}, whose steps no interval counts: give noise levels, --guidance-sigma=LO,HI")
        for each in self.around:
            each.check_use(self.sampler, self.steps())

    def _check_still(self) -> None:
        """ValueError for a rule that makes D without any network at every step; classifiers are beside the rule."""
        if all(guide.off or guide.of_classifier for guide in self.guides):
            return
        steps = self.steps()
        if all(step.guided and self.rule.still(step) for step in steps):
            raise ValueError(
                f"the rule {self.rule} stands still at all steps ({len(steps)}), and images would be noise that no "
                "network has seen: let fewer stand still, or take more"
            )

    def unusual(self, usual: "Recipe | None" = None) -> list[Spec]:
        """Schedule, sampler, rule and around, as far as they are not those of `usual`, by default EDM2's papers'.

        Without churn its settings do nothing.
        """
        usual = usual or Recipe(self.net)
        pairs = ((self.schedule, usual.schedule), (self.sampler, usual.sampler), (self.rule, usual.rule))
        samplers = (self.sampler, usual.sampler)
        idle = all(each.kind == "heun" and "S_churn" not in each.changed() for each in samplers)
        specs: list[Spec] = [spec for spec, common in pairs if spec != common and not (spec is self.sampler and idle)]
        return [*specs, *(each for each in self.around if each not in usual.around)]

    def unusual_text(self) -> str:
        """What is not as in the papers, in the words of the command line, comma-separated; empty if all is."""
        references = [str(guide.reference) for guide in self.guides if not guide.as_usual]
        schedules = [guide.weight.schedule for guide in self.guides if guide.weight.schedule]
        base = [] if self.base is None else [f"enlarges {self.base.name}"]
        others = [spec.caption for spec in self.unusual()]
        return ", ".join(dict.fromkeys([*references, *schedules, *others, *base]))

    def check_here(self) -> None:
        """ValueError if functions of the user's own are not here, or would do something else by now."""
        for part in (self.rule, *(guide.weight for guide in self.guides)):
            part.check_here()

    def levels(self) -> list[float]:
        """The noise levels that steps start from, falling."""
        return self.schedule.levels(self.num_steps)

    @property
    def name(self) -> str:
        """Of its main network."""
        return self.net.name

    @property
    def nets(self) -> list[NetworkRef]:
        """Its networks, the main one first, without those of the base."""
        return [self.net, *(guide.net for guide in self.guides if guide.net is not None)]

    @property
    def guide_nets(self) -> list[NetworkRef]:
        """The other networks that guide, without classifiers."""
        return [guide.net for guide in self.guides if guide.net is not None and not guide.of_classifier]

    @property
    def base_of_all(self) -> "ImageSet | None":
        """The stored images that the first of several stages enlarges, or that this one does."""
        return self.base.base_of_all if isinstance(self.base, Recipe) else self.base

    @property
    def sources(self) -> list[str]:
        """Where all networks are read from."""
        return [net.source for net in self.nets] + (self.base.sources if isinstance(self.base, Recipe) else [])

    def resolved(self) -> tuple["Recipe", list[str]]:
        """This recipe as it is stored and compared, and notes on snapped ends.

        Every interval is one of steps, but on legs, where those of noise levels stay as they are; and the two stages
        agree in what they share.
        """
        notes: list[str] = []
        guides = []
        for guide in self.guides:
            if isinstance(guide.interval, SigmaInterval) and self._program is not None:
                inside = any(step.guided and guide.interval.holds(step) for step in self.steps())
                notes += [] if inside else [f"guidance at {guide.interval} holds no sampling step: this guide is off"]
                guide = replace(guide, never=not inside)
            elif isinstance(guide.interval, SigmaInterval):
                steps, snapped = guide.interval.steps(self.levels())
                notes += [f"guidance at {guide.interval}: {note}" for note in snapped]
                if steps is None:
                    notes.append(f"guidance at {guide.interval} holds no sampling step: this guide is off")
                guide = replace(guide, interval=steps, never=steps is None)
            guides.append(guide)
        base, labels, prompts = self.base, self.labels, self.prompts
        if isinstance(base, Recipe):
            prompts = prompts or base.prompts
        if labels == "random" and isinstance(base, ImageSet):
            labels = "stored"
        elif labels == "random" and prompts and self.base_of_all is None:
            labels = "balanced"
        if isinstance(base, Recipe):
            base, more = replace(
                base, labels=labels, prompts=prompts, seed_rule=self.seed_rule, noise_device=self.noise_device
            ).resolved()
            notes += more
        return replace(self, guides=tuple(guides), base=base, labels=labels, prompts=prompts), notes

    def effective(self) -> "Recipe":
        """The same images by the shortest recipe: intervals as steps, without what is off, or a rule for no guides.

        An interval of all steps is none. A rule is of networks: classifiers alone need none.
        """
        around = tuple(each for each in self.around if each.acts)
        resolved, _ = replace(self, around=around).resolved()
        guides = tuple(
            replace(guide, interval=None) if resolved._is_everywhere(guide.interval) else guide
            for guide in resolved.guides
            if not guide.off
        )
        ruled = any(not guide.of_classifier for guide in guides)
        return replace(resolved, guides=guides, rule=self.rule if ruled else Rule.parse("linear"))

    def _is_everywhere(self, interval: StepInterval | SigmaInterval | None) -> bool:
        """Whether it holds all steps that may be guided, of a resolved recipe."""
        if isinstance(interval, SigmaInterval):
            return all(interval.holds(step) for step in self.steps() if step.guided)
        return interval == StepInterval(0, self.num_steps - 1)

    @property
    def _program(self) -> Program | None:
        """What says which levels follow each other, if anything does."""
        return next((each for each in self.around if isinstance(each, Program) and each.acts), None)

    def _legs(self) -> list[Leg]:
        if self._program is None:
            return [Leg((*self.levels(), 0.0))]
        return self._program.legs(self.schedule, self.num_steps)

    def steps(self) -> list[StepInfo]:
        """All steps, leg after leg, as the sampler makes them."""
        levels = self.levels()
        return (
            planned(self.sampler, levels) if self._program is None else planned_legs(self.sampler, self._legs(), levels)
        )

    def evaluations(self) -> dict[str, int]:
        """Network evaluations that one image takes, of a resolved recipe: of "main", each "guide N" or "classifier N".

        What a reference asks of the main network counts there. A guide that is off takes 0, and so does one where an
        earlier one asks the same. A classifier's are with their gradient; "main gradient" is how many of the main
        network's are, for a rule that takes it. Those of a base that is sampled follow, of "base main" and so on.
        """
        steps, calls = self.steps(), [count for leg in self._legs() for count in leg.evaluations(self.sampler)]
        counts = {"main": sum(map(self._of_main, steps, calls))}
        for number, guide in enumerate(self.guides, start=1):
            same = [each for each in self.guides[: number - 1] if each.asks == guide.asks]
            asked = guide.reference.evaluations() * sum(
                count
                for step, count in zip(steps, calls, strict=True)
                if guide.on(step) and (guide.of_classifier or not self.rule.still(step))
                if not any(each.on(step) for each in same)
            )
            name = "main" if guide.net is None else guide.role(number)
            counts[name] = counts.get(name, 0) + asked
        if self.rule.takes_gradient:
            counts["main gradient"] = sum(
                count
                for step, count in zip(steps, calls, strict=True)
                if any(guide.on(step) and not guide.of_classifier for guide in self.guides)
            )
        return counts | (of_base(self.base.evaluations()) if isinstance(self.base, Recipe) else {})

    def _of_main(self, step: StepInfo, calls: int) -> int:
        """How many of the evaluations of D at a step ask for D of the main network: see `Rule.still`."""
        of_classifiers = {guide.of_classifier for guide in self.guides if guide.on(step)}
        if of_classifiers != {False} or not self.rule.still(step) or self.sampler.ancestral:
            return calls
        return min(calls, 1) if any(guide.reference.remembers for guide in self.guides) else 0

    def to_json(self) -> dict[str, Any]:
        """Plain data for recipe.json and the ledger, in which every choice is the text of the command line."""
        recipe, _ = self.resolved()
        return {
            "format": FORMAT,
            "net": recipe.net.to_json(),
            "guides": [guide.to_json() for guide in recipe.guides],
            "rule": str(recipe.rule),
            "sampler": str(recipe.sampler),
            "schedule": str(recipe.schedule),
            "num_steps": recipe.num_steps,
            "dtype": recipe.dtype,
            "labels": recipe.labels,
            "seed_rule": recipe.seed_rule,
            "noise_device": recipe.noise_device,
            "encoder": canonical(recipe.encoder),
            **({} if recipe.base is None else {"base": _base_json(recipe.base)}),
            **({} if not recipe.around else {"around": [str(each) for each in recipe.around]}),
            **({} if not recipe.prompts else {"prompts": prompts_json(recipe.prompts)}),
        }

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of what determines the images: files count by their content, not by their name."""
        return digest(self.canonical())

    def canonical(self) -> dict[str, Any]:
        """What is hashed: of the effective recipe, without what is at its default, so that new fields move no hash."""
        recipe = self.effective()
        plain = {
            "num_steps": recipe.num_steps, "dtype": recipe.dtype, "labels": recipe.labels,
            "seed_rule": recipe.seed_rule, "noise_device": recipe.noise_device, "encoder": recipe.encoder,
        }  # fmt: skip
        defaults: dict[str, Any] = {
            "num_steps": None, "dtype": "float32", "labels": None, "seed_rule": "edm2", "noise_device": None,
            "encoder": {},
        }  # fmt: skip
        return {
            "net": recipe.net.canonical(),
            "guides": [guide.canonical() for guide in recipe.guides],
            "sampler": recipe.sampler,
            "schedule": recipe.schedule,
            **({} if recipe.rule == Rule.parse("linear") else {"rule": recipe.rule}),
            **({} if recipe.base is None else {"base": recipe.base.canonical()}),
            **({} if not recipe.around else {"around": recipe.around}),
            **({} if not recipe.prompts else {"prompts": prompts_sha256(recipe.prompts)}),
            **{name: value for name, value in plain.items() if value != defaults[name]},
        }


def _base_json(base: "ImageSet | Recipe") -> dict[str, Any]:
    """Plain data of a base, without the prompts that both stages share."""
    return (replace(base, prompts=()) if isinstance(base, Recipe) else base).to_json()


def _around(given: Any) -> tuple[Around, ...]:
    """None, one or several, or the text of them, in the order of the catalogue."""
    parts = [given] if isinstance(given, Around) else given
    if isinstance(given, str):
        parts = given.split(",") if given else ()
    known = catalog.kinds(Around.axis)
    return tuple(sorted((chosen(Around, each) for each in parts), key=lambda each: known.index(each.kind)))


def _labels(given: Any) -> Any:
    """The rule of labels. ValueError for what is none."""
    if isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= 0:
        return int(given)
    if isinstance(given, ClassName) or given in ("random", "balanced", "none", "stored"):
        return given
    raise ValueError(f"labels '{given}': write random, balanced, none or a class of 0 or more")


def _guides(given: Any) -> tuple[Guide, ...]:
    """One guide, or several."""
    guides = (given,) if isinstance(given, Guide | str) else tuple(given)
    for guide in guides:
        if not isinstance(guide, Guide):
            raise ValueError(f"{guide!r} is no guide: write Guide(NETWORK, WEIGHT)")
    return guides


def of_base(counts: Mapping[str, int]) -> dict[str, int]:
    """What was counted of a base, beside what is counted of the network that enlarges its images."""
    return {f"base {name}": count for name, count in counts.items()}
