"""The papers' plots of scores: against the weight, the interval's ends, the EMA lengths. matplotlib is needed to draw.

A curve is the mean over seed blocks, its band runs from their minimum to their maximum, its bars are the intervals of
the means, where these are known; the best mean is marked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnlib.atomic import atomic_path
from dnnlib.extras import matplotlib_figure
from edm2_guidance.metrics.uncertainty import Interval

Curve = Mapping[float, Sequence[float]]  # x -> scores of the seed blocks
Intervals = Mapping[float, Interval]  # x -> that of their mean

COLOURS = ("#3366cc", "#d9662b", "#2f8f4e", "#8a4fb0", "#b03a48", "#6b6b6b")


@dataclass(frozen=True)
class Panel:
    """One pair of axes. curves: by label. lines: horizontal lines by label, such as a floor. log: of the x axis.

    notes: what the curves leave out, a sentence each. intervals: by label. higher: whether higher scores are better.
    """

    curves: Mapping[str, Curve]
    xlabel: str
    log: bool = False
    lines: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    higher: bool = False


def draw(panels: Sequence[Panel], ylabel: str, path: str | Path, title: str = "") -> None:
    """Draws panels side by side, with one scale of scores, into a PNG, PDF or SVG, which appears whole or not at all.

    ValueError if a panel has nothing to draw. ImportError, with the command that installs it, without matplotlib.
    """
    for panel in panels:
        if not any(panel.curves.values()):
            raise ValueError(f"nothing to draw against {panel.xlabel}: no scores in the ledger")
    figure = matplotlib_figure()(figsize=(1 + 4.2 * len(panels), 3.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
    figure.axes[0].set_ylabel(ylabel)
    if title:
        figure.suptitle(title, fontsize=10)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lower().lstrip("."), dpi=130)


def _draw_panel(axes: Any, panel: Panel) -> None:
    for (label, curve), colour in zip(panel.curves.items(), _colours(), strict=False):
        xs = sorted(curve)
        means = [sum(curve[x]) / len(curve[x]) for x in xs]
        best = (max if panel.higher else min)(range(len(xs)), key=means.__getitem__)
        known = panel.intervals.get(label, {})
        axes.vlines([*known], [i.low for i in known.values()], [i.high for i in known.values()], color=colour, lw=0.8)
        axes.fill_between(xs, [min(curve[x]) for x in xs], [max(curve[x]) for x in xs], color=colour, alpha=0.2, lw=0)
        axes.plot(xs, means, "o-", ms=3, lw=1.4, color=colour, label=f"{label}: {means[best]:.3f}")
        axes.plot(xs[best], means[best], "*", ms=11, color=colour)
    for label, value in (panel.lines or {}).items():
        axes.axhline(value, ls="--", lw=1, color="#888888", label=f"{label}: {value:.3f}")
    if panel.log:
        axes.set_xscale("log")
    axes.set_xlabel(panel.xlabel)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)


def _colours() -> list[str]:
    return [*COLOURS] * 4
