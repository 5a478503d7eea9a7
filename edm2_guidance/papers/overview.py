"""All that the lines of a ledger can be drawn as: its searches, scores against counts of images, trade-offs.

A drawing is named by what is on its y axis. No torch here.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from dnnlib.inference import precision_words
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.uncertainty import mean_interval
from edm2_guidance.papers import curves
from edm2_guidance.papers.curves import Record
from edm2_guidance.papers.plots import Panel
from edm2_guidance.papers.report import images_key
from edm2_guidance.papers.trade_off import TradeOff, trade_off
from edm2_guidance.recipe.describe import DETAILS, describe_recipe
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
    found: list[Drawing] = []
    problems: list[str] = []
    drawable = _drawable(records)
    for name, metric, num, reference in dict.fromkeys(map(_scored, drawable)):
        same = [line for line in drawable if (line.get("num_images"), _reference(line)) == (num, reference)]
        lines = [line for line in same if line["metric"] in (metric, line["search"].get("metric"))]
        for kind, together in _axes(lines, metric, num, problems):
            try:
                found += [(name, panel) for panel in curves.panels(lines, together, num, kind, metric)]
            except ValueError as error:
                problems.append(str(error))
    return found, list(dict.fromkeys(problems))


def _drawable(records: Iterable[Record]) -> list[Record]:
    """Lines of searches that say all that a curve needs."""
    searched = (record for record in records if record.get("search") and record.get("num_images") is not None)
    return [line for line in searched if (line.get("images") or {}).get("seeds") and recipe_of(line) is not None]


def _scored(record: Record) -> tuple[str, str, int, str]:
    return name_of(record), record["metric"], record["num_images"], _reference(record)


def _axes(lines: Sequence[Record], metric: str, num: int, problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """What was varied, and the names of the searches that did, as far as one picture shows several."""
    by_kind: dict[str, list[str]] = {}
    names: dict[str, object] = {line["search"]["name"]: line["search"].get("metric") or metric for line in lines}
    for name, by in names.items():
        try:
            kinds = curves.Scores(lines, name, num, metric).kinds
        except ValueError as error:
            problems.append(str(error))
            continue
        for kind in kinds:
            if by == metric or kind not in curves.ALONE:  # which are of that by which the search was
                by_kind.setdefault(kind, []).append(name)
    for kind, together in by_kind.items():
        yield from ((kind, [name]) for name in together) if kind in curves.ALONE else [(kind, together)]


def trade_offs(records: Iterable[Record]) -> list[tuple[int, TradeOff]]:
    """Fidelity against diversity along every search that recorded both, those along one axis together."""
    found: dict[tuple[int, tuple[str, str], str], list[str]] = {}
    drawable = _drawable(records)
    there: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for line in drawable:
        there[line["search"]["name"], line["num_images"], line["metric"].partition("/")[2]].add(line["metric"])
    for (name, num, _), metrics in sorted(there.items()):
        for both in _pairs(metrics):
            try:
                kind = curves.Scores(drawable, name, num, both[0]).kind
                trade_off(drawable, [name], num, both)
            except ValueError:  # as `searches` tells
                continue
            found.setdefault((num, both, kind), []).append(name)
    return [(num, trade_off(drawable, names, num, both)) for (num, both, _), names in found.items()]


def _pairs(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """Those of fidelity with those of diversity: in their order if they are as many, else each with each."""
    shown: dict[str, list[str]] = {"fidelity": [], "diversity": [], "": []}
    for metric in sorted(metrics):
        with suppress(ValueError):  # another program's metric
            shown[find_metric(metric).measure.shows].append(metric)
    fidelity, diversity = shown["fidelity"], shown["diversity"]
    as_many = len(fidelity) == len(diversity)
    return [*zip(fidelity, diversity, strict=True)] if as_many else [*itertools.product(fidelity, diversity)]


def convergence(records: Iterable[Record]) -> list[Drawing]:
    """Scores against the number of images, a curve for each way of making them that has several counts."""
    groups: dict[tuple[str, str], dict[str, dict[float, list[Record]]]] = {}
    for record in _once(records):
        num, made = record.get("num_images"), _made(record)
        if num is not None and made is not None:
            ways = groups.setdefault((str(record["metric"]), _reference(record)), {})
            ways.setdefault(made, {}).setdefault(float(num), []).append(record)
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
