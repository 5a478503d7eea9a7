#!/usr/bin/env python3
"""Score sets of images, or networks directly, by Frechet distances; results go to a ledger."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from cli import metric_options as opt
from cli.command import Group, bad_input, keeps
from cli.options import (
    MAX_SEED,
    batch_option,
    label_options,
    network_options,
    recipe_from,
    run_options,
    run_options_from,
    sampler_options,
)
from cli.progress import progress_bar
from cli.report import announce, kept, others
from cli.submit import elsewhere, send, submit_options
from cli.worker_options import announce_workers, worker_options, workers_from
from dnnlib.workers import ALONE, launched, restarted
from metrics.ledger import STANDARD_NUM_IMAGES
from papers.costs import FEATURES


@click.group(cls=Group, invoke_without_command=True)
@opt.plain_options
@click.pass_context
def main(ctx: click.Context, /, **params: Any) -> None:
    """Score images against reference statistics by FID, FD-DINOv2 or, for the digits that ship here, fd_mnist.

    The options below belong to the form without a command, that of the interval-guidance repository.

    \b
    python calculate_metrics.py calc --images=out --ref=URL/dataset-refs/img512.pkl
    python calculate_metrics.py gen --preset=mnist16-autog --num=1000 --metrics=fd_mnist --ref=pretrained/mnist16-refs.npz
    python calculate_metrics.py ref --data=datasets/img512.zip --dest=img512.npz
    python calculate_metrics.py table
    python calculate_metrics.py --gen_zip=images.zip --ref_path=img512.pkl --metric=fd_dinov2
    """  # noqa: E501
    if ctx.invoked_subcommand is not None:
        given = [name for name in params if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT]
        if given:
            raise click.UsageError(f"--{given[0]} belongs to the form without a command; leave out one of them")
    elif params["gen_zip"] is None and params["ref_path"] is None:
        click.echo(ctx.get_help())
    elif params["gen_zip"] is None or params["ref_path"] is None:
        raise click.UsageError("give both --gen_zip and --ref_path, or a command (see --help)")
    else:
        score_stored(
            images=params["gen_zip"],
            ref=params["ref_path"],
            metrics=[params["metric"]],
            num=None,
            default_num=None,
            seed=0,
            batch=params["batch_size"],
            ledger=str(Path(params["results_dir"]) / Path(opt.LEDGER).name),
            **opt.PLAIN_DEFAULTS,
        )


@main.command()
@click.option("--images", metavar="PATH", required=True, help="ZIP, folder or .npz of images; or a statistics file")
@opt.ref_option
@opt.metrics_option
@opt.num_option(STANDARD_NUM_IMAGES)
@opt.stored_options
@opt.detector_options
@opt.ledger_options
@opt.device_options
def calc(**params: Any) -> None:
    """Score stored images.

    PATH may also be statistics made by `ref`, to compare sets of which the images are gone.
    """
    score_stored(**params, default_num=STANDARD_NUM_IMAGES)


@main.command()
@network_options()
@opt.ref_option
@opt.metrics_option
@opt.num_option(STANDARD_NUM_IMAGES)
@click.option("--seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True, help="First seed")
@batch_option(32)
@sampler_options
@label_options
@opt.work_options
@opt.detector_options
@opt.ledger_options
@run_options
@worker_options
@submit_options
def gen(ref: str, metrics: list[str], num: int | None, seed: int, batch: int, **params: Any) -> None:
    """Score networks: sample, decode and score in one go. No image is stored.

    Features are kept shard by shard until the result is in the ledger: after an interruption, of whatever kind, the
    same command goes on. Under torchrun or srun, or started several times with --worker=I/N or --steal, the workers
    share the shards, and the last one writes the result, unless it is in the ledger already.
    """
    recipe = recipe_from(params)
    choices = opt.detector_choices(metrics, params)
    seeds = range(seed, seed + (STANDARD_NUM_IMAGES if num is None else num))
    if seeds[-1] > MAX_SEED:
        raise click.UsageError(f"seeds up to {seeds[-1]}: they go up to {MAX_SEED}")
    if elsewhere(params):
        return send_jobs(params, recipe, ref, choices, len(seeds))
    from images.shards import ShardPlan
    from metrics import evaluation, provenance
    from metrics.feature_shards import FeatureShards
    from sampling.generation import open_recipe
    from torch_utils.distributed import device_identity

    run = run_options_from(params)
    with bad_input():
        workers = workers_from(params)
        plan = ShardPlan(tuple(seeds), params["shard_size"])
        if not workers.order(len(plan)):
            return click.echo(f"{workers.prefix}nothing to do: {len(plan)} shards of images", err=True)
        reference = prepare(ref, metrics, params)
        generation = open_recipe(recipe, run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        evaluation.check_image_sizes(metrics, (generation.image_size, generation.image_size))
        detectors = open_detectors(choices, params)
        recipe = generation.recipe
        folder = opt.work_folder(params["workdir"], recipe.hash, seeds, metrics)
        shards = FeatureShards(folder, plan, recipe.to_json(), recipe.hash, batch, detectors, generation.numerics)
        shared = workers != ALONE or params["worker"] is not None or restarted()
        if left := evaluation.unwritten(params["ledger"], shards, reference, shared):
            shards.open(workers, device_identity(generation.device))
            # Others may have been through before we opened the folder, which we then have made again.
            left = evaluation.unwritten(params["ledger"], shards, reference, shared)
        if not left:
            click.echo(f"{workers.prefix}the result is in {params['ledger']} already", err=True)
            return shards.sweep()
    if workers.speaks:
        announce(generation)
        announce_workers(workers, f"{len(plan)} shards of {params['shard_size']} images")
    num_images, there = shards.progress()
    bar = progress_bar(num_images, "images", initial=there, quiet=not workers.speaks)
    with keeps(lambda: kept(shards)), bar as progress:
        measured = evaluation.measure_shards(shards, lambda part: generation.images(part, batch), detectors, progress)
    left = evaluation.unwritten_at_end(params["ledger"], shards, reference, shared, measured)
    if not left:  # by another, who may have died before the shards were removed
        click.echo(f"{workers.prefix}the result is in {params['ledger']}", err=True)
        return shards.sweep()
    if measured is None or not shards.claim.is_held():
        return click.echo(f"{workers.prefix}done; {others(shards)}", err=True)
    moments = {name: measured.moments[name] for name in left}
    described = provenance.describe_generated(recipe, seeds, measured.image_size)
    run_record = {"batch": batch, "reduced": measured.reduced}
    report(reference, moments, {d.name: d.identity for d in detectors}, described, params, **run_record)
    return shards.remove()


def send_jobs(params: dict[str, Any], recipe: Any, ref: str, choices: Mapping[str, Any], num: int) -> None:
    """Fetch what `gen` needs, or send the jobs that do it. choices: by `opt.detector_choices`."""
    from reproduction.files import fetch_all

    fetch = partial(fetch_all, [recipe], [ref], choices, trust_pickle=params["trust_pickle"])
    size = 4 * num * sum(FEATURES[metric] for metric in choices)
    writes = {Path(params["workdir"], "plan.json"): size, params["ledger"]: 0}
    return send(params, fetch, writes, f"python reproduce.py status {params['workdir']}")


@main.command()
@click.option("--data", metavar="PATH", required=True, help="ZIP, folder or .npz of images")
@click.option("--dest", metavar="NPZ|PKL", required=True, help="Statistics to write; .pkl is EDM2's format")
@opt.overwrite_option
@opt.metrics_option
@click.option(
    "--num",
    "--num_images",
    "num",
    metavar="INT",
    type=click.IntRange(min=2),
    help="A subset of so many images  [default: all]",
)
@opt.stored_options
@opt.detector_options
@opt.device_options
def ref(
    data: str, dest: str, overwrite: bool, metrics: list[str], num: int | None, seed: int, batch: int, **params: Any
) -> None:
    """Write reference statistics of a set of images."""
    choices = opt.detector_choices(metrics, params)
    if left_to_the_first():
        return
    from metrics import evaluation, reference

    with bad_input():
        reference.check_new(dest, overwrite=overwrite)
        stored = evaluation.open_stored(data, metrics, num=num, seed=seed, batch=batch)
        detectors = open_detectors(choices, params)
    with progress_bar(stored.source.num_images, "images") as progress:
        moments = evaluation.measure(stored.source, detectors, stored.names, progress).moments
    described = {**stored.description, "path": Path(data).name}
    reference.save_statistics(dest, moments, detectors={d.name: d.identity for d in detectors}, images=described)
    click.echo(f"{dest}: {', '.join(moments)} of {stored.source.num_images} images")


@main.command()
@click.argument("path", metavar="[LEDGER]", default=opt.LEDGER)
@click.option("--last", metavar="INT", type=click.IntRange(min=1), help="Only the last rows  [default: all]")
def table(path: str, last: int | None) -> None:
    """Print a ledger as a table; says below it what its rows mix."""
    from metrics import ledger

    with bad_input():
        records = ledger.read(path)
    click.echo(ledger.format_table(records if last is None else records[-last:]) or f"{path} holds no results yet")


def score_stored(
    images: str,
    ref: str,
    metrics: list[str],
    num: int | None,
    default_num: int | None,
    seed: int,
    batch: int,
    **params: Any,
) -> None:
    """Score image files, or statistics of images. num: as asked for; default_num: else, with None for all there are."""
    choices = opt.detector_choices(metrics, params)
    if left_to_the_first():
        return
    from metrics import evaluation, provenance
    from metrics.reference import holds_statistics, open_statistics

    with bad_input():
        reference = prepare(ref, metrics, params)
        if holds_statistics(images):
            theirs = open_statistics(images)
            moments = {metric: theirs.of(metric, reference.dim(metric), num) for metric in metrics}
            report(reference, moments, theirs.detectors, provenance.describe_statistics(theirs), params)
            return
        wanted = default_num if num is None else num
        stored = evaluation.open_stored(images, metrics, num=wanted, seed=seed, batch=batch)
        detectors = open_detectors(choices, params)
    with progress_bar(stored.source.num_images, "images") as progress:
        measured = evaluation.measure(stored.source, detectors, stored.names, progress)
    identities, run_record = {d.name: d.identity for d in detectors}, {"batch": batch, "reduced": measured.reduced}
    report(reference, measured.moments, identities, stored.description, params, **run_record)


def left_to_the_first() -> bool:
    """Whether this is a further worker: reading stored images is the work of one, and it says so."""
    with bad_input():
        workers = launched()
    if workers.rank > 0:
        click.echo(f"{workers.prefix}nothing to do: worker 0 reads all stored images", err=True)
    return workers.rank > 0


def prepare(ref: str, metrics: Sequence[str], params: dict[str, Any]) -> Any:
    """The reference, checked, once it is clear that the result can be written down."""
    from metrics import ledger
    from metrics.scoring import open_reference

    ledger.check_writable(params["ledger"])
    return open_reference(ref, metrics, offline=params["offline"])


def open_detectors(choices: Mapping[str, Mapping[str, str]], params: dict[str, Any]) -> list[Any]:
    """The detectors, in the order of `choices` (by `opt.detector_choices`)."""
    from metrics.detectors import load_detector
    from torch_utils.distributed import pick_device

    device, offline = pick_device(params["device"]), params["offline"]
    return [load_detector(name, device, offline=offline, **choice) for name, choice in choices.items()]


def report(
    reference: Any,
    moments: Mapping[str, Any],
    identities: Mapping[str, Any],
    images: Mapping[str, Any],
    params: dict[str, Any],
    **run_record: Any,
) -> None:
    """Prints the distances, says on stderr what to mind, and appends them to the ledger."""
    from metrics import ledger, provenance, scoring
    from metrics.environment import environment
    from torch_utils.distributed import pick_device

    around = environment(pick_device(params["device"]), vae=provenance.vae_ran(images))
    for score in scoring.score(reference, moments, identities, images):
        click.echo(f"{score.name:<16}{score.value:.4f}")
        for flag in score.flags:
            click.echo(f"warning: {flag}", err=True)
        run_record["note"] = params["note"]
        record = scoring.ledger_record(score, reference, identities.get(score.metric), images, around, **run_record)
        ledger.append(params["ledger"], record)


if __name__ == "__main__":
    main()
