"""Published scores beside ours: ledger records -> tables of what is a reproduction, and apart from it what is not.

A score counts as a reproduction of a row only if everything that the paper's protocol fixes is as in the paper:
networks, guidance, sampler, number of images, label rule, reference, detector and resize. Anything else is listed
with what differs, without comparing it to the published number. No torch here.
"""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnnlib.inference import precision_words
from dnnlib.terminal import counted
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.uncertainty import Interval, mean_interval
from edm2_guidance.papers.listing import Cells, as_csv, as_json, as_markdown, markdown_text
from edm2_guidance.papers.shipped import shipped_scores
from edm2_guidance.papers.tables import TABLES, Row
from edm2_guidance.recipe.files import ImageSet
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.spec import Spec
from edm2_guidance.recipe.stored import read_recipe

Record = Mapping[str, Any]

#: How far a score of the digits may lie from the one that ships, in percent. Other processors move its last digits.
SHIPPED_TOLERANCE = 1.0
_SHOWN = 6  # of the images whose scores are in no row
#: A flag that says again what the number of images says.
_COUNT_FLAG = re.compile(r"[\d,]+ images, where published scores have 50,000")


@dataclass(frozen=True)
class Result:
    """Scores of one row under one protocol. differs: what is not as in the paper, empty for a reproduction.

    values: one per set of images, in the order of the ledger. labels: the rule that was used. dtype: of the sampler's
    state, which the papers leave open. interval: of their mean, by the intervals of the lines, or else by the spread of
    several; None if neither is there.
    """

    row: Row
    values: tuple[float, ...]
    num_images: int | None
    labels: str
    differs: tuple[str, ...]
    dtype: str = "float32"
    interval: Interval | None = None

    @property
    def best(self) -> float:
        higher = find_metric(self.row.metric).measure.better == "higher"
        return max(self.values) if higher else min(self.values)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def difference(self) -> float | None:
        """Percent by which ours lies above the published score: our best where the paper reports the best of several
        runs, our mean where it made one. None for a changed protocol, and where nothing is published."""
        if self.differs or self.row.published is None:
            return None
        ours = self.mean if self.row.repeats == 1 else self.best
        return 100 * (ours / self.row.published - 1)

    @property
    def within(self) -> bool | None:
        """Whether that is inside the paper's stated spread. None where there is no such statement."""
        if self.difference is None or self.row.spread is None:
            return None
        return abs(self.difference) <= self.row.spread


def collect(rows: Iterable[Row], records: Sequence[Record]) -> list[Result]:
    """The results of the rows, in their order, reproductions first. A row without records has none.

    A record belongs to a row if it was written for it ("row": {"name": ...}), or if it has the row's metric and its
    images were made by the row's networks, weights, intervals and number of steps. Of several scores of the same
    images the first counts.
    """
    return [_result(row, found, differs) for row, differs, found in _grouped(rows, records)]


def left_out(rows: Sequence[Row], records: Sequence[Record]) -> dict[str, list[str]]:
    """The scores that `collect` puts into no row: why, and of each what it is, in a few words."""
    held = {id(record) for _, _, found in _grouped(rows, records) for record in found}
    metrics = {row.metric for row in rows}
    left: dict[str, list[str]] = {}
    for record in (record for record in records if id(record) not in held):
        images = record.get("images") or {}
        if "change" in images:
            left.setdefault("of images that were changed on purpose", []).append(str(images["change"]))
        elif record["metric"] not in metrics:
            left.setdefault("by a metric that none of these rows has", []).append(record["metric"])
        elif any(_belongs(row, record) for row in rows):
            left.setdefault("of images that an older line scores, which counts", []).append(_made_by(record))
        else:
            left.setdefault("of images that none of these rows makes", []).append(_made_by(record))
    return left


def scores_of(row: Row, records: Sequence[Record]) -> list[Record]:
    """The scores of a row, one per set of images. ValueError if there are none, or they are of several protocols."""
    groups = list(_grouped([row], records))
    if not groups:
        raise ValueError(f"{row.name} has no scores in this ledger: reproduce.py run {row.name}")
    if len(groups) > 1:
        kinds = "; ".join(", ".join(differs) or "as published" for _, differs, _ in groups)
        raise ValueError(f"{row.name} has scores of several protocols ({kinds}): name lines of the ledger instead")
    return groups[0][2]


def _grouped(rows: Iterable[Row], records: Sequence[Record]) -> Iterator[tuple[Row, tuple[str, ...], list[Record]]]:
    """Scores that one protocol gave for one row, and how it differs from the row's; reproductions come first."""
    rows = list(rows)
    homes = [(record, _homes(rows, record)) for record in records]
    for row in rows:
        groups: dict[tuple[tuple[str, ...], str], dict[object, Record]] = {}
        for record, names in homes:
            if row.name in names:
                key = tuple(differences(row, record)), _dtype(record)
                groups.setdefault(key, {}).setdefault(images_key(record), record)
        for (differs, _), found in sorted(groups.items(), key=lambda item: len(item[0][0]) > 0):
            yield row, differs, list(found.values())


def _homes(rows: Iterable[Row], record: Record) -> set[str]:
    """The rows that a record belongs to: those from which it differs in the fewest parts (`_unusual`)."""
    far = {row.name: len(_unusual(row, record.get("recipe") or {})) for row in rows if _belongs(row, record)}
    return {name for name, count in far.items() if count == min(far.values())}


def _result(row: Row, records: Sequence[Record], differs: tuple[str, ...]) -> Result:
    first = records[0]
    stored = "real images" if row.real is not None else "published samples" if row.samples is not None else None
    labels = stored or str((first.get("recipe") or {}).get("labels", "unknown"))
    values = tuple(float(record["value"]) for record in records)
    return Result(row, values, first.get("num_images"), labels, differs, _dtype(first), mean_interval(records))


def _dtype(record: Record) -> str:
    return str((record.get("recipe") or {}).get("dtype", "float32"))


def _belongs(row: Row, record: Record) -> bool:
    if record.get("metric") != row.metric:
        return False
    written_for = (record.get("row") or {}).get("name")
    return written_for in (row.name, row.images) or not _method_differences(row, record)


def images_key(record: Record) -> object:
    """What tells sets of images apart: recipe, seeds and precision, else their content, else where they lie."""
    images = record.get("images") or {}
    if record.get("recipe_hash") is not None and images.get("seeds") is not None:
        return record["recipe_hash"], str(images["seeds"]), str(images.get("subset_seed")), precision_words(images)
    return str(images.get("sha256") or images.get("content_sha256") or images.get("path"))


def differences(row: Row, record: Record) -> list[str]:
    """In what a record's protocol is not the row's, a phrase each; empty if it is a reproduction."""
    return [*_method_differences(row, record), *_protocol_differences(row, record)]


def _method_differences(row: Row, record: Record) -> list[str]:
    """Other networks, weights, intervals or number of steps than the row's."""
    if row.real is not None:
        name = _bare_name((record.get("images") or {}).get("path"))
        known = re.escape(_bare_name(row.real.format(num=record.get("num_images"))))
        return [] if re.fullmatch(rf"{known}(-\d+)?", name) else [f"images {name}"]
    if row.samples is not None:
        name = _file_name((record.get("images") or {}).get("path"))
        return [] if name == _file_name(row.samples) else [f"images {name}"]
    if row.net is None or not record.get("recipe"):
        return ["it is not known how the images were made"]
    try:
        found, wanted = _method_of(json.dumps(record["recipe"])), _wanted(row)
    except ValueError:  # another program's
        return ["the recipe of the images is in no form that this version knows"]
    return [f"{what} {found[what]}, not {wanted[what]}" for what in found if found[what] != wanted[what]]


def _made_by(record: Record) -> str:
    """How images were made, as far as rows differ in it."""
    try:
        recipe = read_recipe(record.get("recipe") or {})
    except ValueError:
        return _file_name((record.get("images") or {}).get("path"))
    return _in_words(recipe)


def _in_words(recipe: Recipe) -> str:
    method = _method(recipe)
    guides = "" if method["guide"] == "none" else f" guided by {method['guide']}"
    base = "" if method["base"] == "none" else f", of {method['base']}"
    return f"{method['network']}{guides}, {counted(recipe.num_steps, 'step')}{base}"


@functools.cache
def _recipe_of(row: Row) -> Recipe:
    """How the row's images are made; it has a network."""
    return row.recipe()


@functools.cache
def _wanted(row: Row) -> Mapping[str, object]:
    return _method(_recipe_of(row))


@functools.lru_cache(1 << 14)  # each line is compared with each row
def _method_of(stored: str) -> Mapping[str, object]:
    """That of a recipe as JSON. ValueError as of `read_recipe`."""
    return _method(read_recipe(json.loads(stored)))


def _method(recipe: Recipe) -> dict[str, object]:
    """What a recipe says of networks and guidance, in words that compare."""
    recipe = recipe.effective()
    guides = [guide.short + (f" on {guide.interval}" if guide.interval else "") for guide in recipe.guides]
    return {
        "network": recipe.net.name,
        "guide": " and ".join(sorted(guides)) or "none",
        "steps": recipe.num_steps,
        "base": _base(recipe.base),
    }


def _base(base: Recipe | ImageSet | None) -> str:
    """The images that are enlarged, stored or how they were made."""
    if isinstance(base, Recipe):
        return ", ".join([_in_words(base), *map(str, base.unusual())])
    return "none" if base is None else base.name


def _protocol_differences(row: Row, record: Record) -> list[str]:
    """Other images, labels, reference or detector than published scores have, and whatever the record warns of."""
    number = record.get("num_images")
    found = [] if number == row.num_images else [f"{_count(number)} images, not {row.num_images:,}"]
    flags = (str(flag) for flag in record.get("flags") or [])
    return [*found, *_other_rules(row, record), *(flag for flag in flags if not _COUNT_FLAG.match(flag))]


def _other_rules(row: Row, record: Record) -> list[str]:
    """Other labels, sampler, precision, reference or detector than published scores have."""
    detector, reference = record.get("detector") or {}, (record.get("reference") or {}).get("source")
    found = []
    if _bare_name(reference) != _bare_name(row.reference):
        found.append(f"reference {_file_name(reference)}, not {_file_name(row.reference)}")
    if not detector.get("published", False):
        found.append("the detector's weights are not known to be the published ones")
    resized = find_metric(row.metric).extractor.resized
    if detector and detector.get("resize") != resized:
        found.append(f"images resized by {detector.get('resize')}, not {resized}")
    if precision := precision_words(record.get("images")):
        found.append(precision)
    return [*found, *_recipe_differences(row, record.get("recipe") or {})]


def _recipe_differences(row: Row, stored: Mapping[str, Any]) -> list[str]:
    try:
        recipe = read_recipe(stored)
    except ValueError:  # `_method_differences` says so
        return []
    found = [_other_part(row, spec) for spec in _unusual(row, stored)]
    if recipe.labels != row.labels:
        found.append(f"labels {recipe.labels}, not {row.labels}")
    if recipe.seed_rule != "edm2":
        found.append(f"seeds by the rule {recipe.seed_rule}")
    return found


def _unusual(row: Row, stored: Mapping[str, Any]) -> list[Spec]:
    """Schedule, sampler, rule and around of a recipe as JSON, as far as they are not the row's; what it lacks last."""
    try:
        recipe = read_recipe(stored)
    except ValueError:
        return []
    if row.net is None:
        return recipe.unusual()
    wanted = _recipe_of(row)
    return [*recipe.unusual(wanted), *(each for each in wanted.around if each not in recipe.around)]


def _other_part(row: Row, spec: Spec) -> str:
    """What differs in a part that `_unusual` found."""
    lacks = row.net is not None and spec in _recipe_of(row).around
    return f"without {spec}" if lacks else f"{spec.axis} {spec}"


def _file_name(path: object) -> str:
    return "unknown" if path is None else str(path).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _bare_name(path: object) -> str:
    """Of `mnist16-refs` and pretrained/mnist16-refs.npz the same, as they name the same file."""
    return _file_name(path).removesuffix(".npz").removesuffix(".pkl")


def _count(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number of"


def plain(result: Result) -> dict[str, Any]:
    """A result as plain data, in full precision."""
    row = result.row
    return {
        "table": row.table,
        "row": row.name,
        "model": f"{row.model} {row.data}",
        "method": row.method,
        "metric": row.metric,
        "published": None if result.differs else row.published,
        "best": result.best,
        "min": min(result.values),
        "mean": result.mean,
        "mean_interval": None if result.interval is None else [result.interval.low, result.interval.high],
        "all": list(result.values),
        "runs": len(result.values),
        "paper_runs": row.repeats,
        "difference_percent": result.difference,
        "spread_percent": row.spread,
        "within_spread": result.within,
        "images": result.num_images,
        "labels": result.labels,
        "dtype": result.dtype,
        "assumed": row.assumed or None,
        "protocol": "changed" if result.differs else "as published" if row.published is not None else "as defined",
        "changed": list(result.differs),
    }


@dataclass(frozen=True)
class Comparison:
    """A score of the digits and the one that ships for the same images (seeds, or a file of real digits)."""

    row: Row
    images: str
    ours: float
    shipped: float

    @property
    def difference(self) -> float:
        """Percent by which ours lies above."""
        return 100 * (self.ours / self.shipped - 1)


def compare_shipped(rows: Iterable[Row], records: Sequence[Record]) -> list[Comparison]:
    """The scores of the digits for which one ships, made by the same rules from the same images; one per images."""
    found: dict[tuple[str, str], Comparison] = {}
    for row in (row for row in rows if row.table == "mnist16"):
        for record in records:
            images = record.get("images") or {}
            named = str(images.get("seeds")) if row.real is None else _bare_name(images.get("path"))
            shipped = shipped_scores().get((row.name, named))
            if shipped is None or not _belongs(row, record) or differs_from_shipped(row, record):
                continue
            found.setdefault((row.name, named), Comparison(row, named, float(record["value"]), shipped))
    return list(found.values())


def differs_from_shipped(row: Row, record: Record) -> bool:
    """Whether the images, or how they were scored, are not those of the scores that ship."""
    if _method_differences(row, record) or _other_rules(row, record):
        return True
    some = (record.get("images") or {}).get("subset_seed")  # of the seeds that it names
    device = (record.get("recipe") or {}).get("noise_device")
    return row.real is None and (some, device, _dtype(record)) != (None, "cpu", "float32")


@dataclass(frozen=True)
class Part:
    """A part of the report: below its heading whatever there is of a table, items of a list and paragraphs."""

    heading: str
    table: Cells = ()
    items: Sequence[str] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """As Markdown, whose texts are shown as they are."""
        table = [as_markdown(self.table)] if self.table else []
        items = ["\n".join(f"- {markdown_text(item)}" for item in self.items)] if self.items else []
        return "\n\n".join([f"**{self.heading}**", *table, *items, *map(markdown_text, self.notes)])


def report(rows: Sequence[Row], records: Sequence[Record], form: str) -> str:
    """The report on these rows as markdown, csv or json. Rows never scored are named, with what would make them."""
    if form == "markdown":
        return "\n\n".join(part.markdown() for part in parts(rows, records))
    results = collect(rows, records)
    if form == "csv":
        return as_csv([plain(result) for result in results])
    idle = _idle(rows, results)
    return as_json({
        "results": [plain(result) for result in results],
        "shipped": [
            {"row": c.row.name, "images": c.images, "ours": c.ours, "shipped": c.shipped,
             "difference_percent": c.difference} for c in compare_shipped(rows, records)
        ],
        "left_out": left_out(rows, records),
        "not_run": [row.name for row in idle],
        "not_run_why": {row.name: _why_not_run(row) for row in idle},
    })  # fmt: skip


def parts(rows: Sequence[Row], records: Sequence[Record]) -> list[Part]:
    """The report on these rows, as far as there is something to say."""
    results = collect(rows, records)
    found = [_as_published(table, results) for table in TABLES]
    found += [
        _changed([result for result in results if result.differs]),
        _beside_shipped(compare_shipped(rows, records)),
    ]
    found += [_left_out(left_out(rows, records), len(records)), _not_run(_idle(rows, results), len(rows))]
    return [part for part in found if part is not None]


def _idle(rows: Iterable[Row], results: Iterable[Result]) -> list[Row]:
    """Rows that were never scored."""
    scored = {(result.row.table, result.row.name) for result in results}
    return [row for row in rows if (row.table, row.name) not in scored]


def left_out_lines(left: Mapping[str, Sequence[str]]) -> list[str]:
    """What `left_out` found, a line for each reason: how many, and the first few of what they are."""
    lines = []
    for why, each in left.items():
        kinds = list(dict.fromkeys(each))
        more = f", and {len(kinds) - _SHOWN} more" if len(kinds) > _SHOWN else ""
        lines.append(f"{counted(len(each), 'score')} {why}: {'; '.join(kinds[:_SHOWN])}{more}")
    return lines


def _left_out(left: Mapping[str, Sequence[str]], total: int) -> Part | None:
    if not left:
        return None
    head = f"In none of these rows: {sum(map(len, left.values()))} of {counted(total, 'score')} in the ledger"
    end = "Every score, line by line: python calculate_metrics.py table LEDGER"
    return Part(head, items=left_out_lines(left), notes=[end])


def _why_not_run(row: Row) -> str:
    """Why a row has no scores, in words that other rows share."""
    if row.runnable is None:
        return "not run yet"
    reason, *commands = re.split("; to (?:make|find) it: ", row.runnable)
    return f"{reason} (the commands that make it: python reproduce.py plan ROW)" if commands else reason


def _not_run(idle: Sequence[Row], total: int) -> Part | None:
    if not idle:
        return None
    reasons: dict[str, dict[str, None]] = {}
    for row in idle:
        reasons.setdefault(_why_not_run(row), {})[row.name] = None
    lines = [
        f"{reason}: python reproduce.py run {' '.join(names)}" if reason == "not run yet" else
        f"{reason}: {', '.join(names)}" for reason, names in reasons.items()
    ]  # fmt: skip
    return Part(f"Not run: {len(idle)} of {counted(total, 'row')}", items=lines)


def _beside_shipped(compared: Sequence[Comparison]) -> Part | None:
    if not compared:
        return None
    lines = [
        (c.row.name, c.images, f"{c.ours:.4f}", f"{c.shipped:.4f}", f"{round(c.difference, 2) + 0:+.2f} %")
        for c in compared
    ]
    far = [c for c in compared if abs(c.difference) > SHIPPED_TOLERANCE]
    said = (
        f"{len(far)} of {len(compared)} are more than {SHIPPED_TOLERANCE:g} % off: something here computes otherwise "
        "(run the tests: make test)"
        if far
        else f"All are within {SHIPPED_TOLERANCE:g} %: this installation computes what it should."
    )
    table = [("row", "images", "ours", "shipped", "difference"), *lines]
    return Part("The digits beside the scores that ship, from the same images", table, notes=[said])


def _as_published(table: str, results: Iterable[Result]) -> Part | None:
    found = [result for result in results if result.row.table == table and not result.differs]
    if not found:
        return None
    header = ("row", "method", "metric", "published", "best", "mean", "95 % interval", "all", "difference",
              "within spread", "runs", "images", "labels")  # fmt: skip
    assumed = dict.fromkeys(f"{each.row.name}: assumed {each.row.assumed}" for each in found if each.row.assumed)
    return Part(TABLES[table], [header, *map(_line, found)], list(assumed))


def _line(result: Result) -> tuple[object, ...]:
    row = result.row
    paper_runs = "" if row.repeats is None else f" of {row.repeats}"
    spread = {None: "not stated", True: "yes", False: "no"}[result.within]
    return (
        row.name,
        f"{row.model}, {row.method}" + _unusual_dtype(result),
        row.metric,
        "-" if row.published is None else f"{row.published:.2f}",
        *_values(result),
        "-" if result.difference is None else f"{result.difference:+.1f} %",
        "-" if row.published is None else spread + ("" if row.spread is None else f" (±{row.spread:g} %)"),
        f"{len(result.values)}{paper_runs}",
        _count(result.num_images),
        result.labels,
    )


def _unusual_dtype(result: Result) -> str:
    return "" if result.dtype == result.row.dtype else f", {result.dtype}"


def _values(result: Result) -> tuple[str, str, str, str]:
    known, values = result.interval, ", ".join(f"{value:.4g}" for value in result.values)
    ends = "-" if known is None else f"{known.low:.4g} to {known.high:.4g}"
    return f"{result.best:.4g}", f"{result.mean:.4g}", ends, values


def _changed(results: Sequence[Result]) -> Part | None:
    if not results:
        return None
    header = ("row", "metric", "changed protocol", "best", "mean", "95 % interval", "all", "images", "labels")
    shown = {(result.row.name, result.differs, result.dtype): result for result in results}.values()
    counts = Counter(text for result in shown for text in result.differs)
    marks = {text: f"({n})" for n, text in enumerate((text for text, count in counts.items() if count > 1), start=1)}
    lines = [
        (r.row.name, r.row.metric, "; ".join(marks.get(text, text) for text in r.differs) + _unusual_dtype(r),
         *_values(r),
         _count(r.num_images), r.labels)
        for r in shown
    ]  # fmt: skip
    notes = [f"{mark} {text}, in {counted(counts[text], 'row')}" for text, mark in marks.items()]
    return Part("Changed protocol: not to be compared with published numbers", [header, *lines], notes=notes)
