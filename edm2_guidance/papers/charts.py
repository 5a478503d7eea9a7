"""Charts of a web page: inline SVG, drawn without matplotlib, its colours those of the page's style.

Every chart has a title for those who hear it, a legend, and its numbers as a table below it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element

from dnnlib.web_page import element

SERIES = 6  # that colours and markers tell apart
_WIDTH, _HEIGHT = 400, 270  # of the drawing, in its own units: on a phone one is about a pixel
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 392, 10, 228
_MOST, _LEAST = 1e300, 1e-200  # of values, so that differences of floats are what they should be
_APART = 4  # between the bars of two series at one x
_MARKERS = ("M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z", "M-3.5,-3.5h7v7h-7z", "M0,-5L4.5,3.5H-4.5z", "M0,-5L5,0L0,5L-5,0z",
            "M0,5L4.5,-3.5H-4.5z", "M-4,-4L4,4M-4,4L4,-4")  # fmt: skip
_STAR = "M0,-9L2.1,-2.9L8.6,-2.8L3.4,1.1L5.3,7.3L0,3.6L-5.3,7.3L-3.4,1.1L-8.6,-2.8L-2.1,-2.9z"


@dataclass(frozen=True)
class Point:
    """A value y at x. low, high: the bar of y; left, right: that of x; None for none. said: y in words.

    label: what stands beside it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None
    said: str = ""
    label: str = ""

    @property
    def extent(self) -> tuple[list[float], list[float]]:
        """All that it covers of x and of y."""
        both = (self.x, (self.left, self.right)), (self.y, (self.low, self.high))
        x, y = ([at, *(end for end in ends if end is not None)] for at, ends in both)
        return x, y


@dataclass(frozen=True)
class Series:
    """Points that a line joins, in order. best: the one that has a star."""

    name: str
    points: Sequence[Point]
    best: Point | None = None


@dataclass(frozen=True)
class Axis:
    """From values to places. ticks: at which values it has lines."""

    name: str
    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] = field(default=())

    def share(self, value: float) -> float:
        """0 at the lower end, 1 at the upper one."""
        low, high, at = ((math.log(v) if self.log else v) for v in (self.low, self.high, value))
        return (at - low) / (high - low)


def axis(name: str, values: Sequence[float], log: bool = False) -> Axis:
    """The axis on which these values lie, with room at its ends. log: if all of them are above 0."""
    values = [min(max(value, -_MOST), _MOST) for value in values if math.isfinite(value)] or [0.0]
    log = log and min(values) > 0
    low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
    size = max(abs(low), abs(high), _LEAST)
    room = 0.05 * (high - low) if high - low > 1e-9 * size else 0.05 * size if size > _LEAST else 0.5
    low, high = low - room, high + room
    if log:
        low, high = 10**low, 10**high
        ticks = [tick for tick in _decades(low, high) if low <= tick <= high]
        return Axis(name, low, high, True, ticks if len(ticks) > 1 else sorted(set(values)))
    step = _step((high - low) / 5)
    return Axis(name, low, high, False, [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)])


def _step(least: float) -> float:
    """The least of ... 0.1, 0.2, 0.5, 1, 2, 5 ... that is not below."""
    unit = 10.0 ** math.floor(math.log10(least))
    return next(step * unit for step in (1, 2, 5, 10) if step * unit >= least * (1 - 1e-9))


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if high < 1000 * low else (1,)
    return [step * 10.0**power for power in range(first, last + 1) for step in steps]


def chart(title: str, series: Sequence[Series], xlabel: str, ylabel: str, *, log: bool = False) -> Element:
    """A figure of one to `SERIES` series, each of one point or more. log: of the x axis."""
    points = [point for each in series for point in each.points]
    x = axis(xlabel, [value for point in points for value in point.extent[0]], log)
    y = axis(ylabel, [value for point in points for value in point.extent[1]])
    drawing = _drawing(title, *_frame(x, y))
    apart = 0 if any(point.left is not None for point in points) else _APART
    for number, each in enumerate(series):
        drawing.append(_drawn(each, number, x, y, apart * (number - (len(series) - 1) / 2)))
    legend = element("ul", *(_entry(each.name, number) for number, each in enumerate(series)), class_="legend")
    rows = [(each.name, f"{p.x:g}", p.said or f"{p.y:g}", p.label) for each in series for p in each.points]
    header = ("series", xlabel, ylabel, "")
    return element("figure", element("figcaption", title), drawing, legend, numbers(header, rows))


def bars(title: str, counts: Sequence[int], xlabel: str, names: Sequence[str], expected: float) -> Element:
    """A figure of counts, a bar each. expected: a line across. names: of the bars, for the table."""
    y, width = replace(axis("images", [0, *counts, expected]), low=0), (_RIGHT - _LEFT) / len(counts)
    x = Axis(xlabel, -0.5, len(counts) - 0.5, False, range(0, len(counts), -(-len(counts) // 10)))
    drawing = _drawing(title, *_frame(x, y))
    for number, count in enumerate(counts):
        top, floor, left = _y(y, count), _y(y, 0), _x(x, number - 0.5)
        drawing.append(_rect(left + 0.1 * width, top, 0.8 * width, floor - top, f"{names[number]}: {count}"))
    drawing.append(_line(_LEFT, _y(y, expected), _RIGHT, _y(y, expected), "expected"))
    rows = [(name, str(count)) for name, count in zip(names, counts, strict=True)]
    return element("figure", element("figcaption", title), drawing, numbers((xlabel, "images"), rows))


def numbers(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    """Rows of a table to unfold."""
    return element("details", element("summary", "Numbers"), table(header, rows))


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> Element:
    """A table in a box of its own, which scrolls where the page is narrower."""
    head = element("thead", element("tr", *(element("th", str(cell), scope="col") for cell in header)))
    body = (element("tr", *(element("td", str(cell)) for cell in row)) for row in rows)
    return element("div", element("table", head, element("tbody", *body)), class_="box", tabindex="0")


def _drawing(title: str, *children: Element) -> Element:
    size = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img"}
    return element("svg", element("title", title), *children, **size)


def _frame(x: Axis, y: Axis) -> Iterator[Element]:
    """Lines at the ticks, their values, and the names of the axes."""
    for tick in x.ticks:
        yield _line(_x(x, tick), _TOP, _x(x, tick), _BOTTOM, "grid")
        yield _text(_x(x, tick), _BOTTOM + 14, f"{tick:g}", "middle")
    for tick in y.ticks:
        yield _line(_LEFT, _y(y, tick), _RIGHT, _y(y, tick), "grid")
        yield _text(_LEFT - 5, _y(y, tick) + 4, f"{tick:.6g}", "end")
    middle = (_TOP + _BOTTOM) / 2
    yield _text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, x.name, "middle")
    yield _text(0, 0, y.name, "middle", transform=f"translate(11 {middle:g}) rotate(-90)")


def _drawn(series: Series, number: int, x: Axis, y: Axis, shift: float) -> Element:
    """A series, so far to the right."""
    group = element("g", class_=f"s{number}")
    places = [(_x(x, point.x) + shift, _y(y, point.y)) for point in series.points]
    group.append(element("polyline", points=" ".join(f"{right:.2f},{down:.2f}" for right, down in places)))
    for point, (right, down) in zip(series.points, places, strict=True):
        if point.low is not None and point.high is not None:
            ends = _y(y, point.low), _y(y, point.high)
            group.append(_line(right, ends[0], right, ends[1], "bar"))
            group.extend(_line(right - 3, end, right + 3, end, "bar") for end in ends)
        if point.left is not None and point.right is not None:
            group.append(_line(_x(x, point.left), down, _x(x, point.right), down, "bar"))
        shape, said = _STAR if point is series.best else _MARKERS[number], f"{series.name}: {point.said or point.y}"
        place = f"translate({right:.2f} {down:.2f})"
        group.append(element("path", element("title", said), d=shape, transform=place, class_="mark"))
        if point.label:
            group.append(_text(right + 7, down - 6, point.label, "start"))
    return group


def _entry(name: str, number: int) -> Element:
    mark = element("path", d=_MARKERS[number], class_="mark", transform="translate(12 7)")
    line = element("g", _line(1, 7, 23, 7, "bar"), mark, class_=f"s{number}")
    return element("li", element("svg", line, viewBox="0 0 24 14", class_="key", aria_hidden="true"), name)


def _x(of: Axis, value: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * of.share(value)


def _y(of: Axis, value: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * of.share(value)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    ends = {name: f"{value:.2f}" for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    return element("line", class_=kind, **ends)


def _rect(x: float, y: float, width: float, height: float, said: str) -> Element:
    sides = {name: f"{value:.2f}" for name, value in (("x", x), ("y", y), ("width", width), ("height", height))}
    return element("rect", element("title", said), class_="count", **sides)


def _text(x: float, y: float, text: str, anchor: str, **more: str) -> Element:
    return element("text", text, x=f"{x:.2f}", y=f"{y:.2f}", text_anchor=anchor, **more)
