"""All that the lines of a ledger can be drawn as: its searches, scores against counts of images, precision and recall.

A drawing is named by what is on its y axis. No torch here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dnnlib.inference import precision_words
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.uncertainty import Interval, mean_interval
from edm2_guidance.papers import curves
from edm2_guidance.papers.curves import Record
from edm2_guidance.papers.plots import Panel
from edm2_guidance.papers.report import images_key
from edm2_guidance.recipe.describe import DETAILS, describe_recipe
from edm2_guidance.recipe.parts import Rule
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe

Drawing = tuple[str, Panel]


def recipe_of(record: Record) -> Recipe | None:
    """How a line's images were made; None if that is unknown, or another program's."""
    try:
        return read_recipe(record.get("recipe") or {})
    except ValueError:
        return None


def name_of(record: Record) -> str:
    """The metric of a line, with the number of images."""
    return str(record.get("name") or record["metric"])


def searches(records: Iterable[Record]) -> tuple[list[Drawing], list[str]]:
    """Curves of every search along all that it varied, those along one axis together; and why others are none."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.get("search") and (record.get("images") or {}).get("seeds") and recipe_of(record) is not None:
            groups.setdefault((name_of(record), _reference(record)), []).append(record)
    found: list[Drawing] = []
    problems: list[str] = []
    for (name, _), lines in groups.items():
        num = lines[0].get("num_images")
        for kind, together in _axes(lines, num, problems):
            try:
                found += [(name, panel) for panel in curves.panels(lines, together, num, kind)]
            except ValueError as error:
                problems.append(str(error))
    return found, list(dict.fromkeys(problems))


def _axes(lines: Sequence[Record], num: int | None, problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """What was varied, and the names of the searches that did, as far as one picture shows several."""
    by_kind: dict[str, list[str]] = {}
    for name in dict.fromkeys(line["search"]["name"] for line in lines):
        try:
            kinds = curves.Scores(lines, name, num).kinds
        except ValueError as error:
            problems.append(str(error))
            continue
        for kind in kinds:
            by_kind.setdefault(kind, []).append(name)
    for kind, names in by_kind.items():
        yield from ((kind, [name]) for name in names) if kind in curves.ALONE else [(kind, names)]


def convergence(records: Iterable[Record]) -> list[Drawing]:
    """Scores against the number of images, a curve for each way of making them that has several counts."""
    groups: dict[tuple[str, str], dict[str, dict[int, list[Record]]]] = {}
    for record in _once(records):
        metric, made = (str(record["metric"]), _reference(record)), _made(record)
        if record.get("num_images") is not None and made is not None:
            counts = groups.setdefault(metric, {}).setdefault(made, {})
            counts.setdefault(record["num_images"], []).append(record)
    found = []
    for (metric, _), ways in groups.items():
        several = {made: counts for made, counts in ways.items() if len(counts) > 1}
        named = dict(zip(labels([next(iter(c.values()))[0] for c in several.values()]), several.values(), strict=True))
        if named:
            scores = {name: {n: [r["value"] for r in lines] for n, lines in c.items()} for name, c in named.items()}
            ends = {name: {n: mean_interval(lines) for n, lines in c.items()} for name, c in named.items()}
            known = {name: {n: end for n, end in its.items() if end is not None} for name, its in ends.items()}
            found.append((metric, Panel(scores, "number of images", True, intervals=known)))
    return found


def _once(records: Iterable[Record]) -> Iterator[Record]:
    """Of several scores of the same images the first."""
    seen = set()
    for record in records:
        key = record["metric"], _reference(record), record.get("num_images"), images_key(record)
        if key not in seen:
            seen.add(key)
            yield record


def _made(record: Record) -> str | None:
    """What tells ways of making images apart: the recipe and precision, or else the content of a set."""
    images = record.get("images") or {}
    if record.get("recipe_hash") is not None:
        return f"{record['recipe_hash']} {precision_words(images)}"
    content = images.get("sha256") or images.get("content_sha256")
    return None if content is None else str(content)


def _reference(record: Record) -> str:
    reference = record.get("reference") or {}
    return str(reference.get("sha256") or reference.get("source"))


def labels(records: Sequence[Record]) -> list[str]:
    """How the images of each were made, in words that differ."""
    for also in ((), tuple(DETAILS)):
        found = [_words(record, also) for record in records]
        if len(set(found)) == len(found):
            break
    return [f"{words} ({number})" if found.count(words) > 1 else words for number, words in enumerate(found, start=1)]


def _words(record: Record, also: Sequence[str] = ()) -> str:
    words = describe_recipe(record.get("recipe"), also)
    return str((record.get("images") or {}).get("path")) if words == "-" else words


@dataclass(frozen=True)
class Tradeoff:
    """Precision and recall of the same images: means over blocks of seeds, and their intervals if these are known.

    weights: of the guides; none of images that no guide helped to make.
    """

    weights: tuple[float, ...]
    precision: float
    recall: float
    of_precision: Interval | None
    of_recall: Interval | None


def tradeoffs(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, list[Tradeoff]]]:
    """By names of precision and recall: of every method, over its weights, what both are.

    A method is what is left of a recipe without the weights of its guides; images that no guide helped to make are the
    beginning of all methods of their network. As arXiv 1904.06991, Fig. 4, over w in place of truncation.
    """
    found: dict[tuple[str, str], dict[str, _Method]] = {}
    recalls = {_pair(record): record for record in _once(records) if _kind(record) == "recall"}
    for record in (record for record in _once(records) if _kind(record) == "precision"):
        other, recipe = recalls.get(_pair(record)), recipe_of(record)
        if other is not None and recipe is not None:
            bare, weights = _without_weights(recipe)
            methods = found.setdefault((name_of(record), name_of(other)), {})
            method = methods.setdefault(bare.hash, _Method(bare, {}))
            method.blocks.setdefault(weights, []).append((record, other))
    return {names: dict(_curves(methods)) for names, methods in found.items()}


@dataclass(frozen=True)
class _Method:
    """A recipe without weights, and by weights the lines of precision and recall."""

    recipe: Recipe
    blocks: dict[tuple[float, ...], list[tuple[Record, Record]]]

    @property
    def words(self) -> str:
        guides = [guide.name + (f" {guide.interval}" if guide.interval else "") for guide in self.recipe.guides]
        return ", ".join([" + ".join([self.recipe.name, *guides]), *map(str, self.recipe.unusual())])


def _kind(record: Record) -> str:
    try:
        return find_metric(str(record["metric"])).measure.kind
    except ValueError:  # of another version
        return ""


def _pair(record: Record) -> tuple[str, ...]:
    """What precision and recall of the same images, to be shown together, have in common."""
    metric = str(record["metric"]).replace("recall", "precision")
    return metric, _reference(record), str(record.get("num_images")), str(images_key(record))


def _without_weights(recipe: Recipe) -> tuple[Recipe, tuple[float, ...]]:
    """A recipe whose guides have all the same weight, one at which none is off, and their weights."""
    recipe = recipe.effective()
    bare = [replace(guide, weight=guide.weight.with_fields({"w": 2.0})) for guide in recipe.guides]
    return replace(recipe, guides=tuple(bare)), tuple(guide.weight.w for guide in recipe.guides)


def _curves(methods: Mapping[str, _Method]) -> Iterator[tuple[str, list[Tradeoff]]]:
    guided = [method for method in methods.values() if method.recipe.guides]
    for method in guided or methods.values():
        start = methods.get(replace(method.recipe, guides=(), rule=Rule.parse("linear")).hash)
        blocks = {**(start.blocks if start is not None else {}), **method.blocks}
        yield method.words, [_tradeoff(*each) for each in sorted(blocks.items(), key=lambda each: each[0])]


def _tradeoff(weights: tuple[float, ...], blocks: Sequence[tuple[Record, Record]]) -> Tradeoff:
    sides = [[block[side] for block in blocks] for side in (0, 1)]
    precision, recall = (sum(float(line["value"]) for line in side) / len(side) for side in sides)
    return Tradeoff(weights, precision, recall, *map(mean_interval, sides))
