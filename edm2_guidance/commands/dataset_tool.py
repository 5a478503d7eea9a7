"""Prepare image sets for training and scoring."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.terminal import counted
from edm2_guidance.cli.class_names import Classes
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.lists import Size
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import batch_option, device_option, offline_option
from edm2_guidance.cli.say import say_notes
from edm2_guidance.cli.typed import given
from edm2_guidance.recipe.class_names import ClassName

if TYPE_CHECKING:
    from training.latents import Decoding, Encoding

OUT = "Set to write: a name ending in .zip, or a folder"
#: Names of `images.transforms.TRANSFORMS`, which take longer to import than --help may.
TRANSFORMS = ("center-crop", "center-crop-wide", "center-crop-dhariwal", "pad-average")


def _max_images_option() -> Field:
    return option("Take only the first so many", type=COUNT)


class ConvertOptions(OptionGroup):
    """What convert reads, writes and changes."""

    source: str = option(
        "Images to read: ZIP, tar, folder tree; a folder or pattern of ZIPs and tars", metavar="PATH", required=True
    )
    out: str = option(OUT, metavar="ZIP|DIR", required=True)
    max_images: int | None = _max_images_option()
    transform: str | None = option(
        "How images come to --resolution; see above", metavar="MODE", type=click.Choice(TRANSFORMS)
    )
    resolution: tuple[int, int] | None = option("Width and height of the result", metavar="WxH", type=Size())


class RecodeOptions(OptionGroup):
    """What encode and decode read and write."""

    source: str = option("Set of images, as convert writes it, or of latents", metavar="ZIP|DIR", required=True)
    out: str = option(OUT, metavar="ZIP|DIR", required=True)


class VaeOptions(OptionGroup):
    """The VAE, and where it runs."""

    model_url: str = option(
        "VAE: name on the Hugging Face hub, or a folder", metavar="NAME|DIR", default="stabilityai/sd-vae-ft-mse"
    )
    max_images: int | None = _max_images_option()
    batch: int = batch_option(8)
    device: str = device_option()
    offline: bool = offline_option()


@click.group(cls=Group)
def main() -> None:
    """Prepare image sets for training and scoring.

    A set is an uncompressed ZIP or a folder of equally sized images, with labels in dataset.json. Tars are read, too;
    and several ZIPs or tars as one set: name the folder that they lie in, or, quoted, a pattern such as 'train-*.tar'.

    \b
    python dataset_tool.py convert --source=downloads/imagenet/ILSVRC/Data/CLS-LOC/train --out=datasets/img512.zip \\
        --resolution=512x512 --transform=center-crop-dhariwal
    python dataset_tool.py encode --source=datasets/img512.zip --out=datasets/img512-sd.zip
    """


@main.command()
@takes_options
def convert(asked: ConvertOptions) -> None:
    """Repack images as a training set: RGB PNG files of one size, in sorted order, with their labels.

    Labels come from the dataset.json of the source; without one, from KEY.cls or KEY.json beside each image, as
    webdataset has them; without these, from the names of its top-level folders, if there are two or more of them:
    classes count from 0 in sorted order. Grey, palette and CMYK images become RGB, of animations the first frame is
    kept. Without --resolution all images must have one size already; without --transform they are stretched to it.
    What is left out or changed is said. Formats, labels, class names: docs/datasets.md.

    \b
    Transforms:
      center-crop           the largest square in the middle, then Lanczos
      center-crop-wide      the largest middle part of WxH's proportions, then Lanczos; black bars make it WxW
      center-crop-dhariwal  as ADM and EDM2 prepare ImageNet: box halvings, bicubic, then the middle
      pad-average           black border up to a power-of-two multiple of WxH, then the mean of each box, rounded to
                            the nearest integer (28x28 digits with --resolution=16x16: 32x32, means over 2x2)
    """
    from edm2_guidance.images.convert import Conversion
    from torch_utils.distributed import require_one_process

    with bad_input():
        require_one_process("dataset_tool.py")
        conversion = Conversion(
            asked.source,
            asked.out,
            max_images=asked.max_images,
            transform=asked.transform,
            resolution=asked.resolution,
        )
    say_notes(conversion.notes)
    with progress_bar(conversion.num_images, Path(asked.out).name) as progress:
        conversion.run(progress)
    say_notes(conversion.losses)
    click.echo(f"wrote {counted(conversion.num_images, 'image')}, {conversion.label_text}, to {asked.out}")


@main.command()
@takes_options
def encode(sets: RecodeOptions, vae: VaeOptions) -> None:
    """Encode images into latents of the Stability VAE, for training on them.

    Each image becomes img-mean-std-*.npy, float32 [8, H/8, W/8]: means, then standard deviations. Labels are kept.
    """
    from training.latents import Encoding

    recode(Encoding, sets.source, sets.out, vae)


@main.command()
@takes_options
def decode(sets: RecodeOptions, vae: VaeOptions) -> None:
    """Decode latents of the Stability VAE back into images, to look at them. Labels are kept.

    The means are decoded; training draws around them.
    """
    from training.latents import Decoding

    recode(Decoding, sets.source, sets.out, vae)


class SheetOptions(OptionGroup):
    """What a contact sheet shows."""

    source: str = option("Images to show, as convert reads them", metavar="PATH", required=True)
    out: str = option("The picture", metavar="PNG|JPEG|PDF", required=True)
    num: int = option("Images at most", "--num-images", type=COUNT, default=64)
    columns: int = option("Images in a row", type=COUNT, default=8)
    seed: int | None = option("Choose by chance  [default: the first ones]", type=click.IntRange(min=0))
    classes: list[int | ClassName] | None = option("A row for each of these; all: for every one", type=Classes())
    tile: int = option("Longer side of an image in the sheet, pixels", type=click.IntRange(8, 1024), default=128)
    overwrite: bool = flag("Replace the picture that is there")


@main.command()
@takes_options
def sheet(asked: SheetOptions) -> None:
    """Show some images of a set in one picture: a contact sheet.

    The first --num-images in the order of their names, or by chance. With --classes a row for each class, with its
    name, of --columns images. Images need not be of one size.

    \b
    python dataset_tool.py sheet --source=datasets/img512.zip --out=sheet.png --num-images=100 --columns=10 --seed=0
    python dataset_tool.py sheet --source=datasets/img512.zip --out=sheet.pdf --classes=goldfish,8,9
    """
    from edm2_guidance.images import picture_file
    from edm2_guidance.images.contact_sheet import ContactSheet

    every = asked.classes == [ClassName("all")]
    with bad_input():
        if asked.classes is not None and given("num"):
            raise ValueError("--classes shows --columns images of each class: leave out --num-images")
        picture_file.check_target(Path(asked.out), asked.overwrite)
        wanted = ContactSheet(
            asked.source, num=asked.num, columns=asked.columns, seed=asked.seed, classes=[] if every else asked.classes,
            tile=asked.tile,
        )  # fmt: skip
    say_notes(wanted.notes)
    with progress_bar(wanted.num_images, Path(asked.out).name) as progress:
        drawn = wanted.draw(progress)
    say_notes(picture_file.save(drawn, Path(asked.out)))
    click.echo(asked.out)


def recode(direction: "type[Encoding | Decoding]", source: str, out: str, vae: VaeOptions) -> None:
    """Open everything that can be missing, then write."""
    from torch_utils.distributed import pick_device, require_one_process
    from training.encoders import VAE_FILES, VAE_VARIABLE, StabilityVAEEncoder

    with bad_input():
        require_one_process("dataset_tool.py")
        device = pick_device(vae.device)
        encoder = StabilityVAEEncoder(vae.model_url, batch_size=vae.batch)
        recoding = direction(source, out, encoder, max_images=vae.max_images)
        try:
            encoder.init(device, offline=vae.offline)
        except FileNotFoundError as error:
            if os.environ.get(VAE_VARIABLE):  # which names the folder in place of the option
                raise
            text = f"--model-url={vae.model_url}: {error}. --model-url=DIR takes a folder with"
            raise FileNotFoundError(f"{text} {' and '.join(VAE_FILES)}") from error
    say_notes(recoding.notes)
    with progress_bar(recoding.num_images, Path(out).name) as progress:
        recoding.run(device, progress)
    click.echo(f"wrote {counted(recoding.num_images, 'image')} to {out}")
