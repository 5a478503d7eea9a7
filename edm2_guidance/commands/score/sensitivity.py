"""Heat maps: which parts of an image move a Frechet distance."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from dnnlib.terminal import counted
from edm2_guidance.cli import metric_options as opt
from edm2_guidance.cli.command import Command, bad_input, keeps
from edm2_guidance.cli.lists import IntList
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.say import say_notes
from edm2_guidance.commands.score.sides import (
    FrechetOptions,
    left_to_the_first,
    measured_reference,
    open_images_and_reference,
    tell_sides,
)
from edm2_guidance.metrics.catalog import find_metric, value_text

if TYPE_CHECKING:
    from edm2_guidance.images.sources import StoredImages

USUAL = 8  # images


class SensitivityOptions(OptionGroup, heading="Images"):
    """Of which images, and where the maps go."""

    seeds: list[int] | None = option(
        f"Which get a map, such as 1,2,5-10; images without seeds by number, from 0  [default: the first {USUAL}]",
        type=IntList(), first=True,
    )  # fmt: skip
    num: int | None = opt.num_option("all", "So many of the samples")
    out: str = option("Folder of the pictures", metavar="DIR", required=True, heading="Output")
    overwrite: bool = flag("Make pictures again that are there", heading="Output")
    scored: FrechetOptions


@click.command(cls=Command)
@click.argument("samples")
@click.argument("reference")
@takes_options
def sensitivity(samples: str, reference: str, asked: SensitivityOptions) -> None:
    """Show which parts of images of SAMPLES move their Frechet distance to REFERENCE.

    A picture for each image: the image, the map (yellow moves the distance most), and both over each other. Maps are
    made of the detector's last activations and the distance's gradient (fid, fd_mnist), or by hiding patch by patch
    where it has none. The distance is of all samples, so that a map says what of this image counts in it.

    \b
    python calculate_metrics.py sensitivity out/samples.zip mnist16 --metrics=fd_mnist --out=out/heat --seeds=0-7
    """
    if left_to_the_first():
        return
    from edm2_guidance.images import picture_file
    from edm2_guidance.images.heat import heat_picture
    from edm2_guidance.metrics.evaluation import measure
    from edm2_guidance.metrics.sensitivity import Sensitivity, check_frechet, heat_map

    metric, ref = find_metric(asked.scored.metric), opt.reference_from(reference)
    with bad_input():
        check_frechet(metric)
        images, theirs, detectors = open_images_and_reference(asked.scored, samples, ref, [metric.name], num=asked.num)
        source = images.source
        rows = rows_of(source, asked.seeds)
        paths = {row: Path(asked.out, name) for row, name in picture_names(images.names, rows).items()}
        for path in paths.values():
            picture_file.check_target(path, asked.overwrite)
    against = measured_reference(theirs, detectors)
    tell_sides(samples, source.num_images, against)
    say_notes(source.notes)
    with progress_bar(source.num_images, "images") as progress:
        moments = measure(source, detectors, images.names, progress).moments[metric.stored_as]
    with bad_input():
        found = Sensitivity.of(moments, against.moments[metric.name])
    say_notes(metric.measure.notes(moments, "images", metric.name))
    made = keeps(lambda: f"finished pictures are in {asked.out}")
    with made, progress_bar(len(rows), "maps") as progress:
        for row, path in paths.items():
            image = source.pick([row]).images[0]
            heat = heat_map(image, metric, detectors[0], found)
            about = {"metric": metric.name, "image": path.stem, "samples": samples, "reference": reference}
            picture_file.save(heat_picture(image.permute(1, 2, 0).numpy(), heat), path, about)
            progress(1)
    value = value_text(metric.name, found.distance)
    click.echo(f"{asked.out}: {counted(len(rows), 'picture')}; {metric.name} {value} of {source.num_images} images")


def rows_of(source: "StoredImages", seeds: Sequence[int] | None) -> list[int]:
    """The places of these seeds in a pass, ascending. ValueError for one that is not there."""
    if seeds is None:
        return list(range(min(USUAL, source.num_images)))
    known = range(source.num_images) if source.seeds is None else source.seeds
    places = {seed: row for row, seed in enumerate(known)}
    missing = [seed for seed in seeds if seed not in places]
    if missing:
        what = "number" if source.seeds is None else "seed"
        raise ValueError(f"{source.path} has no image of {what} {missing[0]} among the {source.num_images} that count")
    return sorted(places[seed] for seed in seeds)


def picture_names(names: Sequence[str] | None, rows: Sequence[int]) -> dict[int, str]:
    """The pictures of images in one folder, whatever folders their set has. ValueError for two of the same name."""
    found: dict[int, str] = {}
    taken: dict[str, int] = {}
    for row in rows:
        name = f"{row:06d}" if names is None else str(PurePosixPath(names[row]).with_suffix("")).replace("/", "-")
        first = taken.setdefault(name.casefold(), row)
        if names is not None and first != row:
            raise ValueError(
                f"{names[first]} and {names[row]} would both be {name}.png: ask for one of them by --seeds"
            )
        found[row] = f"{name}.png"
    return found
