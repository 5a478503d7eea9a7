"""The lines of a ledger that are an arena's as it is today. No torch here.

A line names an arena, an entry and its setting, and stays when the TOML file changes. So it counts if its images were
made as its entry would make them at that setting now, and scored against a reference of the same name. A file may
change under its name, too: then the lines with the newest one count.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dnnlib.terminal import counted
from edm2_guidance.papers.arena import Arena, Entry
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.recipe.files import FileRef, NetworkRef
from edm2_guidance.recipe.recipe import Recipe
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


def lines_of(arena: Arena, records: Sequence[Record], opened: Mapping[str, str] = MappingProxyType({})) -> Lines:
    """Those of its searches, and those of its final scores.

    opened: SHA-256 of files that are known to be what they are now, as `contents` and `reference` name them.
    Lines of other numbers of images, seeds or metrics are of runs that asked for these, and passed over.
    """
    entries = {entry.name: entry for entry in arena.entries}
    kept: dict[str, dict[str, list[Record]]] = {"search": {}, "arena": {}}
    left_out, files = Counter[str](), dict(opened)  # by its name what a file holds, of the last line that has it

    @functools.cache
    def networks(name: str, point: str, recipe: str) -> Mapping[str, str] | None:
        return _networks(entries[name], json.loads(point), json.loads(recipe))

    for record in reversed(records):
        for tag, name in _tagged(arena, entries, record):
            held = networks(name, json.dumps(record[tag]["point"]), json.dumps(record.get("recipe")))
            judged = record.get("reference") or {}
            if held is None:
                left_out["of another recipe than that of their entry"] += 1
            elif _bare(str(judged.get("source"))) != _bare(reference(arena)):
                left_out[f"against another reference than {arena.reference}"] += 1
            elif any(
                files.setdefault(file, sha256) != sha256
                for file, sha256 in {**held, reference(arena): str(judged.get("sha256"))}.items()
            ):
                left_out["of files that have changed since"] += 1
            else:
                kept[tag].setdefault(name, []).insert(0, record)
    return Lines(kept["search"], kept["arena"], left_out)


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


def _networks(entry: Entry, point: Any, stored: Any) -> Mapping[str, str] | None:
    """What each network of a stored recipe holds, by its name in the arena; None for another than the entry's."""
    try:
        ours, theirs = entry.at(point), read_recipe(stored)
        same = _unopened(ours) == _unopened(theirs)
    except (TypeError, ValueError, AttributeError):  # of an axis that it has no more, or of another program
        return None
    return contents(ours, theirs) if same else None


def contents(asked: Recipe, opened: Recipe) -> dict[str, str]:
    """SHA-256 of each network of a recipe, by the names that another has for them, which was opened as this one."""
    return dict(zip(asked.sources, (str(net.sha256) for net in opened.nets), strict=True))


def reference(arena: Arena) -> str:
    """The reference, by the name of its file."""
    return REFERENCES[arena.reference].source if arena.reference in REFERENCES else arena.reference


def _unopened(recipe: Recipe) -> Mapping[str, Any]:
    """What is hashed of a recipe, without what opening its networks tells."""
    guides = tuple(
        guide if guide.net is None else replace(guide, net=NetworkRef(guide.net.name)) for guide in recipe.guides
    )
    named = replace(recipe, net=NetworkRef(recipe.net.name), guides=guides)
    return replace(named, labels="random", noise_device="cpu", encoder={}).canonical()


def _bare(reference: str) -> str:
    """Of `mnist16-refs` and pretrained/mnist16-refs.npz the same, as they name the same file."""
    return FileRef(reference).name.removesuffix(".npz")
