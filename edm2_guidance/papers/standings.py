"""What an arena has found, out of its ledger: scores with intervals, differences of pairs, ties. No torch here.

Two entries that compete are tied where the interval of their difference holds 0. Images of the same seeds differ by
less than their intervals say, so differences are those of pairs of images, where these were there to be compared
(`pairs_path`); else of the intervals of the lines, which is cautious.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.plain_json import parse_json
from edm2_guidance.metrics.catalog import find_metric, interval_text, value_text
from edm2_guidance.metrics.uncertainty import Interval, apart, mean_interval
from edm2_guidance.papers.arena import Arena, Entry
from edm2_guidance.papers.arena_lines import Lines, Record
from edm2_guidance.papers.listing import Cells
from edm2_guidance.papers.search import Point

_USUAL = {("rule", "linear"), ("weight", "constant"), ("reference", "network")}
#: By the names of two entries: the interval of the difference of each metric, whose middle is the difference.
Pairs = Mapping[tuple[str, str], Mapping[str, Interval]]


@dataclass(frozen=True)
class Standing:
    """An entry with its scores. records: by metric, the ledger's lines of one block of seeds after the other."""

    entry: Entry
    point: Point
    records: Mapping[str, Sequence[Record]]

    def values(self, metric: str) -> list[float]:
        """Of each block."""
        return [float(record["value"]) for record in self.records[metric]]

    def mean(self, metric: str) -> float:
        """Over the blocks."""
        values = self.values(metric)
        return sum(values) / len(values)

    def interval(self, metric: str) -> Interval | None:
        """Of the mean; None where the lines have none."""
        return mean_interval(self.records[metric])

    @property
    def blocks(self) -> int:
        """How many blocks of seeds all metrics have."""
        return min(map(len, self.records.values()))

    @property
    def recipe_hash(self) -> str:
        """Of its images."""
        return str(next(iter(self.records.values()))[0]["recipe_hash"])

    @property
    def evaluations(self) -> dict[str, int]:
        """Of the networks, for one image."""
        return self.entry.at(self.point).evaluations()

    def text(self, metric: str) -> str:
        """Mean and interval."""
        known = self.interval(metric)
        ends = None if known is None else {"low": known.low, "high": known.high}
        return f"{value_text(metric, self.mean(metric))} {interval_text(metric, ends)}".rstrip()


def standings(arena: Arena, lines: Lines, *, blocks: int | None = None) -> list[Standing]:
    """The entries that the ledger has by all metrics, group by group, the best by the first metric first.

    blocks: by the first so many alone.
    """
    finals = lines.finals
    found = [_standing(arena, entry, finals[entry.name], blocks) for entry in arena.entries if entry.name in finals]
    whole = [each for each in found if each is not None]
    groups = list(dict.fromkeys(each.entry.group for each in whole))
    higher = find_metric(arena.metrics[0]).measure.better == "higher"

    def place(standing: Standing) -> tuple[int, float]:
        value = standing.mean(arena.metrics[0])
        return groups.index(standing.entry.group), -value if higher else value

    return sorted(whole, key=place)


def _standing(arena: Arena, entry: Entry, lines: Sequence[Record], most: int | None) -> Standing | None:
    """By the lines of the setting that was found last, block by block; None if a metric has no line."""
    seeds = [f"{block[0]}-{block[-1]}" for block in arena.blocks(arena.final.blocks)]
    point = lines[-1]["arena"]["point"]
    found: dict[str, dict[int, Record]] = {metric: {} for metric in arena.metrics}
    for line in lines:
        if line["arena"]["point"] == point:
            found[line["metric"]].setdefault(seeds.index(line["images"]["seeds"]), line)
    blocks = sorted(set.intersection(*(set(each) for each in found.values())))[:most]
    if not blocks:
        return None
    return Standing(entry, point, {metric: [each[k] for k in blocks] for metric, each in found.items()})


def best_in_group(found: Sequence[Standing], group: str) -> Standing:
    """The first of a group of `standings`."""
    return next(each for each in found if each.entry.group == group)


def pairs_of(found: Sequence[Standing]) -> Iterator[tuple[Standing, Standing]]:
    """Who is compared: everyone with what its entry names, and with the best of its group."""
    by_name = {each.entry.name: each for each in found}
    for standing in found:
        others = [by_name.get(standing.entry.against or ""), best_in_group(found, standing.entry.group)]
        for other in dict.fromkeys(each.entry.name for each in others if each is not None):
            if other != standing.entry.name:
                yield standing, by_name[other]


def pairs_path(ledger: str | Path) -> Path:
    """Where the differences stand that belong to a ledger."""
    return Path(ledger).with_suffix(".pairs.jsonl")


def pair_key(a: Standing, b: Standing) -> tuple[str, str, int]:
    """What a difference is of."""
    return a.recipe_hash, b.recipe_hash, min(a.blocks, b.blocks)


def known_pair(a: Standing, b: Standing, known: Mapping[tuple[str, str, int], Record]) -> Record | None:
    """The metrics of the difference; None if it is not known, lacks a metric, or is of other scores than these."""
    metrics: Record = known.get(pair_key(a, b), {}).get("metrics", {})
    both = min(a.blocks, b.blocks)
    for metric in a.records:
        if metric not in metrics:
            return None
        low, high, error = (metrics[metric][name] for name in ("low", "high", "error"))
        ours, theirs = (sum(each.values(metric)[:both]) / both for each in (a, b))
        if abs((low + high) / 2 - (ours - theirs)) > 0.01 * error + 1e-6:
            return None
    return metrics


def read_pairs(path: Path) -> dict[tuple[str, str, int], Record]:
    """The differences in a file, by `pair_key`; none if it is not there. ValueError for what is no such file."""
    found: dict[tuple[str, str, int], Record] = {}
    for number, line in _lines(path, "differences"):
        try:
            found[line["of"][0], line["of"][1], line["of"][2]] = line
            for each in line["metrics"].values():
                float(each["low"]), float(each["high"]), float(each["error"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise ValueError(f"{path} does not hold differences of an arena: see line {number}") from None
    return found


def times_path(ledger: str | Path) -> Path:
    """Where it stands how long the entries of a ledger take."""
    return Path(ledger).with_suffix(".times.jsonl")


def read_times(path: Path) -> dict[tuple[str, str], float]:
    """By entry and the hash of its recipe, in times of the unguided base; none if it is not there.

    ValueError for what is no such file.
    """
    found: dict[tuple[str, str], float] = {}
    for number, line in _lines(path, "times"):
        try:
            found[str(line["entry"]), str(line["of"])] = float(line["times"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} does not hold times of an arena: see line {number}") from None
    return found


def write_lines(path: Path, lines: Iterable[Record]) -> None:
    """Write differences or times, a line each."""
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")


def _lines(path: Path, what: str) -> Iterator[tuple[int, Any]]:
    """The lines of a file with their numbers. ValueError for one that is no JSON."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), start=1):
        try:
            yield number, parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path} does not hold {what} of an arena: line {number} {error}") from error


def differences(found: Sequence[Standing], known: Mapping[tuple[str, str, int], Record]) -> Pairs:
    """The differences of `pairs_of`: as they are known, else by the intervals of both."""
    made: dict[tuple[str, str], dict[str, Interval]] = {}
    for a, b in pairs_of(found):
        names = a.entry.name, b.entry.name
        if (of := known_pair(a, b, known)) is not None:
            made[names] = {metric: Interval(each["low"], each["high"], each["error"]) for metric, each in of.items()}
            continue
        made[names] = {}
        for metric in a.records:
            ours, theirs = a.interval(metric), b.interval(metric)
            if ours is not None and theirs is not None:
                made[names][metric] = apart(a.mean(metric), b.mean(metric), ours, theirs)
    return made


def table(
    arena: Arena,
    found: Sequence[Standing],
    pairs: Pairs,
    times: Mapping[tuple[str, str], float],
    group: str,
    shown: Set[str] | None = None,
) -> Cells:
    """Rows of the entries of a group, best first; "=" before those that are tied with the best, "?" if nobody knows.

    times: of `read_times`. The evaluations and the time are of one image. shown: of the entries of these names; all
    are among those that are tied or best.
    """
    members = [each for each in found if each.entry.group == group]
    first, *others = arena.metrics
    rows: list[list[object]] = [
        ["", "entry", "setting", first, "beside", "difference", *others, "evaluations", "time", "images"]
    ]
    for each in members:
        if shown is not None and each.entry.name not in shown:
            continue
        took = times.get((each.entry.name, each.recipe_hash))
        against = pairs.get((each.entry.name, each.entry.against or ""), {}).get(first)
        difference = "" if against is None else _ends(first, against)
        calls = " + ".join(f"{count} {name}" for name, count in each.evaluations.items() if count)
        count = sum(int(record["num_images"]) for record in each.records[first])
        rows.append([
            _mark(each, members[0], pairs, first), each.entry.name, _setting(each.point), each.text(first),
            "" if against is None else each.entry.against, difference,
            *(each.text(metric) for metric in others), calls,
            "" if took is None else f"{took:.2f}", f"{count:,}",
        ])  # fmt: skip
    return rows


def how_kinds_fared(arena: Arena, found: Sequence[Standing], pairs: Pairs) -> dict[tuple[str, str], list[str]]:
    """A line for each entry that a kind was in, by axis and kind; of the usual kinds, those that are usual throughout.

    Solvers are told by theirs, methods by what guides.
    """
    lines: dict[tuple[str, str], list[str]] = {}
    for each in found:
        for place in _kinds(each.entry):
            lines.setdefault(place, []).append(_fared(arena.metrics[0], each, found, pairs))
    return lines


def _kinds(entry: Entry) -> list[tuple[str, str]]:
    recipe = entry.recipe
    if entry.of is not None:
        return [("sampler", recipe.sampler.kind), ("schedule", recipe.schedule.kind)]
    parts = [recipe.rule, *recipe.around]
    for guide in recipe.guides:
        parts += [guide.weight, guide.reference]
    kinds = [(part.axis, part.kind) for part in parts]
    chosen = [kind for kind in kinds if kind not in _USUAL]
    plain = bool(recipe.guides) and all(guide.interval is None for guide in recipe.guides)
    return chosen or (kinds if plain else [])


def _fared(metric: str, each: Standing, found: Sequence[Standing], pairs: Pairs) -> str:
    members = [other for other in found if other.entry.group == each.entry.group]
    place = f"place {members.index(each) + 1} of {len(members)}"
    known = pairs.get((each.entry.name, each.entry.against or ""), {}).get(metric)
    beside = "" if known is None else f", beside {each.entry.against} {_ends(metric, known)}"
    setting = f" at {_setting(each.point)}" if each.point and each.entry.of is None else ""
    return f"`{each.entry.name}`{setting}: {metric} {each.text(metric)}, {place}{beside}"


def _setting(point: Point) -> str:
    return ", ".join(f"{'w' if name == 'weight' else name} = {value:g}" for name, value in point.items())


def _ends(metric: str, interval: Interval) -> str:
    return f"{_signed(metric, interval.low)} to {_signed(metric, interval.high)}"


def _mark(each: Standing, best: Standing, pairs: Pairs, metric: str) -> str:
    """1 for the best, "=" for what is tied with it, "?" where nobody knows."""
    if each is best:
        return "1"
    known = pairs.get((each.entry.name, best.entry.name), {}).get(metric)
    if known is None:
        return "?"
    return "=" if known.word == "inconclusive" else ""


def _signed(metric: str, value: float) -> str:
    return ("+" if value > 0 else "") + value_text(metric, value)
