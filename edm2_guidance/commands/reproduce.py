"""The papers' tables: what they hold, what a row costs, and published scores beside ours."""

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from dnnlib.atomic import check_destination
from dnnlib.workers import Workers, launched
from edm2_guidance.cli import reproduce_options as opt
from edm2_guidance.cli.agenda import Agenda
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.metric_options import LEDGER, num_option
from edm2_guidance.cli.recipe_args import only_preset, recipe_from
from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.cli.recipe_options import label_options, network_options, sampler_options
from edm2_guidance.cli.report import say_notes
from edm2_guidance.cli.run_options import threads_for
from edm2_guidance.cli.search_options import (
    SearchTeller,
    missing_files,
    search_options,
    search_text,
    stages_from,
    start_of,
    varied,
)
from edm2_guidance.cli.submit import elsewhere, send, submit_options
from edm2_guidance.cli.worker_options import announce_workers, share_device_option, worker_options, workers_from
from edm2_guidance.metrics.catalog import feature_names, value_text
from edm2_guidance.papers import listing, plan, report
from edm2_guidance.papers.costs import cost, tflop_per_image
from edm2_guidance.papers.search import expected_points
from edm2_guidance.papers.tables import Row, all_rows, find, how_to_make, select
from edm2_guidance.recipe.search import recipe_at, valid

ledger_option = click.option("--ledger", metavar="JSONL", default=LEDGER, show_default=True, help="The scores")


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
    python reproduce.py run mnist16 --num=500
    python reproduce.py report mnist16
    python reproduce.py search --preset=mnist16-cfg --over=weight --weights=1,1.1,...,2 --num=1000
    python reproduce.py plot --kind=weight --num=1000 --out=weights.png mnist16-cfg
    """


@main.command("list")
@click.argument("names", metavar="[TABLE|ROW]...", nargs=-1)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def list_rows(names: tuple[str, ...], form: str) -> None:
    """Show tables and rows with the published scores.

    runs: yes, or what is in the way: reconstruct = its EMA lengths are not published, train = nor is a network of
    that run, no = not a network of this code base. `plan` gives the commands.
    """
    rows = rows_named(names)
    if form == "table":
        return click.echo(listing.list_text(rows))
    records = [listing.record_of(row) for row in rows]
    return click.echo(listing.as_csv(records) if form == "csv" else listing.as_json(records))


@main.command("plan")
@click.argument("names", metavar="TABLE|ROW...", nargs=-1, required=True)
@num_option("as the paper, 50000", "Images per run")
@click.option(
    "--throughput",
    metavar="TFLOP/S",
    type=click.FloatRange(min=0, min_open=True),
    help="Of all devices together, counting a multiply-add once  [default: 40, one A100; digits: 0.02, two CPU cores]",
)
@opt.networks_option
def plan_rows(names: tuple[str, ...], networks: str, **given: Any) -> None:
    """Say what rows need and cost before they are run.

    Network evaluations with guidance and its interval counted, operations, hours (of sampling and decoding; scoring is
    small beside it), downloads, disk, and the commands that make what is not published.
    """
    with bad_input():
        rows = select(names)
        costs = {row.name: cost(row, networks=networks, **given) for row in rows}
    for row in rows:
        click.echo("\n".join(plan.plan_lines(row, costs[row.name], networks)) + "\n")
    sampled = [each for each in costs.values() if each is not None]
    if len(sampled) > 1:
        click.echo("\n".join(plan.total_lines(sampled, networks)))


@main.command("run")
@click.argument("names", metavar="TABLE|ROW...", nargs=-1, required=True)
@opt.block_options
@opt.work_options
@ledger_option
@worker_options
@submit_options
@opt.goes_on
def run_rows(names: tuple[str, ...], **params: Any) -> None:
    """Make rows: fetch, sample or reuse, score, one block of seeds after the other, into the ledger.

    Run again, also after a kill, it computes only what is missing. Under torchrun or srun, or started several times
    with --worker=I/N or --steal, the workers share every block.
    Rows that need networks nobody published are passed over, with what would make them.
    """
    with bad_input():
        asked = select(names)
        if elsewhere(params):
            return send_rows(asked, params)
        workers = workers_from(params)
        agenda = Agenda(0, quiet=not workers.speaks)
        runner = runner_from(params, workers, agenda)
        rows = [row for row in asked if can_run(runner, row)]
        if not rows:
            raise ValueError("none of these rows can run; see reproduce.py plan")
        threads_for([file for row in rows for file in row.sources(params["networks"])], {row.metric for row in rows})
        runner.prepare(rows)
    announce_workers(workers, f"{len(rows)} rows")
    unfinished = 0
    for block in made_blocks(runner, rows, agenda, workers.speaks):
        unfinished += block.record is None
        if block.record is not None:
            seeds = f"seeds {block.seeds[0]}-{block.seeds[-1]}" if block.seeds else f"real images, set {block.number}"
            known = "  (in the ledger)" if block.reused else ""
            value = value_text(block.record["metric"], block.record["value"])
            click.echo(f"{block.row.name:<32}{seeds:<24}{block.record['name']:<18}{value}{known}")
    return (
        click.echo(f"{unfinished} blocks are left to the other workers (start any that does not run, or --steal)")
        if unfinished
        else None
    )


def made_blocks(runner: Any, rows: list[Row], agenda: Agenda, speaks: bool) -> Iterator[Any]:
    """Every block of the rows as it is finished; says on stderr which of how many is at work, and what time is left."""
    parts = {row.name: runner.parts(row) for row in rows}
    weights = {row.name: tflop_per_image(row) or 0 for row in rows}
    agenda.total = sum(weights[name] * len(seeds) for name, blocks in parts.items() for seeds in blocks)
    for at, row in enumerate(rows, start=1):
        blocks = runner.run(row)
        for number, seeds in enumerate(parts[row.name], start=1):
            agenda.begin(len(seeds), weights[row.name])
            if speaks:
                where = f"row {at} of {len(rows)}, block {number} of {len(parts[row.name])}: {row.name}"
                click.echo(f"{where}{agenda.left_of_all()}", err=True)
            yield from itertools.islice(blocks, 1)


def send_rows(asked: list[Row], params: dict[str, Any]) -> None:
    """Fetch what those of the rows need that can run, or send the jobs that make them."""
    from edm2_guidance.reproduction.files import fetch_all

    networks, work = params["networks"], Path(params["results"], "work")
    rows = [row for row in asked if row.net is not None and not row.missing(networks)]
    if not rows:
        raise ValueError("none of these rows can be sampled; see reproduce.py plan")
    costs = [made for row in rows if (made := cost(row, num=params["num"], networks=networks)) is not None]
    images = sum(made.images * (params["blocks"] or made.repeats) // made.repeats for made in costs)
    writes: dict[str | Path, int] = {params["ledger"]: 0, work / "plan.json": max(made.features for made in costs)}
    if params["keep_images"]:
        writes[work.parent / "images" / "a.zip"] = images
    recipes = [row.recipe(networks) for row in rows]
    detectors: dict[str, dict[str, Any]] = {name: {} for name in feature_names(row.metric for row in rows)}
    references = [row.reference for row in rows]
    fetch = partial(fetch_all, recipes, references, detectors, trust_pickle=params["trust_pickle"])
    send(params, fetch, writes, f"python reproduce.py status {work.parent if params['keep_images'] else work}")


def can_run(runner: Any, row: Row) -> bool:
    """Whether the row can be made; says on stderr why not, and what would make its networks."""
    reason = runner.obstacle(row)
    if reason is not None:
        click.echo(f"{row.name}: passed over, {reason}", err=True)
        for line in how_to_make(row.missing(runner.settings.networks), runner.settings.networks):
            click.echo(f"    {line}", err=True)
    return reason is None


def runner_from(params: dict[str, Any], workers: Workers, agenda: Agenda) -> Any:
    """A reproduction.rows.Runner with these options, which tells the agenda of its progress; makes nothing yet."""
    from edm2_guidance.metrics.ledger import check_writable, read
    from edm2_guidance.reproduction.rows import Runner, Settings
    from torch_utils.distributed import pick_device

    check_writable(params["ledger"])
    check_destination(Path(params["results"], "work", "plan.json"))
    if Path(params["ledger"]).exists():
        read(params["ledger"])  # a damaged line is refused now, not after the first block
    if params["noise_device"] is not None:
        pick_device(params["noise_device"], "--noise-device")
    folders = {name: Path(params[name]) for name in ("results", "ledger", "networks")}
    plain = {field.name: params[field.name] for field in fields(Settings) if field.name in params}

    return Runner(Settings(**{**plain, **folders}, workers=workers), agenda.bar)


@main.command("search")
@network_options()
@search_options
@opt.target_options
@sampler_options
@label_options
@opt.work_options
@ledger_option
@share_device_option
@opt.goes_on
def search_best(**params: Any) -> None:
    """Search for the best weight, interval, EMA lengths or blend of a method, as the papers did.

    A coarse pass over each grid on --num images per point, then finer around the best; an interval's upper end first,
    then its lower. The best point is scored in --blocks blocks. Points in the ledger are not computed again.
    """
    recipe = recipe_from(params, defaults=varied(params), scored=True)
    preset = only_preset(params["preset"]) if params["preset"] else None
    name, metric, reference = opt.target_from(params, preset)
    threads_for(recipe.sources, [metric])
    workers = replace(launched(), steal=True, share_device=params["share_device"])
    with bad_input():
        stages = stages_from(params, recipe)
        start = start_of(recipe, stages)
        if missing := missing_files(recipe, stages):
            raise ValueError(f"{len(missing)} networks are not there, such as {missing[0]}: reconstruct_phema.py")
        expected = expected_points(start, stages, stride=params["stride"], valid=valid)
        final, blocks = params["final_num"] or params["num"], params["blocks"]
        agenda = Agenda(expected * params["num"] + blocks * final, quiet=not workers.speaks)
        runner = runner_from({**params, "blocks": None, "labels": None}, workers, agenda)
        runner.scorer(metric, reference)
        runner.open(recipe)
    from edm2_guidance.reproduction.sweeps import Sweep, find_best, repeat

    tell = SearchTeller(metric, params["num"], expected, agenda, workers.speaks)
    tell.plan([f"{metric} against {reference}, {params['num']:,} images a point, from seed {params['seed']} on",
               *search_text(recipe, stages, params["stride"]),
               f"to come: about {expected} points, then the best in {blocks} blocks of {final:,} images"])  # fmt: skip
    sweep = Sweep(name, recipe, recipe_at, metric, reference, params["num"], params["seed"])
    found = find_best(runner, sweep, start, stages, params["stride"], valid, tell.score, tell.begin)
    tell.result("best:")
    tell.score(found.point, found.score)
    records = repeat(runner, sweep, found.point, final, blocks, lambda number: tell.block(number, blocks, final))
    values = [record["value"] for record in records]
    least, mean = (value_text(metric, value) for value in (min(values), sum(values) / len(values)))
    tell.result(f"in {len(values)} blocks of {final}: min {least}, mean {mean}")
    flags = recipe_flags(recipe_at(recipe, found.point).effective())
    tell.result(f"to sample: python generate_images.py {flags} --outdir=out --seeds=0-63")
    score = f"--ref={shlex.quote(reference)} --metrics={metric} --num={final}"
    if params["ledger"] != LEDGER:
        score += f" --ledger={shlex.quote(params['ledger'])}"
    tell.result(f"to score:  python calculate_metrics.py gen {flags} {score}")


@main.command("plot")
@click.argument("names", metavar="SEARCH...", nargs=-1, required=True)
@opt.plot_options
@ledger_option
def plot_search(names: tuple[str, ...], kind: str, num: int, out: str, overwrite: bool, ledger: str) -> None:
    """Plot searches from the ledger: scores against the weight, the interval's ends or both EMA lengths.

    A curve is the mean over blocks of seeds, its band their minimum and maximum. Several names only with
    --kind=weight.
    """
    from edm2_guidance.metrics.ledger import read
    from edm2_guidance.papers import curves, plots

    with bad_input():
        if len(names) > 1 and kind != "weight":
            raise ValueError(f"--kind={kind} plots one search at a time, not {', '.join(names)}")
        if Path(out).suffix.lower() not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--out={out}: a .png, .pdf or .svg")
        if Path(out).exists() and not overwrite:
            raise ValueError(f"{out} exists: take another name, or --overwrite")
        check_destination(out)
        records = read(ledger)
        if kind == "weight":
            panels = [curves.weight_panel(records, names, num)]
        else:
            panels = (
                curves.interval_panels(records, names[0], num)
                if kind == "interval"
                else [curves.ema_panel(records, names[0], num)]
            )
    say_notes(note for panel in panels for note in panel.notes)
    metrics = sorted({record["name"] for record in records if (record.get("search") or {}).get("name") in names})
    plots.draw(panels, ", ".join(m for m in metrics if m.endswith(f"@{num}")) or metrics[0], out)
    click.echo(out)


@main.command("status")
@click.argument("folder", metavar="[DIR]", default="results")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show_status(folder: str, form: str) -> None:
    """Show how far the work in a folder is: done, running, stale, failed, pace and time left.

    DIR holds results, shards or images, at any depth; any machine that sees it may ask. Stale parts are those of
    processes that are gone: the same command, run again, or a worker with --steal makes them.
    """
    from edm2_guidance.cli.status_text import status_json, status_lines
    from edm2_guidance.work.status import find_work

    with bad_input():
        found = list(find_work(folder))
    if form == "json":
        return click.echo(status_json(found))
    return click.echo(
        "\n".join(line for work in found for line in status_lines(work)) or f"{folder}: no unfinished work there"
    )


@main.command("report")
@click.argument("names", metavar="[TABLE|ROW]...", nargs=-1)
@click.option("--format", "form", type=click.Choice(["markdown", "csv", "json"]), default="markdown", show_default=True)
@ledger_option
@click.option("--out", metavar="FILE", help="Write it there  [default: print it]")
def report_rows(names: tuple[str, ...], form: str, ledger: str, out: str | None) -> None:
    """Set published scores beside those of the ledger.

    The difference is that of the least of our runs where the paper reports the least of several, else of their mean.
    Scores made under other rules than the paper's are listed apart, with what differs.
    """
    from dnnlib.atomic import atomic_path
    from edm2_guidance.metrics.ledger import read

    rows = rows_named(names)
    with bad_input():
        if out is not None:
            check_destination(out)
        records = read(ledger)
        text = report.report(rows, records, form)
    if form == "csv":
        say_notes(report.left_out_lines(report.left_out(rows, records)))
    if out is None:
        return click.echo(text)
    with atomic_path(out) as path:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return None
