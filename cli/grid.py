"""The grid of generate_images.py: its options, rows and columns. No torch here."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import click

from cli.command import bad_input
from cli.options import FloatList, IntList, recipe_from, stack, with_weight
from images.recipe import Recipe
from papers.presets import all_presets, find_preset

ChangeRecipe = Callable[[Recipe], Recipe]


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
        click.option("--classes", metavar="LIST", type=IntList(), help="Columns of the grid: classes"),
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

# Of the interval repository's script of the same name.
figure_options = stack(
    [
        click.option("--figs", metavar="LIST", help="The interval paper's figures (parsed; not drawn by this version)"),
        click.option("--results_dir", metavar="DIR", default="./results", help="Where figures go"),
        click.option("--seed", metavar="INT", type=click.IntRange(min=0), default=0, help="Unused, as in the original"),
        click.option("--verbose", metavar="BOOL", type=bool, default=False, help="Unused: progress is always shown"),
    ]
)


def grid_rows(params: dict[str, Any]) -> list[tuple[str, Recipe]]:
    """(caption, recipe) per --preset, or of the one method that the other options describe."""
    names = [name.strip() for value in params["preset"] for name in value.split(",")]
    if not names:
        recipe = recipe_from(params)
        return [("guided" if recipe.guides else "unguided", recipe)]
    with bad_input():
        presets = [find_preset(name) for name in names]
    rows = []
    for preset in presets:
        recipe = recipe_from(params, preset)
        caption = preset.caption or preset.name
        if recipe.guides and params["weights"] is None:
            caption += f", w = {recipe.guides[0].weight:g}"
        rows.append((caption, recipe))
    return rows


def grid_columns(params: dict[str, Any]) -> list[tuple[str, ChangeRecipe]]:
    """(caption, change of a row's recipe) per weight or class; one column that changes nothing if neither is asked."""
    weights, classes = params["weights"], params["classes"]
    if weights is not None and classes is not None:
        raise click.UsageError("columns are either --weights or --classes")
    if classes is not None and (params["class_idx"] is not None or params["labels"] is not None):
        raise click.UsageError("--classes are the columns' labels: leave out --class and --labels")
    if weights is not None:
        return [(f"w = {weight:g}", partial(with_weight, weight=weight)) for weight in weights]
    if classes is not None:
        return [(f"class {index}", partial(replace, labels=index)) for index in classes]
    return [("", replace)]
