"""The papers' plots of scores: against the weight, the interval's ends, the EMA lengths. matplotlib is needed to draw.

A curve is the mean over seed blocks. Its bars are the intervals of the means where these are known; where none is, they
run from the lowest to the highest block. The best mean has a star. Where curves have the same x, their bars stand side
by side.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnlib import figures
from dnnlib.terminal import counted
from edm2_guidance.metrics.uncertainty import Interval

Curve = Mapping[float, Sequence[float]]  # x -> scores of the seed blocks
Intervals = Mapping[float, Interval]  # x -> that of their mean

#: Inches of a column and of a page of a paper.
WIDTHS = {"column": 3.3, "page": 6.9}

_LEAST_WIDTH = 2.4  # of axes beside each other, inches
_APART = 2.5  # points between the bars of two curves at one x


@dataclass(frozen=True)
class Panel:
    """One pair of axes. curves: by label. log: of the x axis. fixed: what is the same all along the curves.

    notes: what the curves leave out, a sentence each. intervals: by label. higher: whether higher scores are better.
    baseline: that from which the curves are differences, a line at 0; empty for scores.
    """

    curves: Mapping[str, Curve]
    xlabel: str
    log: bool = False
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    higher: bool = False
    fixed: str = ""
    baseline: str = ""

    @property
    def names(self) -> list[str]:
        """The labels in the order of a legend."""
        return [*self.curves, *filter(None, [self.baseline])]

    def means(self, name: str) -> dict[float, float]:
        """Of a curve, in the order of x."""
        return {x: sum(scores) / len(scores) for x, scores in sorted(self.curves[name].items())}

    def best(self, name: str) -> tuple[float, float]:
        """x and mean of a curve's best point."""
        return (max if self.higher else min)(self.means(name).items(), key=lambda point: point[1])

    @property
    def labels(self) -> list[str]:
        """What a legend says unless told otherwise: names, with the best score of each curve."""
        return self.names if self.baseline else [f"{name}: {self.best(name)[1]:.3f}" for name in self.curves]


@dataclass(frozen=True)
class Look:
    """How a plot is to look.

    labels: of the curves of every panel in their order, then of a baseline; None for their own and the best scores.
    width, height: inches; None for what the panels like. style: as `dnnlib.figures.styled`.
    """

    labels: Sequence[str] | None = None
    title: str = ""
    width: float | None = None
    height: float | None = None
    style: str | None = None


def check(panels: Sequence[Panel], look: Look) -> None:
    """ValueError if a panel has nothing to draw; as `check_look`."""
    for panel in panels:
        if not any(panel.curves.values()):
            raise ValueError(f"nothing to draw against {panel.xlabel}: no scores in the ledger")
        check_look(look, panel.names)


def check_look(look: Look, names: Sequence[str]) -> None:
    """ValueError if there are not as many curves, of these names, as labels; as of `styled`."""
    if look.labels is not None and len(look.labels) != len(names):
        raise ValueError(
            f"{counted(len(look.labels), 'label')} for {counted(len(names), 'curve')}: one each for {', '.join(names)}"
        )
    figures.check_style(look.style)


def draw(panels: Sequence[Panel], ylabel: str, path: str | Path, look: Look = Look()) -> None:
    """Draws panels with one scale of scores into a PNG, PDF or SVG, which appears whole or not at all.

    Side by side, or one below the other where that would be too narrow. Raises as `check`; ImportError, with the
    command that installs it, without matplotlib.
    """
    check(panels, look)
    with figures.styled(look.style):
        figure = arranged(panels, ylabel, look)
        figures.save(figure, Path(path))


def arranged(panels: Sequence[Panel], ylabel: str, look: Look) -> Any:
    """The figure that `draw` saves, inside `figures.styled`."""
    width = look.width or 1 + 4.2 * len(panels)
    columns = len(panels) if width / len(panels) >= _LEAST_WIDTH else 1
    rows = len(panels) // columns
    height = look.height or rows * (3.4 if look.width is None else min(2.6, 0.8 * width / columns))
    figure = figures.new_figure((width, height))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw_panel(axes, panel, panel.labels if look.labels is None else look.labels, width / columns)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{ylabel}{bars_text(panels)}")
    if look.title:
        figure.suptitle(look.title)
    return figure


def bars_text(panels: Sequence[Panel]) -> str:
    """What bars are, on a line of its own; nothing without any."""
    if any(known for panel in panels for known in panel.intervals.values()):
        return "\n(bars: 95 % intervals)"
    blocks = [scores for panel in panels for curve in panel.curves.values() for scores in curve.values()]
    return "\n(bars: lowest to highest block)" if any(len(scores) > 1 for scores in blocks) else ""


def _draw_panel(axes: Any, panel: Panel, labels: Sequence[str], width: float) -> None:
    handles = []
    for number, (name, look) in enumerate(zip(panel.curves, looks(), strict=False)):
        means, offs = panel.means(name), list(zip(*bar_lengths(panel, name), strict=True))
        bars = {"yerr": offs if any(map(any, offs)) else None, "capsize": 1.5, "elinewidth": 0.8, "capthick": 0.8}
        handles.append(axes.errorbar([*means], [*means.values()], **bars, **look))
        drawn = [*handles[-1].get_children()]
        if not panel.baseline:
            size = 2.4 * figures.setting("lines.markersize")
            drawn += axes.plot(*panel.best(name), "*", ms=size, color=look["color"])
        beside = _shifted(axes, _APART * (number - (len(panel.curves) - 1) / 2))
        for artist in drawn:
            artist.set_transform(beside)
    if panel.baseline:
        handles.append(axes.axhline(0, ls="--", lw=0.8, color="#666666"))
    if panel.log:
        axes.set_xscale("log")
    axes.set_xlabel(panel.xlabel + (f"\n({panel.fixed})" if panel.fixed else ""))
    axes.grid(alpha=0.25)
    add_legend(axes, handles, labels, width)


def bar_lengths(panel: Panel, name: str) -> Iterator[tuple[float, float]]:
    """How far the bar at each x goes below and above the mean."""
    known, scores = panel.intervals.get(name, {}), panel.curves[name]
    for x, mean in panel.means(name).items():
        if any(panel.intervals.values()):
            low, high = (known[x].low, known[x].high) if x in known else (mean, mean)
        else:
            low, high = min(scores[x]), max(scores[x])
        yield max(0.0, mean - low), max(0.0, high - mean)


def looks() -> Iterator[Mapping[str, Any]]:
    """Colour and marker of one curve after the other, as the style has them."""
    cycle = figures.setting("axes.prop_cycle")
    return ({"color": "C0", "marker": "o", **each} for each in itertools.cycle(cycle))


def _shifted(axes: Any, points: float) -> Any:
    """The transform of data that is drawn so many points to the right."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def add_legend(axes: Any, handles: Sequence[Any], labels: Sequence[str], width: float) -> None:
    """Above the axes, where it hides nothing, with as many entries in a row as fit into so many inches."""
    letter = figures.setting("font.size") / 72 * 0.6  # inches; an entry's line and gaps are as wide as six
    across = max(1, int(width / (letter * (max(map(len, labels)) + 6))))
    columns = -(-len(labels) // -(-len(labels) // across))
    axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False)
