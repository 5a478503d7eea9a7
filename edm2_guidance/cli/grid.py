"""The grid of generate_images.py: its options, rows and columns. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import product
from typing import TYPE_CHECKING

import click

from edm2_guidance.cli.class_names import Classes, index_of, known_names
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.lists import FloatList, Size, check_once
from edm2_guidance.cli.option_group import OptionGroup, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.recipe_args import (
    GuideDefaults,
    check_no_scale,
    check_no_weight,
    recipe_from,
    with_scale,
    with_weight,
)
from edm2_guidance.cli.recipe_options import Method
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.recipe.class_names import ClassName, class_text
from edm2_guidance.recipe.prompts import prompt_text
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import recipe_at

if TYPE_CHECKING:
    from edm2_guidance.sampling.generation import Generation

ChangeRecipe = Callable[[Recipe], Recipe]

#: What a side of a grid can hold; captions name it in this order.
AXES = ("method", "weight", "scale", "alpha", "class", "seed")
_CAPTION = 80  # characters of a prompt
_GIVEN_BY = {
    "method": "--preset", "weight": "--weights", "scale": "--scales", "alpha": "--alphas", "class": "--classes",
}  # fmt: skip


class Axes(ParamType):
    """Axes of a grid for one of its sides, the first one changing slowest."""

    name = "axis,..."

    def parse(self, text: str) -> list[str]:
        names = [part.strip() for part in text.split(",")]
        strange = [name for name in names if name not in AXES]
        if strange:
            raise ValueError(f"'{strange[0]}' is not one of {', '.join(AXES)}")
        return check_once(names)


class GridOptions(OptionGroup, heading="Grid"):
    """A grid of methods in place of a folder of images."""

    grid: str | None = option(
        "One captioned picture instead: a row per --preset, columns as follows", metavar="PNG|JPEG|PDF", first=True
    )
    weights: list[float] | None = option("Columns of the grid: guidance weights", type=FloatList(), first=True)
    scales: list[float] | None = option("Columns of the grid: scales of the classifier", type=FloatList())
    classes: list[int | ClassName] | None = option("Columns of the grid: classes; with --weights, rows", type=Classes())
    alphas: list[float] | None = option(
        "Columns of the grid: blends, 0 = guided by the first --gnet, 1 = by the second; --weights are rows",
        type=FloatList(),
    )
    rows: list[str] | None = option(f"Rows of the grid instead: of {', '.join(AXES)}", type=Axes())
    columns: list[str] | None = option("Columns of the grid instead, of the same", type=Axes())
    cell: tuple[int, int] | None = option("Seeds in a cell of the grid, across and down", metavar="WxH", type=Size())
    enlarge: int | None = option(
        "Enlarge images in the grid so many times, pixels sharp  [default: small ones to 64 pixels]",
        type=click.IntRange(1, 64),
    )


def check_grid(grid: GridOptions, *, folder: bool) -> None:
    """Usage errors for options of a grid without --grid, or of a folder with it. folder: whether these were given."""
    if grid.grid is not None:
        if folder:
            raise click.UsageError("--grid is one picture: leave out --outdir and --subdirs")
    elif any(each is not None for each in (grid.weights, grid.scales, grid.classes, grid.alphas)):
        raise click.UsageError("--weights, --scales, --classes and --alphas are of a grid: add --grid=FILE.png")
    elif any(each is not None for each in (grid.rows, grid.columns, grid.cell, grid.enlarge)):
        raise click.UsageError("--rows, --columns, --cell and --enlarge are of a grid: add --grid=FILE.png")


@dataclass(frozen=True)
class Value:
    """One of an axis: what its caption says, and what it does to a recipe, or of which seeds it is."""

    caption: str
    change: ChangeRecipe = replace
    seeds: tuple[int, ...] = ()


#: A row or column: a value of each axis on that side.
Place = Mapping[str, Value]


@dataclass(frozen=True)
class Layout:
    """What stands where in a grid. still: the value of each axis that is on neither side, for all cells."""

    rows: Sequence[Place]
    columns: Sequence[Place]
    still: Place
    start: Recipe
    seeds: Sequence[int]

    def recipe(self, row: Place, column: Place) -> Recipe:
        """That of a cell."""
        values = {**self.still, **row, **column}
        return reduce(lambda made, axis: values[axis].change(made), filter(values.__contains__, AXES), self.start)

    def seeds_of(self, row: Place, column: Place) -> Sequence[int]:
        """Those of a cell: one or a few where they are on a side, else all."""
        on_side = {**row, **column}.get("seed")
        return self.seeds if on_side is None else on_side.seeds


def grid_layout(grid: GridOptions, method: Method, seeds: Sequence[int]) -> Layout:
    """Rows and columns of the grid: presets, or the one method that the other options describe, and what is varied.

    Unless --rows or --columns say otherwise: columns of blends, weights, scales, classes or seeds, the first of these
    that there is; rows of the rest, all methods of one class together. Usage errors.
    """
    start, axes = _axes(grid, method)
    size = len(seeds) if grid.cell is None else grid.cell[0] * grid.cell[1]
    if size == 0:
        raise click.UsageError("--cell: seeds across and down are 1 or more each")
    rows, columns = _sides(grid, axes)
    if "seed" in rows + columns:
        axes["seed"] = _groups(seeds, 1 if grid.cell is None else size)
    elif size != len(seeds):
        raise click.UsageError(f"cells of {size} seeds, and there are {len(seeds)}: add --columns=seed, or --rows=seed")
    still = {axis: values[0] for axis, values in axes.items() if axis not in rows + columns}
    return Layout(_places(axes, rows), _places(axes, columns), still, start, seeds)


def _sides(grid: GridOptions, axes: Mapping[str, Sequence[Value]]) -> tuple[list[str], list[str]]:
    """The axes of rows and of columns, as asked for; a side of which nothing is said takes the rest, or the seeds."""
    if grid.rows is None and grid.columns is None:
        column = next((axis for axis in ("alpha", "weight", "scale", "class") if axis in axes), "seed")
        return [axis for axis in ("class", "weight", "method") if axis in axes and axis != column], [column]
    named = [*(grid.rows or ()), *(grid.columns or ())]
    for axis in named:
        if axis != "seed" and axis not in axes:
            raise click.UsageError(f"the grid has no {axis}: give {_GIVEN_BY[axis]}, or leave it out of its sides")
        if named.count(axis) > 1:
            raise click.UsageError(f"{axis} is in --rows and in --columns: one of them holds it")
    rest = [axis for axis, values in axes.items() if axis not in named and len(values) > 1]
    if grid.rows is not None and grid.columns is not None and rest:
        raise click.UsageError(f"{rest[0]} is neither in --rows nor in --columns: add it to one of them")
    if not rest and "seed" not in named:
        rest = ["seed"]
    return rest if grid.rows is None else grid.rows, rest if grid.columns is None else grid.columns


def _places(axes: Mapping[str, Sequence[Value]], side: Sequence[str]) -> list[Place]:
    """The rows or columns of a side; one without caption if no axis is there."""
    return [dict(zip(side, values, strict=True)) for values in product(*(axes[axis] for axis in side))]


def _groups(seeds: Sequence[int], size: int) -> list[Value]:
    """The axis of seeds, so many together."""
    if len(seeds) % size:
        raise click.UsageError(f"{len(seeds)} seeds do not fill cells of {size}: change --seeds or --cell")
    groups = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
    return [Value(f"seed{'s' * (size > 1)} {_listed(group)}", seeds=group) for group in groups]


def _listed(group: Sequence[int]) -> str:
    first, last = group[0], group[-1]
    runs = len(group) > 1 and list(group) == list(range(first, last + 1))
    return f"{first}-{last}" if runs else ", ".join(map(str, group))


def of_known_class(recipe: Recipe, file: str | None) -> Recipe:
    """The recipe with the index for a class's name, if names are known before the network is open.

    file: of --class-names.
    """
    if isinstance(recipe.labels, str):
        return recipe
    return replace(recipe, labels=index_of(recipe.labels, recipe.net.source, file))


def caption_of(place: Place, asked: Recipe, generation: "Generation", file: str | None) -> str:
    """The caption of a row or column once a network of it is open: a class with index and name.

    asked: the recipe as `Layout.recipe` says it. file: of --class-names.
    """
    texts = {axis: place[axis].caption for axis in AXES if axis in place}
    found = generation.recipe.labels
    if "class" in texts and isinstance(found, int) and generation.recipe.prompts:
        texts["class"] = prompt_text(generation.recipe.prompts, found, _CAPTION)
    elif "class" in texts and not isinstance(found, str):
        texts["class"] = class_text(found, known_names(asked.net.source, file) or generation.main.class_names)
    return ", ".join(filter(None, texts.values()))


def _axes(grid: GridOptions, method: Method) -> tuple[Recipe, dict[str, list[Value]]]:
    """A recipe to start from, and the axes that options give, but that of seeds. Usage errors."""
    if grid.weights is not None:
        check_no_weight(method.networks, "--weights")
    if grid.scales is not None:
        check_no_scale(method.networks, "--scales")
        if grid.weights is not None or grid.alphas is not None:
            raise click.UsageError("--scales are columns, as --weights and --alphas are: give one of them")
    if grid.alphas is not None:
        return _blends(grid, grid.alphas, method)
    methods = _methods(grid, method)
    axes = {"method": [Value(caption, partial(_instead, recipe)) for caption, recipe in methods]}
    if grid.weights is not None:
        axes["weight"] = [Value(f"w = {weight:g}", partial(with_weight, weight=weight)) for weight in grid.weights]
    if grid.scales is not None:
        axes["scale"] = [Value(f"scale {scale:g}", partial(with_scale, scale=scale)) for scale in grid.scales]
    if grid.classes is not None:
        if method.sampling.class_idx is not None or method.sampling.labels is not None:
            raise click.UsageError("--classes are the labels of the grid: leave out --class and --labels")
        axes["class"] = [Value(class_text(item, None), partial(replace, labels=item)) for item in grid.classes]
    return methods[0][1], axes


def _instead(recipe: Recipe, _: Recipe) -> Recipe:
    return recipe


def _methods(grid: GridOptions, method: Method) -> list[tuple[str, Recipe]]:
    weight, scale = (each[0] if each else None for each in (grid.weights, grid.scales))
    varied = GuideDefaults(weight, scale=scale)  # guides get the weights of the columns
    names = [name.strip() for value in method.networks.preset for name in value.split(",")]
    if not names:
        recipe = recipe_from(method, defaults=varied)
        return [(_with_unusual("guided" if recipe.guides else "unguided", recipe), recipe)]
    with bad_input():
        presets = [find_preset(name) for name in names]
    rows = []
    for preset in presets:
        recipe = recipe_from(method, preset, varied)
        caption = preset.caption or preset.name
        if recipe.guides and grid.weights is None and grid.scales is None:
            caption += f", {recipe.guides[0].strength.split(' (')[0]}"
        rows.append((_with_unusual(caption, recipe), recipe))
    return rows


def _with_unusual(caption: str, recipe: Recipe) -> str:
    """The caption, and what is not as in the papers."""
    return ", ".join(filter(None, [caption, recipe.unusual_text()]))


def _blends(grid: GridOptions, alphas: list[float], method: Method) -> tuple[Recipe, dict[str, list[Value]]]:
    """`_axes` of blends at each weight w; the guides' own weights follow from w and alpha."""
    networks = method.networks
    if grid.classes is not None:
        raise click.UsageError("--alphas are the columns: give one class by --class, and --weights for rows")
    weights = grid.weights or list(dict.fromkeys(networks.guidance))
    named = max(len(networks.gnet), len(networks.reference))  # guides; of a preset's others the weights are known
    sensible = (named == 2 or networks.preset) and all(0 <= alpha <= 1 for alpha in alphas)
    start = None
    if sensible and weights and (grid.weights is not None or len(weights) == 1):
        own = (weights[0],) * 2 if named == 2 else ()
        start = recipe_from(replace(method, networks=replace(networks, guidance=own)))
    if start is None or [guide.of_classifier for guide in start.guides] != [False, False]:
        raise click.UsageError(
            "--alphas, from 0 to 1, blend two guides at one w: give --gnet twice, the unconditional one first, or "
            "--reference twice, or a --preset that has two, and --weights=W,... for rows"
        )
    recipes = [recipe_at(start, {"weight": weight}) for weight in weights]
    captions = [_with_unusual(f"w = {w:g}", recipe) for w, recipe in zip(weights, recipes, strict=True)]
    ends = dict(zip((0.0, 1.0), (f" ({guide.name})" for guide in start.guides), strict=True))
    return start, {
        "weight": [Value(text, partial(_instead, recipe)) for text, recipe in zip(captions, recipes, strict=True)],
        "alpha": [Value(f"alpha = {a:g}{ends.get(a, '')}", partial(_blend, alpha=a)) for a in alphas],
    }


def _blend(recipe: Recipe, alpha: float) -> Recipe:
    """Both guides at a share of the row's weight."""
    return recipe_at(recipe, {"weight": recipe.guides[0].weight.w, "alpha": alpha})
