"""Differences of a search's curve to that of another, or to a row: of the same seeds, so that what both share goes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from dnnlib.inference import precision_words
from edm2_guidance.metrics.uncertainty import Interval
from edm2_guidance.papers.curves import WORDS, XLABELS, Record, Scores
from edm2_guidance.papers.plots import Curve, Intervals, Panel


class Verdict(Protocol):
    """As of `metrics.compare`: the interval of a - b, or None, and how it was had."""

    @property
    def a(self) -> float: ...
    @property
    def b(self) -> float: ...
    @property
    def interval(self) -> Interval | None: ...
    @property
    def how(self) -> str: ...


Compare = Callable[[Sequence[Record], Sequence[Record]], Verdict]


def difference_panel(
    records: Sequence[Record], names: Iterable[str], num_images: int, kind: str, baseline: str, compare: Compare
) -> Panel:
    """Differences of the curves of `value_panel` to those of another search, or to a row, at equal seeds and x.

    compare: of lines of the ledger, as `metrics.compare.of_lines`. ValueError, with the reason, where two points have
    no seeds in common, or nothing is known of how far their difference may be off.
    """
    curves: dict[str, Curve] = {}
    intervals: dict[str, Intervals] = {}
    notes: list[str] = []
    for name in names:
        scores = Scores(records, name, num_images)
        scores.require(kind)
        ours = scores.lines_along(kind, scores.best())
        others = _baseline(records, baseline, num_images, kind, ours)
        both = [x for x in ours if x in others]
        if not both:
            raise ValueError(f"--against={baseline}: it has no {WORDS[kind].removeprefix('the ')} that {name} has")
        if len(both) < len(ours):
            left = f"{len(ours) - len(both)} of {len(ours)} points"
            notes.append(f"{name}: {left} are left out, where {baseline} has none")
        found = {x: _difference(f"{name} and {baseline} at {x:g}", ours[x], others[x], compare) for x in both}
        curves[name] = {x: [verdict.a - verdict.b] for x, verdict in found.items()}
        intervals[name] = {x: verdict.interval for x, verdict in found.items() if verdict.interval is not None}
        notes += [f"{name} - {baseline}: {how}" for how in dict.fromkeys(verdict.how for verdict in found.values())]
    return Panel(curves, XLABELS[kind], notes=tuple(notes), intervals=intervals, baseline=baseline)


def _baseline(
    records: Sequence[Record], name: str, num_images: int, kind: str, ours: Mapping[float, Sequence[Record]]
) -> Mapping[float, Sequence[Record]]:
    """Lines by x: of a search of this name, else of the row of this name, in the precision of `ours`, at any x."""
    if any((record.get("search") or {}).get("name") == name for record in records):
        scores = Scores(records, name, num_images)
        scores.require(kind)
        return scores.lines_along(kind, scores.best())
    of_row = [r for r in records if (r.get("row") or {}).get("name") == name and r.get("num_images") == num_images]
    precision = precision_words(next(iter(ours.values()))[0]["images"])  # a search is in one
    same = [record for record in of_row if precision_words(record.get("images")) == precision]
    if not same:
        other = f" with {precision or 'networks in the usual precision'}" if of_row else ""
        raise ValueError(
            f"--against={name}: no search and no row of that name at {num_images} images{other} in the ledger"
        )
    return dict.fromkeys(ours, same)


def _difference(where: str, ours: Sequence[Record], others: Sequence[Record], compare: Compare) -> Verdict:
    """Of the blocks of seeds that both have. ValueError for none, or where no interval is known."""
    seeds = [{record["images"]["seeds"] for record in side} for side in (ours, others)]
    a, b = ([r for r in side if r["images"]["seeds"] in seeds[0] & seeds[1]] for side in (ours, others))
    if not a:
        had = " and ".join(", ".join(sorted(each)) for each in seeds)
        raise ValueError(f"{where} have no block of seeds in common ({had}): score both from one --seed on")
    verdict = compare(a, b)
    if verdict.interval is None:
        raise ValueError(f"{where}: {verdict.how}")
    return verdict
