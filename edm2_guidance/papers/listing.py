"""Tables as text, CSV and JSON, and the list of all rows. No torch here."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dnnlib.terminal import printable
from edm2_guidance.papers.tables import TABLES, Row, parsed, published_runs, publisher

Cells = Sequence[Sequence[object]]  # rows of cells, the first row the header


def as_text(rows: Cells) -> str:
    """Aligned columns under a rule."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_markdown(rows: Cells) -> str:
    """A Markdown table, whose cells are shown as the texts that they are."""
    lines = ["| " + " | ".join(markdown_text(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": r"\\", "|": r"\|", "`": r"\`", "*": r"\*", "[": r"\[", "]": r"\]"}
)


def markdown_text(text: str) -> str:
    """A text that ends no cell, and makes no code, link, picture or HTML."""
    return printable(text).translate(_MARKDOWN).replace("://", r":\//")


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same keys as CSV with a header; None is an empty cell, a list is joined by semicolons.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    if not records:
        return ""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(records[0])
    for record in records:
        cells = map(_csv_cell, record.values())
        writer.writerow(";".join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells)
    return file.getvalue().rstrip("\n")


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: full width


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return [_csv_cell(item) for item in value]
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) and not _is_number(value) else "") + printable(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_json(data: object) -> str:
    """Plain data as indented JSON; in ASCII where it holds control characters, which JSON lets pass."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return text if text.replace("\n", "").isprintable() else json.dumps(data, indent=2)


def record_of(row: Row) -> dict[str, Any]:
    """Everything about a row as plain data."""
    return {
        "table": row.table,
        "row": row.name,
        "data": row.data,
        "model": row.model,
        "method": row.method,
        "metric": row.metric,
        "published": row.published,
        "networks": list(row.files),
        "ema": list(row.emas),
        "weights": list(row.weights),
        "classifier_scale": row.scale if row.classifier else None,
        "rule": row.rule if row.net is not None else None,
        "around": row.around or None,
        "references": list(row.references),
        "sampler": row.sampler if row.net is not None else None,
        "schedule": row.schedule if row.net is not None else None,
        "dtype": row.dtype if row.net is not None else None,
        "enlarges": row.base,
        "interval_steps": None if row.interval is None else f"{row.interval.first}-{row.interval.last}",
        "interval_sigmas": row.sigmas or None,
        "steps": row.num_steps if row.net is not None else None,
        "images": row.num_images,
        "repeats": row.repeats,
        "first_seed": row.first_seed,
        "labels": row.labels if row.net is not None else None,
        "reference": row.reference,
        "source": row.source,
        "assumed": row.assumed or None,
        "note": row.note or None,
        "runnable": row.runnable or "yes",
    }


def list_text(rows: Iterable[Row]) -> str:
    """Rows under the headings of their tables, and below them what the last column means."""
    rows = list(rows)
    parts = []
    for table in dict.fromkeys(row.table for row in rows):
        header = ("row", "model", "method", "metric", "published", "w", "interval", "EMA", "runs")
        lines = [_line(row) for row in rows if row.table == table]
        parts.append(f"{table}: {TABLES[table]}\n{as_text([header, *lines])}")
    return "\n\n".join(parts)


def _line(row: Row) -> tuple[str, ...]:
    interval = row.sigmas or ("" if row.interval is None else str(row.interval))
    if row.translated:
        interval = f"{row.interval}, printed {row.sigmas}"
    return (
        row.name,
        f"{row.model} {row.data}",
        row.method,
        row.metric,
        "" if row.published is None else f"{row.published:.2f}",
        " ".join(weight if isinstance(weight, str) else f"{weight:g}" for weight in row.weights),
        interval,
        " ".join(f"{ema:.3f}" for ema in row.emas if ema is not None),
        _state(row),
    )


def _state(row: Row) -> str:
    """Whether the row runs, in a few words; `plan` has the commands that it needs."""
    if row.runnable is None:
        made = "yes"
    elif row.blocked is not None:
        return _why_blocked(row.blocked)
    elif any(map(publisher, row.files)):
        made = "save"
    else:
        released = all(parsed(file)["run"] in published_runs() for file in row.files)
        made = "reconstruct" if released else "train, reconstruct"
    return f"{made}; assumed" if row.assumed else made


def _why_blocked(reason: str) -> str:
    for command, word in (("network_tool.py entropy", "measure"), ("reproduce.py search", "search")):
        if command in reason:
            return word
    return "no: " + ("copied number" if reason.startswith("a number copied") else reason.split(",")[0])
