"""Sample many images into one uncompressed ZIP, in shards: run it again after an interruption and it goes on."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from dnnlib.atomic import check_destination
from dnnlib.terminal import counted
from edm2_guidance.cli.again import made_before, run_again, seeds_again, sizes_of
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.lists import MAX_IMAGES, IntList, seed_option
from edm2_guidance.cli.option_group import COUNT, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import WorkBar
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.report import Sampling, announce, others
from edm2_guidance.cli.run_options import RunOptions, announce_workers, sampling_batch_option, shard_option
from edm2_guidance.cli.say import detail, say
from edm2_guidance.cli.submit import JobOptions, send
from edm2_guidance.cli.typed import given, quoted
from edm2_guidance.images.members import IMAGE_SUFFIXES
from edm2_guidance.papers.costs import png_bytes
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import begun


class ZipOptions(OptionGroup, heading="Images"):
    """Which images, into which file, and in what portions."""

    networks: NetworkOptions
    sampling: SamplingOptions
    num_images: int = option("Images", type=click.IntRange(1, MAX_IMAGES), default=50000, first=True)
    seed: int = seed_option()
    seeds: list[int] | None = option("Seeds, instead of --seed and --num-images", type=IntList())
    out: str | None = option(
        "File name of the ZIP; default: after networks, seeds, weight and recipe",
        metavar="ZIP",
        heading="Output",
        first=True,
    )
    outdir: str = option("Folder of the ZIP", metavar="DIR", default="./results", heading="Output")
    diagnostics: bool = flag(
        "Also write ZIP.diagnostics.npz: what guidance did to each image at each step", heading="Output"
    )
    batch: int | None = sampling_batch_option(64)
    batch_size_decoder: int = option("VAE batch", type=COUNT, default=8, heading="Computing")
    run: RunOptions
    shard_size: int = shard_option(512)
    jobs: JobOptions


@click.command(cls=Command)
@takes_options
def main(asked: ZipOptions) -> None:
    """Sample images into a ZIP with labels and recipe.

    A guide needs a weight; one that is given as --uncond_pkl, beside --cond_pkl, takes the interval paper's weight and
    interval where none is given, w = 2 and steps 17-22 of 32.
    Under torchrun or srun, or started several times with --worker=I/N or --steal, the workers share the shards, and
    the last one to finish joins them.

    \b
    python generate_zip.py --preset=mnist16-autog --num-images=1000
    python generate_zip.py --preset=edm2-img512-s-autog-fid --outdir=results
    python generate_zip.py --cond_pkl=A --uncond_pkl=B --guidance_scale=1.2 --guidance_interval=None
    """  # fmt: skip
    if asked.out is not None and given("outdir"):
        both, path = f"{quoted('outdir')} and {quoted('out')}", Path(asked.outdir, Path(asked.out).name)
        raise click.UsageError(f"{both}: give one of them; --out is a path, such as {path}")
    made = made_before(asked.networks.recipe)
    asked = replace(asked, **sizes_of(made, "batch", "shard_size"), run=run_again(made, asked.run))
    recipe = recipe_from(Method(asked.networks, asked.sampling, asked.run.noise_device))
    seeds = seeds_again(made, asked.seeds, asked.seed, asked.num_images, "num_images")
    if not asked.jobs.elsewhere():
        return write_zip(recipe, seeds, asked)
    from edm2_guidance.reproduction.files import fetch_all

    if asked.out is not None:
        with bad_input():
            check_zip(asked.out, seeds)
    path = Path(asked.out or Path(asked.outdir, "images.zip"))
    size = 2 * len(seeds) * png_bytes(recipe.net.source)  # shards, and the ZIP that they are joined to
    fetch = partial(fetch_all, [recipe], trust_pickle=asked.run.trust_pickle)
    return send(asked.jobs, asked.run, fetch, {path: size}, path.parent)


def write_zip(recipe: Recipe, seeds: list[int], asked: ZipOptions) -> None:
    """Sample, in this process, what is missing of the ZIP."""
    from edm2_guidance.sampling.opening import open_recipe
    from edm2_guidance.work.complete import Pending, Run, complete
    from edm2_guidance.work.plan import ShardPlan
    from edm2_guidance.work.zip_output import ZipOutput
    from torch_utils.distributed import device_identity

    run = asked.run
    with bad_input():
        workers = asked.jobs.place()
        if asked.out is not None:
            check_zip(asked.out, seeds)
        plan = ShardPlan(tuple(seeds), asked.shard_size)
        if not workers.order(len(plan)):
            return say(f"{workers.prefix}nothing to do: {counted(len(plan), 'shard')} of images")
        generation = open_recipe(recipe, run.device, **run.opening)
        generation.check_seeds(seeds)
        generation.set_decoder_batch(asked.batch_size_decoder)
        path = Path(asked.out or default_path(asked.outdir, generation.recipe, seeds))
        numerics = generation.numerics(asked.batch, len(seeds), workers.count, asked.shard_size)
        how = Run(workers=workers, device=device_identity(generation.device), **numerics)
        output = ZipOutput(path, plan, generation.recipe, how, diagnostics=asked.diagnostics)
    sampling = Sampling(generation, output.work, asked.diagnostics)

    def tell() -> None:
        announce(generation, output.work.run)
        announce_workers(workers, f"{counted(len(plan), 'shard')} of {counted(asked.shard_size, 'image')}")

    with WorkBar(tell, quiet=not workers.speaks) as progress:
        made = complete(output, sampling, progress)
    if not progress.began:
        return click.echo(f"{workers.prefix}{path}: finished before, by the same recipe")
    detail(f"{workers.prefix}evaluations: {sampling.evaluations()}")
    if isinstance(made, Pending):
        return say(f"{workers.prefix}done; {others(made)}")
    return click.echo(f"{path}: {counted(len(seeds), 'image')}")


def check_zip(path: str, seeds: list[int]) -> None:
    """What can be refused before any network opens: a name that cannot be written, or that another file has."""
    from edm2_guidance.images.zips import read_recipe
    from edm2_guidance.work.plan import format_seeds

    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"--out={path}: that is the name of an image; give a name that ends in .zip")
    check_destination(path)
    if not Path(path).exists():
        return
    there = read_recipe(path)
    if there is None or there.get("seeds") != format_seeds(tuple(seeds)):
        raise ValueError(f"{path} exists and holds other images: give another name, or move it away")


def default_path(folder: str, recipe: Recipe, seeds: list[int]) -> Path:
    """The interval repository's name, and six digits of the recipe's hash: two recipes never share a file."""
    weight = recipe.guides[0].weight if recipe.guides else constant(1.0)
    own = re.sub(r"[^\w.=-]", "-", weight.caption)  # whose settings may be any text
    far = own if weight.moves and weight.w == 1 else f"{weight.w:.2f}"
    kind = "gi" if any(guide.interval is not None for guide in recipe.guides) else "cfg"
    name = f"{recipe.net.name}-s{seeds[0]}-nimg{len(seeds)}-g{far}-{kind}"
    return begun(recipe, lambda recipe_hash: Path(folder) / f"{name}-{recipe_hash[:6]}.zip")
