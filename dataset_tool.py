"""Prepare image sets for training and scoring."""

import re
from pathlib import Path

import click

from cli.command import Group, bad_input
from cli.progress import progress_bar
from images.transforms import TRANSFORMS


class Size(click.ParamType):
    """WxH, such as 512x512."""

    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)[xX](\d+)", str(value))
        if match is None:
            self.fail(f"{value!r} is not WIDTHxHEIGHT, such as 512x512", param, ctx)
        return int(match[1]), int(match[2])


@click.group(cls=Group)
def main() -> None:
    """Prepare image sets for training and scoring.

    A set is an uncompressed ZIP or a folder of equally sized images, with labels in dataset.json.
    """


@main.command()
@click.option("--source", metavar="ZIP|DIR", required=True, help="Images to read: a ZIP or a folder tree")
@click.option("--dest", metavar="ZIP|DIR", required=True, help="Set to write: a name ending in .zip, or a folder")
@click.option("--max-images", metavar="INT", type=click.IntRange(min=1), help="Take only the first so many")
@click.option(
    "--transform", metavar="MODE", type=click.Choice(sorted(TRANSFORMS)), help="How images come to the resolution"
)
@click.option("--resolution", metavar="WxH", type=Size(), help="Width and height of the result")
def convert(
    source: str, dest: str, max_images: int | None, transform: str | None, resolution: tuple[int, int] | None
) -> None:
    """Repack images as a training set: RGB PNG files of one size, in sorted order, with their labels.

    Labels come from the dataset.json of the source; without one, from the names of its top-level folders, if there
    are two or more of them. Grey becomes RGB. Without --transform all images must have one size already.

    \b
    Transforms:
      pad-average   black border up to a power-of-two multiple of WxH, then the mean of each box, rounded to the
                    nearest integer (28x28 digits with --resolution=16x16: border to 32x32, means over 2x2)

    \b
    Example:
      python dataset_tool.py convert --source=mnist-train.zip --dest=mnist16-train.zip \\
          --transform=pad-average --resolution=16x16
    """
    from images.convert import Conversion

    with bad_input():
        conversion = Conversion(source, dest, max_images=max_images, transform=transform, resolution=resolution)
    with progress_bar(conversion.num_images, Path(dest).name) as progress:
        conversion.run(progress)
    click.echo(f"wrote {conversion.num_images} images to {dest}")


if __name__ == "__main__":
    main()
