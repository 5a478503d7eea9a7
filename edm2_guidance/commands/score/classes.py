"""Classes of samples beside those of a reference."""

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.commands.score.sides import FeatureOptions, left_to_the_first, open_detectors
from edm2_guidance.metrics.catalog import extractors
from edm2_guidance.metrics.ledger import result_name


@click.command("classes", cls=Command)
@click.argument("samples")
@click.argument("reference")
@takes_options
def show_classes(samples: str, reference: str, asked: FeatureOptions) -> None:
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
