"""Is A better than B? The difference of two scores, its interval, and one of three words: better, worse, inconclusive.

A word other than inconclusive is said only where the interval of the difference is on one side of 0, so never for
a gap that other seeds may turn round. The interval is had, in this order,

    of sets of images   by the influence of each image on either score, paired if both sides have the same seeds (or
                        names) in the same order, so that what both have in common cancels
    of ledger lines     by their intervals (Zou and Donner 2008, Eq. 3); of several lines on a side, by their means
    of lines without    by the spread over blocks of seeds, two or more on either side, paired if the seeds agree

and without any of these nothing is known, and it is said what would give one.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edm2_guidance.images.sources import seeds_of
from edm2_guidance.metrics.catalog import find_metric, interval_text, value_text
from edm2_guidance.metrics.image_sets import ImageSet
from edm2_guidance.metrics.ledger_table import OF_IMAGES, comparable
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.scoring import Reference
from edm2_guidance.metrics.uncertainty import Interval, apart, difference, influence_if_known, interval_of, mean_of
from edm2_guidance.work.plan import format_seeds, images_key, seed_runs

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One metric of A and of B. interval: of a - b; None if nothing is known of it. how: it was had, or could be."""

    metric: str
    name: str
    a: float
    b: float
    interval: Interval | None
    how: str

    @property
    def word(self) -> str:
        """What A is beside B: better, worse or inconclusive."""
        found = "inconclusive" if self.interval is None else self.interval.word
        if found == "inconclusive":
            return found
        return "better" if found == find_metric(self.metric).measure.better else "worse"


def of_sets(
    reference: Reference, a: Mapping[str, Moments], b: Mapping[str, Moments], records: Sequence[Sequence[Record]], *,
    paired: bool,
) -> list[Verdict]:  # fmt: skip
    """A verdict per metric. records: the ledger's lines of A and of B, by metric in the same order.

    ValueError as `check_alike`.
    """
    verdicts = []
    for ours, theirs in zip(*records, strict=True):
        check_alike([ours], [theirs])
        found = find_metric(ours["metric"])
        stored_as, values = found.stored_as, (float(ours["value"]), float(theirs["value"]))
        other = reference.moments[ours["metric"]]
        influences = [influence_if_known(found.measure, each[stored_as], other) for each in (a, b)]
        known = how = None
        if influences[0] is None or influences[1] is None:
            how = "no interval: it needs the features of 40 images or more on either side"
            how += f", as images have them, or files of calculate_metrics.py ref --metrics={_kept(ours['metric'])}"
        else:
            known = difference(*values, influences[0], influences[1], paired=paired)
            how = "paired, image by image: the same seeds or names" if paired else "unpaired"
        verdicts.append(Verdict(ours["metric"], ours["name"], *values, known, how))
    return verdicts


def _kept(metric: str) -> str:
    """Metrics whose statistics hold the features of this one."""
    found = find_metric(metric)
    space = found.extractor.kind + ("" if found.features == "pool" else f".{found.features}")
    return metric if found.needs() == "features" else f"{metric},kid/{space}"


def are_paired(a: ImageSet, b: ImageSet) -> bool:
    """Whether two sets are image by image of the same seeds, or names."""
    order = _order(a)
    return order is not None and order == _order(b)


def _order(images: ImageSet) -> object:
    """What the images are in order, by seeds or names; None if nobody knows."""
    if images.names is not None:
        seeds = seeds_of(images.names)
        return tuple(images.names) if seeds is None else format_seeds(tuple(seeds))
    whole = images.description.get("num_images") == images.description.get("total")
    return images.description.get("seeds") if whole else None


def check_counts_alike(sets: Sequence[ImageSet], metrics: Sequence[str]) -> None:
    """ValueError if the numbers of images differ, and one of the metrics moves with it."""
    for metric in metrics:
        _check_counts(metric, [each.num_images for each in sets])


def of_lines(a: Sequence[Record], b: Sequence[Record]) -> Verdict:
    """The verdict of ledger lines, one or several blocks of seeds on either side, whose mean counts.

    ValueError if they cannot be compared (`check_alike`), or blocks of one side share seeds.
    """
    a, b = _blocks(a), _blocks(b)
    check_alike(a, b)
    values = [[float(record["value"]) for record in side] for side in (a, b)]
    ours, other = (sum(each) / len(each) for each in values)
    known: Interval | None = None
    intervals = [[each for each in map(interval_of, side) if each is not None] for side in (a, b)]
    if len(intervals[0]) == len(a) and len(intervals[1]) == len(b):
        known = apart(ours, other, mean_of(values[0], intervals[0]), mean_of(values[1], intervals[1]))
        how = "unpaired, by the intervals of the lines"
        if _seeds(a) == _seeds(b) and _seeds(a)[0] is not None:
            how += "; both are of the same seeds: a comparison of the images, A B REFERENCE, sees smaller differences"
    elif min(len(a), len(b)) > 1:
        import numpy as np

        paired = _seeds(a) == _seeds(b) and None not in _seeds(a)
        known = difference(ours, other, np.asarray(values[0]), np.asarray(values[1]), paired=paired)
        how = f"by the spread over blocks of seeds, {len(a)} and {len(b)}{', paired' if paired else ''}"
    else:
        how = (
            "no interval: a line has none, and a side has one block of seeds alone; score the images once more by calc "
            "or gen --again, which keep it, compare the images (A B REFERENCE), or make more blocks "
            "(reproduce.py run ROW --blocks=3)"
        )
    return Verdict(str(a[0]["metric"]), str(a[0].get("name", a[0]["metric"])), ours, other, known, how)


def check_alike(a: Sequence[Record], b: Sequence[Record]) -> None:
    """ValueError, with the reason, if scores differ in more than their images.

    In metric or variant, reference, detector, its resize; or in the number of images, where it moves the value.
    """
    everything = [*a, *b]
    metrics = list(dict.fromkeys(_canonical(record["metric"]) for record in everything))
    if len(metrics) > 1:
        raise ValueError(f"{metrics[0]} and {metrics[1]} are different numbers: they cannot be compared")
    for what, values in comparable(everything).items():
        if len(values) > 1 and what not in OF_IMAGES:
            raise ValueError(f"{metrics[0]} by different {what} ({', '.join(sorted(values.values()))}) says nothing")
    _check_counts(metrics[0], [record.get("num_images") for record in everything])


def _check_counts(metric: str, counts: Sequence[int | None]) -> None:
    few, counts = find_metric(metric).measure.few, list(dict.fromkeys(counts))
    if len(counts) > 1 and few:
        shown = " and ".join("an unknown number of" if count is None else f"{count:,}" for count in counts[:2])
        raise ValueError(
            f"{metric} of {shown} images: fewer give {few} values, so compare equal numbers (--num-images)"
        )


def _canonical(metric: object) -> str:
    """A metric's name; ValueError for one that this version does not know, whose direction nobody can say."""
    return find_metric(str(metric)).name


def _blocks(records: Sequence[Record]) -> list[Record]:
    """The lines, one per set of images. ValueError if two sets share seeds: blocks are to be independent."""
    found: dict[object, Record] = {}
    for record in records:
        found.setdefault(_images(record), record)
    for one, other in itertools.combinations(found.values(), 2):
        if one.get("recipe_hash") == other.get("recipe_hash") and _overlap(one, other):
            seeds = [(record.get("images") or {})["seeds"] for record in (one, other)]
            raise ValueError(f"seeds {seeds[0]} and {seeds[1]} on one side overlap: blocks of seeds are to be apart")
    return list(found.values())


def _overlap(one: Record, other: Record) -> bool:
    runs = [seed_runs(str((record.get("images") or {}).get("seeds") or "")) for record in (one, other)]
    return any(a.start < b.stop and b.start < a.stop for a in runs[0] for b in runs[1])


def _images(record: Record) -> object:
    """What tells sets of images apart."""
    images = record.get("images") or {}
    if record.get("recipe_hash") and images.get("seeds"):
        return images_key(record["recipe_hash"], str(images["seeds"]), images.get("precision")), images.get(
            "subset_seed"
        )
    return str(images.get("sha256") or images.get("content_sha256") or images.get("path")), images.get("subset_seed")


def _seeds(records: Sequence[Record]) -> list[object]:
    """The seeds of each block; None where nobody knows, or not all of them are in it."""
    sets = [record.get("images") or {} for record in records]
    return [images.get("seeds") if images.get("num_images") == images.get("total") else None for images in sets]


def lines_named(records: Sequence[Record], numbers: Sequence[int], path: str) -> list[Record]:
    """The rows of these numbers of a ledger, as `ledger_table.rows_of` numbers them. ValueError for one too many."""
    for number in numbers:
        if not 1 <= number <= len(records):
            raise ValueError(
                f"{path} has {len(records)} rows, and none of number {number}: see calculate_metrics.py table"
            )
    return [records[number - 1] for number in numbers]


def table(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as an aligned table."""
    lines = [("metric", "A", "B", "A - B", "95 % interval", "A is"), *map(_cells, verdicts)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(verdict: Verdict) -> tuple[str, ...]:
    metric, known = verdict.metric, verdict.interval
    values = (value_text(metric, value) for value in (verdict.a, verdict.b, verdict.a - verdict.b))
    ends = None if known is None else {"low": known.low, "high": known.high}
    return verdict.name, *values, interval_text(metric, ends) or "unknown", verdict.word


def notes(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """How intervals were had, a sentence for all the metrics that share it."""
    for how in dict.fromkeys(verdict.how for verdict in verdicts):
        yield f"{', '.join(verdict.name for verdict in verdicts if verdict.how == how)}: {how}"
    if len(verdicts) > 1:
        yield "each word is of its metric alone: of 20 metrics of images that are alike, one is expected to differ"
