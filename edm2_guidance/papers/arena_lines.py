"""The lines of a ledger that are an arena's as it is today. No torch here.

A line names an arena, an entry and its setting, and stays when the TOML file changes. So it counts if its images were
made as its entry would make them at that setting now, and scored against the same reference; a final score, if that
setting is what the search finds now. Networks and references are the same by content, where that is known, or by name.
A file may change under its name, too: then the lines with the newest one count.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dnnlib.terminal import counted
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.papers.arena import Arena, Entry
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.papers.search import Axis, Point, search
from edm2_guidance.recipe.files import FileRef, NetworkRef
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import valid
from edm2_guidance.recipe.stored import read_recipe

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Lines:
    """searches, finals: by entry, in the order of the ledger. left_out: how many do not count, by the reason."""

    searches: Mapping[str, Sequence[Record]]
    finals: Mapping[str, Sequence[Record]]
    left_out: Mapping[str, int]

    @property
    def notes(self) -> list[str]:
        """What the user should know: one line, or none."""
        if not self.left_out:
            return []
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return [f"{counted(sum(self.left_out.values()), 'line')} of the ledger left out: {reasons}"]


def lines_of(
    arena: Arena,
    records: Sequence[Record],
    opened: Mapping[str, str] = MappingProxyType({}),
    points: Mapping[str, Point] = MappingProxyType({}),
) -> Lines:
    """Those of its searches, and those of its final scores.

    opened: SHA-256 of files that are known to be what they are now, as `contents` and `reference` name them. points: by
    entry, what searches are known to find.
    Lines of other numbers of images, seeds or metrics are of runs that asked for these, and passed over.
    """
    entries = {entry.name: entry for entry in arena.entries}
    kept: dict[str, dict[str, list[Record]]] = {"search": {}, "arena": {}}
    left_out, files = Counter[str](), dict(opened)  # by its name what a file holds, of the last line that has it

    @functools.cache
    def networks(name: str, point: str, recipe: str) -> Mapping[str, str] | None:
        return _networks(entries[name], json.loads(point), json.loads(recipe), opened)

    for record in reversed(records):
        for tag, name in _tagged(arena, entries, record):
            held = networks(name, json.dumps(record[tag]["point"]), json.dumps(record.get("recipe")))
            judged = record.get("reference") or {}
            if held is None:
                left_out["of another recipe than that of their entry"] += 1
            elif not _is_reference(arena, judged, opened):
                left_out[f"against another reference than {arena.reference}"] += 1
            elif any(
                files.setdefault(file, sha256) != sha256
                for file, sha256 in {**held, reference(arena): str(judged.get("sha256"))}.items()
            ):
                left_out["of files that have changed since"] += 1
            else:
                kept[tag].setdefault(name, []).insert(0, record)
    finals = {}
    for name, lines in kept["arena"].items():
        point = _setting(arena, entries[name].searched, kept["search"], lines, points)
        if at_it := [line for line in lines if line["arena"]["point"] == point]:
            finals[name] = at_it
        else:
            left_out["at another setting than its search finds"] += len(lines)
    return Lines(kept["search"], finals, left_out)


def _setting(
    arena: Arena,
    entry: Entry,
    searches: Mapping[str, Sequence[Record]],
    finals: Sequence[Record],
    points: Mapping[str, Point],
) -> Point | None:
    """What the search of an entry finds; where the ledger has not all of it, the last one scored that it may find."""
    axis = entry.axis
    if entry.name in points or axis is None:
        return points.get(entry.name, {})
    scores: dict[float, float] = {}
    for line in searches.get(entry.name, ()):
        scores.setdefault(line["search"]["point"].get(axis.name), float(line["value"]))
    try:
        return _found(arena, axis, scores)
    except KeyError:
        settings = [line["arena"]["point"] for line in reversed(finals)]
        return next((each for each in settings if each.get(axis.name) in axis.values), None)


def _found(arena: Arena, axis: Axis, scores: Mapping[float, float]) -> Point:
    """What a search finds by these scores of values. KeyError for one that it asks for, and that has none."""

    def score(point: Point) -> float:
        return scores[point[axis.name]]

    better = find_metric(arena.metrics[0]).measure.better
    start = {axis.name: axis.values[0]}
    return search(score, start, [[axis]], stride=arena.search.stride, valid=valid, better=better).point


def _tagged(arena: Arena, entries: Mapping[str, Entry], record: Record) -> Iterator[tuple[str, str]]:
    """The tags under which a line was written for one of these entries, and the names of the entries."""
    search, final, images = (record.get(tag) or {} for tag in ("search", "arena", "images"))
    name = str(search.get("name")).removeprefix(f"{arena.name}/")
    of_search = record.get("metric") == arena.metrics[0] and record.get("num_images") == arena.search.num_images
    if of_search and name in entries and search["name"] == arena.search_name(entries[name]) and "point" in search:
        yield "search", name
    seeds = [f"{block[0]}-{block[-1]}" for block in arena.blocks(arena.final.blocks)]
    of_final = record.get("metric") in arena.metrics and images.get("seeds") in seeds
    entry = str(final.get("entry"))
    if of_final and final.get("name") == arena.name and entry in entries and "point" in final:
        yield "arena", entry


def _networks(entry: Entry, point: Any, stored: Any, opened: Mapping[str, str]) -> Mapping[str, str] | None:
    """What each network of a stored recipe holds, by its name in the arena; None for another than the entry's."""
    try:
        ours, theirs = entry.at(point), read_recipe(stored)
        same = _named(ours, ours, opened) == _named(theirs, ours, opened)
    except (TypeError, ValueError, AttributeError):  # of an axis that it has no more, or of another program
        return None
    return contents(ours, theirs) if same else None


def contents(asked: Recipe, opened: Recipe) -> dict[str, str]:
    """SHA-256 of each network of a recipe, by the names that another has for them, which was opened as this one."""
    return dict(zip(asked.sources, (str(net.sha256) for net in opened.nets), strict=True))


def reference(arena: Arena) -> str:
    """The reference, by the name of its file."""
    return REFERENCES[arena.reference].source if arena.reference in REFERENCES else arena.reference


def _named(recipe: Recipe, ours: Recipe, opened: Mapping[str, str]) -> Mapping[str, Any]:
    """What is hashed of a recipe, without what opening its networks tells, each by its name.

    One that holds what ours is known to hold has the name of ours. ValueError for another number of networks.
    """
    names = [
        own.name if net.sha256 is not None and net.sha256 == opened.get(own.source) else net.name
        for net, own in zip(recipe.nets, ours.nets, strict=True)
    ]
    main, *others = map(NetworkRef, names)
    guides = tuple(guide if guide.net is None else replace(guide, net=others.pop(0)) for guide in recipe.guides)
    named = replace(recipe, net=main, guides=guides)
    return replace(named, labels="random", noise_device="cpu", encoder={}).canonical()


def _is_reference(arena: Arena, judged: Record, opened: Mapping[str, str]) -> bool:
    """Whether a line's reference is the arena's."""
    asked = reference(arena)
    return _bare(str(judged.get("source"))) == _bare(asked) or judged.get("sha256", "") == opened.get(asked)


def _bare(reference: str) -> str:
    """Of `mnist16-refs` and pretrained/mnist16-refs.npz the same, as they name the same file."""
    return FileRef(reference).name.removesuffix(".npz")
