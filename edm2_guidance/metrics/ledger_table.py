"""The ledger as a table or as CSV: which rows, in which order, and what they mix."""

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dnnlib.inference import precision_words
from dnnlib.terminal import printable
from edm2_guidance.metrics.catalog import find_metric, interval_text, value_text
from edm2_guidance.recipe.describe import DETAILS, describe_recipe
from edm2_guidance.work.plan import format_seeds

_HEADER = ("row", "metric", "value", "95 % interval", "images", "method", "labels", "reference", "time", "")
_CSV_HEADER = (
    "row", "metric", "value", "low", "high", "num_images", "images", "method", "labels", "reference", "note", "time",
    "recipe_hash", "flags",
)  # fmt: skip


#: Of `comparable`, what may be another for the very reason that scores are compared.
OF_IMAGES = ("label rules", "precisions")


class Row(NamedTuple):
    """A record with its number in the ledger, from 1, by which `compare` finds it."""

    number: int
    record: Mapping[str, Any]


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """All records of a ledger, numbered."""
    return [Row(number, record) for number, record in enumerate(records, start=1)]


def is_changed(record: Mapping[str, Any]) -> bool:
    """Whether it is the score of images that were changed on purpose (`metrics/perturb.py`)."""
    return "change" in (record.get("images") or {})


def select(rows: Iterable[Row], metrics: Collection[str] = (), words: Collection[str] = ()) -> list[Row]:
    """The rows of any of these metrics (all: none given), "fid" or "fid@5000", in which all these words are found.

    Words are looked for in what the table shows of a row, in its note, and in the name of the paper's row or the search
    that it belongs to, whatever their case.
    """

    wanted = {name.strip().replace("-", "_") for name in metrics}

    def fits(row: Row) -> bool:
        names = {str(name).replace("-", "_") for name in (row.record["metric"], row.record.get("name"))}
        belongs = (row.record.get(of) for of in ("row", "search"))
        said = [row.record.get("note"), *(each.get("name") for each in belongs if isinstance(each, Mapping))]
        shown = " ".join([*_cells(row.record, {*DETAILS, "seeds"}), *(str(text or "") for text in said)]).lower()
        return (not wanted or not names.isdisjoint(wanted)) and all(word.lower() in shown for word in words)

    return [row for row in rows if fits(row)]


def names(rows: Iterable[Row]) -> list[str]:
    """The metrics of these rows, with their counts, once each."""
    return sorted({str(row.record.get("name", row.record["metric"])) for row in rows})


def _value(record: Mapping[str, Any]) -> tuple[str, float]:
    """Best values first, of each metric. Of one that is unknown here low ones count as better."""
    try:
        sign = -1 if find_metric(record["metric"]).measure.better == "higher" else 1
    except ValueError:
        sign = 1
    return str(record.get("name", record["metric"])), sign * record["value"]


#: By what a table is sorted: the name of an order, and what it goes by.
ORDERS: Mapping[str, Callable[[Row], Any]] = {
    "row": lambda row: row.number,
    "value": lambda row: _value(row.record),
    "method": lambda row: (_cells(row.record, ())[4], row.number),
    "time": lambda row: (str(row.record.get("time", "")), row.number),
}


def format_table(rows: Iterable[Row]) -> str:
    """Rows as an aligned table, and below it what those of one metric mix. "" for no rows."""
    rows = list(rows)
    if not rows:
        return ""
    table = [[*map(printable, line)] for line in cells(rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
    lines = []
    for row in table:
        padded = [
            cell.rjust(width) if _HEADER[column] in ("row", "value") else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    notes = [*flag_lines(rows), *mixtures(row.record for row in rows)]
    return "\n".join([*lines, *(f"! {printable(note)}" for note in notes)])


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The header, and what a table shows of each row."""
    varied = _varied(row.record for row in rows)
    return [_HEADER, *((str(row.number), *_cells(row.record, varied)) for row in rows)]


def format_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV with a header, values with all their digits, lines ended by a newline each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for number, record in rows:
        interval, (images, _, labels, reference, time, _) = record.get("interval") or {}, _cells(record, {"seeds"})[3:]
        shown = [
            number, record["metric"], record["value"], interval.get("low", ""), interval.get("high", ""),
            record.get("num_images", ""), images, _method(record, describe_recipe(record.get("recipe"), DETAILS)),
            labels, reference, record.get("note") or "", time, record.get("recipe_hash") or "",
            "; ".join(map(str, record.get("flags") or [])),
        ]  # fmt: skip
        writer.writerow([printable(cell) if isinstance(cell, str) else cell for cell in shown])
    return text.getvalue()


def flag_lines(rows: Iterable[Row]) -> list[str]:
    """Every flag once, with the rows that have it: "rows 1-3, 7: ..."."""
    numbers: dict[str, list[int]] = {}
    for number, record in rows:
        for flag in dict.fromkeys(map(str, record.get("flags") or [])):
            numbers.setdefault(flag, []).append(number)
    shown = {flag: format_seeds(tuple(sorted(found))).replace(",", ", ") for flag, found in numbers.items()}
    return [f"row{'s' if len(numbers[flag]) > 1 else ''} {text}: {flag}" for flag, text in shown.items()]


def _varied(records: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Of what a table is silent as long as it is the same in all rows, that in which they differ."""
    found: dict[str, set[object]] = {}
    for record in records:
        if record.get("recipe"):
            for name in DETAILS:
                found.setdefault(name, set()).add(repr(record["recipe"].get(name)))
        if _seeds(record) is not None:
            found.setdefault("seeds", set()).add(_seeds(record))
    return frozenset(name for name, values in found.items() if len(values) > 1)


def _seeds(record: Mapping[str, Any]) -> str | None:
    """The seeds of images that lie in no file, in words; None if unknown."""
    images = record.get("images") or {}
    return f"seeds {images['seeds']}" if images.get("seeds") and not images.get("path") else None


def _cells(record: Mapping[str, Any], varied: Collection[str]) -> tuple[str, ...]:
    images, reference = record.get("images") or {}, record.get("reference") or {}
    return (
        str(record.get("name", record["metric"])),
        value_text(str(record["metric"]), record["value"]),
        interval_text(str(record["metric"]), record.get("interval")),
        (_seeds(record) if "seeds" in varied else None) or _images_name(images),
        _method(record, str(record.get("note") or describe_recipe(record.get("recipe"), varied))),
        "-" if record.get("labels") is None else str(record["labels"]),
        _file_name(reference.get("source")),
        str(record.get("time", "-")),
        "!" if record.get("flags") else "",
    )


def _images_name(images: Mapping[str, Any]) -> str:
    """The file, and what was made of its images on purpose, if anything."""
    of = images.get("of")
    if "change" in images and isinstance(of, Mapping):
        return f"{_file_name(of.get('path'))}, {images['change']}"
    return _file_name(images.get("path"))


def _method(record: Mapping[str, Any], words: str) -> str:
    """These words for how images were made, and the precision if it is not the usual one."""
    return ", ".join(filter(None, [words, precision_words(record.get("images"))]))


def _file_name(path: object) -> str:
    return "-" if path is None else str(path).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def mixtures(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """For every result name, the respects in which its rows cannot be compared straight: one sentence each."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(str(record.get("name", record["metric"])), []).append(record)
    notes = []
    for name, group in groups.items():
        for what, values in comparable(group).items():
            if len(values) > 1:
                shown = ", ".join(sorted(values.values()))
                notes.append(f"{name}: the rows mix {what} ({shown})")
    return notes


def comparable(group: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What should be the same in all rows: of each, the values that there are, and what to call them."""
    found: dict[str, dict[str, str]] = {
        "references": {},
        "detector weights": {},
        "resizes": {},
        "label rules": {},
        "precisions": {},
    }
    for record in group:
        reference, detector = record.get("reference") or {}, record.get("detector") or {}
        source, content = _file_name(reference.get("source")), reference.get("sha256")
        named = source if content is None else f"{source} {str(content)[:8]}"
        found["references"].setdefault(str(content or source), named)  # one file may have several names
        weights, resize = str(detector.get("weights_sha256"))[:8], str(detector.get("resize"))
        found["detector weights"][weights] = weights
        found["resizes"][resize] = resize
        if record.get("labels") is not None:  # sets of images that do not say are no evidence of a mixture
            found["label rules"][str(record["labels"])] = str(record["labels"])
        if record.get("recipe"):
            precision = precision_words(record.get("images")) or "as usual"
            found["precisions"][precision] = precision
    return found
