"""Sample images from seeds into a folder of PNGs, or methods side by side into one captioned grid."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from dnnlib.atomic import atomic_path
from dnnlib.terminal import counted
from edm2_guidance.cli.command import Command, bad_input, keeps
from edm2_guidance.cli.figures import (
    check_classes,
    figure_options,
    figure_recipe,
    figure_recipes,
    stand_in_caption,
    wanted_pictures,
)
from edm2_guidance.cli.grid import caption_of, check_grid, grid_columns, grid_options, grid_rows, of_known_class
from edm2_guidance.cli.lists import MAX_IMAGES, IntList
from edm2_guidance.cli.progress import WorkBar, progress_bar
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import label_options, network_options, sampler_options
from edm2_guidance.cli.report import Sampling, announce
from edm2_guidance.cli.run_options import batch_option, run_options, run_options_from
from edm2_guidance.cli.seeds import seeds_from
from edm2_guidance.cli.submit import elsewhere, send, submit_options
from edm2_guidance.cli.worker_options import announce_workers, worker_options, workers_from
from edm2_guidance.papers.costs import png_bytes
from edm2_guidance.papers.figures import Picture
from edm2_guidance.recipe.recipe import Recipe


@click.command(cls=Command)
@network_options()
@click.option("--outdir", metavar="DIR", help="Where to put the PNGs")
@click.option("--subdirs", is_flag=True, help="A subfolder for every 1000 seeds")
@click.option("--seeds", metavar="LIST", type=IntList(), default="16-19", show_default=True, help="Such as 1,2,5-10")
@click.option("--num_images", "--num", metavar="INT", type=click.IntRange(1, MAX_IMAGES), help="Images, from --seed on")
@batch_option(32)
@click.option("--resume", is_flag=True, expose_value=False, help="Does nothing: images that are there are kept anyway")
@click.option("--overwrite", is_flag=True, help="Make images again that are there")
@grid_options
@figure_options
@sampler_options
@label_options
@run_options
@worker_options
@submit_options
def main(**params: Any) -> None:
    """Sample images.

    Run again, also after an interruption, it makes what is missing. A folder holds images of one recipe.

    \b
    python generate_images.py --preset=mnist16-autog --outdir=out --seeds=0-15
    python generate_images.py --preset=edm2-img512-s-guid-dino --outdir=out
    python generate_images.py --preset=mnist16-cfg,mnist16-autog --grid=grid.png --weights=1,1.5,2 --seeds=0-3
    python generate_images.py --cond_pkl=PATH --uncond_pkl=PATH --figs=fig5,fig6
    """  # fmt: skip
    pictures, apart = wanted_pictures(params), elsewhere(params)
    if apart and (pictures or params["grid"] is not None):
        raise click.UsageError("--submit and --fetch-only are for folders of images: give --outdir=DIR")
    if pictures:
        return draw_figures(params, pictures)
    check_grid(params)
    params["seeds"] = seeds_from(params, len(params["seeds"]))
    if params["grid"] is not None:
        return draw_grid(params)
    if params["outdir"] is None:
        raise click.UsageError("where to? Give --outdir=DIR, or --grid=FILE.png for one picture")
    return (send_jobs if apart else write_folder)(params, recipe_from(params))


def send_jobs(params: dict[str, Any], recipe: Recipe) -> None:
    """Fetch what the images need, or send the jobs that make them."""
    from edm2_guidance.reproduction.files import fetch_all
    from edm2_guidance.work.complete import Run
    from edm2_guidance.work.png_output import PngOutput

    if not params["fetch_only"]:
        with bad_input():
            if params["overwrite"]:
                raise ValueError("jobs go on where they were stopped, which --overwrite would undo: empty the folder")
            run = Run(params["batch"])
            PngOutput(params["outdir"], params["seeds"], run, subdirs=params["subdirs"]).check()
    size = len(params["seeds"]) * png_bytes(recipe.net.source)
    fetch = partial(fetch_all, [recipe], trust_pickle=params["trust_pickle"])
    watch = f"python reproduce.py status {params['outdir']}"
    send(params, fetch, {Path(params["outdir"], "recipe.json"): size}, watch)


def write_folder(params: dict[str, Any], recipe: Recipe) -> None:
    """Seeds of one recipe to PNGs in a folder, with the recipe beside them."""
    from edm2_guidance.sampling.generation import open_recipe
    from edm2_guidance.work.complete import Run, complete
    from edm2_guidance.work.png_output import PngOutput
    from torch_utils.distributed import device_identity

    run, outdir, seeds, batch = run_options_from(params), params["outdir"], params["seeds"], params["batch"]
    with bad_input():
        workers = workers_from(params)
        given = {name: params[name] for name in ("subdirs", "overwrite")}
        output = PngOutput(outdir, seeds, Run(batch, workers=workers), **given)
        output.check()
        generation = open_recipe(recipe, run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        output.state(generation.recipe, device_identity(generation.device))
    sampling = Sampling(generation, batch)

    def tell() -> None:
        announce(generation)
        announce_workers(workers, f"{len(seeds)} images")
        if output.num_there:
            click.echo(f"note: {output.num_there} of the images were there, by the same recipe", err=True)

    with WorkBar(tell, quiet=not workers.speaks) as progress:
        mine = complete(output, sampling, progress)
    if not progress.began:
        found = f"all {mine} images were there, of the same recipe" if mine else "nothing to do"
        return click.echo(f"{workers.prefix}{outdir}: {found}")
    whole = "" if sampling.images == output.num_written else f" for {sampling.images} in whole batches"
    made = f"{counted(output.num_written, 'image')} in {outdir}; evaluations{whole}: {sampling.evaluations()}"
    return click.echo(f"{workers.prefix}{made}")


def draw_grid(params: dict[str, Any]) -> None:
    """Rows of presets (or of the one method given), columns of weights, classes or seeds, as one picture."""
    rows, columns, picture = grid_rows(params), grid_columns(params), Path(params["grid"])
    from edm2_guidance.images.grid import compose_grid
    from edm2_guidance.sampling.generation import opener
    from edm2_guidance.sampling.method_grid import block, check_blend, sample_cells
    from torch_utils.distributed import require_one_process

    run = run_options_from(params)
    with bad_input():
        require_one_process("generate_images.py")
        if params["worker"] is not None or params["steal"]:
            raise ValueError("--grid draws one picture: leave out --worker and --steal")
        recipes = [[change(recipe) for _, change in columns] for _, recipe in rows]
        open_ = opener(run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        names = params["class_names"]
        generations = [[open_(of_known_class(recipe, names)) for recipe in line] for line in recipes]
        if params["alphas"] is not None:
            check_blend(generations[0][0])
    row_captions = [
        caption_of(caption, asked[0], line[0], names)
        for (caption, _), asked, line in zip(rows, recipes, generations, strict=True)
    ]
    captions = [
        caption_of(caption, asked, generation, names)
        for (caption, _), asked, generation in zip(columns, recipes[0], generations[0], strict=True)
    ]
    for caption, line in zip(row_captions, generations, strict=True):
        click.echo(f"{caption}:" if len(line) == 1 else f"{caption}, the costliest of {len(line)} columns:", err=True)
        announce(max(line, key=lambda cell: sum(cell.evaluations_per_image().values())))
    num_images = len(params["seeds"]) * len(rows) * len(columns)
    with progress_bar(num_images, "images") as progress:
        made = sample_cells(generations, params["seeds"], params["batch"], progress)
    if all(params[name] is None for name in ("weights", "classes", "alphas")):
        made, captions = [[*line[0].split(1)] for line in made], [f"seed {seed}" for seed in params["seeds"]]
    cells = [[block(images) for images in line] for line in made]
    with atomic_path(picture) as temporary:
        compose_grid(cells, row_captions, captions).save(temporary, format="PNG")
    click.echo(f"{picture}")


def draw_figures(params: dict[str, Any], pictures: list[Picture]) -> None:
    """Figures of the interval paper, one PNG per picture; those that are there are kept."""
    base = figure_recipe(params)
    from edm2_guidance.images.insets import sheet
    from edm2_guidance.sampling.generation import opener
    from edm2_guidance.sampling.method_grid import sample_pictures
    from edm2_guidance.work.figure_folder import FigureFolder

    run = run_options_from(params)
    with bad_input():
        workers = workers_from(params)
        if workers.steal:
            raise ValueError("--steal shares images of a folder; share figures by --worker=I/N")
        pictures = [pictures[number] for number in workers.own(len(pictures))]  # each is a file of its own
        folder = FigureFolder(params["results_dir"], params["overwrite"])
        open_ = opener(run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        num_classes = open_(base).main.num_classes
        check_classes(num_classes, quiet=not workers.speaks)
        plans = [[open_(recipe) for recipe in line] for line in figure_recipes(pictures, base, num_classes)]
        contents = [
            {"seeds": p.seeds, "recipes": [g.recipe.to_json() for g in plan]}
            for p, plan in zip(pictures, plans, strict=True)
        ]
        todo = [job for job in zip(pictures, plans, contents, strict=True) if not folder.has(job[0].file_name, job[2])]
    bar = progress_bar(sum(picture.num_images for picture, *_ in todo), "images", quiet=not workers.speaks)
    with keeps(lambda: f"finished pictures are in {folder.folder}; the same command goes on"), bar as progress:
        for picture, plan, content in todo:
            for generation in plan if params["verbose"] else ():
                announce(generation)
            images = sample_pictures(plan, picture.seeds, params["batch"], progress)
            box = None if picture.inset is None else picture.inset.box(images[0].width)
            drawn = sheet(images, picture.columns, box, stand_in_caption(picture, plan[0].recipe, num_classes))
            folder.save(picture.file_name, drawn, content)
    kept = len(pictures) - len(todo)
    click.echo(f"{workers.prefix}{len(todo)} pictures made in {folder.folder}, {kept} were there")
