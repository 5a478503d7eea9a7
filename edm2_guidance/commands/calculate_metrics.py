"""Score sets of images, or networks directly, by Frechet distances; results go to a ledger."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from dnnlib.places import find_file
from dnnlib.workers import Workers, launched
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.lists import MAX_SEED
from edm2_guidance.cli.progress import WorkBar, progress_bar
from edm2_guidance.cli.recipe_args import only_preset, recipe_from
from edm2_guidance.cli.recipe_options import label_options, network_options, sampler_options
from edm2_guidance.cli.report import announce, others, say_notes
from edm2_guidance.cli.run_options import batch_option, run_options, run_options_from, threads_for
from edm2_guidance.cli.seeds import seed_option
from edm2_guidance.cli.submit import elsewhere, send, submit_options
from edm2_guidance.cli.worker_options import announce_workers, worker_options, workers_from
from edm2_guidance.metrics.catalog import check_counts, find_metric, kept_features, too_few, value_text
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES
from edm2_guidance.papers.costs import feature_bytes
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.recipe.recipe import Recipe


@click.group(cls=Group, invoke_without_command=True)
@opt.plain_options
@click.pass_context
def main(ctx: click.Context, /, **params: Any) -> None:
    """Score images against reference statistics by FID, FD-DINOv2 or, for the digits that ship here, fd_mnist.

    The options below belong to the form without a command, that of the interval-guidance repository.

    \b
    python calculate_metrics.py calc out/samples.zip img512
    python calculate_metrics.py calc --images=out/samples --ref=datasets/img512.zip --metrics=fid
    python calculate_metrics.py gen --preset=mnist16-autog --num=1000
    python calculate_metrics.py ref --data=datasets/img512.zip --dest=img512.npz
    python calculate_metrics.py table
    python calculate_metrics.py --gen_zip=images.zip --ref_path=img512.pkl --metric=fd_dinov2
    """
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
            ref=opt.reference_from(params["ref_path"]),
            metrics=[params["metric"]],
            num=None,
            most=None,
            seed=0,
            batch=params["batch_size"],
            ledger=str(Path(params["results_dir"]) / Path(opt.LEDGER).name),
            **opt.PLAIN_DEFAULTS,
        )


@main.command()
@click.argument("samples", metavar="[SAMPLES", required=False)
@click.argument("reference", metavar="REFERENCE]", required=False)
@click.option("--images", metavar="PATH", help="SAMPLES, in EDM2's words: ZIP, folder or .npz of images; or statistics")
@click.option("--ref", metavar="PATH|URL|NAME", help=f"REFERENCE, in EDM2's words: {opt.REFERENCE}")
@opt.scored_metrics_option
@opt.num_option(f"{STANDARD_NUM_IMAGES} if there are more, else all")
@opt.stored_options
@opt.detector_options
@opt.ledger_options
@opt.device_options
def calc(samples: str | None, reference: str | None, images: str | None, ref: str | None, **params: Any) -> None:
    """Score stored images: the distance of SAMPLES to REFERENCE, each a folder, ZIP or .npz of images, or statistics.

    Of a reference given as images all count, and its statistics are computed in the same run; `ref` writes such
    statistics to a file, which saves the time when it is used again.
    """
    images, ref = opt.sides_from(samples, reference, images, ref)
    score_stored(images, ref, **{**params, "metrics": opt.asked_metrics(params["metrics"])}, most=STANDARD_NUM_IMAGES)


@main.command()
@network_options()
@click.option("--ref", metavar="PATH|URL|NAME", help=f"{opt.REFERENCE}  [default: the preset's]")
@opt.scored_metrics_option
@opt.num_option(str(STANDARD_NUM_IMAGES))
@seed_option
@batch_option(32)
@sampler_options
@label_options
@opt.work_options
@opt.detector_options
@opt.ledger_options
@opt.again_option
@run_options
@worker_options
@submit_options
def gen(ref: str | None, metrics: list[str], num: int | None, seed: int, batch: int, **params: Any) -> None:
    """Score networks: sample, decode and score in one go. No image is stored.

    Features are kept shard by shard until the result is in the ledger: after an interruption, of whatever kind, the
    same command goes on. Under torchrun or srun, or started several times with --worker=I/N or --steal, the workers
    share the shards, and the last one writes the result. A score that the ledger has is not computed again.
    """
    preset = only_preset(params["preset"]) if params["preset"] else None
    recipe = recipe_from(params, preset, scored=True)
    source = opt.reference_from(ref, preset)
    metrics = opt.asked_metrics(metrics) or opt.known_metrics(source) or metrics_of(source, preset, params)
    choices = opt.detector_choices(metrics, params)
    threads_for(recipe.sources, choices)
    seeds = range(seed, seed + (STANDARD_NUM_IMAGES if num is None else num))
    if seeds[-1] > MAX_SEED:
        raise click.UsageError(f"seeds up to {seeds[-1]}: they go up to {MAX_SEED}")
    if elsewhere(params):
        return send_jobs(params, recipe, source, choices, feature_bytes(metrics, len(seeds)))
    return score_networks(recipe, source, metrics, choices, seeds, batch, params)


def score_networks(
    recipe: Recipe,
    source: str,
    metrics: Sequence[str],
    choices: Mapping[str, Any],
    seeds: range,
    batch: int,
    params: dict[str, Any],
) -> None:
    """What `gen` does in this process. source: of `opt.reference_from`; choices: of `opt.detector_choices`."""
    from edm2_guidance.metrics import evaluation, ledger
    from edm2_guidance.metrics.score_output import ScoreOutput, Scorer, feature_shards, open_index
    from edm2_guidance.metrics.sides import open_reference_side, open_side
    from edm2_guidance.sampling.generation import open_recipe
    from edm2_guidance.work.complete import Run, complete
    from edm2_guidance.work.plan import ShardPlan
    from torch_utils.distributed import device_identity

    run, path = run_options_from(params), params["ledger"]
    with bad_input():
        workers = workers_from(params)
        plan = ShardPlan(tuple(seeds), params["shard_size"])
        if not workers.order(len(plan)):
            return click.echo(f"{workers.prefix}nothing to do: {len(plan)} shards of images", err=True)
        ledger.check_writable(path)
        check_counts(metrics, len(seeds))
        theirs = open_reference_side(open_side(source, metrics, reference=True, offline=params["offline"]), metrics)
        generation = open_recipe(recipe, run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        evaluation.check_image_sizes(metrics, (generation.image_size, generation.image_size))
        detectors = open_detectors(choices, params)
        index = open_index(path, again=params["again"])
    reference = measured_reference(theirs, detectors, quiet=not workers.speaks)
    scorer = Scorer(reference, tuple(detectors), index, generation.device, batch)
    folder = opt.work_folder(params["workdir"], generation.recipe, seeds, metrics)
    how = Run(batch, workers=workers, device=device_identity(generation.device), **generation.numerics)
    work = feature_shards(folder, plan, generation.recipe, how, detectors)
    output = ScoreOutput(scorer, generation, work, {"note": params["note"]})

    def tell() -> None:
        announce(generation)
        tell_sides(f"seeds {seeds[0]}-{seeds[-1]}", len(seeds), reference)
        announce_workers(workers, f"{len(plan)} shards of {params['shard_size']} images")

    with WorkBar(tell, quiet=not workers.speaks) as progress:
        made = complete(output, lambda part: generation.images(part, batch), progress)
    return tell_made(made, workers, path, found_before=not progress.began)


def tell_made(made: Any, workers: Workers, path: str, *, found_before: bool) -> None:
    """Say what came of it: a `metrics.score_output.Scores`, or others are at it. path: of the ledger."""
    from edm2_guidance.work.complete import Pending

    if isinstance(made, Pending):
        return click.echo(f"{workers.prefix}done; {others(made)}", err=True)
    if made.written:
        return tell_scores(made.written)
    already = " already (--again computes it once more)" if found_before else ""  # else another worker has written it
    click.echo(f"{workers.prefix}the result is in {path}{already}", err=True)
    return tell_scores(made.records) if found_before and workers.speaks else None


def metrics_of(source: str, preset: Preset | None, params: Mapping[str, Any]) -> list[str]:
    """What `gen` scores against this reference when nobody says: what it has; of images, what the preset's has."""
    from edm2_guidance.metrics.sides import common_metrics, open_side

    with bad_input():
        found = common_metrics(open_side(source, reference=True, offline=params["offline"]))
    return found or list(opt.STANDARD_METRICS if preset is None else REFERENCES[preset.data].metrics)


def send_jobs(params: dict[str, Any], recipe: Any, ref: str, choices: Mapping[str, Any], size: int) -> None:
    """Fetch what `gen` needs, or send the jobs that do it. choices: by `opt.detector_choices`; size: of features."""
    from edm2_guidance.reproduction.files import fetch_all

    files = [] if find_file(ref).is_dir() else [ref]
    fetch = partial(fetch_all, [recipe], files, choices, trust_pickle=params["trust_pickle"])
    writes = {Path(params["workdir"], "plan.json"): size, params["ledger"]: 0}
    return send(params, fetch, writes, f"python reproduce.py status {params['workdir']}")


@main.command()
@click.option("--data", metavar="PATH", required=True, help="ZIP, folder or .npz of images")
@click.option("--dest", metavar="NPZ|PKL", required=True, help="Statistics to write; .pkl is EDM2's format")
@opt.overwrite_option
@opt.metrics_option
@opt.num_option("all", "A subset of so many images")
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
    from edm2_guidance.metrics import evaluation, reference

    with bad_input():
        reference.check_new(dest, overwrite=overwrite)
        stored = evaluation.open_stored(data, metrics, num=num, seed=seed, batch=batch, scored=False)
        reference.check_kept(dest, kept_features(metrics), stored.source.num_images)
        detectors = open_detectors(choices, params)
    say_notes([*stored.source.notes, *too_few(metrics, stored.source.num_images)])
    with progress_bar(stored.source.num_images, "images") as progress:
        moments = evaluation.measure(stored.source, detectors, stored.names, progress).moments
    described = {**stored.description, "path": Path(data).name}
    reference.save_statistics(dest, moments, detectors={d.name: d.identity for d in detectors}, images=described)
    click.echo(f"{dest}: {', '.join(metrics)} of {stored.source.num_images} images")


@main.command()
@click.argument("path", metavar="[LEDGER]", default=opt.LEDGER)
@click.option("--last", metavar="INT", type=click.IntRange(min=1), help="Only the last rows  [default: all]")
def table(path: str, last: int | None) -> None:
    """Print a ledger as a table; says below it what its rows mix."""
    from edm2_guidance.metrics import ledger

    with bad_input():
        records = ledger.read(path)
    click.echo(ledger.format_table(records if last is None else records[-last:]) or f"{path} holds no results yet")


def score_stored(
    images: str,
    ref: str,
    metrics: list[str] | None,
    num: int | None,
    most: int | None,
    seed: int,
    batch: int,
    **params: Any,
) -> None:
    """Score image files, or statistics of images. num: as asked for; None takes all there are, or `most` of them."""
    if metrics is not None:
        opt.detector_choices(metrics, params)  # refused before anything opens
    if left_to_the_first():
        return None
    from edm2_guidance.metrics import evaluation, ledger, provenance
    from edm2_guidance.metrics.scoring import moments_for
    from edm2_guidance.metrics.sides import ReferenceImages, common_metrics, open_reference_side, open_side

    with bad_input():
        ledger.check_writable(params["ledger"])
        other = open_side(ref, metrics, reference=True, offline=params["offline"])
        ours = open_side(images, offline=params["offline"]) if metrics is None else None
        metrics = metrics or common_metrics(ours, other) or opt.STANDARD_METRICS
        theirs = open_reference_side(other, metrics, batch=batch)  # what is wrong with it is said first
        ours = ours or open_side(images, metrics, offline=params["offline"])
        there = ours.statistics
        if there is None:
            stored = evaluation.open_stored(
                ours.images or ours.path, metrics, num=num, most=most, seed=seed, batch=batch
            )
        else:
            moments = {find_metric(metric).extractor.stored_as: moments_for(metric, there, num) for metric in metrics}
        needed = there is None or isinstance(theirs, ReferenceImages)
        detectors = open_detectors(opt.detector_choices(metrics, params), params) if needed else []
    reference = measured_reference(theirs, detectors)
    if there is None:
        params = {"num": num, "seed": seed, "batch": batch, **params}
        return score_images(ours.name, stored, reference, detectors, params)
    tell_sides(ours.name, next(iter(moments.values())).num_images, reference)
    return report(reference, moments, there.detectors, provenance.describe_statistics(there), params)


def score_images(name: str, stored: Any, reference: Any, detectors: Sequence[Any], params: Mapping[str, Any]) -> None:
    """Measure and score the images of a `metrics.evaluation.StoredSet`. name: of their `Side`."""
    from edm2_guidance.metrics import evaluation
    from edm2_guidance.metrics.scoring import fewer_than_published

    total, count, batch = stored.description["total"], stored.source.num_images, stored.source.batch
    tell_sides(name, count, reference)
    if params["num"] is None and count < total:
        chosen = f"{count:,} of the {total:,} samples are scored, chosen by --seed={params['seed']}"
        click.echo(f"note: {chosen}; --num={total} takes all", err=True)
    say_notes(stored.source.notes)
    with progress_bar(count, "images") as progress:
        measured = evaluation.measure(stored.source, detectors, stored.names, progress)
    notes = [fewer_than_published(count)] if params["num"] is None and count < STANDARD_NUM_IMAGES else []
    described, run_record = {**stored.description, "path": name}, {"batch": batch, "reduced": measured.reduced}
    report(reference, measured.moments, {d.name: d.identity for d in detectors}, described, params, notes, **run_record)


def measured_reference(theirs: Any, detectors: Sequence[Any], *, quiet: bool = False) -> Any:
    """The `metrics.scoring.Reference` of a reference as it was opened: measured now if it is images."""
    from edm2_guidance.metrics.sides import ReferenceImages

    if not isinstance(theirs, ReferenceImages):
        return theirs
    if not quiet:
        how = f"calculate_metrics.py ref --data={theirs.stored.source.path} --dest=NAME.npz keeps them"
        click.echo(f"note: the statistics of {theirs.name} are computed now; {how}", err=True)
    with progress_bar(theirs.stored.source.num_images, "reference", quiet=quiet) as progress:
        return theirs.measure(detectors, progress)


def tell_sides(samples: str, count: int | None, reference: Any) -> None:
    """Say on stderr which side is which, and how many images stand behind it."""
    statistics = reference.statistics
    numbers = [count, next(iter(statistics.moments.values())).num_images]
    known = ["an unknown number of images" if number is None else f"{number:,} images" for number in numbers]
    click.echo(f"samples:   {samples}, {known[0]}\nreference: {statistics.source}, {known[1]}", err=True)


def left_to_the_first() -> bool:
    """Whether this is a further worker: reading stored images is the work of one, and it says so."""
    with bad_input():
        workers = launched()
    if workers.rank > 0:
        click.echo(f"{workers.prefix}nothing to do: worker 0 reads all stored images", err=True)
    return workers.rank > 0


def open_detectors(choices: Mapping[str, Mapping[str, Any]], params: dict[str, Any]) -> list[Any]:
    """The detectors, in the order of `choices` (by `opt.detector_choices`)."""
    from edm2_guidance.metrics.detectors import load_detector
    from torch_utils.distributed import pick_device

    device, offline = pick_device(params["device"]), params["offline"]
    return [load_detector(name, device, offline=offline, **choice) for name, choice in choices.items()]


def report(
    reference: Any,
    moments: Mapping[str, Any],
    identities: Mapping[str, Any],
    images: Mapping[str, Any],
    params: Mapping[str, Any],
    notes: Sequence[str] = (),
    **run_record: Any,
) -> None:
    """Appends the distances to the ledger, and prints them."""
    from edm2_guidance.metrics import provenance, scoring
    from edm2_guidance.metrics.environment import environment
    from torch_utils.distributed import pick_device

    around = environment(pick_device(params["device"]), vae=provenance.vae_ran(images))
    given = (params["ledger"], reference, moments, identities, images, around, notes)
    tell_scores(scoring.write_scores(*given, tags={"note": params["note"]}, **run_record))


def tell_scores(records: Sequence[Mapping[str, Any]]) -> None:
    """Prints lines of the ledger, and says on stderr what to mind, once each."""
    for record in records:
        click.echo(f"{record['name']:<15} {value_text(record['metric'], record['value'])}")
    for flag in dict.fromkeys(flag for record in records for flag in record.get("flags") or ()):
        click.echo(f"warning: {flag}", err=True)
