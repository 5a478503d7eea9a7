"""The grid of generate_images.py: its options, rows and columns. No torch here."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.atomic import check_destination
from edm2_guidance.cli.class_names import Class, index_of, known_names
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.lists import FloatList, IntList, check_once
from edm2_guidance.cli.option_group import OptionGroup, flag, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.recipe_args import (
    GuideDefaults,
    check_no_scale,
    check_no_weight,
    recipe_from,
    with_scale,
    with_weight,
)
from edm2_guidance.cli.recipe_options import Method, SamplingOptions
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.class_names import ClassName, class_text
from edm2_guidance.recipe.recipe import NetworkRef, Recipe
from edm2_guidance.recipe.search import recipe_at

if TYPE_CHECKING:
    from edm2_guidance.sampling.generation import Generation

ChangeRecipe = Callable[[Recipe], Recipe]


class Classes(ParamType):
    """Classes such as 0,5,10-19 or cat,dog, as a list that holds none twice."""

    name = "list"

    def parse(self, text: str) -> list[int | ClassName]:
        found: list[int | ClassName] = []
        for part in text.split(","):
            numbers = re.fullmatch(r"[\s\d-]+", part, re.ASCII)
            found += IntList().parse(part) if numbers else [Class().parse(part.strip())]
        return check_once(found)


def list_presets(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        for preset in all_presets().values():
            click.echo(f"{preset.name:32}{preset.describe()}")
        ctx.exit()


class GridOptions(OptionGroup):
    """A grid of methods in place of a folder of images."""

    grid: str | None = option("One captioned picture instead: a row per --preset, columns as follows", metavar="PNG")
    weights: list[float] | None = option("Columns of the grid: guidance weights", type=FloatList())
    scales: list[float] | None = option("Columns of the grid: scales of the classifier", type=FloatList())
    classes: list[int | ClassName] | None = option("Columns of the grid: classes; with --weights, rows", type=Classes())
    alphas: list[float] | None = option(
        "Columns of the grid: blends, 0 = guided by the first --gnet, 1 = by the second; --weights are rows",
        type=FloatList(),
    )
    list_presets: bool = flag("Name them all", is_eager=True, callback=list_presets)


def check_grid(grid: GridOptions, *, folder: bool, overwrite: bool) -> None:
    """Usage errors for options of a grid without --grid, and for a --grid that cannot be written.

    folder: whether options of a folder were given.
    """
    if grid.grid is None:
        if any(columns is not None for columns in (grid.weights, grid.scales, grid.classes, grid.alphas)):
            raise click.UsageError("--weights, --scales, --classes and --alphas are of a grid: add --grid=FILE.png")
        return
    if folder:
        raise click.UsageError("--grid is one picture: leave out --outdir and --subdirs")
    picture = Path(grid.grid)
    with bad_input():
        check_destination(picture)
    if picture.suffix.lower() != ".png":
        raise click.UsageError(f"--grid={picture}: the picture is a PNG, give a name that ends in .png")
    if picture.exists() and not overwrite:
        raise click.UsageError(f"{picture} exists: take another name, or --overwrite")


def grid_rows(grid: GridOptions, method: Method) -> list[tuple[str, Recipe]]:
    """(caption, recipe) per row: a --preset, or the one method that the other options describe.

    Classes beside weights multiply the rows, all methods of one class together; blends have weights for rows.
    """
    if grid.weights is not None:
        check_no_weight(method.networks, "--weights")
    if grid.scales is not None:
        check_no_scale(method.networks, "--scales")
        if grid.weights is not None or grid.alphas is not None:
            raise click.UsageError("--scales are columns, as --weights and --alphas are: give one of them")
    if grid.alphas is not None:
        return _blend_rows(grid, grid.alphas, method)
    rows = _method_rows(grid, method)
    if (grid.weights is None and grid.scales is None) or grid.classes is None:
        return rows
    _check_labels(method.sampling)
    return [
        (f"{caption}, {class_text(item, None)}", replace(recipe, labels=item))
        for item in grid.classes
        for caption, recipe in rows
    ]


def grid_columns(grid: GridOptions, method: Method) -> list[tuple[str, ChangeRecipe]]:
    """(caption, change of a row's recipe) per blend, weight or class; one column without change if none is asked."""
    if grid.alphas is not None:
        ends = dict(zip((0.0, 1.0), (f" ({NetworkRef(net).name})" for net in method.networks.gnet), strict=False))
        return [(f"alpha = {alpha:g}{ends.get(alpha, '')}", partial(_blend, alpha=alpha)) for alpha in grid.alphas]
    if grid.weights is not None:
        return [(f"w = {weight:g}", partial(with_weight, weight=weight)) for weight in grid.weights]
    if grid.scales is not None:
        return [(f"scale {scale:g}", partial(with_scale, scale=scale)) for scale in grid.scales]
    if grid.classes is not None:
        _check_labels(method.sampling)
        return [(class_text(item, None), partial(replace, labels=item)) for item in grid.classes]
    return [("", replace)]


def of_known_class(recipe: Recipe, file: str | None) -> Recipe:
    """The recipe with the index for a class's name, if names are known before the network is open.

    file: of --class-names.
    """
    if isinstance(recipe.labels, str):
        return recipe
    return replace(recipe, labels=index_of(recipe.labels, recipe.net.source, file))


def caption_of(caption: str, asked: Recipe, generation: "Generation", file: str | None) -> str:
    """The caption of a row or column once its network is open: a class with index and name.

    asked: the recipe as `grid_rows` and `grid_columns` say it. file: of --class-names.
    """
    found = generation.recipe.labels
    typed = "" if isinstance(asked.labels, str) else class_text(asked.labels, None)
    if not typed or isinstance(found, str) or not caption.endswith(typed):
        return caption
    names = known_names(asked.net.source, file) or generation.main.class_names
    return caption.removesuffix(typed) + class_text(found, names)


def _method_rows(grid: GridOptions, method: Method) -> list[tuple[str, Recipe]]:
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


def _blend_rows(grid: GridOptions, alphas: list[float], method: Method) -> list[tuple[str, Recipe]]:
    """A row per weight w of blends; the guides' own weights follow from w and alpha."""
    networks = method.networks
    if grid.classes is not None:
        raise click.UsageError("--alphas are the columns: give one class by --class, and --weights for rows")
    weights = grid.weights or list(dict.fromkeys(networks.guidance))
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if len(networks.gnet) != 2 or outside or not weights or (len(weights) > 1 and grid.weights is None):
        raise click.UsageError(
            "--alphas, from 0 to 1, blend two guides at one w: give --gnet twice, the unconditional one first, and "
            "--weights=W,... for rows"
        )
    each = {weight: replace(networks, guidance=(weight, weight)) for weight in weights}
    rows = [(weight, recipe_from(replace(method, networks=each[weight]))) for weight in weights]
    return [(_with_unusual(f"w = {weight:g}", recipe), recipe) for weight, recipe in rows]


def _blend(recipe: Recipe, alpha: float) -> Recipe:
    """Both guides at a share of the row's weight."""
    return recipe_at(recipe, {"weight": recipe.guides[0].weight.w, "alpha": alpha})


def _check_labels(sampling: SamplingOptions) -> None:
    if sampling.class_idx is not None or sampling.labels is not None:
        raise click.UsageError("--classes are the labels of the grid: leave out --class and --labels")
