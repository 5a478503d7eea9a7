"""Figures of the 2D toy (arXiv 2406.02507: Figs. 1, 2 and 9, and a sheet of eight panels) and of the 1D one.

Functions draw on a matplotlib figure that is handed in; nothing here opens a window or touches global state.
"""

from __future__ import annotations  # matplotlib's types are names only: it is not imported here

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from dnnlib import figures
from dnnlib.extras import need
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.guidance.guided import DenoiseAt
from edm2_guidance.toy import methods, one_dim
from edm2_guidance.toy import recipes as of_recipes
from edm2_guidance.toy.distribution import fractal
from edm2_guidance.toy.methods import Networks, guided
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.scoring import INSIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 1
SIGMA_MID = 0.03  # of the close-ups
FIG9_SIGMAS = (0.5, 0.25, 0.08, 0.03, 0.01)
NUM_SAMPLES, NUM_STARTS = 1 << 14, 1 << 12
NUM_PATHS = 64  # of a recipe
APART = 0.045  # least distance between the starts of two trajectories
DPI = 130
_PIXELS = 350  # on a side of a panel
_SQUARES = 96  # likewise, in which points are counted
_COLUMNS = 6  # of recipes
SPAN_1D, RANGE_1D = (5.0, 0.004), (-1.6, 1.6)  # of noise levels, falling, and of x

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
# Windows.


def new_figure(inches: tuple[float, float], window: bool = False) -> Figure:
    """An empty figure, with a window (shown by `show`) if asked for.

    Raises ImportError without matplotlib, ValueError where no window can be opened.
    """
    if not window:
        figure: Figure = figures.new_figure(inches)
        return figure
    pyplot: Any = need("matplotlib.pyplot", figures.INSTALL)
    if pyplot.get_backend().lower() == "agg":
        raise ValueError("no window can be opened here: leave out --show, or set DISPLAY and install a GUI toolkit")
    window_figure: Figure = pyplot.figure(figsize=inches, layout="constrained")
    return window_figure


def show() -> None:
    """Display the figures with windows until they are closed."""
    need("matplotlib.pyplot", figures.INSTALL).show()


# ----------------------------------------------------------------------------
# Figures.


#: The networks that a figure needs, by the names of the command's options.
NEEDS = {
    "sheet": ("net", "gnet"),
    "fig1": ("net", "gnet", "uncond_net"),
    "fig2": ("net", "uncond_net"),
    "fig9": ("net", "gnet", "uncond_net"),
    "gi1d": (),
}


def draw(name: str, figure: Figure, nets: Mapping[str, ToyModel], cfg: float, guidance: float) -> None:
    """Draw a figure of NEEDS with the networks that it needs. KeyError for another name, or one that is missing."""
    needed = [nets[role] for role in NEEDS[name]]
    if name == "sheet":
        draw_sheet(figure, needed[0], needed[1], guidance)
    elif name == "fig1":
        draw_fig1(figure, Networks(*needed), cfg, guidance)
    elif name == "fig2":
        draw_fig2(figure, needed[0], needed[1], cfg)
    elif name == "fig9":
        draw_fig9(figure, Networks(*needed))
    else:
        draw_gi1d(figure)


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
    _paths(axes[4], f"(e) With guidance, w = {weight:g}", guided(main.denoise, (guide.denoise, weight)))
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
    at = guided(main.denoise, (guide.denoise, weight))
    _samples(axes[0, 0], "Ground truth", _true_samples())
    _samples(axes[0, 1], "Without guidance", methods.sample(guided(main.denoise), NUM_SAMPLES, SEED))
    _samples(axes[0, 2], f"Guided, w = {weight:g}", methods.sample(at, NUM_SAMPLES, SEED))
    _frame_of(axes[0, 2], CLOSE)
    _paths(axes[0, 3], "Paths without guidance", guided(main.denoise))
    _close_up(axes[1, :3], main, guide)
    _paths(axes[1, 3], f"Paths with guidance, w = {weight:g}", at)


def draw_gi1d(figure: Figure) -> None:
    """Figs. 1 and 2 of arXiv 2404.07724: paths in one dimension, and where they end, for four intervals."""
    axes = figure.subplots(1, 2 * len(one_dim.INTERVALS), sharey=True, width_ratios=[4, 1] * len(one_dim.INTERVALS))
    levels = one_dim.levels()
    for name, left, right in zip(one_dim.INTERVALS, axes[::2], axes[1::2], strict=True):
        _density_1d(left)
        paths = one_dim.paths(name, NUM_STARTS, SEED)[:-1, :, 0]  # the last level, 0, has no place on a log axis
        paths, ends = paths[:, paths[-1].argsort()], paths[-1]
        left.plot(levels, paths[:, 32 :: NUM_STARTS // 48], color=INK, linewidth=0.5)
        _shade(left, name)
        _ends_1d(right, ends)
    axes[0].set_ylabel("x")


def recipes_size(count: int) -> tuple[float, float]:
    """Width and height, in inches, of a figure of so many recipes."""
    return 2.0 * _COLUMNS, 4.1 * -(-count // _COLUMNS)


def draw_recipes(figure: Figure, recipes: Mapping[str, Recipe]) -> None:
    """What recipes do: of each the density of its samples above the paths of a few of them, its name over both."""
    axes = figure.subplots(2 * -(-len(recipes) // _COLUMNS), _COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for place, (name, recipe) in enumerate(recipes.items()):
        row, column = divmod(place, _COLUMNS)
        draw_recipe(axes[2 * row][column], axes[2 * row + 1][column], name, recipe)


def draw_recipe(above: Axes, below: Axes, title: str, recipe: Recipe) -> None:
    """The two panels of a recipe."""
    for ax in (above, below):
        ax.set_axis_on()
        _regions(ax, WHOLE)
    _density_of(above, of_recipes.sample(recipe, NUM_SAMPLES, SEED))
    paths = of_recipes.paths(recipe, range(NUM_PATHS))
    below.plot(paths[:, :, 0], paths[:, :, 1], color=BLUE, linewidth=0.5, zorder=3)
    below.scatter(paths[-1, :, 0], paths[-1, :, 1], s=3, c=INK, linewidths=0, zorder=4)
    _finish(above, title, WHOLE)
    _finish(below, "", WHOLE)


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


def _density_of(ax: Axes, points: Tensor) -> None:
    """How many points lie in each small square: the darker the more, in logarithms; nothing where none does."""
    left, right, bottom, top = WHOLE.extent
    kept = points[WHOLE.holds(points)].double()
    counts = torch.histogramdd(kept, [_SQUARES, _SQUARES], range=[left, right, bottom, top]).hist
    values = torch.where(counts > 0, counts.log(), math.nan).T
    _image(ax, WHOLE, values.numpy(), cmap="bone_r", vmin=-2, vmax=math.log(max(len(points) / 500, 2)), zorder=3)


def _regions(ax: Axes, view: View) -> None:
    """The two classes as shapes: grey for class B, orange for class A over it."""
    for classes, fill, line in (("B", GREY, DARK_GREY), ("A", ORANGE, DARK_ORANGE)):
        values, level = _shape(classes, view)
        ax.contourf(values, levels=[level, math.inf], colors=[fill], extent=view.extent, zorder=1)
        _outline(ax, values, level, view, line)


def _outline(ax: Axes, values: Any, level: float, view: View, colour: str) -> None:
    style: dict[str, Any] = {"colors": [colour], "linewidths": 0.5, "linestyles": "solid", "extent": view.extent}
    ax.contour(values, levels=[level], zorder=2, **style)


@functools.cache
def _shape(classes: str, view: View) -> tuple[Any, float]:
    """True log-density on a grid, and the level within which a share INSIDE of the mass lies.

    Branches are thin, so each is evaluated near itself only.
    """
    size = 2 * _PIXELS
    truth, points = fractal(classes), view.grid(size)
    level = truth.contour_level(INSIDE, 1 << 12)
    values = torch.full((len(points),), level - 20)
    for branch in truth.parts():
        near = branch.near(points)
        values[near] = torch.logaddexp(values[near], branch.log_density(points[near]))
    return values.reshape(size, size).numpy(), level


def _close_up(axes: Sequence[Axes], main: ToyModel, guide: ToyModel) -> None:
    for ax in axes:
        _outline(ax, *_shape("A", CLOSE), CLOSE, INK)
    _density(axes[0], CLOSE, main, SIGMA_MID)
    axes[0].set_title(f"main, $p_1(x; {SIGMA_MID:g})$")
    _density(axes[1], CLOSE, guide, SIGMA_MID)
    axes[1].set_title(f"guide, $p_0(x; {SIGMA_MID:g})$")
    _ratio(axes[2], CLOSE, main, guide, SIGMA_MID)
    _gradients(axes[2], CLOSE, main, guide, SIGMA_MID)
    axes[2].set_title("ratio $p_1 / p_0$, gradients")


def _density(ax: Axes, view: View, net: ToyModel, sigma: float) -> None:
    """A learned density, the darker the higher; white is a factor e^-6 below the highest in view."""
    logp = net(view.grid(_PIXELS), sigma).reshape(_PIXELS, _PIXELS)
    _image(ax, view, (logp - logp.max()).numpy(), cmap="Oranges", vmin=-6, vmax=0.5)
    _finish(ax, "", view)


def _ratio(ax: Axes, view: View, main: ToyModel, guide: ToyModel, sigma: float) -> None:
    """ln(p1 / p0), centred on its median where p1 is not small; red where the main network says more.

    Where p1 is e^-12 of its maximum, no sample comes, and the networks say what they like: left grey.
    """
    points = view.grid(_PIXELS)
    logp = main(points, sigma)
    ratio = logp - guide(points, sigma)
    ratio = ratio - ratio[logp > logp.max() - 6].median()
    ratio[logp < logp.max() - 12] = math.nan
    ax.set_facecolor(GREY)
    _image(ax, view, ratio.reshape(_PIXELS, _PIXELS).numpy(), cmap="RdBu_r", vmin=-4, vmax=4)
    _finish(ax, "", view)


def _gradients(ax: Axes, view: View, main: ToyModel, guide: ToyModel, sigma: float, size: int = 14) -> None:
    points = view.grid(size)
    arrows = main.score(points, sigma) - guide.score(points, sigma)
    ax.quiver(points[:, 0], points[:, 1], arrows[:, 0], arrows[:, 1], color=INK, width=0.004, angles="xy", zorder=3)


def _paths(ax: Axes, title: str, at: DenoiseAt) -> None:
    """Where noisy points of level SIGMA_MID go; the dots are their ends."""
    _regions(ax, CLOSE)
    noisy = fractal("A").sample(NUM_STARTS, Generator().manual_seed(SEED), SIGMA_MID)
    paths = methods.trajectories(at, thinned(noisy[CLOSE.holds(noisy)], APART), SIGMA_MID)
    ax.plot(paths[:, :, 0], paths[:, :, 1], color=BLUE, linewidth=0.7, zorder=3)
    ax.scatter(paths[-1, :, 0], paths[-1, :, 1], s=6, c=INK, linewidths=0, zorder=4)
    _finish(ax, title, CLOSE)


def _density_1d(ax: Axes) -> None:
    """p(x | c) at every level, each scaled to its own maximum."""
    sigmas, x = (
        torch.logspace(math.log10(SPAN_1D[0]), math.log10(SPAN_1D[1]), _PIXELS),
        torch.linspace(*RANGE_1D, _PIXELS),
    )
    truth = one_dim.class_mixture()
    columns = [truth.log_density(x[:, None], float(sigma)) for sigma in sigmas]
    image = torch.stack([(column - column.max()).exp() for column in columns], dim=1).numpy()
    ax.pcolormesh(sigmas.numpy(), x.numpy(), image, cmap="Oranges", vmax=1.4, shading="nearest", rasterized=True)
    ax.set(xscale="log", xlim=SPAN_1D, ylim=RANGE_1D, xlabel="noise level")


def _shade(ax: Axes, name: str) -> None:
    """Mark where guidance is on, and say how much of the sampling that is."""
    interval = one_dim.INTERVALS[name]
    steps = None if interval is None else one_dim.guided_steps(interval)
    if interval is None or steps is None:
        ax.set_title("without guidance")
        return
    ends = max(interval[0], SPAN_1D[1]), min(interval[1], SPAN_1D[0])
    ax.axvspan(*ends, ymax=0.03, color=BLUE, linewidth=0, zorder=4)
    for end in ends:
        ax.axvline(end, color=BLUE, linewidth=0.8, zorder=4)
    ax.set_title(f"w = {one_dim.WEIGHT:g} {name}: {steps.last - steps.first + 1} of {one_dim.NUM_STEPS} steps")


def _ends_1d(ax: Axes, ends: Tensor) -> None:
    """Histogram of the samples beside the density that they should have."""
    x = torch.linspace(*RANGE_1D, 300)
    ax.hist(ends, bins=120, range=RANGE_1D, density=True, orientation="horizontal", color=INK)
    ax.plot(one_dim.class_mixture().log_density(x[:, None]).exp(), x, color=DARK_ORANGE, linewidth=1.2)
    ax.set(xticks=[], xlim=(0, 5))


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
    ax.imshow(values, origin="lower", extent=view.extent, interpolation="nearest", **style)


def _finish(ax: Axes, title: str, view: View) -> None:
    left, right, bottom, top = view.extent
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    ax.set_title(title)
