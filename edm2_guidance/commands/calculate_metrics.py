"""Score sets of images, or networks directly, by the measures of the field; compare scores; results go to a ledger."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from dnnlib.terminal import counted
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli import typed
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import format_option
from edm2_guidance.cli.say import say, say_notes
from edm2_guidance.commands.score.classes import show_classes
from edm2_guidance.commands.score.compare import compare
from edm2_guidance.commands.score.gen import gen
from edm2_guidance.commands.score.perturb import perturb
from edm2_guidance.commands.score.rank import rank
from edm2_guidance.commands.score.resample import resample
from edm2_guidance.commands.score.sensitivity import sensitivity
from edm2_guidance.commands.score.sides import (
    ScoreOptions,
    left_to_the_first,
    measured_reference,
    open_detectors,
    open_sides,
    score_set,
    scores_there,
    tell_scores,
    tell_sides,
)
from edm2_guidance.metrics.catalog import feature_names, kept_features, too_few
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES
from edm2_guidance.metrics.statistics_formats import choose_format


class CalcOptions(OptionGroup, heading="Images"):
    """The sides in EDM2's words, and how they are scored."""

    images: str | None = option(f"SAMPLES, in EDM2's words: {opt.IMAGES}; or statistics", metavar="PATH")
    ref: str | None = opt.ref_option(f"REFERENCE, in EDM2's words: {opt.REFERENCE}")
    again: bool = opt.again_option()
    score: ScoreOptions


class TableOptions(OptionGroup, heading="Rows"):
    """Which rows of a ledger are shown, and how."""

    metrics: str | None = option("Only these, such as fid,fd_dinov2@5000", metavar="LIST")
    where: Sequence[str] = option(
        "Only rows that say this anywhere: method, images, note, row of a paper, search; given again, that too",
        metavar="TEXT", multiple=True,
    )  # fmt: skip
    changed: bool = flag("The scores of images that perturb changed, in place of the others")
    last: int | None = option("Of these only the last", metavar="INT", type=click.IntRange(min=1))
    sort: str = option(
        "row (as written), value (best first), method or time",
        metavar="ORDER", type=click.Choice(["row", "value", "method", "time"]), default="row",
    )  # fmt: skip
    form: Literal["table", "csv"] = format_option("table")
    ledger: str = opt.ledger_option()


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
@takes_options
def main(ctx: click.Context, /, plain: opt.PlainOptions) -> None:
    """Score images against a reference: FID, FD-DINOv2, sFID, IS, precision, recall and others (calc --metrics=list).

    The options below belong to the form without a command, that of the interval-guidance repository.

    \b
    python calculate_metrics.py calc out/samples.zip img512
    python calculate_metrics.py calc --images=out/samples --ref=datasets/img512.zip --metrics=fid
    python calculate_metrics.py gen --preset=mnist16-autog --num-images=1000
    python calculate_metrics.py ref --images=datasets/img512.zip --out=img512.npz
    python calculate_metrics.py table
    python calculate_metrics.py compare out/a.zip out/b.zip img512
    python calculate_metrics.py classes out/samples.zip datasets/img512.zip
    python calculate_metrics.py rank out/samples.zip datasets/img512.zip --out=out/ranked.png
    python calculate_metrics.py perturb out/samples.zip datasets/img512.zip --change=blur --change=jpeg
    python calculate_metrics.py --images=images.zip --ref=img512.pkl --metrics=fd_dinov2
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if typed.given(name) and not typed.in_file(name)]
        if given:
            name = typed.quoted(given[0]).partition("=")[0]
            raise click.UsageError(f"{name} belongs to the form without a command; leave out one of them")
    elif plain.images is None and plain.ref is None:
        click.echo(ctx.get_help())
    elif plain.images is None or plain.ref is None:
        raise click.UsageError("give both --images and --ref, or a command (see --help)")
    else:
        ledger = str(Path(plain.results_dir) / Path(opt.LEDGER).name)
        usual = ScoreOptions.defaults()
        stored = replace(usual.stored, batch=plain.batch)
        asked = replace(usual, stored=stored, ledger=replace(usual.ledger, ledger=ledger))
        score_stored(asked, plain.images, opt.reference_from(plain.ref), [plain.metric], most=None, again=True)


for command in (compare, gen, perturb, rank, resample, sensitivity, show_classes):
    main.add_command(command)


@main.command()
@click.argument("samples", metavar="[SAMPLES", required=False)
@click.argument("reference", metavar="REFERENCE]", required=False)
@takes_options
def calc(samples: str | None, reference: str | None, asked: CalcOptions) -> None:
    """Score stored images: SAMPLES against REFERENCE, each images or statistics.

    Images are a folder, ZIP, tar or .npz. Several ZIPs or tars are one set: name the folder that they lie in, or,
    quoted, a pattern such as 'train-*.tar'. Of a reference given as images all count, and its statistics are computed
    in the same run; `ref` writes such statistics to a file, which saves the time when it is used again. A score that
    the ledger has is not computed again.
    """
    images, ref = opt.sides_from(samples, reference, asked.images, asked.ref)
    score_stored(asked.score, images, ref, opt.asked_metrics(asked.score.metrics), STANDARD_NUM_IMAGES, asked.again)


class RefOptions(OptionGroup, heading="Output"):
    """The images, and the file of their statistics."""

    images: str = option(opt.IMAGES, metavar="PATH", required=True, heading="Images")
    out: str = option("Statistics to write; .pkl is EDM2's format", metavar="NPZ|PKL|NAME", required=True)
    format: str | None = option(
        "In which format; list tells what each holds  [default: by the ending of --out]", type=opt.FormatName()
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
    these, --out is FOLDER/NAME.
    """
    with bad_input():
        chosen = choose_format(asked.out, asked.format)
    stored, device, keep = asked.stored, asked.device, asked.keep_features or chosen.features == "always"
    metrics = opt.asked_metrics(asked.metrics) or [*chosen.arrays] or opt.STANDARD_METRICS
    if opt.open_ended(metrics):
        from edm2_guidance.metrics.sides import settled_for

        with bad_input():
            metrics = settled_for(metrics, asked.images)
    choices, names = asked.detectors.choices(metrics, keep=keep), feature_names(metrics)
    kept = names if keep else kept_features(metrics)
    with bad_input():
        chosen.check(asked.out, names, kept)
    if left_to_the_first():
        return
    from edm2_guidance.metrics import evaluation, reference

    with bad_input():
        reference.check_new(asked.out, overwrite=asked.overwrite, chosen=chosen)
        images = evaluation.open_stored(
            asked.images, metrics, num=asked.num, seed=stored.seed, batch=stored.batch, scored=False
        )
        reference.check_kept(kept, images.source.num_images)
        opened = open_detectors(choices, device.device, offline=device.offline)
    say_notes([*images.source.notes, *too_few(metrics, images.source.num_images)])
    with progress_bar(images.source.num_images, "images") as progress:
        moments = evaluation.measure(images.source, opened, images.names, progress).moments
    described = {**images.description, "path": Path(asked.images).name}
    made_by = evaluation.identities_of(opened)
    reference.save_statistics(asked.out, moments, detectors=made_by, images=described, chosen=chosen)
    files = chosen.paths(asked.out, kept=any(each.features is not None for each in moments.values())).values()
    click.echo(f"{', '.join(map(str, files))}: {', '.join(metrics)} of {images.source.num_images} images")


@main.command()
@click.argument("path", metavar="[LEDGER]", required=False)
@takes_options
def table(path: str | None, asked: TableOptions) -> None:
    """Print a ledger as a table, or as CSV; says below it what its rows mix.

    \b
    python calculate_metrics.py table results/ledger.jsonl --where=autog --sort=value
    """
    from edm2_guidance.metrics import ledger
    from edm2_guidance.metrics import ledger_table as tables

    if path is not None and typed.given("ledger"):
        raise click.UsageError(f"{path} and --ledger={asked.ledger} are two ledgers: name one")
    path = path or asked.ledger
    with bad_input():
        there = tables.rows_of(ledger.read(path))
        everything = [row for row in there if tables.is_changed(row.record) == asked.changed]
        rows = tables.select(everything, asked.metrics.split(",") if asked.metrics else (), asked.where)
        if everything and not rows:
            raise ValueError(f"no row of {path} is of that kind; its metrics are {', '.join(tables.names(everything))}")
    if not asked.changed and len(there) > len(everything):
        say(f"{counted(len(there) - len(everything), 'score')} of changed images left out (--changed shows them)")
    rows = sorted(rows[-asked.last :] if asked.last else rows, key=tables.ORDERS[asked.sort])
    if asked.form == "csv":
        click.echo(tables.format_csv(rows), nl=False)
    else:
        click.echo(tables.format_table(rows) or f"{path} holds no results yet")


def score_stored(
    asked: ScoreOptions, images: str, ref: str, metrics: list[str] | None, most: int | None, again: bool
) -> None:
    """Score image files, or statistics of images: arguments as `open_sides`. again: also what the ledger has."""
    opened = open_sides(asked, images, ref, metrics, most)
    if opened is None:
        return
    name, _, found, theirs, detectors = opened
    reference = measured_reference(theirs, detectors)
    there = None if again else scores_there(asked, found, reference, detectors)
    if there is None:
        score_set(asked, name, found, reference, detectors)
    else:
        tell_sides(name, found.num_images, reference)
        say(f"the result is in {asked.ledger.ledger} already (--again computes it once more)")
        tell_scores(there)
