"""Score sets of images, or networks directly, by Frechet distances; results go to a ledger."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.places import find_file
from dnnlib.terminal import counted
from dnnlib.urls import is_url
from dnnlib.workers import Workers, launched
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli import typed
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.lists import IntList, first_seeds, seed_option
from edm2_guidance.cli.option_group import COUNT, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import WorkBar, progress_bar
from edm2_guidance.cli.recipe_args import only_preset, recipe_from
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.report import announce, others, say_notes
from edm2_guidance.cli.run_options import RunOptions, announce_workers, batch_option, threads_for
from edm2_guidance.cli.start import as_started
from edm2_guidance.cli.submit import JobOptions, send
from edm2_guidance.metrics.catalog import (
    check_counts,
    extractors,
    feature_names,
    find_metric,
    kept_features,
    score_text,
    too_few,
)
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES, result_name
from edm2_guidance.metrics.statistics_formats import choose_format
from edm2_guidance.papers.costs import feature_bytes
from edm2_guidance.papers.presets import Preset
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.recipe import Recipe

if TYPE_CHECKING:
    from edm2_guidance.metrics.compare import Verdict
    from edm2_guidance.metrics.detectors import Detector
    from edm2_guidance.metrics.evaluation import StoredSet
    from edm2_guidance.metrics.moments import Moments
    from edm2_guidance.metrics.score_output import Record, Scores
    from edm2_guidance.metrics.scoring import Reference
    from edm2_guidance.metrics.sides import ReferenceImages
    from edm2_guidance.work.complete import Pending


class CalcOptions(OptionGroup):
    """The sides in EDM2's words, and how they are scored."""

    images: str | None = option(f"SAMPLES, in EDM2's words: {opt.IMAGES}; or statistics", metavar="PATH")
    ref: str | None = option(f"REFERENCE, in EDM2's words: {opt.REFERENCE}", metavar="PATH|URL|NAME")
    metrics: list[str] = opt.scored_metrics_option()
    num: int | None = opt.num_option(f"{STANDARD_NUM_IMAGES} if there are more, else all")
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    ledger: opt.LedgerOptions
    device: opt.DeviceOptions


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
@takes_options
def main(ctx: click.Context, /, plain: opt.PlainOptions) -> None:
    """Score images against reference statistics by FID, FD-DINOv2 or, for the digits that ship here, fd_mnist.

    The options below belong to the form without a command, that of the interval-guidance repository.

    \b
    python calculate_metrics.py calc out/samples.zip img512
    python calculate_metrics.py calc --images=out/samples --ref=datasets/img512.zip --metrics=fid
    python calculate_metrics.py gen --preset=mnist16-autog --num=1000
    python calculate_metrics.py ref --data=datasets/img512.zip --dest=img512.npz
    python calculate_metrics.py table
    python calculate_metrics.py compare out/a.zip out/b.zip img512
    python calculate_metrics.py classes out/samples.zip datasets/img512.zip
    python calculate_metrics.py --gen_zip=images.zip --ref_path=img512.pkl --metric=fd_dinov2
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if typed.given(name)]
        if given:
            raise click.UsageError(f"--{given[0]} belongs to the form without a command; leave out one of them")
    elif plain.gen_zip is None and plain.ref_path is None:
        click.echo(ctx.get_help())
    elif plain.gen_zip is None or plain.ref_path is None:
        raise click.UsageError("give both --gen_zip and --ref_path, or a command (see --help)")
    else:
        ledger = str(Path(plain.results_dir) / Path(opt.LEDGER).name)
        usual = CalcOptions.defaults()
        stored = replace(usual.stored, batch=plain.batch_size)
        asked = replace(usual, stored=stored, ledger=replace(usual.ledger, ledger=ledger))
        score_stored(asked, plain.gen_zip, opt.reference_from(plain.ref_path), [plain.metric], most=None)


@main.command()
@click.argument("samples", metavar="[SAMPLES", required=False)
@click.argument("reference", metavar="REFERENCE]", required=False)
@takes_options
def calc(samples: str | None, reference: str | None, asked: CalcOptions) -> None:
    """Score stored images: the distance of SAMPLES to REFERENCE, each images or statistics.

    Images are a folder, ZIP, tar or .npz. Several ZIPs or tars are one set: name the folder that they lie in, or,
    quoted, a pattern such as 'train-*.tar'. Of a reference given as images all count, and its statistics are computed
    in the same run; `ref` writes such statistics to a file, which saves the time when it is used again.
    """
    images, ref = opt.sides_from(samples, reference, asked.images, asked.ref)
    score_stored(asked, images, ref, opt.asked_metrics(asked.metrics), most=STANDARD_NUM_IMAGES)


class GenOptions(OptionGroup):
    """What is sampled, what is scored against what, and how."""

    networks: NetworkOptions
    ref: str | None = option(f"{opt.REFERENCE}  [default: the preset's]", metavar="PATH|URL|NAME")
    metrics: list[str] = opt.scored_metrics_option()
    num: int | None = opt.num_option(str(STANDARD_NUM_IMAGES))
    seed: int = seed_option()
    batch: int = batch_option(32)
    sampling: SamplingOptions
    workdir: str = option(
        "Where features lie until the result is there, 4 bytes each", metavar="DIR", default="results/work"
    )
    shard_size: int = option("Images per shard, what an interruption costs at most", type=COUNT, default=512)
    detectors: opt.DetectorOptions
    ledger: opt.LedgerOptions
    again: bool = opt.again_option()
    run: RunOptions
    jobs: JobOptions


@main.command()
@takes_options
def gen(asked: GenOptions) -> None:
    """Score networks: sample, decode and score in one go. No image is stored.

    Features are kept shard by shard until the result is in the ledger: after an interruption, of whatever kind, the
    same command goes on. Under torchrun or srun, or started several times with --worker=I/N or --steal, the workers
    share the shards, and the last one writes the result. A score that the ledger has is not computed again.
    """
    networks, run = asked.networks, asked.run
    preset = only_preset(networks.preset) if networks.preset else None
    recipe = recipe_from(Method(networks, asked.sampling, run.noise_device), preset, scored=True)
    source = opt.reference_from(asked.ref, preset)
    metrics = opt.asked_metrics(asked.metrics) or opt.known_metrics(source) or metrics_of(source, preset, run.offline)
    seeds = first_seeds(asked.seed, STANDARD_NUM_IMAGES if asked.num is None else asked.num)
    if opt.open_ended(metrics):
        metrics = settled_metrics(metrics, source, None, len(seeds), run.offline)
    choices = asked.detectors.choices(metrics)
    threads_for(recipe.sources, choices)
    if not asked.jobs.elsewhere():
        return score_networks(asked, recipe, source, metrics, seeds)
    from edm2_guidance.reproduction.files import fetch_all

    files = [source] if is_url(source) or find_file(source).is_file() else []
    fetch = partial(fetch_all, [recipe], files, choices, trust_pickle=run.trust_pickle)
    size = feature_bytes(metrics, len(seeds))
    writes = {Path(asked.workdir, "plan.json"): size, Path(asked.ledger.ledger): 0}
    return send(asked.jobs, run, fetch, writes, asked.workdir)


def score_networks(asked: GenOptions, recipe: Recipe, source: str, metrics: list[str], seeds: range) -> None:
    """What `gen` does in this process. source: of `opt.reference_from`."""
    from edm2_guidance.metrics import evaluation, ledger
    from edm2_guidance.metrics.score_output import ScoreOutput, Scorer, feature_shards, open_index
    from edm2_guidance.metrics.sides import open_reference_side, open_side
    from edm2_guidance.sampling.generation import open_recipe
    from edm2_guidance.work.complete import Run, complete
    from edm2_guidance.work.plan import ShardPlan
    from torch_utils.distributed import device_identity

    run, batch, path = asked.run, asked.batch, asked.ledger.ledger
    with bad_input():
        workers = asked.jobs.place()
        plan = ShardPlan(tuple(seeds), asked.shard_size)
        if not workers.order(len(plan)):
            return click.echo(f"{workers.prefix}nothing to do: {counted(len(plan), 'shard')} of images", err=True)
        ledger.check_writable(path)
        check_counts(metrics, len(seeds))
        theirs = open_reference_side(open_side(source, metrics, reference=True, offline=run.offline), metrics)
        generation = open_recipe(recipe, run.device, trust_pickle=run.trust_pickle, offline=run.offline)
        generation.check_seeds(seeds)
        evaluation.check_image_sizes(metrics, (generation.image_size, generation.image_size))
        detectors = open_detectors(asked.detectors.choices(metrics), run.device, offline=run.offline)
        index = open_index(path, again=asked.again)
    reference = measured_reference(theirs, detectors, quiet=not workers.speaks)
    scorer = Scorer(reference, tuple(detectors), index, generation.device, batch)
    folder = opt.work_folder(asked.workdir, generation.recipe, seeds, metrics)
    how = Run(batch, workers=workers, device=device_identity(generation.device), **generation.numerics)
    work = feature_shards(folder, plan, generation.recipe, how, detectors)
    output = ScoreOutput(scorer, generation, work, {"note": asked.ledger.note})

    def tell() -> None:
        announce(generation)
        tell_sides(f"seeds {seeds[0]}-{seeds[-1]}", len(seeds), reference)
        announce_workers(workers, f"{counted(len(plan), 'shard')} of {counted(asked.shard_size, 'image')}")

    with WorkBar(tell, quiet=not workers.speaks) as progress:
        made = complete(output, lambda part: generation.images(part, batch), progress)
    return tell_made(made, workers, path, found_before=not progress.began)


def tell_made(made: "Scores | Pending", workers: Workers, path: str, *, found_before: bool) -> None:
    """Say what came of it, or that others are at it. path: of the ledger."""
    from edm2_guidance.work.complete import Pending

    if isinstance(made, Pending):
        return click.echo(f"{workers.prefix}done; {others(made)}", err=True)
    if made.written:
        return tell_scores(made.written)
    already = " already (--again computes it once more)" if found_before else ""  # else another worker has written it
    click.echo(f"{workers.prefix}the result is in {path}{already}", err=True)
    return tell_scores(made.records) if found_before and workers.speaks else None


def metrics_of(source: str, preset: Preset | None, offline: bool) -> list[str]:
    """What `gen` scores against this reference when nobody says: what it has; of images, what the preset's has."""
    from edm2_guidance.metrics.sides import common_metrics, open_side

    with bad_input():
        found = common_metrics(open_side(source, reference=True, offline=offline))
    return found or list(opt.STANDARD_METRICS if preset is None else REFERENCES[preset.data].metrics)


class RefOptions(OptionGroup):
    """The images, and the file of their statistics."""

    data: str = option(opt.IMAGES, metavar="PATH", required=True)
    dest: str = option("Statistics to write; .pkl is EDM2's format", metavar="NPZ|PKL|NAME", required=True)
    format: str | None = option(
        "In which format; list tells what each holds  [default: by the ending of --dest]", type=opt.FormatName()
    )
    keep_features: bool = flag("Keep the features of all images, too, for measures that need them")
    overwrite: bool = flag("Replace the statistics that are there")
    metrics: list[str] = opt.metrics_option(",".join(opt.STANDARD_METRICS))
    num: int | None = opt.num_option("all", "A subset of so many images")
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    device: opt.DeviceOptions


@main.command()
@takes_options
def ref(asked: RefOptions) -> None:
    """Write reference statistics of a set of images, in the format of this program or of another evaluator.

    What a format has no place for is refused: --format=list tells. Some give their files names of their own: for
    these, --dest is FOLDER/NAME.
    """
    with bad_input():
        chosen = choose_format(asked.dest, asked.format)
    stored, device, keep = asked.stored, asked.device, asked.keep_features or chosen.features == "always"
    metrics = opt.asked_metrics(asked.metrics) or [*chosen.arrays] or opt.STANDARD_METRICS
    if opt.open_ended(metrics):
        from edm2_guidance.metrics.sides import settled_for

        with bad_input():
            metrics = settled_for(metrics, asked.data)
    choices, names = asked.detectors.choices(metrics, keep=keep), feature_names(metrics)
    kept = names if keep else kept_features(metrics)
    with bad_input():
        chosen.check(asked.dest, names, kept)
    if left_to_the_first():
        return
    from edm2_guidance.metrics import evaluation, reference
    from edm2_guidance.metrics.detectors import identities_of

    with bad_input():
        reference.check_new(asked.dest, overwrite=asked.overwrite, chosen=chosen)
        images = evaluation.open_stored(
            asked.data, metrics, num=asked.num, seed=stored.seed, batch=stored.batch, scored=False
        )
        reference.check_kept(kept, images.source.num_images)
        opened = open_detectors(choices, device.device, offline=device.offline)
    say_notes([*images.source.notes, *too_few(metrics, images.source.num_images)])
    with progress_bar(images.source.num_images, "images") as progress:
        moments = evaluation.measure(images.source, opened, images.names, progress).moments
    described = {**images.description, "path": Path(asked.data).name}
    reference.save_statistics(asked.dest, moments, detectors=identities_of(opened), images=described, chosen=chosen)
    files = chosen.paths(asked.dest, kept=any(each.features is not None for each in moments.values())).values()
    click.echo(f"{', '.join(map(str, files))}: {', '.join(metrics)} of {images.source.num_images} images")


@main.command()
@click.argument("path", metavar="[LEDGER]", default=opt.LEDGER)
@click.option("--last", metavar="INT", type=click.IntRange(min=1), help="Only the last rows  [default: all]")
def table(path: str, last: int | None) -> None:
    """Print a ledger as a table; says below it what its rows mix."""
    from edm2_guidance.metrics import ledger

    with bad_input():
        records = ledger.read(path)
    skipped = max(0, len(records) - last) if last is not None else 0
    click.echo(ledger.format_table(records[skipped:], skipped + 1) or f"{path} holds no results yet")


class CompareOptions(OptionGroup):
    """How sets are scored, and which ledger lines are of."""

    metrics: list[str] = opt.scored_metrics_option()
    num: int | None = opt.num_option(f"{STANDARD_NUM_IMAGES} if there are more, else all")
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    ledger: opt.LedgerOptions
    device: opt.DeviceOptions


@main.command()
@click.argument("a")
@click.argument("b")
@click.argument("reference", required=False)
@takes_options
def compare(a: str, b: str, reference: str | None, asked: CompareOptions) -> None:
    """Say of every metric whether A is better than B, worse, or whether that is inconclusive.

    With a REFERENCE, A and B are sets of images, or statistics that hold features, and are scored as by `calc`. Without
    one they are scores that the ledger has: rows as `table` numbers them (7, or 7,8,9 for blocks of seeds, or
    LEDGER:7), or rows of the papers' tables (mnist16-cfg).
    """
    verdicts = (
        compare_scores(asked, a, b) if reference is None else compare_sets(asked, (a, b), opt.reference_from(reference))
    )
    from edm2_guidance.metrics.compare import notes, table

    if verdicts:
        click.echo(table(verdicts))
        say_notes(notes(verdicts))


def compare_scores(asked: CompareOptions, a: str, b: str) -> "list[Verdict]":
    """The verdict of scores that a ledger has."""
    from edm2_guidance.metrics import compare, ledger

    with bad_input():
        ours, theirs = (scores_named(side, asked.ledger.ledger) for side in (a, b))
        verdict = compare.of_lines(ours, theirs)
    say_warnings([*ours, *theirs])
    say_notes(note for note in ledger.mixtures([*ours, *theirs]) if "label rules" in note)
    return [verdict]


def scores_named(text: str, path: str) -> "list[Record]":
    """The lines that a side of `compare` means. path: of the ledger, unless the text names one."""
    from edm2_guidance.metrics import compare, ledger
    from edm2_guidance.papers import report, tables

    named = re.fullmatch(r"(?:(.+):)?(\d+(?:[-,]\d+)*)", text)
    path = (named and named[1]) or path
    if named:
        return compare.lines_named(ledger.read(path), IntList().parse(named[2]), path)
    if find_file(text).exists():
        raise ValueError(f"{text} is a file or folder, and sets are compared by a reference: compare A B REFERENCE")
    rows = tables.find(text)
    if len(rows) > 1:
        raise ValueError(f"{text} is a table of {len(rows)} rows: name one, such as {rows[0].name}")
    return report.scores_of(rows[0], ledger.read(path))


def compare_sets(asked: CompareOptions, names: tuple[str, str], ref: str) -> "list[Verdict]":
    """The verdicts of two sets, whose scores go to the ledger, too."""
    metrics = opt.asked_metrics(asked.metrics)
    if metrics is not None and not opt.open_ended(metrics):
        asked.detectors.choices(metrics)  # refused before anything opens
    if left_to_the_first():
        return []
    if metrics is not None and opt.open_ended(metrics):
        metrics = settled_metrics(metrics, ref, names[0], asked.num or STANDARD_NUM_IMAGES, asked.device.offline)
    from edm2_guidance.metrics import compare, ledger
    from edm2_guidance.metrics.sides import ReferenceImages, common_metrics, open_reference_side, open_side

    stored, offline = asked.stored, asked.device.offline
    with bad_input():
        ledger.check_writable(asked.ledger.ledger)
        other = open_side(ref, metrics, reference=True, offline=offline)
        if metrics is None:
            found = common_metrics(other, *(open_side(name, offline=offline) for name in names))
            metrics = found or opt.STANDARD_METRICS
        theirs = open_reference_side(other, metrics, batch=stored.batch)
        sides = [open_side(name, metrics, offline=offline, keep=True) for name in names]
        sets = [compare.open_set(side, metrics, asked.num, stored.seed, stored.batch) for side in sides]
        compare.check_counts_alike(sets, metrics)
        needed = isinstance(theirs, ReferenceImages) or any(each.stored for each in sets)
        choices = asked.detectors.choices(metrics) if needed else {}
        detectors = open_detectors(choices, asked.device.device, offline=offline)
    reference = measured_reference(theirs, detectors)
    records, measured = [], []
    for each in sets:
        tell_sides(each.name, each.num_images, reference)
        say_notes(() if each.stored is None else each.stored.source.notes)
        with progress_bar(each.num_images or 0, "images", quiet=each.stored is None) as progress:
            moments, identities, ran = each.measure(detectors, progress)
        records.append(report(asked, reference, moments, identities, each.description, each.fewer(asked.num), **ran))
        measured.append(moments)
    with bad_input():
        paired = compare.are_paired(*sets)
        return compare.of_sets(reference, measured[0], measured[1], records, paired=paired)


class ClassOptions(OptionGroup):
    """In whose features, and of how many images."""

    features: str | None = option(
        "Whose features distances are in  [default: those for images of this size, or inception]",
        type=click.Choice(catalog.kinds("extractor")),
    )
    num: int | None = opt.num_option("all", "So many of the samples")
    stored: opt.StoredOptions
    detectors: opt.DetectorOptions
    device: opt.DeviceOptions


@main.command("classes")
@click.argument("samples")
@click.argument("reference")
@takes_options
def show_classes(samples: str, reference: str, asked: ClassOptions) -> None:
    """Show the classes of SAMPLES beside those of REFERENCE, both images with labels: a ZIP, a folder or an .npz.

    How many there are, how many the label rule of the recipe gives, and how far each class is from the reference's
    (beside its floor, what sets of these sizes have that are alike); then, how much of the distance of all the counts
    explain.
    """
    if left_to_the_first():
        return
    from edm2_guidance.metrics import classes, evaluation
    from edm2_guidance.metrics.sides import open_side, spaces_of

    stored, offline = asked.stored, asked.device.offline
    with bad_input():
        sides = [open_side(name, [], offline=offline) for name in (samples, reference)]
        names = {extractor.kind: name for name, extractor in extractors().items()}
        metric = names[asked.features or spaces_of(sides[0])[0]]
        opened = [
            evaluation.open_stored(
                side.images or side.path, [metric], num=num, seed=stored.seed, batch=stored.batch, scored=False
            )
            for side, num in zip(sides, (asked.num, None), strict=True)
        ]
        labels = [classes.labels_of(each) for each in opened]
        balanced = classes.balance_of(opened[0], *labels)
        choices = asked.detectors.choices([metric], keep=True)
        detectors = open_detectors(choices, asked.device.device, offline=offline)
    measured = []
    for each, its in zip(opened, labels, strict=True):
        with progress_bar(each.source.num_images, "images") as progress:
            (moments,) = evaluation.measure(each.source, detectors, each.names, progress).moments.values()
        measured.append(classes.Labelled(moments, its))
    with bad_input():
        explained = classes.explained_by_counts(*measured)
    click.echo(classes.table(balanced, classes.class_distances(*measured)))
    name = result_name(metric, opened[0].source.num_images)
    click.echo("\n".join([balanced.text, *classes.summary(name, explained)]))


def score_stored(asked: CalcOptions, images: str, ref: str, metrics: list[str] | None, most: int | None) -> None:
    """Score image files, or statistics of images.

    metrics: None = those that both sides have. most: images that are scored, unless --num says how many; None = all.
    """
    if metrics is not None and not opt.open_ended(metrics):
        asked.detectors.choices(metrics)  # refused before anything opens
    if left_to_the_first():
        return None
    if metrics is not None and opt.open_ended(metrics):
        metrics = settled_metrics(metrics, ref, images, most if asked.num is None else asked.num, asked.device.offline)
    from edm2_guidance.metrics import evaluation, ledger, provenance
    from edm2_guidance.metrics.scoring import moments_for
    from edm2_guidance.metrics.sides import ReferenceImages, common_metrics, open_reference_side, open_side

    num, stored, device, offline = asked.num, asked.stored, asked.device.device, asked.device.offline
    with bad_input():
        ledger.check_writable(asked.ledger.ledger)
        other = open_side(ref, metrics, reference=True, offline=offline)
        ours = open_side(images, offline=offline) if metrics is None else None
        metrics = metrics or common_metrics(ours, other) or opt.STANDARD_METRICS
        theirs = open_reference_side(other, metrics, batch=stored.batch)  # what is wrong with it is said first
        ours = ours or open_side(images, metrics, offline=offline)
        there = ours.statistics
        if there is None:
            found = evaluation.open_stored(
                ours.images or ours.path, metrics, num=num, most=most, seed=stored.seed, batch=stored.batch
            )
        else:
            moments = {find_metric(metric).stored_as: moments_for(metric, there, num) for metric in metrics}
        needed = there is None or isinstance(theirs, ReferenceImages)
        detectors = open_detectors(asked.detectors.choices(metrics), device, offline=offline) if needed else []
    reference = measured_reference(theirs, detectors)
    if there is None:
        return score_images(asked, ours.name, found, reference, detectors)
    tell_sides(ours.name, next(iter(moments.values())).num_images, reference)
    report(asked, reference, moments, there.detectors, provenance.describe_statistics(there))
    return None


def score_images(
    asked: CalcOptions, name: str, stored: "StoredSet", reference: "Reference", detectors: "list[Detector]"
) -> None:
    """Measure and score images. name: of their `Side`."""
    from edm2_guidance.metrics import evaluation
    from edm2_guidance.metrics.detectors import identities_of

    total, count, batch = stored.description["total"], stored.source.num_images, stored.source.batch
    tell_sides(name, count, reference)
    if asked.num is None and count < total:
        chosen = f"{count:,} of the {total:,} samples are scored, chosen by --seed={asked.stored.seed}"
        click.echo(f"note: {chosen}; --num={total} takes all", err=True)
    say_notes(stored.source.notes)
    with progress_bar(count, "images") as progress:
        measured = evaluation.measure(stored.source, detectors, stored.names, progress)
    fewer = count if asked.num is None and count < STANDARD_NUM_IMAGES else None
    described, run_record = {**stored.description, "path": name}, {"batch": batch, "reduced": measured.reduced}
    identities = identities_of(detectors)
    report(asked, reference, measured.moments, identities, described, fewer, **run_record)


def settled_metrics(metrics: list[str], ref: str, images: str | None, num: int | None, offline: bool) -> list[str]:
    """The metrics that "all" among these stands for; says what is left out, and why."""
    from edm2_guidance.metrics.sides import settled

    with bad_input():
        found = settled(metrics, ref, images, num, offline=offline)
    say_notes(found.left_out)
    return found.metrics


def measured_reference(
    theirs: "Reference | ReferenceImages", detectors: "Sequence[Detector]", *, quiet: bool = False
) -> "Reference":
    """A reference as it was opened: measured now if it is images."""
    from edm2_guidance.metrics.sides import ReferenceImages

    if not isinstance(theirs, ReferenceImages):
        return theirs
    if not quiet:
        path = shlex.quote(str(theirs.stored.source.path))
        how = f"calculate_metrics.py ref --data={path} --dest=NAME.npz keeps them"
        click.echo(f"note: the statistics of {theirs.name} are computed now; {as_started(how)}", err=True)
    with progress_bar(theirs.stored.source.num_images, "reference", quiet=quiet) as progress:
        return theirs.measure(detectors, progress)


def tell_sides(samples: str, count: int | None, reference: "Reference") -> None:
    """Say on stderr which side is which, and how many images stand behind it."""
    statistics = reference.statistics
    numbers = [count, *(each.num_images for each in [*statistics.moments.values()][:1])]
    known = ["an unknown number of images" if number is None else f"{number:,} images" for number in numbers]
    known += [f"with features of {each.num_images:,} of them" for each in [*statistics.shown.values()][:1]]
    click.echo(f"samples:   {samples}, {known[0]}\nreference: {', '.join([statistics.source, *known[1:]])}", err=True)


def left_to_the_first() -> bool:
    """Whether this is a further worker: reading stored images is the work of one, and it says so."""
    with bad_input():
        workers = launched()
    if workers.rank > 0:
        click.echo(f"{workers.prefix}nothing to do: worker 0 reads all stored images", err=True)
    return workers.rank > 0


def open_detectors(choices: opt.Choices, device: str, *, offline: bool) -> "list[Detector]":
    """The detectors, in the order of `choices`."""
    from edm2_guidance.metrics.detectors import load_detector
    from torch_utils.distributed import pick_device

    where = pick_device(device)
    return [load_detector(name, where, offline=offline, **choice) for name, choice in choices.items()]


def report(
    asked: CalcOptions | CompareOptions,
    reference: "Reference",
    moments: "Mapping[str, Moments]",
    identities: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, Any],
    fewer: int | None = None,
    **run_record: Any,
) -> "list[dict[str, Any]]":
    """Appends the scores to the ledger, and prints them: its lines. What is Any becomes JSON of the ledger."""
    from edm2_guidance.metrics import provenance, scoring
    from edm2_guidance.metrics.environment import environment
    from torch_utils.distributed import pick_device

    around = environment(pick_device(asked.device.device), vae=provenance.vae_ran(images))
    given = (asked.ledger.ledger, reference, moments, identities, images, around, fewer)
    records = scoring.write_scores(*given, tags={"note": asked.ledger.note}, **run_record)
    tell_scores(records)
    return records


def tell_scores(records: "Sequence[Record]") -> None:
    """Prints lines of the ledger, and says on stderr what to mind, once each."""
    for record in records:
        click.echo(f"{record['name']:<15} {score_text(record)}")
    say_warnings(records)


def say_warnings(records: "Sequence[Record]") -> None:
    """Says on stderr what to mind of lines of the ledger, once each, and of which if not of all."""
    warned: dict[str, list[str]] = {}
    for record in records:
        for text in record.get("flags") or ():
            warned.setdefault(text, []).append(record["metric"])
    for text, metrics in warned.items():
        of = "" if len(metrics) == len(records) else f"{', '.join(metrics)}: "
        click.echo(f"warning: {of}{text}", err=True)
