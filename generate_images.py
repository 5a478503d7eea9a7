#!/usr/bin/env python3
"""Sample images from seeds into a folder of PNGs, or methods side by side into one captioned grid."""

from pathlib import Path
from typing import Any

import click

from cli.command import Command, bad_input
from cli.grid import figure_options, grid_columns, grid_options, grid_rows
from cli.options import (
    IntList,
    label_options,
    network_options,
    recipe_from,
    run_options,
    run_options_from,
    sampler_options,
)
from cli.progress import progress_bar
from cli.report import announce, counts
from dnnlib.util import atomic_path
from images.recipe import Recipe


@click.command(cls=Command)
@network_options()
@click.option("--outdir", metavar="DIR", help="Where to put the PNGs")
@click.option("--subdirs", is_flag=True, help="A subfolder for every 1000 seeds")
@click.option("--seeds", metavar="LIST", type=IntList(), default="16-19", show_default=True, help="Such as 1,2,5-10")
@click.option(
    "--batch", metavar="INT", type=click.IntRange(min=1), default=32, show_default=True, help="Images at a time"
)
@click.option("--resume", is_flag=True, help="Keep the images that are there, make those that are missing")
@click.option("--overwrite", is_flag=True, help="Make images again that are there")
@grid_options
@figure_options
@sampler_options
@label_options
@run_options
def main(**params: Any) -> None:
    """Sample images.

    \b
    python generate_images.py --preset=mnist16-autog --outdir=out --seeds=0-15
    python generate_images.py --preset=edm2-img512-s-guid-dino --outdir=out
    python generate_images.py --preset=mnist16-cfg,mnist16-autog --grid=grid.png --weights=1,1.5,2 --seeds=0-3
    """  # fmt: skip
    if params["figs"] is not None:
        raise click.UsageError(
            "--figs: this version does not draw the papers' figures; --grid draws methods by weights"
        )
    if params["grid"] is not None:
        return draw_grid(params)
    if params["outdir"] is None:
        raise click.UsageError("where to? Give --outdir=DIR, or --grid=FILE.png for one picture")
    if params["weights"] is not None or params["classes"] is not None:
        raise click.UsageError("--weights and --classes are columns of a grid: add --grid=FILE.png")
    return write_folder(params, recipe_from(params))


def write_folder(params: dict[str, Any], recipe: Recipe) -> None:
    """Seeds of one recipe to PNGs in a folder, with the recipe beside them."""
    from images.batch import drain
    from images.provenance import claim_folder
    from images.sinks import PNGFolder
    from sampling.generation import open_recipe
    from torch_utils.distributed import require_one_process

    run = run_options_from(params)
    sink = PNGFolder(Path(params["outdir"]), subdirs=params["subdirs"])
    with bad_input():
        require_one_process("generate_images.py")
        seeds = seeds_to_make(sink, params)
        generation = open_recipe(recipe, run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        claim_folder(params["outdir"], generation.recipe, replace=params["overwrite"])
    announce(generation)
    source = generation.images(seeds, params["batch"])
    with progress_bar(len(seeds), "images") as progress:
        drain(source, sink, progress=progress)
    click.echo(f"{len(seeds)} images in {params['outdir']}; evaluations: {counts(source.evaluations)}")


def seeds_to_make(sink: Any, params: dict[str, Any]) -> list[int]:
    """The asked seeds less those that are there, by --resume and --overwrite. ValueError if neither decides."""
    missing = [seed for seed in params["seeds"] if not sink.path(seed).exists()]
    there = len(params["seeds"]) - len(missing)
    if there == 0 or params["overwrite"]:
        return params["seeds"]
    if not params["resume"]:
        raise ValueError(
            f"{there} of the {len(params['seeds'])} images are in {params['outdir']} already: --resume makes "
            "the others only, --overwrite all again; or take another --outdir"
        )
    return missing


def draw_grid(params: dict[str, Any]) -> None:
    """Rows of presets (or of the one method given), columns of weights, classes or seeds, as one picture."""
    rows, columns = grid_rows(params), grid_columns(params)
    picture = Path(params["grid"])
    if picture.exists() and not params["overwrite"]:
        raise click.UsageError(f"{picture} exists: take another name, or --overwrite")
    from images.grid import compose_grid
    from sampling.generation import opener
    from sampling.method_grid import block, sample_cells
    from torch_utils.distributed import require_one_process

    run = run_options_from(params)
    with bad_input():
        require_one_process("generate_images.py")
        recipes = [[change(recipe) for _, change in columns] for _, recipe in rows]
        open_ = opener(run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        generations = [[open_(recipe) for recipe in line] for line in recipes]
    for line in generations:
        announce(line[0])
    num_images = len(params["seeds"]) * len(rows) * len(columns)
    with progress_bar(num_images, "images") as progress:
        made = sample_cells(generations, params["seeds"], params["batch"], progress)
    captions = [caption for caption, _ in columns]
    if params["weights"] is None and params["classes"] is None:
        made, captions = [[*line[0].split(1)] for line in made], [f"seed {seed}" for seed in params["seeds"]]
    cells = [[block(images) for images in line] for line in made]
    with atomic_path(picture) as temporary:
        compose_grid(cells, [caption for caption, _ in rows], captions).save(temporary, format="PNG")
    click.echo(f"{picture}")


if __name__ == "__main__":
    main()
