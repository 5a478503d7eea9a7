"""The best and the worst of a set of samples, by a score of each image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.metric_options import reference_from
from edm2_guidance.cli.option_group import COUNT, flag, option, takes_options
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import format_option
from edm2_guidance.cli.say import say, say_notes, warn
from edm2_guidance.commands.score.sides import FeatureOptions, left_to_the_first, measured_reference, open_detectors
from edm2_guidance.metrics.catalog import DISTANCE, find_metric
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.papers import listing
from edm2_guidance.recipe import catalog

if TYPE_CHECKING:
    from PIL import Image

    from edm2_guidance.images.sources import StoredImages
    from edm2_guidance.metrics.ranking import Ranking
    from edm2_guidance.metrics.scoring import Score

_MEASURES = [kind for kind in catalog.kinds("measure") if catalog.find("measure", kind).ranks]

_COUNT = click.IntRange(0, 5000)  # more than 10,000 images are no sheet that anybody looks at


class Order(ParamType):
    """A measure that scores single images, as text, or `distance`."""

    name = "measure"

    def parse(self, text: str) -> str:
        if text == DISTANCE:
            return text
        if text.partition(":")[0].replace("_", "-") not in _MEASURES:
            raise ValueError(f"'{text}' is not one of {', '.join([*_MEASURES, DISTANCE])}, which score single images")
        return str(Measure.parse(text))


class RankOptions(FeatureOptions):
    """By what images are ranked, and what is shown of them."""

    sort: str | None = option(
        f"{', '.join(_MEASURES)}, or {DISTANCE}: nearest to a reference image first  [default: {_MEASURES[0]}]",
        type=Order(), heading="Scoring", first=True,
    )  # fmt: skip
    best: int = option("So many of the best", type=_COUNT, default=16, heading="Output", first=True)
    worst: int = option("So many of the worst", type=_COUNT, default=16, heading="Output", first=True)
    out: str | None = option("A sheet of these", metavar="PNG|JPEG|PDF", heading="Output", first=True)
    columns: int = option("Images in a row of the sheet", type=COUNT, default=8, heading="Output")
    tile: int = option(
        "Longer side of an image in the sheet, pixels", type=click.IntRange(8, 1024), default=128, heading="Output"
    )
    overwrite: bool = flag("Replace the sheet that is there", heading="Output")
    form: Literal["table", "csv", "json"] = format_option("table")


@click.command(cls=Command)
@click.argument("samples")
@click.argument("reference")
@takes_options
def rank(samples: str, reference: str, asked: RankOptions) -> None:
    """Put the images of SAMPLES in order by how close each is to those of REFERENCE: images, or kept features of some.

    Printed are the best and the worst, with seeds and labels if these are known, and the nearest reference image of
    each; --format=csv and json print all images. A distance of 0 is a copy.

    \b
    python calculate_metrics.py rank out/samples.zip datasets/img512.zip --out=out/ranked.png
    python calculate_metrics.py rank out/samples.zip refs.npz --sort=distance --format=csv > out/ranked.csv
    """
    if left_to_the_first():
        return
    from edm2_guidance.images.contact_sheet import captioned_sheet
    from edm2_guidance.images.picture_file import check_size, check_target, save

    with bad_input():
        if asked.out is not None:
            check_target(Path(asked.out), asked.overwrite)
            if asked.best + asked.worst == 0:
                raise ValueError(f"--best=0 --worst=0: nothing is left for {asked.out}")
            across = min(asked.columns, max(asked.best, asked.worst))
            down = sum(-(-count // across) for count in (asked.best, asked.worst))
            check_size(Path(asked.out), (across * asked.tile, down * asked.tile))
    ranking, images, score = ranked(samples, reference, asked)
    for text in score.flags:
        warn(text)
    by = asked.sort or ranking.measure
    rows = ranking.rows(by, images)
    if asked.form == "table":
        shown = [part for part in (rows[: asked.best], rows[::-1][: asked.worst]) if part]
        click.echo("\n\n".join([*map(table, shown), str(score)]))
    else:
        click.echo(listing.as_csv(rows) if asked.form == "csv" else listing.as_json(rows))
    if asked.out is not None:
        order = ranking.order(by).tolist()
        chosen = {"best": order[: asked.best], "worst": order[::-1][: asked.worst]}
        sheet = captioned_sheet(pictures(chosen, by, ranking, images), columns=asked.columns, tile=asked.tile)
        say_notes(save(sheet, Path(asked.out)))
        say(asked.out)


def ranked(samples: str, reference: str, asked: RankOptions) -> "tuple[Ranking, StoredImages, Score]":
    """All samples with their scores, and the score of the set."""
    from edm2_guidance.metrics import evaluation, scoring
    from edm2_guidance.metrics.ranking import Ranking
    from edm2_guidance.metrics.sides import ReferenceImages, open_reference_side, open_side, spaces_of

    stored, offline, ref = asked.stored, asked.device.offline, reference_from(reference)
    with bad_input():
        side = open_side(samples, [], offline=offline)
        if side.images is None:
            raise ValueError(f"{samples} holds statistics, and single images are ranked: give these")
        space = asked.features or spaces_of(open_side(ref, reference=True, offline=offline))[0]
        by = _MEASURES[0] if asked.sort in (None, DISTANCE) else asked.sort
        metric = find_metric(f"{by}/{space}")
        theirs = open_reference_side(
            open_side(ref, [metric.name], reference=True, offline=offline), [metric.name], batch=stored.batch
        )
        images = evaluation.open_stored(
            side.images, [metric.name], num=asked.num, seed=stored.seed, batch=stored.batch, scored=False
        )
        detectors = open_detectors(asked.detectors.choices([metric.name]), asked.device.device, offline=offline)
    say_notes(images.source.notes)
    known = measured_reference(theirs, detectors)
    with progress_bar(images.source.num_images, "images") as progress:
        moments = evaluation.measure(images.source, detectors, images.names, progress).moments
    names = theirs.stored.names if isinstance(theirs, ReferenceImages) else None
    (score,) = scoring.score(known, moments, evaluation.identities_of(detectors), images.description)
    ranking = Ranking.of(metric.measure, moments[metric.stored_as], known.moments[metric.name], names)
    return ranking, images.source, score


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns, without those of which nothing is known."""
    shown = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    cells = [[f"{row[name]:.4f}" if isinstance(row[name], float) else row[name] for name in shown] for row in rows]
    return listing.as_text([shown, *cells])


def pictures(
    chosen: Mapping[str, Sequence[int]], by: str, ranking: "Ranking", images: "StoredImages"
) -> "dict[str, list[tuple[Image.Image, str]]]":
    """The images at places of the set, by group, with value and seed of each."""
    from PIL import Image

    values, seeds, found = ranking.values(by), images.seeds, {}
    for name, places in chosen.items():
        if not places:
            continue
        pixels = images.pick(places).images.permute(0, 2, 3, 1).numpy()
        texts = [f"{values[at]:.3f}" + (f"\nseed {seeds[at]}" if seeds else "") for at in places]
        found[f"{name} by {by}"] = list(zip(map(Image.fromarray, pixels), texts, strict=True))
    return found
