"""Sample images from seeds into a folder of PNGs, or methods side by side into one captioned grid."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.terminal import counted
from edm2_guidance.cli.again import made_before, run_again, seeds_again, sizes_of
from edm2_guidance.cli.command import Command, bad_input, keeps
from edm2_guidance.cli.figures import (
    FigureOptions,
    PromptSheet,
    check_classes,
    figure_recipe,
    figure_recipes,
    prompt_sheets,
    stand_in_caption,
    wanted_pictures,
)
from edm2_guidance.cli.grid import GridOptions, Layout, Place, caption_of, check_grid, grid_layout, of_known_class
from edm2_guidance.cli.lists import MAX_IMAGES, IntList
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import WorkBar, progress_bar
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.report import Sampling, announce, announce_grid, describe
from edm2_guidance.cli.run_options import RunOptions, announce_workers, sampling_batch_option
from edm2_guidance.cli.say import detail, note, say_notes
from edm2_guidance.cli.submit import JobOptions, send
from edm2_guidance.papers.costs import png_bytes
from edm2_guidance.papers.figures import Picture
from edm2_guidance.papers.prompt_figures import PromptPicture
from edm2_guidance.recipe.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

    from edm2_guidance.sampling.generation import Generation


class ImageOptions(OptionGroup, heading="Images"):
    """Which images, in a folder, a grid, or figures."""

    networks: NetworkOptions
    sampling: SamplingOptions
    seeds: list[int] = option("Such as 1,2,5-10", type=IntList(), default="16-19", first=True)
    num_images: int | None = option("Images, from --seed on", type=click.IntRange(1, MAX_IMAGES))
    grid: GridOptions
    figures: FigureOptions
    outdir: str | None = option("Where to put the PNGs", metavar="DIR", heading="Output", first=True)
    subdirs: bool = flag("A subfolder for every 1000 seeds", heading="Output")
    overwrite: bool = flag("Make images again that are there", heading="Output")
    resume: bool = flag("Does nothing: images that are there are kept anyway", hidden=True)
    batch: int | None = sampling_batch_option(32)
    run: RunOptions
    jobs: JobOptions

    @property
    def method(self) -> Method:
        """What describes the recipe."""
        return Method(self.networks, self.sampling, self.run.noise_device)


@click.command(cls=Command)
@takes_options
def main(asked: ImageOptions) -> None:
    """Sample images.

    Run again, also after an interruption, it makes what is missing. A folder holds images of one recipe.

    \b
    python generate_images.py --preset=mnist16-autog --outdir=out --seeds=0-15
    python generate_images.py --preset=edm2-img512-s-guid-dino --outdir=out
    python generate_images.py --preset=mnist16-cfg,mnist16-autog --grid=grid.png --weights=1,1.5,2 --seeds=0-3
    python generate_images.py --cond_pkl=PATH --uncond_pkl=PATH --figs=fig5,fig6
    """  # fmt: skip
    pictures, apart = wanted_pictures(asked.figures.figs, asked.networks), asked.jobs.elsewhere()
    if apart and (pictures or asked.grid.grid is not None):
        raise click.UsageError("--submit and --fetch-only are for folders of images: give --outdir=DIR")
    if pictures:
        return draw_figures(asked, pictures)
    check_grid(asked.grid, folder=asked.outdir is not None or asked.subdirs)
    made, num = made_before(asked.networks.recipe), asked.num_images or len(asked.seeds)
    asked = replace(asked, **sizes_of(made, "batch"), run=run_again(made, asked.run))
    seeds = seeds_again(made, asked.seeds, asked.figures.seed, num, "num_images")
    if asked.grid.grid is not None:
        return draw_grid(asked, Path(asked.grid.grid), seeds)
    if asked.outdir is None:
        raise click.UsageError("where to? Give --outdir=DIR, or --grid=FILE.png for one picture")
    recipe, outdir = recipe_from(asked.method), Path(asked.outdir)
    if not apart:
        return write_folder(asked, outdir, recipe, seeds)
    from edm2_guidance.reproduction.files import fetch_all

    if not asked.jobs.fetch_only:
        check_folder(asked, outdir, seeds)
    size = len(seeds) * png_bytes(recipe.net.source)
    fetch = partial(fetch_all, [recipe], trust_pickle=asked.run.trust_pickle)
    return send(asked.jobs, asked.run, fetch, {outdir / "recipe.json": size}, asked.outdir)


def check_folder(asked: ImageOptions, outdir: Path, seeds: list[int]) -> None:
    """Usage errors for a folder that jobs cannot fill."""
    from edm2_guidance.work.complete import Run
    from edm2_guidance.work.png_output import PngOutput

    with bad_input():
        if asked.overwrite:
            raise ValueError("jobs go on where they were stopped, which --overwrite would undo: empty the folder")
        PngOutput(outdir, seeds, Run(asked.batch or 1), subdirs=asked.subdirs).check()


def write_folder(asked: ImageOptions, outdir: Path, recipe: Recipe, seeds: list[int]) -> None:
    """Seeds of one recipe to PNGs in a folder, with the recipe beside them."""
    from edm2_guidance.sampling.opening import open_recipe
    from edm2_guidance.work.complete import Run, complete
    from edm2_guidance.work.png_output import PngOutput
    from torch_utils.distributed import device_identity

    run = asked.run
    with bad_input():
        workers = asked.jobs.place()
        how = Run(asked.batch or 1, workers=workers)
        output = PngOutput(outdir, seeds, how, subdirs=asked.subdirs, overwrite=asked.overwrite)
        output.check()
        generation = open_recipe(recipe, run.device, **run.opening)
        generation.check_seeds(seeds)
        numerics = generation.numerics(asked.batch, len(seeds), workers.count)
        how = Run(workers=workers, device=device_identity(generation.device), **numerics)
        output.state(generation.recipe, how)
    sampling = Sampling(generation, output)

    def tell() -> None:
        announce(generation, output.run)
        announce_workers(workers, counted(len(seeds), "image"))
        if there := output.num_there:
            was = "was" if there == 1 else "were"
            note(f"{there} of the images {was} there, by the same recipe")

    with WorkBar(tell, quiet=not workers.speaks) as progress:
        mine = complete(output, sampling, progress)
    if not progress.began:
        every = "the image was" if mine == 1 else f"all {mine} images were"
        found = f"{every} there, of the same recipe" if mine else "nothing to do"
        return click.echo(f"{workers.prefix}{asked.outdir}: {found}")
    whole = "" if sampling.images == output.num_written else f" for {sampling.images} in whole batches"
    made = f"{counted(output.num_written, 'image')} in {asked.outdir}; evaluations{whole}: {sampling.evaluations()}"
    return click.echo(f"{workers.prefix}{made}")


def draw_grid(asked: ImageOptions, picture: Path, seeds: list[int]) -> None:
    """Methods by weights, classes or seeds, as one picture."""
    from edm2_guidance.images import picture_file
    from edm2_guidance.images.grid import compose_grid

    grid = asked.grid
    with bad_input():
        picture_file.check_target(picture, asked.overwrite)
    layout = grid_layout(grid, asked.method, seeds)
    with bad_input():
        recipes = [[layout.recipe(row, column) for column in layout.columns] for row in layout.rows]
    generations = open_cells(asked, recipes, seeds)
    side = (grid.enlarge or 1) * generations[0][0].image_size
    with bad_input():
        picture_file.check_size(picture, (len(layout.columns) * side, len(layout.rows) * side))

    def caption(place: Place, i: int, j: int) -> str:
        return caption_of(place, recipes[i][j], generations[i][j], asked.sampling.class_names)

    rows = [caption(row, i, 0) for i, row in enumerate(layout.rows)]
    columns = [caption(column, 0, j) for j, column in enumerate(layout.columns)]
    announce_grid(rows, generations, len(seeds))
    cells = sampled_cells(asked, layout, generations, seeds)
    drawn = compose_grid(cells, rows, columns, caption(layout.still, 0, 0) or None, side if grid.enlarge else None)
    made = {cell.recipe.hash: cell for cell in itertools.chain(*generations)}
    say_notes(picture_file.save(drawn, picture, content_of([*made.values()], seeds)))
    click.echo(f"{picture}")


def content_of(cells: "list[Generation]", seeds: Sequence[int]) -> dict[str, Any]:
    """What a picture says of how it was made."""
    made = {"seeds": seeds, "recipes": [cell.recipe.to_json() for cell in cells]}
    asked = next(filter(None, (cell.unusual_precision for cell in cells)), None)  # it is asked of all alike
    return made if asked is None else {**made, "precision": asked}


def open_cells(asked: ImageOptions, recipes: list[list[Recipe]], seeds: list[int]) -> "list[list[Generation]]":
    """The cells of a grid with their networks open. Usage errors for what cannot be sampled."""
    from edm2_guidance.sampling.method_grid import check_blend
    from edm2_guidance.sampling.opening import opener
    from torch_utils.distributed import require_one_process

    run, names = asked.run, asked.sampling.class_names
    with bad_input():
        require_one_process("generate_images.py")
        if asked.jobs.worker is not None or asked.jobs.steal:
            raise ValueError("--grid draws one picture: leave out --worker and --steal")
        open_ = opener(run.device, **run.opening)
        generations = [[open_(of_known_class(recipe, names)) for recipe in line] for line in recipes]
        for generation in itertools.chain(*generations):
            generation.check_seeds(seeds)
        if asked.grid.alphas is not None:
            check_blend(generations[0][0])
    return generations


def sampled_cells(
    asked: ImageOptions, layout: Layout, generations: "list[list[Generation]]", seeds: list[int]
) -> "list[list[list[list[Image]]]]":
    """The pictures of each cell in lines. Every recipe is sampled once, whatever the grid has on its sides."""
    from edm2_guidance.sampling.method_grid import block, sample_cells

    distinct = {cell.recipe.hash: cell for cell in itertools.chain(*generations)}
    with progress_bar(len(seeds) * len(distinct), "images") as progress:
        images = sample_cells([*distinct.values()], seeds, asked.batch, progress)
    made, at = dict(zip(distinct, images, strict=True)), {seed: number for number, seed in enumerate(seeds)}
    across = None if asked.grid.cell is None else asked.grid.cell[0]
    return [
        [
            block(made[cell.recipe.hash][[at[seed] for seed in layout.seeds_of(row, column)]], across)
            for column, cell in zip(layout.columns, line, strict=True)
        ]
        for row, line in zip(layout.rows, generations, strict=True)
    ]


@dataclass(frozen=True)
class Drawing:
    """One PNG of a figure. plan: what samples its images; draw: lays them out, setting by setting, seed by seed."""

    file_name: str
    seeds: Sequence[int]
    plan: "Sequence[Generation]"
    draw: "Callable[[list[Image]], Image]"

    @property
    def num_images(self) -> int:
        return len(self.plan) * len(self.seeds)


def draw_figures(asked: ImageOptions, pictures: list[Picture] | list[PromptPicture]) -> None:
    """Figures of papers, one PNG per picture; those that are there are kept."""
    of_classes = [picture for picture in pictures if isinstance(picture, Picture)]
    of_prompts = [picture for picture in pictures if isinstance(picture, PromptPicture)]
    base = figure_recipe(asked.method) if of_classes else None
    sheets = prompt_sheets(of_prompts, asked.method, asked.figures.seed)
    from edm2_guidance.images.figure_folder import FigureFolder
    from edm2_guidance.sampling.method_grid import sample_pictures
    from edm2_guidance.sampling.opening import opener

    run = asked.run
    with bad_input():
        workers = asked.jobs.place()
        if workers.steal:
            raise ValueError("--steal shares images of a folder; share figures by --worker=I/N")
        folder = FigureFolder(asked.figures.results_dir, asked.overwrite)
        open_ = opener(run.device, **run.opening)
        own = workers.own(len(pictures))  # each is a file of its own
        if base is not None:
            drawings = of_known_classes([of_classes[number] for number in own], base, open_, quiet=not workers.speaks)
        else:
            drawings = [of_prompt(sheets[number], asked.figures.seed, open_) for number in own]
        for drawing in drawings:
            for generation in drawing.plan:
                generation.check_seeds(drawing.seeds)
        contents = [content_of([*drawing.plan], drawing.seeds) for drawing in drawings]
        todo = [job for job in zip(drawings, contents, strict=True) if not folder.has(job[0].file_name, job[1])]
    bar = progress_bar(sum(drawing.num_images for drawing, _ in todo), "images", quiet=not workers.speaks)
    with keeps(lambda: f"finished pictures are in {folder.folder}; the same command goes on"), bar as progress:
        for drawing, content in todo:
            for generation in drawing.plan:
                detail(describe(generation.recipe))
            images = sample_pictures(drawing.plan, drawing.seeds, asked.batch, progress)
            folder.save(drawing.file_name, drawing.draw(images), content)
    kept = len(drawings) - len(todo)
    click.echo(f"{workers.prefix}{counted(len(todo), 'picture')} made in {folder.folder}, {kept} were there")


def of_known_classes(
    pictures: Sequence[Picture], base: Recipe, open_: "Callable[[Recipe], Generation]", quiet: bool
) -> list[Drawing]:
    """The interval paper's own pictures, by these networks; a note, unless quiet, if they stand in. ValueError."""
    from edm2_guidance.images.insets import sheet

    opened = open_(base)
    base, num_classes = replace(base, schedule=opened.recipe.schedule), opened.main.num_classes
    check_classes(num_classes, quiet=quiet)

    def draw(picture: Picture, recipe: Recipe, images: "list[Image]") -> "Image":
        box = None if picture.inset is None else picture.inset.box(images[0].width)
        return sheet(images, picture.columns, box, stand_in_caption(picture, recipe, num_classes))

    drawings = []
    for picture, recipes in zip(pictures, figure_recipes(pictures, base, num_classes), strict=True):
        plan = [open_(recipe) for recipe in recipes]
        drawings.append(Drawing(picture.file_name, picture.seeds, plan, partial(draw, picture, plan[0].recipe)))
    return drawings


def of_prompt(sheet: PromptSheet, seed: int, open_: "Callable[[Recipe], Generation]") -> Drawing:
    """A picture of a prompt. ValueError, OSError for networks that cannot draw it."""
    from edm2_guidance.images.grid import compose_grid

    def draw(images: "list[Image]") -> "Image":
        across = len(sheet.columns)
        lines = [images[start : start + across] for start in range(0, len(images), across)]
        return compose_grid(lines, sheet.rows, sheet.columns, sheet.title)

    return Drawing(sheet.picture.file_name, [seed], [open_(recipe) for recipe in sheet.recipes], draw)
