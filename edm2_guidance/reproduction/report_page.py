"""A ledger as a web page: published and own scores, what was flagged, curves, classes, samples, recipes to copy.

A section that has nothing says so, with the command that would fill it. No torch here.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar
from xml.etree.ElementTree import Element

from dnnlib.terminal import counted
from dnnlib.web_page import element, web_page
from edm2_guidance.metrics.catalog import score_text, value_text
from edm2_guidance.metrics.ledger_table import cells, flag_lines, mixtures, rows_of
from edm2_guidance.papers import overview
from edm2_guidance.papers.charts import SERIES, Point, Series, chart, table
from edm2_guidance.papers.curves import Record
from edm2_guidance.papers.plots import Panel, bar_lengths, bars_text
from edm2_guidance.papers.report import Part, parts
from edm2_guidance.papers.tables import Row
from edm2_guidance.papers.trade_off import TradeOff

#: What makes a line's images and score again; ValueError, saying why, for none.
CommandsOf = Callable[[Record], list[str]]

T = TypeVar("T")

#: What is said where a section has nothing, with the command that would fill it.
_MISSING = {
    "Published and own scores": "no row: python reproduce.py run ROW",
    "Curves": "no search of two points or more: python reproduce.py search --preset=NAME --over=weight",
    "Precision against recall": "no search recorded both: python reproduce.py search --preset=NAME --over=weight "
    "--metrics=METRIC,precision,recall",
    "Scores against the number of images": "nothing was scored at two counts of images: python calculate_metrics.py "
    "gen --preset=NAME --num-images=N",
    "Classes": "no stored images with labels: python reproduce.py run ROW --keep-images",
    "Samples": "no stored images: python reproduce.py run ROW --keep-images, or --samples=ZIP",
    "Recipes to copy": "no score of images whose recipe is known: python reproduce.py run ROW",
    "Every score": "no score yet: python reproduce.py run ROW",
    "What was flagged": "no line of the ledger has a flag, and all lines of a metric may be compared",
}

MAX_RECIPES, MAX_LINES = 200, 5000  # more make no page that anybody reads


def report_page(
    rows: Sequence[Row], records: Sequence[Record], ledger: str, commands_of: CommandsOf,
    classes: Sequence[Element], samples: Sequence[Element],
) -> bytes:  # fmt: skip
    """The page on these rows and the whole ledger.

    ledger: its file. classes, samples: what `report_pictures` found.
    """
    name = ledger.replace("\\", "/").rsplit("/", 1)[-1]
    found = {
        "Published and own scores": (each for part in parts(rows, records) for each in _part(part)),
        "What was flagged": _flagged(records),
        "Curves": _searches(records),
        "Precision against recall": _trade_offs(records),
        "Scores against the number of images": _convergence(records),
        "Classes": classes,
        "Samples": samples,
        "Recipes to copy": _recipes(records, commands_of),
        "Every score": _scores(records),
    }
    sections = [_section(title, content) for title, content in found.items()]
    links = (element("li", element("a", title, href=f"#{_anchor(title)}")) for title in found)
    head = [
        element("h1", f"Scores of {name}"),
        element("p", _summary(rows, records), class_="faint"),
        element("nav", element("ul", *links), aria_label="Sections"),
    ]
    return web_page(f"Scores of {name}", [*head, *sections])


def _section(title: str, found: Iterable[Element]) -> Element:
    content = list(found) or [element("p", f"Nothing here: {_MISSING[title]}.")]
    return element("section", element("h2", title), *content, id=_anchor(title))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _summary(rows: Sequence[Row], records: Sequence[Record]) -> str:
    times = sorted(str(record["time"])[:10] for record in records if record.get("time"))
    recipes = {record["recipe_hash"] for record in records if record.get("recipe_hash")}
    when = " to ".join(dict.fromkeys([*times[:1], *times[-1:]]))
    held = f"{counted(len(records), 'score')} of {counted(len(recipes), 'recipe')}" + (f", {when}" if when else "")
    return f"{held}; the tables are of {counted(len(rows), 'row')}, all else is of the whole ledger"


def _part(part: Part) -> Iterator[Element]:
    yield element("h3", part.heading)
    if part.table:
        yield table(part.table[0], part.table[1:])
    if part.items:
        yield element("ul", *(element("li", item) for item in part.items))
    yield from (element("p", note, class_="faint") for note in part.notes)


def _flagged(records: Sequence[Record]) -> Iterator[Element]:
    lines = [*flag_lines(rows_of(records)), *mixtures(records)]
    if lines:
        yield element("ul", *(element("li", line) for line in lines))
        yield element("p", "Rows are numbered as in the last section, by their lines in the ledger.", class_="faint")


def _searches(records: Sequence[Record]) -> Iterator[Element]:
    found, problems = overview.searches(records)
    if found:
        yield element("div", *(each for name, panel in found for each in _charts(name, panel, True)), class_="charts")
    of_charts = (f"{name} against {panel.xlabel}: {note}" for name, panel in found for note in panel.notes)
    said = dict.fromkeys([*problems, *of_charts])
    if said:
        yield element("ul", *(element("li", text) for text in said), class_="faint")


def _convergence(records: Sequence[Record]) -> Iterator[Element]:
    found = [each for name, panel in overview.convergence(records) for each in _charts(name, panel, False)]
    if found:
        yield element("p", "A score of few images is biased: compare scores of equal counts.", class_="faint")
        yield element("div", *found, class_="charts")


def _charts(name: str, panel: Panel, stars: bool) -> Iterator[Element]:
    """A chart for every few curves. stars: at the best points."""
    more = ", ".join(filter(None, [panel.fixed, bars_text([panel]).strip("\n()"), "star: best" if stars else ""]))
    title = f"{name} against {panel.xlabel}" + (f" ({more})" if more else "")
    for names in _some([*panel.curves]):
        yield chart(title, [_series(name, panel, each, stars) for each in names], panel.xlabel, name, log=panel.log)


def _some(series: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as one chart has, in turn."""
    return (series[start : start + SERIES] for start in range(0, len(series), SERIES))


def _series(result: str, panel: Panel, name: str, stars: bool) -> Series:
    points, metric = [], result.partition("@")[0]
    for (x, mean), offs in zip(panel.means(name).items(), bar_lengths(panel, name), strict=True):
        low, high = _ends(mean, offs)
        said = value_text(metric, mean)
        if low is not None and high is not None:
            said += f" [{value_text(metric, low)}, {value_text(metric, high)}]"
        points.append(Point(x, mean, low, high, said=said))
    best = next(point for point in points if point.x == panel.best(name)[0])
    return Series(name, points, best if stars else None)


def _ends(mean: float, offs: tuple[float, float]) -> tuple[float | None, float | None]:
    """Those of a bar, if there is one."""
    low, high = mean - offs[0], mean + offs[1]
    return (low, high) if any(offs) and math.isfinite(high - low) else (None, None)


def _trade_offs(records: Sequence[Record]) -> Iterator[Element]:
    found = []
    for num, both in overview.trade_offs(records):
        fidelity, diversity = (f"{metric}@{num}" for metric in both.metrics)
        bars = bars_text(both[:2]).strip("\n()")
        said = ", ".join(filter(None, [f"numbers: {both.fidelity.xlabel}", bars]))
        for names in _some([*both.fidelity.curves]):
            series = [Series(name, _trade_off(both, name)) for name in names]
            found.append(chart(f"{fidelity} against {diversity} ({said})", series, diversity, fidelity))
    if found:
        yield element("div", *found, class_="charts")


def _trade_off(both: TradeOff, name: str) -> list[Point]:
    means = [panel.means(name) for panel in both[:2]]
    offs = [bar_lengths(panel, name) for panel in both[:2]]
    return [
        Point(x, y, *_ends(y, of_y), *_ends(x, of_x), said=f"{y:.4f}", label=f"{w:g}")
        for (w, y), x, of_y, of_x in zip(means[0].items(), means[1].values(), *offs, strict=True)
    ]


def _recipes(records: Sequence[Record], commands_of: CommandsOf) -> Iterator[Element]:
    """Every recipe, with its scores, as command lines and as JSON."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.get("recipe") and record.get("recipe_hash"):
            groups.setdefault(record["recipe_hash"], []).append(record)
    known = [lines for lines in groups.values() if overview.recipe_of(lines[0]) is not None]
    for words, lines in zip(overview.labels([lines[0] for lines in known[:MAX_RECIPES]]), known, strict=False):
        scores = [f"{overview.name_of(line)} {score_text(line)}" for line in lines]
        shown = "; ".join(dict.fromkeys(scores))
        try:
            commands = "\n".join(commands_of(lines[0]))
        except ValueError as error:
            commands = f"# {error}"
        stored = json.dumps(lines[0]["recipe"], indent=2, sort_keys=True)
        inside = [element("p", shown, class_="faint"), _copied(commands), _copied(stored)]
        yield element("details", element("summary", f"{words}: {scores[0]}"), *inside)
    if len(known) > MAX_RECIPES:
        yield element("p", f"The first {MAX_RECIPES} of {counted(len(known), 'recipe')}.", class_="faint")


def _copied(text: str) -> Element:
    """A text with a button that copies it."""
    button = element("button", "copy", class_="copy", type="button", hidden="hidden")
    return element("div", button, element("pre", text), class_="copied")


def _scores(records: Sequence[Record]) -> Iterator[Element]:
    if records:
        header, *lines = cells(rows_of(records))
        summary = element("summary", counted(len(lines), "line"))
        yield element("details", summary, table(header, lines[:MAX_LINES]))
    if len(records) > MAX_LINES:
        yield element("p", f"The first {MAX_LINES:,} of {len(records):,}: python calculate_metrics.py table LEDGER")
