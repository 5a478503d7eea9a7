"""The grid of generate_images.py: its options, rows and columns. No torch here."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from dnnlib.atomic import check_destination
from edm2_guidance.cli.class_names import Class, index_of, known_names
from edm2_guidance.cli.command import bad_input, stack
from edm2_guidance.cli.lists import FloatList, IntList
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.recipe_args import GuideDefaults, check_no_weight, recipe_from, with_weight
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.class_names import ClassName, class_text
from edm2_guidance.recipe.recipe import NetworkRef, Recipe
from edm2_guidance.recipe.search import recipe_at

ChangeRecipe = Callable[[Recipe], Recipe]


class Classes(ParamType):
    """Classes such as 0,5,10-19 or cat,dog, as a list that holds none twice."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int | ClassName]:
        if isinstance(value, list):
            return value
        found: dict[int | ClassName, None] = {}
        for part in str(value).split(","):
            numbers = re.fullmatch(r"[\s\d-]+", part, re.ASCII)
            items = IntList().convert(part, param, ctx) if numbers else [Class().convert(part, param, ctx)]
            if twice := [item for item in items if item in found]:
                self.fail(f"{twice[0]} stands there more than once", param, ctx)
            found |= dict.fromkeys(items)
        return list(found)


def list_presets(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        for preset in all_presets().values():
            click.echo(f"{preset.name:32}{preset.describe()}")
        ctx.exit()


grid_options = stack(
    [
        click.option(
            "--grid", metavar="PNG", help="One captioned picture instead: a row per --preset, columns as follows"
        ),
        click.option("--weights", metavar="LIST", type=FloatList(), help="Columns of the grid: guidance weights"),
        click.option(
            "--classes", metavar="LIST", type=Classes(), help="Columns of the grid: classes; with --weights, rows"
        ),
        click.option(
            "--alphas",
            metavar="LIST",
            type=FloatList(),
            help="Columns of the grid: blends, 0 = guided by the first --gnet, 1 = by the second; --weights are rows",
        ),
        click.option(
            "--list-presets",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=list_presets,
            help="Name them all",
        ),
    ]
)


def check_grid(params: dict[str, Any]) -> None:
    """Usage errors for options of a grid without --grid, and for a --grid that cannot be written."""
    if params["grid"] is None:
        if any(params[name] is not None for name in ("weights", "classes", "alphas")):
            raise click.UsageError("--weights, --classes and --alphas are of a grid: add --grid=FILE.png")
        return
    if params["outdir"] is not None or params["subdirs"]:
        raise click.UsageError("--grid is one picture: leave out --outdir and --subdirs")
    picture = Path(params["grid"])
    with bad_input():
        check_destination(picture)
    if picture.suffix.lower() != ".png":
        raise click.UsageError(f"--grid={picture}: the picture is a PNG, give a name that ends in .png")
    if picture.exists() and not params["overwrite"]:
        raise click.UsageError(f"{picture} exists: take another name, or --overwrite")


def grid_rows(params: dict[str, Any]) -> list[tuple[str, Recipe]]:
    """(caption, recipe) per row: a --preset, or the one method that the other options describe.

    Classes beside weights multiply the rows, all methods of one class together; blends have weights for rows.
    """
    if params["weights"] is not None:
        check_no_weight(params, "--weights")
    if params["alphas"] is not None:
        return _blend_rows(params)
    rows = _method_rows(params)
    if params["weights"] is None or params["classes"] is None:
        return rows
    _check_labels(params)
    return [
        (f"{caption}, {class_text(item, None)}", replace(recipe, labels=item))
        for item in params["classes"]
        for caption, recipe in rows
    ]


def grid_columns(params: dict[str, Any]) -> list[tuple[str, ChangeRecipe]]:
    """(caption, change of a row's recipe) per blend, weight or class; one column without change if none is asked."""
    weights, classes, alphas = params["weights"], params["classes"], params["alphas"]
    if alphas is not None:
        ends = dict(zip((0, 1), (f" ({NetworkRef(net).name})" for net in params["gnet"]), strict=False))
        return [(f"alpha = {alpha:g}{ends.get(alpha, '')}", partial(_blend, alpha=alpha)) for alpha in alphas]
    if weights is not None:
        return [(f"w = {weight:g}", partial(with_weight, weight=weight)) for weight in weights]
    if classes is not None:
        _check_labels(params)
        return [(class_text(item, None), partial(replace, labels=item)) for item in classes]
    return [("", replace)]


def of_known_class(recipe: Recipe, file: str | None) -> Recipe:
    """The recipe with the index for a class's name, if names are known before the network is open.

    file: of --class-names.
    """
    if isinstance(recipe.labels, str):
        return recipe
    return replace(recipe, labels=index_of(recipe.labels, recipe.net.source, file))


def caption_of(caption: str, asked: Recipe, generation: Any, file: str | None) -> str:
    """The caption of a row or column once its network is open (a Generation): a class with index and name.

    asked: the recipe as `grid_rows` and `grid_columns` say it. file: of --class-names.
    """
    typed = "" if isinstance(asked.labels, str) else class_text(asked.labels, None)
    if not typed or not caption.endswith(typed):
        return caption
    names = known_names(asked.net.source, file) or generation.main.class_names
    return caption.removesuffix(typed) + class_text(generation.recipe.labels, names)


def _method_rows(params: dict[str, Any]) -> list[tuple[str, Recipe]]:
    names = [name.strip() for value in params["preset"] for name in value.split(",")]
    if not names:
        recipe = recipe_from(params, defaults=_first_weight(params))
        return [(_with_unusual("guided" if recipe.guides else "unguided", recipe), recipe)]
    with bad_input():
        presets = [find_preset(name) for name in names]
    rows = []
    for preset in presets:
        recipe = recipe_from(params, preset, _first_weight(params))
        caption = preset.caption or preset.name
        if recipe.guides and params["weights"] is None:
            caption += f", w = {recipe.guides[0].weight.w:g}"
        rows.append((_with_unusual(caption, recipe), recipe))
    return rows


def _with_unusual(caption: str, recipe: Recipe) -> str:
    """The caption, and what is not as in the papers."""
    return ", ".join(filter(None, [caption, recipe.unusual_text()]))


def _first_weight(params: dict[str, Any]) -> GuideDefaults | None:
    """A weight for guides that get those of the columns."""
    return GuideDefaults(params["weights"][0]) if params["weights"] else None


def _blend_rows(params: dict[str, Any]) -> list[tuple[str, Recipe]]:
    """A row per weight w of blends; the guides' own weights follow from w and alpha."""
    if params["classes"] is not None:
        raise click.UsageError("--alphas are the columns: give one class by --class, and --weights for rows")
    weights = params["weights"] or list(dict.fromkeys(params["guidance"]))
    outside = [alpha for alpha in params["alphas"] if not 0 <= alpha <= 1]
    if len(params["gnet"]) != 2 or outside or not weights or (len(weights) > 1 and params["weights"] is None):
        raise click.UsageError(
            "--alphas, from 0 to 1, blend two guides at one w: give --gnet twice, the unconditional one first, and "
            "--weights=W,... for rows"
        )
    rows = [(weight, recipe_from({**params, "guidance": (weight, weight)})) for weight in weights]
    return [(_with_unusual(f"w = {weight:g}", recipe), recipe) for weight, recipe in rows]


def _blend(recipe: Recipe, alpha: float) -> Recipe:
    """Both guides at a share of the row's weight."""
    return recipe_at(recipe, {"weight": recipe.guides[0].weight.w, "alpha": alpha})


def _check_labels(params: dict[str, Any]) -> None:
    if params["class_idx"] is not None or params["labels"] is not None:
        raise click.UsageError("--classes are the labels of the grid: leave out --class and --labels")
