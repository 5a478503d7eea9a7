"""An arena as pictures: how methods stand, and what solvers reach with how many evaluations. matplotlib is needed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnnlib import figures
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.papers.arena import Arena, Entry
from edm2_guidance.papers.arena_lines import Lines
from edm2_guidance.papers.standings import Standing

_ROW = 0.22  # inches of a method
_COLUMNS = 6  # of searches beside each other
_TICKS = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]
_HIGHEST = 6  # scores that a search shows, in times of the best of all
_QUIET = "#bbbbbb"


def draw(arena: Arena, entries: Sequence[Entry], lines: Lines, found: Sequence[Standing], folder: Path) -> list[Path]:
    """Writes the pictures of an arena as PNGs; their paths. ImportError, naming what to install, without matplotlib.

    entries: whose searches are drawn. lines: of the ledger. found: its `standings`, as far as they are drawn.
    """
    methods = [each for each in found if each.entry.group == "methods"]
    solvers = [each for each in found if each.entry.of is not None]
    made = []
    with figures.styled(None):
        pictures = {
            "methods": ranking(arena, methods),
            "searches": curves(arena, entries, lines),
            "solvers": pareto(arena, solvers),
        }
        for name, figure in pictures.items():
            if figure is not None:
                made.append(folder / f"{name}.png")
                figures.save(figure, made[-1])
    return made


def ranking(arena: Arena, found: Sequence[Standing]) -> Any:
    """Scores with intervals, a row a method, the best on top; a colour for each guide. None without any."""
    if not found:
        return None
    metric = arena.metrics[0]
    figure = figures.new_figure((6.4, 1.2 + _ROW * len(found)))
    axes = figure.subplots()
    guides = list(dict.fromkeys(_guide(each) for each in found))
    for guide in guides:
        rows = [(row, each) for row, each in enumerate(found) if _guide(each) == guide]
        means = [each.mean(metric) for _, each in rows]
        ends = [each.interval(metric) for _, each in rows]
        bars = [
            [0 if i is None else mean - i.low for i, mean in zip(ends, means, strict=True)],
            [0 if i is None else i.high - mean for i, mean in zip(ends, means, strict=True)],
        ]
        axes.errorbar(means, [row for row, _ in rows], xerr=bars, fmt="o", ms=3.5, elinewidth=0.8, label=guide)
    axes.set_yticks(range(len(found)), [each.entry.name for each in found])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    lows = [each.mean(metric) if (i := each.interval(metric)) is None else i.low for each in found]
    if _by_ratio(arena, lows):
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_xlabel(f"{metric}@{arena.final.num_images} (bars: 95 % intervals; of pairs they are narrower)")
    axes.legend(title="guide", frameon=False, loc="upper right")
    return figure


def _guide(standing: Standing) -> str:
    return standing.entry.name.partition("/")[2] or "none"


def curves(arena: Arena, entries: Sequence[Entry], lines: Lines) -> Any:
    """What the searches found: a panel for each method, a curve for each guide. None without any."""
    panels: dict[str, dict[str, dict[float, float]]] = {}
    axes_of = {}
    for entry in entries:
        scores = {
            next(iter(record["search"]["point"].values())): float(record["value"])
            for record in lines.searches.get(entry.name, ())
        }
        if scores and entry.axis is not None:
            method, _, guide = entry.name.partition("/")
            panels.setdefault(method, {})[guide] = dict(sorted(scores.items()))
            axes_of[method] = entry.axis.name
    if not panels:
        return None
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = figures.new_figure((0.4 + 1.75 * columns, 0.5 + 1.35 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    guides = list(dict.fromkeys(guide for panel in panels.values() for guide in panel))
    values = [value for panel in panels.values() for curve in panel.values() for value in curve.values()]
    best = min(values)
    for axes, (method, panel) in zip(grid.flat, panels.items(), strict=False):
        is_weight = axes_of[method] == "weight"
        from_1 = is_weight and min(min(curve) for curve in panel.values()) > 1  # where 1 is off, as of most weights
        for guide, curve in panel.items():
            at = [x - 1 for x in curve] if from_1 else [*curve]
            axes.plot(at, [*curve.values()], marker="o", ms=2, lw=0.9, color=f"C{guides.index(guide)}", label=guide)
        axes.set_xscale("log" if from_1 else "linear")
        if _by_ratio(arena, values):
            axes.set(yscale="log", ylim=(0.9 * best, _HIGHEST * best))
            axes.set_yticks([tick for tick in _TICKS if 0.9 * best <= tick <= _HIGHEST * best])
        axes.set_title(method, fontsize=8)
        axes.set_xlabel("w - 1" if from_1 else "w" if is_weight else axes_of[method], fontsize=7, labelpad=1)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.25)
    for axes in [*grid.flat][len(panels) :]:
        axes.set_axis_off()
    handles = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([*handles.values()], [*handles], loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _by_ratio(arena: Arena, values: Sequence[float]) -> bool:
    """Whether scores are told apart by their ratios: distances are, shares are not."""
    return find_metric(arena.metrics[0]).measure.better == "lower" and min(values) > 0


def pareto(arena: Arena, found: Sequence[Standing]) -> Any:
    """Scores against evaluations of all networks, a panel for each method; named is what no other beats in both."""
    methods = list(dict.fromkeys(each.entry.searched.name for each in found))
    if not methods:
        return None
    metric = arena.metrics[0]
    figure = figures.new_figure((1 + 3.4 * len(methods), 3.8))
    grid = figure.subplots(1, len(methods), squeeze=False)
    for axes, method in zip(grid.flat, methods, strict=True):
        members = [each for each in found if each.entry.searched.name == method]
        curves: dict[str, list[Standing]] = {}
        for each in members:
            curves.setdefault(_solver(each), []).append(each)
        for curve in curves.values():
            points = sorted((_calls(each), each.mean(metric)) for each in curve)
            axes.plot(*zip(*points, strict=True), color=_QUIET, lw=0.8, marker="o", ms=2)
        front = front_of(members, metric)
        axes.plot([_calls(e) for e in front], [e.mean(metric) for e in front], color="C0", lw=1.4, marker="o", ms=4)
        for each in front:
            where = (_calls(each), each.mean(metric))
            axes.annotate(_solver(each), where, (0, -11), textcoords="offset points", fontsize=7, ha="center")
        scale = "log" if _by_ratio(arena, [each.mean(metric) for each in members]) else "linear"
        axes.set(xscale="log", yscale=scale, title=method, xlabel="evaluations of all networks")
        axes.set_xticks(sorted({_calls(each) for each in members}), minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    grid[0, 0].set_ylabel(f"{metric}@{arena.final.num_images}")
    return figure


def front_of(found: Sequence[Standing], metric: str) -> list[Standing]:
    """Those that no other beats, or equals, in score and evaluations alike; by evaluations."""
    sign = -1 if find_metric(metric).measure.better == "higher" else 1
    front: list[Standing] = []
    for each in sorted(found, key=lambda each: (_calls(each), sign * each.mean(metric))):
        if not front or sign * each.mean(metric) < sign * front[-1].mean(metric):
            front.append(each)
    return front


def _calls(standing: Standing) -> int:
    return sum(standing.evaluations.values())


def _solver(standing: Standing) -> str:
    """What comes between method and evaluations in the entry's name, without places of files."""
    named = standing.entry.name.removeprefix(f"{standing.entry.searched.name}/").rpartition("/")[0]
    return re.sub(r":file=[^:,]*", "", named)
