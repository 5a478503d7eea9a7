"""Is A better than B? Of sets, or of scores that a ledger has."""

import re
from typing import TYPE_CHECKING

import click

from dnnlib.places import find_file
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.lists import IntList
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.say import say_notes
from edm2_guidance.commands.score.sides import (
    ScoreOptions,
    left_to_the_first,
    measured_reference,
    open_detectors,
    say_warnings,
    score_set,
    settled_metrics,
)
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES

if TYPE_CHECKING:
    from edm2_guidance.metrics.compare import Verdict
    from edm2_guidance.metrics.score_output import Record


@click.command(cls=Command)
@click.argument("a")
@click.argument("b")
@click.argument("reference", required=False)
@takes_options
def compare(a: str, b: str, reference: str | None, asked: ScoreOptions) -> None:
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


def compare_scores(asked: ScoreOptions, a: str, b: str) -> "list[Verdict]":
    """The verdict of scores that a ledger has."""
    from edm2_guidance.metrics import compare, ledger_table

    with bad_input():
        ours, theirs = (scores_named(side, asked.ledger.ledger) for side in (a, b))
        verdict = compare.of_lines(ours, theirs)
    say_warnings([*ours, *theirs])
    mixed = ledger_table.mixtures([*ours, *theirs])
    say_notes(note for note in mixed if any(what in note for what in ledger_table.OF_IMAGES))
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


def compare_sets(asked: ScoreOptions, names: tuple[str, str], ref: str) -> "list[Verdict]":
    """The verdicts of two sets, whose scores go to the ledger, too."""
    metrics = opt.asked_metrics(asked.metrics)
    if metrics is not None and not opt.open_ended(metrics):
        asked.detectors.choices(metrics)  # refused before anything opens
    if left_to_the_first():
        return []
    if metrics is not None and opt.open_ended(metrics):
        metrics = settled_metrics(metrics, ref, names[0], asked.num or STANDARD_NUM_IMAGES, asked.device.offline)
    from edm2_guidance.metrics import compare, ledger
    from edm2_guidance.metrics.image_sets import open_set
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
        num, most, seed, batch = asked.num, STANDARD_NUM_IMAGES, stored.seed, stored.batch
        sets = [open_set(side, metrics, num=num, most=most, seed=seed, batch=batch) for side in sides]
        compare.check_counts_alike(sets, metrics)
        needed = isinstance(theirs, ReferenceImages) or any(each.source is not None for each in sets)
        choices = asked.detectors.choices(metrics) if needed else {}
        detectors = open_detectors(choices, asked.device.device, offline=offline)
    reference = measured_reference(theirs, detectors)
    records, measured = [], []
    for side, each in zip(sides, sets, strict=True):
        moments, lines = score_set(asked, side.name, each, reference, detectors)
        records.append(lines)
        measured.append(moments)
    with bad_input():
        paired = compare.are_paired(*sets)
        return compare.of_sets(reference, measured[0], measured[1], records, paired=paired)
