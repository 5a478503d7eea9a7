#!/usr/bin/env python3
"""The papers' tables: what they hold, what a row costs, and published scores beside ours."""

from pathlib import Path
from typing import Any

import click

from cli.command import Group, bad_input
from cli.metric_options import LEDGER
from papers import listing, plan, report
from papers.costs import cost
from papers.tables import NETWORKS, Row, all_rows, find, select

networks_option = click.option(
    "--networks", metavar="DIR", default=NETWORKS, show_default=True, help="Where reconstructed networks are"
)


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
    python reproduce.py plan mnist16 --num=1000
    python reproduce.py report mnist16
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
@click.option("--num", metavar="INT", type=click.IntRange(min=2), help="Images per run  [default: as the paper, 50000]")
@click.option(
    "--throughput",
    metavar="TFLOP/S",
    type=click.FloatRange(min=0, min_open=True),
    help="Of all devices together, counting a multiply-add once  [default: 40, one A100; digits: 0.02, two CPU cores]",
)
@networks_option
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


@main.command("report")
@click.argument("names", metavar="[TABLE|ROW]...", nargs=-1)
@click.option("--format", "form", type=click.Choice(["markdown", "csv", "json"]), default="markdown", show_default=True)
@click.option("--ledger", metavar="JSONL", default=LEDGER, show_default=True, help="The scores")
@click.option("--out", metavar="FILE", help="Write it there  [default: print it]")
def report_rows(names: tuple[str, ...], form: str, ledger: str, out: str | None) -> None:
    """Set published scores beside those of the ledger.

    The difference is that of the least of our runs where the paper reports the least of several, else of their mean.
    Scores made under other rules than the paper's are listed apart, with what differs.
    """
    from dnnlib.util import atomic_path, check_destination
    from metrics.ledger import read

    rows = rows_named(names)
    with bad_input():
        if out is not None:
            check_destination(out)
        text = report.report(rows, read(ledger), form)
    if out is None:
        return click.echo(text)
    with atomic_path(out) as path:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
