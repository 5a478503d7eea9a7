"""Fidelity against diversity as guidance grows: precision (y) against recall (x), as curves of truncation are drawn.

Kynkaanniemi et al. 2019 (arXiv 1904.06991), Fig. 4. A point is a weight, whose number stands beside it; points are
means over seed blocks, and bars as in `plots`. matplotlib is needed to draw. No torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from dnnlib import figures
from dnnlib.extras import need
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.papers.curves import Record, Scores, value_panel
from edm2_guidance.papers.plots import Look, Panel, add_legend, bar_lengths, bars_text, looks


class TradeOff(NamedTuple):
    """Scores of the same searches at the same x, by two metrics, whose names are these."""

    fidelity: Panel
    diversity: Panel
    metrics: tuple[str, str]

    @property
    def notes(self) -> list[str]:
        """What is left out, a sentence each."""
        return list(dict.fromkeys([*self.fidelity.notes, *self.diversity.notes]))


def trade_off(records: Sequence[Record], names: Sequence[str], num_images: int, asked: Sequence[str] = ()) -> TradeOff:
    """What lines of a ledger say of searches over the weight, a scale or a blend, all else at its best.

    asked: the metrics of fidelity and diversity; if none, those two that the lines have. ValueError if these are not
    two, or the searches have no point by both, or as `Scores`.
    """
    kind = Scores(records, names[0], num_images).kind
    metrics = _metrics(records, names, asked)
    panels = [value_panel(records, names, num_images, kind, metric) for metric in metrics]
    common = {name: panels[0].curves[name].keys() & panels[1].curves[name].keys() for name in names}
    if lacking := [name for name in names if not common[name]]:
        raise ValueError(f"the search '{lacking[0]}' has no point by both {' and '.join(metrics)}")
    fidelity, diversity = (
        replace(panel, curves={name: {x: panel.curves[name][x] for x in sorted(common[name])} for name in names})
        for panel in panels
    )
    return TradeOff(fidelity, diversity, metrics)


def _metrics(records: Sequence[Record], names: Sequence[str], asked: Sequence[str]) -> tuple[str, str]:
    """The names of the metrics of fidelity and of diversity."""
    there = dict.fromkeys(each["metric"] for each in records if (each.get("search") or {}).get("name") in names)
    found = []
    for shown in ("fidelity", "diversity"):
        known = [metric for metric in asked or there if find_metric(metric).measure.shows == shown]
        if len(known) != 1:
            has, of = ", ".join(known) or "none", ", ".join(asked or there) or "nothing"
            raise ValueError(
                f"one metric of {shown} is drawn, and among {of} there is {has}: name two that the search recorded, "
                "such as --metrics=precision,recall"
            )
        found += known
    return found[0], found[1]


def draw(drawn: TradeOff, num_images: int, path: str | Path, look: Look) -> None:
    """Draws it into a PNG, PDF or SVG, which appears whole or not at all. Raises as `plots.draw`."""
    with figures.styled(look.style):
        figures.save(arranged(drawn, num_images, look), Path(path))


def arranged(drawn: TradeOff, num_images: int, look: Look) -> Any:
    """The figure that `draw` saves, inside `figures.styled`."""
    width = look.width or 5.2
    figure = figures.new_figure((width, look.height or 0.85 * width))
    axes, handles = figure.subplots(), []
    names = list(drawn.fidelity.curves)
    halo = need("matplotlib.patheffects", figures.INSTALL).withStroke(linewidth=2, foreground="white")
    for name, style in zip(names, looks(), strict=False):
        y, x = (list(panel.means(name).values()) for panel in drawn[:2])
        off_y, off_x = (list(zip(*bar_lengths(panel, name), strict=True)) for panel in drawn[:2])
        bars = {"xerr": off_x if any(map(any, off_x)) else None, "yerr": off_y if any(map(any, off_y)) else None}
        handles.append(axes.errorbar(x, y, **bars, elinewidth=0.8, capsize=0, **style))
        for part in handles[-1].lines[2]:
            part.set_alpha(0.35)  # bars of both ways cross those of other points
        for value, place in zip(drawn.fidelity.means(name), zip(x, y, strict=True), strict=True):
            axes.annotate(
                f"{value:g}", place, (3, 4), textcoords="offset points", color=style["color"],
                fontsize=0.8 * figures.setting("font.size"), path_effects=[halo],
            )  # fmt: skip
    fidelity, diversity = (f"{metric}@{num_images}" for metric in drawn.metrics)
    axes.set(xlabel=f"{diversity}\n(numbers: {drawn.fidelity.xlabel})", ylabel=f"{fidelity}{bars_text(drawn[:2])}")
    axes.grid(alpha=0.25)
    add_legend(axes, handles, names if look.labels is None else look.labels, width)
    if look.title:
        figure.suptitle(look.title)
    return figure
