"""The report as a web page."""

from collections.abc import Sequence
from pathlib import Path

import click

from dnnlib.atomic import atomic_path, check_destination
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.recipe_flags import commands_again
from edm2_guidance.cli.reproduce_options import ReportOptions
from edm2_guidance.cli.typed import given, quoted
from edm2_guidance.papers.curves import Record
from edm2_guidance.papers.tables import Row
from edm2_guidance.recipe.stored import read_recipe


def write_page(rows: Sequence[Row], asked: ReportOptions) -> None:
    """Write the page on these rows and the ledger to --html."""
    from edm2_guidance.metrics.ledger import read
    from edm2_guidance.reproduction.report_page import report_page
    from edm2_guidance.reproduction.report_pictures import pictures

    assert asked.html is not None
    with bad_input():
        for name in ("form", "out"):
            if given(name):
                raise ValueError(f"{quoted(name)} is of a report in text: leave it out with --html={asked.html}")
        check_destination(asked.html)
        records = read(asked.ledger)
        classes, samples = pictures(records, asked.samples, asked.ranking)
    page = report_page(rows, records, asked.ledger, commands_of, classes, samples)
    with atomic_path(asked.html) as path:
        Path(path).write_bytes(page)
    click.echo(asked.html)


def commands_of(record: Record) -> list[str]:
    """What makes a line's images and score again. ValueError, saying why, for none."""
    source = (record.get("reference") or {}).get("source")
    recipe = read_recipe(record["recipe"]).effective()
    return commands_again(recipe, record["metric"], source if isinstance(source, str) else None, record["num_images"])
