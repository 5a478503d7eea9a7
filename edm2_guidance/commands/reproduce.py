"""The papers' tables: what they hold, what a row costs, and published scores beside ours."""

import itertools
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dnnlib.atomic import check_destination
from dnnlib.inference import AUTO, UNSAID, Inference
from dnnlib.terminal import counted
from edm2_guidance.cli import reproduce_options as opt
from edm2_guidance.cli.again import made_before
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.metric_options import LEDGER, Choices, num_option
from edm2_guidance.cli.option_group import COUNT, OptionGroup, option, takes_options
from edm2_guidance.cli.progress import Agenda
from edm2_guidance.cli.recipe_args import only_preset, recipe_from
from edm2_guidance.cli.recipe_flags import commands_again
from edm2_guidance.cli.recipe_options import Method, NetworkOptions, SamplingOptions
from edm2_guidance.cli.run_options import StealingOptions, announce_workers, threads_for
from edm2_guidance.cli.say import say, say_notes, warn
from edm2_guidance.cli.search_options import SearchOptions, SearchTeller, missing_files, search_text, start_of
from edm2_guidance.cli.start import as_started
from edm2_guidance.cli.submit import send
from edm2_guidance.cli.typed import given, quoted
from edm2_guidance.commands.reproduction.arena import run_arena
from edm2_guidance.commands.reproduction.gallery import make_gallery
from edm2_guidance.commands.reproduction.page import write_page
from edm2_guidance.commands.reproduction.runs import runner_from, settings_from
from edm2_guidance.commands.reproduction.verify import verify_machine
from edm2_guidance.metrics.catalog import check_counts, detector_choices, find_metric, score_text, value_text
from edm2_guidance.papers import listing, plan, report
from edm2_guidance.papers.costs import cost, tflop_per_image
from edm2_guidance.papers.rates import Rates, choose_rates, read_rates
from edm2_guidance.papers.search import expected_points
from edm2_guidance.papers.tables import Row, all_rows, find, how_to_make, select
from edm2_guidance.recipe.search import recipe_at, valid

if TYPE_CHECKING:
    from edm2_guidance.papers.curves import Record
    from edm2_guidance.papers.plots import Panel
    from edm2_guidance.reproduction.rows import Block, Runner, Settings


def rows_named(names: tuple[str, ...]) -> list[Row]:
    """The rows of these tables and rows; all, table by table, if none is named."""
    with bad_input():
        return [row for name in names for row in find(name)] or list(all_rows())


@click.group(cls=Group)
def main() -> None:
    """The papers' tables, row by row: what they hold, what a row costs, and published scores beside ours.

    \b
    python reproduce.py list
    python reproduce.py plan edm2-img512-xxl-interval-fid
    python reproduce.py run mnist16 --num-images=500
    python reproduce.py report mnist16
    python reproduce.py search --preset=mnist16-cfg --over=weight --weights=1,1.1,...,2 --num-images=1000
    python reproduce.py plot --kind=weight --num-images=1000 --out=weights.png mnist16-cfg
    python reproduce.py verify --quick
    """


main.add_command(verify_machine)
main.add_command(run_arena)
main.add_command(make_gallery)


@main.command("list")
@click.argument("names", metavar="[TABLE|ROW]...", nargs=-1)
@takes_options
def list_rows(names: tuple[str, ...], asked: opt.ListOptions) -> None:
    """Show tables and rows with the published scores.

    runs: yes, or what is in the way: reconstruct = its EMA lengths are not published, train = nor is a network of
    that run, save = its network is released by others, search = its weight is not published, measure = its noise
    levels come of a measurement, no = not a network or method of this code base. assumed = some of the setting is not
    published either. `plan` gives commands and reasons.
    """
    rows = rows_named(names)
    if asked.form == "table":
        return click.echo(as_started(listing.list_text(rows)))
    records = [listing.record_of(row) for row in rows]
    return click.echo(listing.as_csv(records) if asked.form == "csv" else listing.as_json(records))


class PlanOptions(OptionGroup):
    """What a plan assumes."""

    num: int | None = num_option("as the paper, 50000", "Images per run")
    throughput: float | None = option(
        "Of one device, counting a multiply-add once  [default: as python -m benchmarks --calibrate measured it; "
        "else 40, one A100; digits: 0.02, two CPU cores]",
        metavar="TFLOP/S",
        type=click.FloatRange(min=0, min_open=True),
    )
    gpus: int = option("Devices that share the work", type=COUNT, default=1)
    device_kind: str = option(
        "Measured rates of a device with this in its name  [default: the GPU measured last, else this processor]",
        metavar="TEXT",
        default="",
        show_default=False,
    )
    network_form: Literal["auto", "plain", "prepared", "compiled"] = option(
        "Measured rates of this form of the networks; auto = prepared", "--form", default=AUTO
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = option(
        "Measured rates at this precision  [default: as published: fp16 on CUDA, else fp32]"
    )
    networks: str = opt.networks_option()

    def rates(self) -> Rates | None:
        """Of one device, as given or measured; None if neither. Warns of a store that cannot be read. ValueError."""
        if self.throughput is not None:
            if self.throughput == math.inf:
                raise ValueError("--throughput=inf: give a positive, finite number")
            return Rates([(1.0, self.throughput)], "given")
        try:
            known = read_rates()
        except (OSError, ValueError) as error:
            warn(f"measured rates are left out: {error}; python -m benchmarks --calibrate writes them anew")
            return None
        inference = Inference.of(self.network_form, self.precision)
        found = choose_rates(known, self.device_kind, inference)
        if found is None and (self.device_kind or inference != UNSAID):
            have = "; ".join(" ".join(each.key) for each in known) or "nothing"
            raise ValueError(f"no such rates were measured (python -m benchmarks --calibrate); there is: {have}")
        return found


@main.command("plan")
@click.argument("names", metavar="TABLE|ROW...", nargs=-1, required=True)
@takes_options
def plan_rows(names: tuple[str, ...], asked: PlanOptions) -> None:
    """Say what rows need and cost before they are run.

    Network evaluations with guidance and its interval counted, operations, hours (of sampling and decoding; of features
    where their rate was measured) and whose rates they are at, downloads, disk, and the commands that make what is not
    published.
    """
    with bad_input():
        rows = select(names)
        rates = asked.rates()
        costs = {
            row.name: cost(row, num=asked.num, rates=rates, gpus=asked.gpus, networks=asked.networks) for row in rows
        }
    for row in rows:
        click.echo(as_started("\n".join(plan.plan_lines(row, costs[row.name], asked.networks)) + "\n"))
    sampled = [each for each in costs.values() if each is not None]
    if len(sampled) > 1:
        click.echo("\n".join(plan.total_lines(sampled, asked.networks)))


@main.command("run")
@click.argument("names", metavar="TABLE|ROW...", nargs=-1, required=True)
@takes_options
def run_rows(names: tuple[str, ...], asked: opt.RowOptions) -> None:
    """Make rows: fetch, sample or reuse, score, one block of seeds after the other, into the ledger.

    Run again, also after a kill, it computes only what is missing. Under torchrun or srun, or started several times
    with --worker=I/N or --steal, the workers share every block.
    Rows that need networks nobody published are passed over, with what would make them.
    """
    with asked.work.goes_on():
        with bad_input():
            rows = select(names)
            if asked.jobs.elsewhere():
                return send_rows(asked, rows)
            settings = settings_from(asked.work, asked.jobs.place())
        return make_rows(
            rows, replace(settings, num=asked.num, blocks=asked.blocks, seed=asked.seed, labels=asked.labels)
        )


def make_rows(wanted: list[Row], settings: "Settings") -> None:
    """Make, in this process, what is missing of those of the rows that can run."""
    workers = settings.workers
    with bad_input():
        agenda = Agenda(0, quiet=not workers.speaks)
        runner = runner_from(settings, agenda)
        rows = [row for row in wanted if can_run(runner, row)]
        if not rows:
            raise ValueError("none of these rows can run; see reproduce.py plan")
        threads_for([file for row in rows for file in row.sources(settings.networks)], {row.metric for row in rows})
        runner.prepare(rows)
    announce_workers(workers, counted(len(rows), "row"))
    unfinished = 0
    for block in made_blocks(runner, rows, agenda, workers.speaks):
        unfinished += block.record is None
        if block.record is not None:
            stored = f"real images, set {block.number}" if block.row.samples is None else "published samples"
            seeds = f"seeds {block.seeds[0]}-{block.seeds[-1]}" if block.seeds else stored
            known = "  (in the ledger)" if block.reused else ""
            value = score_text(block.record)
            click.echo(f"{block.row.name:<32}{seeds:<24}{block.record['name']:<18}{value}{known}")
    if unfinished:
        left = f"{counted(unfinished, 'block')} left to the other workers"
        click.echo(f"{left} (start any that does not run, or --steal)")


def made_blocks(runner: "Runner", rows: list[Row], agenda: Agenda, speaks: bool) -> "Iterator[Block]":
    """Every block of the rows as it is finished; says on stderr which of how many is at work, and what time is left."""
    parts = {row.name: runner.parts(row) for row in rows}
    first = {row.images: row.name for row in reversed(rows)}  # later rows of the same images take no time
    weights = {row.name: tflop_per_image(row) or 0 if row.name in first.values() else 0 for row in rows}
    agenda.total = sum(weights[name] * len(seeds) for name, blocks in parts.items() for seeds in blocks)
    if speaks:
        blocks_in_all = sum(map(len, parts.values()))
        say(f"{counted(len(rows), 'row')}, {counted(blocks_in_all, 'block')} of images in all")
    for at, row in enumerate(rows, start=1):
        blocks = runner.run(row)
        for number, seeds in enumerate(parts[row.name], start=1):
            agenda.begin(len(seeds), weights[row.name])
            if speaks:
                where = f"row {at} of {len(rows)}, block {number} of {len(parts[row.name])}: {row.name}"
                say(f"{where}{agenda.left_of_all()}")
            yield from itertools.islice(blocks, 1)


def send_rows(asked: opt.RowOptions, wanted: list[Row]) -> None:
    """Fetch what those of the rows need that can run, or send the jobs that make them."""
    from edm2_guidance.reproduction.files import fetch_all

    work, trust = asked.work, asked.work.run.trust_pickle
    rows = [row for row in wanted if (row.net or row.samples) and not row.missing(work.networks)]
    if not rows:
        raise ValueError("none of these rows can be sampled; see reproduce.py plan")
    sampled = [row for row in rows if row.net is not None]
    costs = [made for row in rows if (made := cost(row, num=asked.num, networks=work.networks)) is not None]
    features = max((made.features for made in costs), default=0)
    writes = {Path(asked.work.ledger): 0, Path(work.results_dir, "work", "plan.json"): features}
    if work.keep_images:
        images = sum(made.images * (asked.blocks or made.repeats) // made.repeats for made in costs)
        writes[Path(work.results_dir, "images", "a.zip")] = images
    detectors: Choices = detector_choices(row.metric for row in rows)
    files = [file for row in rows for file in (row.reference, row.samples) if file is not None]
    recipes = [row.recipe(work.networks) for row in sampled]
    fetch = partial(fetch_all, recipes, files, detectors, trust_pickle=trust)
    folder = Path(work.results_dir) if work.keep_images else Path(work.results_dir, "work")
    send(asked.jobs, work.run, fetch, writes, folder)


def can_run(runner: "Runner", row: Row) -> bool:
    """Whether the row can be made; says on stderr why not, and what would make its networks."""
    reason = runner.obstacle(row)
    if reason is not None:
        warn(f"{row.name}: passed over, {reason}")
        for line in how_to_make(row.missing(runner.settings.networks), runner.settings.networks):
            say(f"    {as_started(line)}")
    return reason is None


class FindOptions(OptionGroup):
    """What is searched, of which method."""

    networks: NetworkOptions
    sampling: SamplingOptions
    search: SearchOptions
    target: opt.TargetOptions
    work: opt.WorkOptions
    workers: StealingOptions


@main.command("search")
@takes_options
def search_best(asked: FindOptions) -> None:
    """Search for the best weight, interval, EMA lengths or blend of a method, as the papers did.

    A coarse pass over each grid by --num-images for a point, then finer around the best; an interval's upper end first,
    then its lower. The best point is scored in --blocks blocks. Points in the ledger are not computed again.
    """
    with asked.work.goes_on():
        make_search(asked)


def make_search(asked: FindOptions) -> None:
    """Search, score the best point, and say how to sample and score it."""
    search, target = asked.search, asked.target
    with bad_input():
        workers = asked.workers.place()
    settings = settings_from(asked.work, workers)
    method = Method(asked.networks, asked.sampling, settings.noise_device)
    recipe = recipe_from(method, defaults=search.varied(asked.networks), scored=True)
    preset = only_preset(asked.networks.preset) if asked.networks.preset else None
    name, metrics, reference = target.resolved(preset, made_before(asked.networks.recipe))
    metric, *beside = metrics
    threads_for(recipe.sources, metrics)
    num, blocks, final = target.num, target.blocks, target.final_num or target.num
    with bad_input():
        check_counts(metrics, min(num, final))
        stages = search.stages(recipe)
        start = start_of(recipe, stages)
        if missing := missing_files(recipe, stages):
            networks = counted(len(missing), "network")
            raise ValueError(f"not there: {networks}, such as {missing[0]}: reconstruct_phema.py")
        expected = expected_points(start, stages, stride=search.stride, valid=valid)
        agenda = Agenda(expected * num + blocks * final, quiet=not workers.speaks)
        runner = runner_from(settings, agenda)
        runner.scorer(metrics, reference)
        runner.open(recipe).check_seeds(range(target.seed, target.seed + max(num, blocks * final)))
    from edm2_guidance.reproduction.sweeps import Sweep, find_best, repeat, within_noise

    tell = SearchTeller(metric, num, expected, agenda, workers.speaks)
    to_come = f"about {counted(expected, 'point')} of {num:,} images, then the best in {counted(blocks, 'block')}"
    tell.plan(
        f"search of {search.over} by {metric} against {reference}: {to_come} of {final:,}",
        search_text(recipe, stages, search.stride),
    )
    sweep = Sweep(name, recipe, recipe_at, metric, reference, num, target.seed, tuple(beside))
    found, lines = find_best(runner, sweep, start, stages, search.stride, valid, tell.score, tell.begin)
    tell.result("best:")
    tell.score(found.point, found.score)
    tell.near(within_noise(found, lines, metric))
    records = repeat(runner, sweep, found.point, final, blocks, lambda number: tell.block(number, blocks, final))
    values = [record["value"] for record in records]
    best_of = max if find_metric(metric).measure.better == "higher" else min
    best, mean = (value_text(metric, value) for value in (best_of(values), sum(values) / len(values)))
    tell.result(f"in {counted(len(values), 'block')} of {final}: {best_of.__name__} {best}, mean {mean}")
    sample, score = commands_again(recipe_at(recipe, found.point).effective(), metric, reference, final)
    tell.result(f"to sample: {sample}")
    if settings.ledger != Path(LEDGER):
        score += f" --ledger={shlex.quote(str(settings.ledger))}"
    tell.result(f"to score:  {score}")


@main.command("plot")
@click.argument("names", metavar="SEARCH|ZIP...", nargs=-1, required=True)
@takes_options
def plot_search(names: tuple[str, ...], plot: opt.PlotOptions) -> None:
    """Plot searches from the ledger: scores against the weight, scale, blend, the interval's ends or both EMA lengths.

    A curve is the mean over blocks of seeds, its bars the interval of the mean where lines of the ledger hold
    intervals, else from the lowest to the highest block. Several names only with --kind=weight, scale and alpha.
    --kind=precision-recall draws precision against recall, a point for each weight, of searches that recorded both.
    --kind=diagnostics draws ZIPs made with --diagnostics: how far main network and reference are apart at each noise
    level, median and 5 to 95 % of the images, above the weights.

    \b
    python reproduce.py plot mnist16-cfg mnist16-autog --kind=weight --num-images=1000 --size=column --out=weights.pdf
    python reproduce.py plot mnist16-autog --against=mnist16-cfg --kind=weight --num-images=1000 --out=differences.svg
    python reproduce.py plot mnist16-cfg mnist16-autog --kind=precision-recall --num-images=1000 --out=trade-off.png
    python reproduce.py plot results/a.zip results/b.zip --kind=diagnostics --out=differences.png
    """
    if plot.kind == "diagnostics":
        return plot_diagnostics(names, plot)
    if plot.kind == "precision-recall":
        return plot_trade_off(names, plot)
    num = plot.count
    from edm2_guidance.metrics.ledger import read
    from edm2_guidance.papers import plots
    from edm2_guidance.papers.curves import is_of

    with bad_input():
        plot.check_place()
        records = read(plot.ledger)
        panels = plotted(records, names, plot)
        plots.check(panels, plot.look)
    say_notes(note for panel in panels for note in panel.notes)
    metrics = sorted({each["name"] for each in records if any(is_of(each, name, plot.metric) for name in names)})
    metric = ", ".join(m for m in metrics if m.endswith(f"@{num}")) or metrics[0]
    plots.draw(panels, f"difference in {metric}" if plot.against else metric, plot.out, plot.look)
    return click.echo(plot.out)


def plot_trade_off(names: tuple[str, ...], plot: opt.PlotOptions) -> None:
    """Plot precision against recall along searches."""
    num = plot.count
    from edm2_guidance.metrics.ledger import read
    from edm2_guidance.papers import plots, trade_off

    with bad_input():
        if plot.against is not None:
            raise ValueError(f"--against is for --kind=weight, scale and alpha, not --kind={plot.kind}")
        plot.check_place()
        drawn = trade_off.trade_off(read(plot.ledger), names, num, plot.metrics or ())
        plots.check_look(plot.look, names)
    say_notes(drawn.notes)
    trade_off.draw(drawn, num, plot.out, plot.look)
    click.echo(plot.out)


def plot_diagnostics(paths: tuple[str, ...], plot: opt.PlotOptions) -> None:
    """Plot what guidance did to the images of ZIPs."""
    from edm2_guidance.papers import diagnostics, plots
    from edm2_guidance.work.diagnostics import SUFFIX, stored_diagnostics

    with bad_input():
        for name in ("num", "metrics", "against", "ledger"):
            if given(name):
                raise ValueError(f"{quoted(name)} is of searches: --kind=diagnostics draws all images of a ZIP")
        plot.check_place()
        names = [Path(path).name.removesuffix(SUFFIX).removesuffix(".zip") for path in paths]
        sets = [(name, stored_diagnostics(path)) for name, path in zip(names, paths, strict=True)]
        plots.check_look(plot.look, diagnostics.curve_names(sets))
    diagnostics.draw(sets, plot.out, plot.look)
    click.echo(plot.out)


def plotted(records: "Sequence[Record]", names: tuple[str, ...], plot: opt.PlotOptions) -> "list[Panel]":
    """The panels that the options ask for. ValueError for what does not go together, or is not in the ledger."""
    from edm2_guidance.papers import curves

    several = plot.kind in curves.XLABELS
    if plot.metrics and (not several or plot.against is not None):
        raise ValueError("--metrics is for --kind=weight, scale and alpha without --against, and precision-recall")
    if len(names) > 1 and not several:
        raise ValueError(f"--kind={plot.kind} plots one search at a time, not {', '.join(names)}")
    if plot.against is not None:
        if not several:
            raise ValueError(f"--against is for --kind=weight, scale and alpha, not --kind={plot.kind}")
        from edm2_guidance.metrics.compare import of_lines
        from edm2_guidance.papers.differences import difference_panel

        return [difference_panel(records, names, plot.count, plot.kind, plot.against, of_lines)]
    return curves.panels(records, names, plot.count, plot.kind, plot.metric)


@main.command("plot-training")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@takes_options
def plot_training(folders: tuple[str, ...], picture: opt.PictureOptions) -> None:
    """Plot how runs of train_edm2.py go: loss, learning rate and scores of snapshots against the images seen.

    DIR is the --outdir of a run, which may still be going; several are drawn in one picture.

    \b
    python reproduce.py plot-training runs/mnist16 runs/mnist16-weak --out=training.png --overwrite
    """
    from edm2_guidance.papers import training_curves
    from training.run_log import read_stats

    with bad_input():
        picture.check_place()
        runs = {folder: read_stats(folder) for folder in folders}
        training_curves.check(runs, picture.look)
    names = [Path(folder).name for folder in runs]
    if len(set(names)) == len(names):
        runs = dict(zip(names, runs.values(), strict=True))
    training_curves.draw(runs, Path(picture.out), picture.look)
    click.echo(picture.out)


@main.command("status")
@click.argument("folder", metavar="[DIR]", default="results")
@takes_options
def show_status(folder: str, asked: opt.StatusOptions) -> None:
    """Show how far the work in a folder is: done, running, stale, failed, pace and time left.

    DIR holds results, shards or images, at any depth; any machine that sees it may ask. Stale parts are those of
    processes that are gone: the same command, run again, or a worker with --steal makes them.
    """
    from edm2_guidance.cli.status_text import status_json, status_lines
    from edm2_guidance.work.status import find_work

    with bad_input():
        found = list(find_work(folder))
    if asked.form == "json":
        return click.echo(status_json(found))
    return click.echo(
        "\n".join(line for work in found for line in status_lines(work)) or f"{folder}: no unfinished work there"
    )


@main.command("report")
@click.argument("names", metavar="[TABLE|ROW]...", nargs=-1)
@takes_options
def report_rows(names: tuple[str, ...], asked: opt.ReportOptions) -> None:
    """Set published scores beside those of the ledger.

    The difference is that of the best of our runs where the paper reports the best of several, else of their mean.
    Scores made under other rules than the paper's are listed apart, with what differs.

    --html=FILE writes a page in one file, which loads nothing: these tables, and of the whole ledger its curves,
    flags, classes, samples and recipes.
    """
    if asked.html is not None:
        return write_page(rows_named(names), asked)
    from dnnlib.atomic import atomic_path
    from edm2_guidance.metrics.ledger import read

    rows = rows_named(names)
    with bad_input():
        if asked.out is not None:
            check_destination(asked.out)
        records = read(asked.ledger)
        text = report.report(rows, records, asked.form)
    if asked.form == "csv":
        say_notes(report.left_out_lines(report.left_out(rows, records)))
    if asked.out is None:
        return click.echo(as_started(text))
    with atomic_path(asked.out) as path:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return None
