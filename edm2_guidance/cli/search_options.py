"""The options of reproduce.py's search, and the recipe that a point of a search stands for. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click

from dnnlib.places import find_file
from dnnlib.terminal import counted
from edm2_guidance.cli.intervals import EVERYWHERE
from edm2_guidance.cli.lists import FloatList
from edm2_guidance.cli.option_group import COUNT, OptionGroup, option
from edm2_guidance.cli.progress import Agenda
from edm2_guidance.cli.recipe_args import GuideDefaults, check_no_scale, check_no_weight
from edm2_guidance.cli.recipe_options import NetworkOptions
from edm2_guidance.cli.say import detail, say
from edm2_guidance.cli.start import as_started
from edm2_guidance.metrics.catalog import value_text
from edm2_guidance.papers.search import Axis
from edm2_guidance.recipe.describe import labels_text
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import ema_of, field_of, with_ema

# What can be searched beside fields; see `SearchOptions.stages`.
PARAMETERS = ("weight", "interval", "first", "last", "ema", "alpha", "scale")

_WEIGHTS = "1,1.05,...,3.5"  # the grids of arXiv 2406.02507, App. B
_EMAS = "0.010,0.015,...,0.250"


class SearchOptions(OptionGroup, heading="Search"):
    """What is searched, on which grids."""

    over: str = option(
        f"What to search, one after the other: of {', '.join(PARAMETERS)} (first, last: one end of the interval), or a "
        "field of rule, weight, around, sampler or schedule, or of your function; one may come twice",
        metavar="LIST",
        required=True,
        first=True,
    )
    weights: list[float] = option("Grid", type=FloatList(), default=_WEIGHTS, first=True)
    emas: list[float] = option("Grid", type=FloatList(), default=_EMAS)
    alphas: list[float] = option("Grid", type=FloatList(), default="0,0.1,...,1")
    scales: list[float] = option("Grid, of a classifier", type=FloatList(), default="0,0.5,...,10")
    values: list[float] | None = option("Grid of a field", type=FloatList())
    stride: int = option("The coarse pass takes every INT-th value; 1 = all values", type=COUNT, default=8)

    @property
    def parameters(self) -> list[str]:
        """What --over names, in order."""
        return [name.strip() for name in self.over.split(",")]

    def varied(self, networks: NetworkOptions) -> GuideDefaults:
        """What a guide need not be given, since it is searched. A usage error for a weight that this would forget."""
        names = self.parameters
        if names[0] == "weight":
            check_no_weight(networks, f"--over={self.over}")
        if names[0] == "scale":
            check_no_scale(networks, f"--over={self.over}")
        weight, scale = (usual if name in names else None for name, usual in (("weight", 1.0), ("scale", 0.0)))
        return GuideDefaults(weight, EVERYWHERE if "interval" in names else None, scale)

    def stages(self, recipe: Recipe) -> list[list[Axis]]:
        """The stages of --over: the interval's upper end before its lower, both EMA lengths at once. Usage errors."""
        steps, emas = tuple(range(recipe.num_steps)), tuple(self.emas)
        guided = [Axis("ema", emas), *([Axis("guide_ema", emas)] if recipe.guide_nets else [])]
        of_networks = [guide for guide in recipe.guides if not guide.of_classifier]
        known = {
            "weight": [[Axis("weight", tuple(self.weights))]],
            "interval": [[Axis("first", steps)], [Axis("last", steps[::-1])]],
            "first": [[Axis("first", steps)]],
            "last": [[Axis("last", steps[::-1])]],
            "ema": [guided],
            "alpha": [[Axis("alpha", tuple(self.alphas))]],
            "scale": [[Axis("scale", tuple(self.scales))]],
        }
        stages: list[list[Axis]] = []
        for name in self.parameters:
            if name not in known and self.values is not None:
                field_of(recipe, name)
                known[name] = [[Axis(name, tuple(self.values))]]
            if name not in known:
                fields = "; fields of rule, weight, around, sampler or schedule need --values"
                raise click.UsageError(f"--over={self.over}: '{name}' is not one of {', '.join(PARAMETERS)}{fields}")
            if name == "scale" and len(of_networks) == len(recipe.guides):
                raise click.UsageError("--over=scale is of a classifier: give --classifier")
            if name in ("weight", "alpha") and not of_networks and recipe.guides:
                raise click.UsageError(f"--over={name} is of guiding networks; that of a classifier is --over=scale")
            if name in PARAMETERS and name != "ema" and not recipe.guides:
                raise click.UsageError(
                    f"--over={name}: {recipe.net.name} has no guide; name a --preset that has, --gnet or --reference"
                )
            if name == "alpha" and len(of_networks) != 2:
                raise click.UsageError("--over=alpha blends two guides: give two, the unconditional one first")
            stages += known[name]
        return stages


def search_text(recipe: Recipe, stages: list[list[Axis]], stride: int) -> list[str]:
    """What stays as it is, and what is tried, in the order in which it is; a line each."""
    axes = [axis for stage in stages for axis in stage]
    names = {axis.name for axis in axes}
    fixed = [recipe.net.name]
    for guide in recipe.guides:
        parts = [f"guided by {guide.name}"]
        if not names & ({"scale"} if guide.of_classifier else {"weight", "alpha"}):
            parts.append(f"{guide.strength.split(' (')[0]}")
        if not names & {"first", "last"}:
            parts.append("at all steps" if guide.interval is None else f"at {guide.interval}")
        fixed.append(", ".join(parts))
    fixed += [
        counted(recipe.num_steps, "step"),
        *filter(None, [recipe.unusual_text()]),
        f"labels: {labels_text(recipe)}",
    ]
    if "ema" in names:
        fixed.append("the EMA lengths in these names are what is tried")
    tried = [
        f"{axis.name} {axis.values[0]:g} to {axis.values[-1]:g} ({counted(len(axis.values), 'value')})" for axis in axes
    ]
    first = "all of them" if stride == 1 else f"every {_ordinal(stride)} first, then finer around the best"
    return [f"fixed: {'; '.join(fixed)}", f"tried: {', then '.join(tried)}; {first}"]


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{ending}"


def start_of(recipe: Recipe, stages: list[list[Axis]]) -> dict[str, float]:
    """The recipe's own values of the parameters that are searched; an interval is searched from all steps on.

    Of one end alone, the other stays as the recipe has it, and is a parameter too.
    """
    extra = [other.weight.w - 1 for other in recipe.guides if not other.of_classifier]
    names = {axis.name for axes in stages for axis in axes}
    interval = StepInterval(0, recipe.num_steps - 1)
    if len(names & {"first", "last"}) == 1:
        names |= {"first", "last"}
        known = [guide.interval for guide in recipe.resolved()[0].guides]
        interval = next((each for each in known if isinstance(each, StepInterval)), interval)
    values: dict[str, Callable[[], float]] = {
        "weight": lambda: 1 + sum(extra),
        "first": lambda: interval.first,
        "last": lambda: interval.last,
        "ema": lambda: ema_of(recipe.net),
        "guide_ema": lambda: ema_of(recipe.guide_nets[0]),
        "alpha": lambda: extra[1] / sum(extra) if sum(extra) != 0 else 0.5,
        "scale": lambda: sum(other.scale for other in recipe.guides if other.of_classifier),
    }
    if "alpha" in names:
        names.add("weight")
    others = {name: field_of(recipe, name) for name in sorted(names - {*values})}
    return {name: values[name]() for name in values if name in names} | others


_SHOWN = 6  # points


@dataclass
class SearchTeller:
    """What a search says as it goes: its plan and progress on stderr, its results on stdout; all by one process only.

    expected: points to come, about.
    """

    metric: str
    num: int
    expected: int
    agenda: Agenda
    speaks: bool
    points: int = 0

    def plan(self, text: str, details: Sequence[str] = ()) -> None:
        if self.speaks:
            say(text)
            for each in details:
                detail(each)

    def begin(self, point: Mapping[str, float]) -> None:
        """The next point is at work."""
        self.points += 1
        if self.points > self.expected:
            self.agenda.total += self.num
        self.agenda.begin(self.num)
        most = max(self.points, self.expected)
        self.plan(f"point {self.points} of about {most}: {_point_text(point)}{self.agenda.left_of_all()}")

    def block(self, number: int, blocks: int, num: int) -> None:
        """The best point is at work in block `number`, from 0, of `blocks`."""
        if number == 0:
            self.agenda.total += min(0, self.points - self.expected) * self.num
        self.agenda.begin(num)
        self.plan(f"block {number + 1} of {blocks} at the best point{self.agenda.left_of_all()}")

    def score(self, point: Mapping[str, float], value: float) -> None:
        self.result(f"{_point_text(point)}  {self.metric} {value_text(self.metric, value)}")

    def near(self, points: Sequence[Mapping[str, float]]) -> None:
        """The points, best first, whose scores are not told from the best."""
        if points:
            more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
            self.result(f"within noise of it: {'; '.join(map(_point_text, points[:_SHOWN]))}{more}")

    def result(self, text: str) -> None:
        if self.speaks:  # every process of a launch comes to the same end
            click.echo(as_started(text))


def _point_text(point: Mapping[str, float]) -> str:
    return "  ".join(f"{key} {number:g}" for key, number in point.items())


def missing_files(recipe: Recipe, stages: list[list[Axis]]) -> list[str]:
    """Network files that a search over EMA lengths would name, and that are not there (URLs are not asked)."""
    files: list[str] = []
    nets = {"ema": [recipe.net], "guide_ema": recipe.guide_nets}
    for axis in (axis for axes in stages for axis in axes if axis.name in nets):
        files += [with_ema(net, value).source for net in nets[axis.name] for value in axis.values]
    return [file for file in dict.fromkeys(files) if "://" not in file and not find_file(file).is_file()]
