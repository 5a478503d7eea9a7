"""From the ledger's lines of searches to the papers' plots: which scores belong on one curve. Pure, no torch here."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dnnlib.inference import precision_words
from dnnlib.terminal import counted
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.uncertainty import Interval, interval_of, mean_interval
from edm2_guidance.papers.plots import Curve, Intervals, Panel
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.prompts import prompts_sha256
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe

Record = Mapping[str, Any]
Key = tuple[tuple[str, float], ...]


#: By kind of plot: the parameters that a search must have varied, and how to call them.
_AXES = {
    "weight": ("weight",), "scale": ("scale",), "alpha": ("alpha",), "interval": ("first", "last"), "ema": ("ema",),
}  # fmt: skip
WORDS = {
    "weight": "the weight", "scale": "the classifier's scale", "alpha": "the blend", "interval": "the interval",
    "ema": "the EMA lengths",
}  # fmt: skip
#: The x axis of kinds that show several searches.
XLABELS = {"weight": "guidance weight w", "scale": "scale of the classifier", "alpha": "alpha of the blend"}
#: Kinds that show one search.
ALONE = ("interval", "ema")
#: How a parameter of a point is said.
_SHORT = {"weight": "w"}


class Scores:
    """The scores of one search, at one number of images: those seed blocks of each point that all points have.

    Blocks differ by more than neighbours of one block do, so a point that was repeated (the best) is compared by the
    blocks that the others have too.

    records: lines of a ledger; those of other searches, and of other numbers of images, are passed over. metric: None
    for that by which the search was. ValueError, naming the searches that are there, if none is left.
    """

    def __init__(self, records: Sequence[Record], name: str, num_images: int, metric: str | None = None) -> None:
        self.name = name
        tagged = [record for record in records if is_of(record, name, metric)]
        found: dict[Key, dict[str, Record]] = {}
        self.recipe: Mapping[str, Any] = {}
        fixed: set[str] = set()  # what is not searched, and so is the same in all
        guided: dict[bool, set[str]] = {False: set(), True: set()}  # by networks, by a classifier
        for record in tagged:
            if record.get("num_images") == num_images:
                blocks = found.setdefault(tuple(sorted(record["search"]["point"].items())), {})
                blocks[str(record["images"]["seeds"])] = record
                self.recipe = record["recipe"]
                recipe = read_recipe(self.recipe)
                fixed.add(_fixed(record, recipe))
                for of_classifier, kinds in guided.items():
                    guides = tuple(guide for guide in recipe.guides if guide.of_classifier is of_classifier)
                    if guides:  # at w = 1 there are none
                        kinds.add(replace(recipe, guides=guides).effective().unusual_text() or "as usual")
        for kinds in (fixed, *guided.values()):
            if len(kinds) > 1:
                raise ValueError(
                    f"the search '{name}' holds scores of different recipes ({' | '.join(sorted(kinds))}), which "
                    "make no curve together: give each search its own --name"
                )
        seen = set[str]().union(*found.values())
        common = seen.intersection(*found.values()) or seen
        self._lines = {
            key: [record for seeds, record in blocks.items() if seeds in common] for key, blocks in found.items()
        }
        self.points = {key: [record["value"] for record in lines] for key, lines in self._lines.items()}
        if not self.points:
            known = sorted({f"{r['search']['name']} ({r['num_images']} images)" for r in records if r.get("search")})
            by = "" if metric is None else f" by {metric}"
            raise ValueError(
                f"no search '{name}' at {num_images} images{by} in the ledger; there: {', '.join(known) or '-'}"
            )
        self._total, self._counted = len(tagged), sum(r.get("num_images") == num_images for r in tagged)
        self._drawn: set[Key] = set()

    @property
    def kind(self) -> str:
        """The kind of plot that shows several searches and fits this one; the first, if none does."""
        varied = {key for point in self.points for key, _ in point}
        return next((kind for kind in XLABELS if varied.issuperset(_AXES[kind])), next(iter(XLABELS)))

    def require(self, kind: str) -> None:
        """ValueError, saying which plots there are, if the search did not vary what a plot of this kind shows."""
        varied = {key for point in self.points for key, _ in point}
        if not varied.issuperset(_AXES.get(kind, (kind,))):
            others = [f"--kind={other}" for other, axes in _AXES.items() if varied.issuperset(axes)]
            raise ValueError(
                f"the search '{self.name}' did not vary {WORDS.get(kind, kind)}; "
                + (f"{' or '.join(others)} fits it" if others else "no --kind fits it")
            )

    @property
    def kinds(self) -> list[str]:
        """The plots of what takes several values; of what has none of its own, its parameter's name."""
        values: dict[str, set[float]] = {}
        for key, value in itertools.chain(*self.points):
            values.setdefault(key, set()).add(value)
        of = {key: kind for kind, keys in _AXES.items() for key in (*keys, *(f"guide_{key}" for key in keys))}
        return list(dict.fromkeys(of.get(key, key) for key, found in values.items() if len(found) > 1))

    def best(self, **fixed: float) -> dict[str, float]:
        """The point with the best mean, among those that have these values. ValueError if none has."""
        matching: list[Key] = [key for key in self.points if fixed.items() <= dict(key).items()]
        if not matching:
            where = ", ".join(f"{key} = {value:g}" for key, value in fixed.items())
            raise ValueError(f"the search '{self.name}' holds no score at {where}")
        best_of = max if self.higher else min
        return dict(best_of((self._mean(key), key) for key in matching)[1])

    @property
    def higher(self) -> bool:
        """Whether higher scores are better."""
        (first, *_), *_ = self._lines.values()
        return find_metric(first["metric"]).measure.better == "higher"

    def _mean(self, key: Key) -> float:
        values: list[float] = self.points[key]
        return sum(values) / len(values)

    def along(self, axis: str, at: Mapping[str, float]) -> dict[float, list[float]]:
        """Scores against `axis`, every other parameter as in the point `at`."""
        keys = self._keys_along(axis, at)
        self._drawn.update(keys.values())
        return {x: list(self.points[key]) for x, key in keys.items()}

    def intervals_along(self, axis: str, at: Mapping[str, float]) -> dict[float, Interval]:
        """The intervals of the means of `along`, where the ledger's lines hold them."""
        lines = self.lines_along(axis, at)
        known = {x: mean_interval(each) for x, each in lines.items() if all(map(interval_of, each))}
        return {x: interval for x, interval in known.items() if interval is not None}

    def lines_along(self, axis: str, at: Mapping[str, float]) -> dict[float, list[Record]]:
        """The ledger's lines of `along`."""
        return {x: self._lines[key] for x, key in self._keys_along(axis, at).items()}

    def _keys_along(self, axis: str, at: Mapping[str, float]) -> dict[float, Key]:
        others = {name: value for name, value in at.items() if name != axis}
        points = ((dict(key), key) for key in self.points)
        return {point[axis]: key for point, key in points if axis in point and point == {**others, axis: point[axis]}}

    def left_out(self) -> tuple[str, ...]:
        """How many scores of the search are on none of the curves so far, and why; nothing if all are."""
        used, drawn = (sum(len(self.points[key]) for key in keys) for keys in (self.points, self._drawn))
        reasons = {
            "of other numbers of images": self._total - self._counted,
            "of seeds that not all points have, or scored again": self._counted - used,
            "away from the best in what is not on the axis": used - drawn,
        }
        said = ", ".join(f"{count} {why}" for why, count in reasons.items() if count > 0)
        left = self._total - drawn
        return (
            (f"{self.name}: {left} of {counted(self._total, 'score')} are on none of its curves: {said}",)
            if said
            else ()
        )


def is_of(record: Record, name: str, metric: str | None) -> bool:
    """Whether a line is of a search, and by this metric; None for that by which the search was."""
    search = record.get("search") or {}
    wanted = metric or search.get("metric")
    return search.get("name") == name and wanted in (None, record.get("metric"))


def _fixed(record: Record, recipe: Recipe) -> str:
    """What all scores of a search share, in words."""
    reference = record.get("reference") or {}
    against = f"{str(reference.get('source')).rsplit('/', 1)[-1]} {str(reference.get('sha256'))[:8]}"
    made = f"{counted(recipe.num_steps, 'step')} of {recipe.sampler} over {recipe.schedule} in {recipe.dtype}"
    score, more = f"{record['metric']} against {against}", f"labels {recipe.labels}, noise from {recipe.noise_device}"
    prompts = f"prompts {prompts_sha256(recipe.prompts)[:8]}" if recipe.prompts else ""
    return ", ".join(filter(None, [score, made, more, prompts, precision_words(record["images"])]))


def panels(
    records: Sequence[Record], names: Sequence[str], num_images: int, kind: str, metric: str | None = None
) -> list[Panel]:
    """The panels of a plot of this kind, of these searches; of one, if it is among `ALONE`. ValueError as of each.

    metric: as of `value_panel`; the others are of that by which the search was.
    """
    if kind == "interval":
        return interval_panels(records, names[0], num_images)
    if kind == "ema":
        return [ema_panel(records, names[0], num_images)]
    return [value_panel(records, names, num_images, kind, metric)]


def value_panel(
    records: Sequence[Record], names: Iterable[str], num_images: int, kind: str = "weight", metric: str | None = None
) -> Panel:
    """Score against the weight, a classifier's scale, a blend's alpha or any other value, all else at its best.

    A curve per search, as arXiv 2406.02507, Fig. 7. metric: of the scores, as of `Scores`; the best is that of the
    search. This and the other panels raise ValueError if the search is not in the ledger or did not vary what is drawn.
    """
    curves: dict[str, Curve] = {}
    intervals: dict[str, Intervals] = {}
    notes: list[str] = []
    higher = False
    for name in names:
        best = Scores(records, name, num_images).best()
        scores = Scores(records, name, num_images, metric)
        scores.require(kind)
        higher = scores.higher
        curves[name], intervals[name] = scores.along(kind, best), scores.intervals_along(kind, best)
        notes += scores.left_out()
    return Panel(curves, XLABELS.get(kind, kind), notes=tuple(notes), intervals=intervals, higher=higher)


def interval_panels(records: Sequence[Record], name: str, num_images: int) -> list[Panel]:
    """Score against the interval's upper end, the lower one open, and against the lower end at the best upper one.

    As arXiv 2404.07724, Fig. 5, in the cheap order of its section 4.2; or, where the upper end was swept at the best
    lower one, as the figure has it. Open ends are drawn at the schedule's ends.
    """
    scores = Scores(records, name, num_images)
    scores.require("interval")
    levels = read_recipe(scores.recipe).levels()
    panels = []
    for axis, at, places, end, other in (
        ("first", _lower_end(scores, len(levels) - 1), levels, "upper", "lower"),
        ("last", scores.best(), [*levels[1:], levels[-1]], "lower", "upper"),
    ):
        curve = {places[int(x)]: y for x, y in scores.along(axis, at).items()}
        known = {places[int(x)]: interval for x, interval in scores.intervals_along(axis, at).items()}
        sigmas = StepInterval(int(at["first"]), int(at["last"])).sigmas(levels)
        stays, is_open = (sigmas.lo, sigmas.lo == 0) if other == "lower" else (sigmas.hi, at["first"] == 0)
        fixed = [f"{other} end {'open' if is_open else f'at sigma {stays:.3g}'}", *_said(at, ("first", "last"))]
        xlabel = f"{end} end of the interval, sigma"
        panels.append(Panel({name: curve}, xlabel, True, (), {name: known}, scores.higher, ", ".join(fixed)))
    return [panels[0], replace(panels[1], notes=scores.left_out())]


def _lower_end(scores: Scores, open_end: int) -> dict[str, float]:
    """The best point at an open lower end, or the best of all, whichever has more scores along the upper end."""
    best = scores.best()
    try:
        opened = scores.best(last=open_end)
    except ValueError:
        return best
    return max(opened, best, key=lambda at: len(scores.lines_along("first", at)))


def _said(point: Mapping[str, float], but: Iterable[str]) -> list[str]:
    """Parameters of a point as a caption says them, but those."""
    return [f"{_SHORT.get(key, key)} = {value:g}" for key, value in point.items() if key not in but]


def ema_panel(records: Sequence[Record], name: str, num_images: int) -> Panel:
    """Score against the EMA length of the main network and of the guide, each at the other's best

    (arXiv 2406.02507, Fig. 3c).
    """
    scores = Scores(records, name, num_images)
    scores.require("ema")
    best = scores.best()
    words = {"ema": "main network", "guide_ema": "guide"}
    curves, known = {}, {}
    for axis, word in words.items():
        if axis in best:
            others = [f"{words[other]} at {best[other]:g}" for other in words if other in best and other != axis]
            label = " (".join([word, *others]) + ")" * len(others)
            curves[label], known[label] = scores.along(axis, best), scores.intervals_along(axis, best)
    fixed = ", ".join(_said(best, words))
    return Panel(curves, "EMA length, sigma_rel", False, scores.left_out(), known, scores.higher, fixed)
