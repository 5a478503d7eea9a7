"""Which measures notice what is done to images on purpose?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import click

from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import OptionGroup, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.recipe_options import kind_option
from edm2_guidance.cli.say import say_notes
from edm2_guidance.commands.score.sides import (
    Opened,
    ScoreOptions,
    measured_reference,
    measured_set,
    open_sides,
    say_warnings,
    scores_there,
)
from edm2_guidance.metrics.catalog import check_counts
from edm2_guidance.metrics.ledger import STANDARD_NUM_IMAGES
from edm2_guidance.recipe.spec import Spec

if TYPE_CHECKING:
    from edm2_guidance.images.changes import Change


class PerturbOptions(OptionGroup, heading="Changes"):
    """What is done to the samples, and how they are scored."""

    change: tuple[Spec, ...] = kind_option(
        "change", None, "What is done to the samples; given again, that too", multiple=True
    )
    score: ScoreOptions


@click.command(cls=Command)
@click.argument("samples")
@click.argument("reference")
@takes_options
def perturb(samples: str, reference: str, asked: PerturbOptions) -> None:
    """Score SAMPLES unchanged and under each --change, and show which metrics notice.

    The samples are images, a folder, ZIP, tar or .npz, and the same in every row. Scores of changed images go to the
    ledger with their change, and are taken for no others: `table --changed` shows them.

    \b
    python calculate_metrics.py perturb out/samples.zip mnist16 --change=blur:sigma=0.5 --change=drop:classes=3+5
    """
    if not asked.change:
        raise click.UsageError("which change? Give --change=KIND or KIND:FIELD=VALUE (list = which there are)")
    ref, metrics = opt.reference_from(reference), opt.asked_metrics(asked.score.metrics)
    opened = open_sides(asked.score, samples, ref, metrics, STANDARD_NUM_IMAGES, keep=True)
    if opened is not None:
        study(asked, opened)


def study(asked: PerturbOptions, opened: Opened) -> None:
    """Score and show, with everything refused first that can be."""
    from edm2_guidance.images.changes import rows_of, with_controls
    from edm2_guidance.images.sources import StoredImages
    from edm2_guidance.metrics import ledger, perturb, scoring
    from edm2_guidance.metrics.environment import environment
    from edm2_guidance.metrics.evaluation import identities_of

    name, metrics, images, theirs, detectors = opened
    with bad_input():
        if not isinstance(images.source, StoredImages):
            raise ValueError(f"{name} holds statistics, and changes are of images: give a folder, ZIP, tar or .npz")
        controls = with_controls(cast("Sequence[Change]", asked.change), images.source)
        for change in controls:
            check_counts(metrics, len(rows_of(change, images.source)), f"images of {change}")
    reference, path = measured_reference(theirs, detectors), asked.score.ledger.ledger
    moments, lines = measured_set(asked.score, name, images, reference, detectors)
    if scores_there(asked.score, images, reference, detectors) is None:
        for line in lines:
            ledger.append(path, line)
    say_warnings(lines)
    around, tags = environment(detectors[0].device), {"note": asked.score.ledger.note}
    rows: dict[Change | None, perturb.Row] = {None: perturb.Row("unchanged", lines)}
    for change, control in controls.items():
        changed = perturb.changed_set(change, images, moments)
        with progress_bar(changed.num_images or 0, str(change), quiet=changed.source is None) as progress:
            found, _, ran = changed.measure(detectors, progress)
        given = (path, reference, found, identities_of(detectors), changed.description, around)
        records = scoring.write_scores(*given, tags=tags, **ran)
        rows[change] = perturb.Row(str(change), records, rows[control].records)
    click.echo(perturb.table([*rows.values()]))
    say_notes(perturb.notes([rows[change] for change in controls if change in asked.change]))
