"""Tables as text, CSV and JSON, and the list of all rows. No torch here."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from papers.tables import TABLES, Row, parsed, published_runs

Cells = Sequence[Sequence[object]]  # rows of cells, the first row the header


def as_text(rows: Cells) -> str:
    """Aligned columns under a rule."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_markdown(rows: Cells) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same keys as CSV with a header; None is an empty cell, a list is joined by semicolons."""
    if not records:
        return ""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(records[0])
    for record in records:
        writer.writerow(";".join(map(str, v)) if isinstance(v, list) else v for v in record.values())
    return file.getvalue().rstrip("\n")


def as_json(data: object) -> str:
    """Plain data as indented JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False)


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
        "interval_steps": None if row.interval is None else f"{row.interval.first}-{row.interval.last}",
        "interval_sigmas": row.sigmas or None,
        "steps": row.num_steps if row.net is not None else None,
        "images": row.num_images,
        "repeats": row.repeats,
        "labels": row.labels if row.net is not None else None,
        "reference": row.reference,
        "source": row.source,
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
    return (
        row.name,
        f"{row.model} {row.data}",
        row.method,
        row.metric,
        "" if row.published is None else f"{row.published:.2f}",
        " ".join(f"{weight:g}" for weight in row.weights),
        interval,
        " ".join(f"{ema:.3f}" for ema in row.emas if ema is not None),
        _state(row),
    )


def _state(row: Row) -> str:
    """Whether the row runs, in a few words; `plan` has the commands that it needs."""
    if row.runnable is None:
        return "yes"
    if row.blocked is not None:
        return "no: " + ("copied number" if row.blocked.startswith("a number copied") else row.blocked.split(",")[0])
    return "reconstruct" if all(parsed(file)["run"] in published_runs() for file in row.files) else "train, reconstruct"
