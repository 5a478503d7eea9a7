"""The autoguidance paper's figures of the 2D toy (arXiv 2406.02507): Figs. 1, 2 and 9, and a sheet of eight panels.

Functions draw on a matplotlib figure that is handed in; nothing here opens a window or touches global state.
"""

from __future__ import annotations  # matplotlib's types are names only: it is not imported here

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from sampling.guidance import DenoiserAt, Guide, guided
from toy import methods
from toy.distribution import fractal
from toy.methods import Networks
from toy.network import ToyModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 1
SIGMA_MID = 0.03  # of the close-ups
FIG9_SIGMAS = (0.5, 0.25, 0.08, 0.03, 0.01)
NUM_SAMPLES, NUM_STARTS = 1 << 14, 1 << 12
APART = 0.045  # least distance between the starts of two trajectories
INSIDE = 0.99  # share of the mass within the contours

ORANGE, DARK_ORANGE, GREY, DARK_GREY, INK, BLUE = "#fbc78f", "#e8862e", "#dddddd", "#aaaaaa", "#20242c", "#2364aa"


@dataclass(frozen=True)
class View:
    """A square of the plane."""

    centre: tuple[float, float]
    half_width: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top."""
        (x, y), half = self.centre, self.half_width
        return x - half, x + half, y - half, y + half

    def grid(self, size: int) -> Tensor:
        """Points at the centres of size x size pixels, row by row from the bottom, float32 [size * size, 2]."""
        left, right, bottom, top = self.extent
        ticks = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(bottom + ticks * (top - bottom), left + ticks * (right - left), indexing="ij")
        return torch.stack([x, y], dim=-1).reshape(-1, 2)

    def holds(self, points: Tensor) -> Tensor:
        """Which of the points [N, 2] lie inside, bool [N]."""
        return ((points - torch.tensor(self.centre)).abs() < self.half_width).all(dim=1)


WHOLE = View((0.30, 0.30), 1.2)
CLOSE = View((0.45, 1.22), 0.3)


# ----------------------------------------------------------------------------
# Figures.


def draw_fig1(figure: Figure, nets: Networks, cfg: float, autoguidance: float) -> None:
    """Fig. 1: samples of the true distribution and of four methods, five panels."""
    axes = _row_of_axes(figure, 5)
    titles = (
        "(b) Without guidance", f"(c) CFG, w = {cfg:g}", f"(d) Naive truncation, {methods.TRUNCATION:.2f}",
        f"(e) Autoguidance, w = {autoguidance:g}",
    )  # fmt: skip
    _samples(axes[0], "(a) Ground truth", _true_samples())
    for ax, title, at in zip(axes[1:], titles, methods.compared(nets, cfg, autoguidance).values(), strict=True):
        _samples(ax, title, methods.sample(at, NUM_SAMPLES, SEED))
    _frame_of(axes[2], CLOSE)


def draw_fig2(figure: Figure, main: ToyModel, guide: ToyModel, weight: float) -> None:
    """Fig. 2: why CFG does what it does, in the part of Fig. 1c that is framed there; five panels."""
    axes = _row_of_axes(figure, 5)
    _close_up(axes[:3], main, guide)
    _paths(axes[3], "(d) Without guidance", guided(main.denoise))
    _paths(axes[4], f"(e) With guidance, w = {weight:g}", guided(main.denoise, [Guide(guide.denoise, weight)]))
    for ax, letter in zip(axes, "abc", strict=False):
        ax.set_title(f"({letter}) {ax.get_title()}")


def draw_fig9(figure: Figure, nets: Networks) -> None:
    """Fig. 9: learned densities and their ratios from high to low noise, the guide of CFG above, that of
    autoguidance below."""  # fmt: skip
    rows = ("main, $p_1$", "unconditional, $p_0$", "CFG: $p_1 / p_0$", "weak, $p_0$", "autoguidance: $p_1 / p_0$")
    axes = figure.subplots(len(rows), len(FIG9_SIGMAS), squeeze=False)
    for column, sigma in enumerate(FIG9_SIGMAS):
        column_axes = axes[:, column]
        _density(column_axes[0], WHOLE, nets.main, sigma)
        for row, guide in ((1, nets.unconditional), (3, nets.weak)):
            _density(column_axes[row], WHOLE, guide, sigma)
            _ratio(column_axes[row + 1], WHOLE, nets.main, guide, sigma)
        column_axes[0].set_title(f"$\\sigma$ = {sigma:g}")
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name)


def draw_sheet(figure: Figure, main: ToyModel, guide: ToyModel, weight: float) -> None:
    """One main network and one guide in eight panels: samples above, the close-up of Fig. 2 below."""
    axes = figure.subplots(2, 4)
    at = guided(main.denoise, [Guide(guide.denoise, weight)])
    _samples(axes[0, 0], "Ground truth", _true_samples())
    _samples(axes[0, 1], "Without guidance", methods.sample(guided(main.denoise), NUM_SAMPLES, SEED))
    _samples(axes[0, 2], f"Guided, w = {weight:g}", methods.sample(at, NUM_SAMPLES, SEED))
    _frame_of(axes[0, 2], CLOSE)
    _paths(axes[0, 3], "Paths without guidance", guided(main.denoise))
    _close_up(axes[1, :3], main, guide)
    _paths(axes[1, 3], f"Paths with guidance, w = {weight:g}", at)


def draw_training(figure: Figure, net: ToyModel, classes: str) -> None:
    """A network while it trains: its density at SIGMA_MID, and samples, over the classes that it learns."""
    axes = _row_of_axes(figure, 2)
    view = WHOLE if classes == "A" else View((0.0, 0.0), 1.6)
    _density(axes[0], view, net, SIGMA_MID)
    axes[0].set_title(f"density, $\\sigma$ = {SIGMA_MID:g}")
    _samples(axes[1], "samples", methods.sample(guided(net.denoise), NUM_STARTS, SEED), view)


# ----------------------------------------------------------------------------
# Panels.


def _samples(ax: Axes, title: str, points: Tensor, view: View = WHOLE) -> None:
    _regions(ax, view)
    points = points[view.holds(points)]
    ax.scatter(points[:, 0], points[:, 1], s=0.5, c=INK, linewidths=0, rasterized=True, zorder=3)
    _finish(ax, title, view)


def _regions(ax: Axes, view: View) -> None:
    """The two classes as shapes: grey for class B, orange for class A over it."""
    for classes, fill, line in (("B", GREY, DARK_GREY), ("A", ORANGE, DARK_ORANGE)):
        values, level = _shape(classes, view)
        ax.contourf(values, levels=[level, math.inf], colors=[fill], extent=view.extent, zorder=1)
        ax.contour(values, levels=[level], colors=[line], linewidths=0.5, extent=view.extent, zorder=2)


@functools.cache
def _shape(classes: str, view: View, size: int = 700) -> tuple[Any, float]:
    """True log-density on a grid, and the level within which a share INSIDE of the mass lies.

    Branches are thin, so each is evaluated near itself only.
    """
    truth, points = fractal(classes), view.grid(size)
    level = truth.contour_level(INSIDE)
    values = torch.full((len(points),), level - 20)
    for branch in truth.parts():
        near = branch.near(points)
        values[near] = torch.logaddexp(values[near], branch.log_density(points[near]))
    return values.reshape(size, size).numpy(), level


def _close_up(axes: Sequence[Axes], main: ToyModel, guide: ToyModel) -> None:
    _density(axes[0], CLOSE, main, SIGMA_MID)
    axes[0].set_title(f"main, $p_1(x; {SIGMA_MID:g})$")
    _density(axes[1], CLOSE, guide, SIGMA_MID)
    axes[1].set_title(f"guide, $p_0(x; {SIGMA_MID:g})$")
    _ratio(axes[2], CLOSE, main, guide, SIGMA_MID)
    _gradients(axes[2], CLOSE, main, guide, SIGMA_MID)
    axes[2].set_title("ratio $p_1 / p_0$, gradients")


def _density(ax: Axes, view: View, net: ToyModel, sigma: float, size: int = 200) -> None:
    """A learned density, the darker the higher; white is a factor e^-6 below the highest in view."""
    logp = net(view.grid(size), sigma).reshape(size, size)
    _image(ax, view, (logp - logp.max()).numpy(), cmap="Oranges", vmin=-6, vmax=0.5)
    _finish(ax, "", view)


def _ratio(ax: Axes, view: View, main: ToyModel, guide: ToyModel, sigma: float, size: int = 200) -> None:
    """ln(p1 / p0), centred on its median where p1 is not negligible; red where the main network says more."""
    points = view.grid(size)
    logp = main(points, sigma)
    ratio = logp - guide(points, sigma)
    likely = logp > logp.max() - 6
    ratio = (ratio - ratio[likely].median()).reshape(size, size)
    _image(ax, view, ratio.numpy(), cmap="RdBu_r", vmin=-4, vmax=4)
    _finish(ax, "", view)


def _gradients(ax: Axes, view: View, main: ToyModel, guide: ToyModel, sigma: float, size: int = 14) -> None:
    points = view.grid(size)
    arrows = main.score(points, sigma) - guide.score(points, sigma)
    ax.quiver(points[:, 0], points[:, 1], arrows[:, 0], arrows[:, 1], color=INK, width=0.004, angles="xy", zorder=3)


def _paths(ax: Axes, title: str, at: DenoiserAt) -> None:
    """Where noisy points of level SIGMA_MID go; the dots are their ends."""
    _regions(ax, CLOSE)
    noisy = fractal("A").sample(NUM_STARTS, Generator().manual_seed(SEED), SIGMA_MID)
    paths = methods.trajectories(at, thinned(noisy[CLOSE.holds(noisy)], APART), SIGMA_MID)
    ax.plot(paths[:, :, 0], paths[:, :, 1], color=BLUE, linewidth=0.7, zorder=3)
    ax.scatter(paths[-1, :, 0], paths[-1, :, 1], s=6, c=INK, linewidths=0, zorder=4)
    _finish(ax, title, CLOSE)


def thinned(points: Tensor, apart: float) -> Tensor:
    """The points [N, 2] without those closer than `apart` to one that stands before them and is kept."""
    kept: list[Tensor] = []
    for point in points:
        if all((point - other).norm() >= apart for other in kept):
            kept.append(point)
    return torch.stack(kept) if kept else points[:0]


def _true_samples() -> Tensor:
    return fractal("A").sample(NUM_SAMPLES, Generator().manual_seed(SEED))


def _frame_of(ax: Axes, view: View) -> None:
    left, right, bottom, top = view.extent
    ax.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=INK, linewidth=0.8, zorder=5)


def _row_of_axes(figure: Figure, count: int) -> Any:
    return figure.subplots(1, count, squeeze=False)[0]


def _image(ax: Axes, view: View, values: Any, **style: Any) -> None:
    ax.imshow(values, origin="lower", extent=view.extent, interpolation="bilinear", **style)


def _finish(ax: Axes, title: str, view: View) -> None:
    left, right, bottom, top = view.extent
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    ax.set_title(title)
