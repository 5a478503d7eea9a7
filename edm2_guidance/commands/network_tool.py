"""Look into network files, convert them, fetch them. Nothing in a file is executed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import click

from dnnlib.atomic import atomic_path, check_destination
from dnnlib.places import find_file, is_pipeline
from dnnlib.published import PUBLISHED
from dnnlib.terminal import counted
from dnnlib.urls import is_url
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.option_group import COUNT, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import batch_option, device_option, format_option, offline_option, threads_for
from edm2_guidance.cli.say import note, say_notes
from edm2_guidance.cli.start import as_started
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import all_presets

if TYPE_CHECKING:
    from edm2_guidance.images.sources import StoredImages
    from edm2_guidance.models.base import Model


class InspectOptions(OptionGroup):
    """How a report is printed, and whether files are fetched for it."""

    form: Literal["text", "json"] = format_option("text")
    offline: bool = offline_option()


class ConvertOptions(OptionGroup):
    """What is written, and where."""

    form: Literal["safetensors", "pkl"] = option("Form to write", "--format", required=True)
    out: str | None = option("File to write (default: FILE's name with the new suffix)", metavar="PATH")
    overwrite: bool = flag("Replace the file that is there")
    offline: bool = offline_option()


class FetchOptions(OptionGroup):
    """What is fetched beside the files."""

    encoders: bool = flag("Open the networks and fetch what their encoders need too: the VAE")
    offline: bool = offline_option()


LEVEL = click.FloatRange(min=0, min_open=True)


class EntropyOptions(OptionGroup):
    """What is measured on what, where, and where it is written."""

    net: str = option("Network to measure, or FILE.py:FUNCTION that makes one", metavar="PATH|URL", required=True)
    data: str = option(
        "Images like those that it was trained on, with their classes: a ZIP, a folder or an .npz", metavar="PATH",
        required=True,
    )  # fmt: skip
    out: str = option("File to write, for --schedule=entropy:file=PATH", metavar="PATH", required=True)
    num_images: int = option("Take this many of them, drawn by --seed", type=COUNT, default=1000)
    seed: int = option("Which images are taken", type=click.IntRange(min=0), default=0)
    points: int = option("Noise levels, even in ln sigma", type=click.IntRange(min=2), default=65)
    sigma_min: float = option("Lowest noise level", "--sigma_min", type=LEVEL, default=0.002)
    sigma_max: float = option("Highest noise level", "--sigma_max", type=LEVEL, default=80)
    overwrite: bool = flag("Replace the file that is there")
    batch: int = batch_option(32)
    device: str = device_option()
    offline: bool = offline_option()
    trust_pickle: bool = flag("Execute the code in network files. Only for files you trust")


@click.group(cls=Group)
def main() -> None:
    """Network files: what they hold, in another form, on this machine.

    \b
    python network_tool.py inspect mnist16-cond
    python network_tool.py convert edm2-img512-xs-2147483-0.135.pkl --format=safetensors
    python network_tool.py fetch edm2-img512-s-guid-dino
    python network_tool.py entropy --net=mnist16-cond --data=mnist16-test-5000 --out=digits.json
    """  # fmt: skip


@main.command()
@click.argument("source", metavar="FILE|URL")
@takes_options
def inspect(source: str, asked: InspectOptions) -> None:
    """Say what a file holds: classes, arguments, parameters, encoder, hashes, and whether it would be read.

    Also for networks of the 2D toy, and for files that would be refused, as far as they can be followed.
    """
    with bad_input():
        from edm2_guidance.models import family_of
        from edm2_guidance.toy.network_io import complete_report
        from training.network_inspect import report_lines

        report = family_of(source, offline=asked.offline).inspect(source, offline=asked.offline)
        report = complete_report(report, source, offline=asked.offline)
    click.echo(json.dumps(report, indent=2) if asked.form == "json" else as_started("\n".join(report_lines(report))))


@main.command()
@click.argument("source", metavar="FILE|URL")
@takes_options
def convert(source: str, asked: ConvertOptions) -> None:
    """Write a network in another form, bit for bit the same tensors.

    safetensors: tensors, and class, arguments, encoder and the hash of FILE in the metadata. pkl: EDM2's pickle, with
    the source of our classes (tensors in float16).
    """
    target = Path(asked.out) if asked.out is not None else _beside(source).with_suffix(f".{asked.form}")
    if target.exists() and not asked.overwrite:
        raise click.UsageError(f"{target} exists: take another --out, or --overwrite to replace it")
    with bad_input():
        from edm2_guidance.models import adm, diffusers, edm, family_of
        from training.network_io import load_network, save_network, save_safetensors

        check_destination(target)
        if family_of(source, offline=asked.offline) in (adm, diffusers, edm):
            raise ValueError(f"{source} is no network of EDM2: only those are written in another form")
        file = load_network(source, offline=asked.offline)
    kwargs = file.dataset_kwargs
    if asked.form == "pkl":
        save_network(target, file.net, encoder=file.encoder, dataset_kwargs=kwargs, loss_fn=file.loss_fn)
    else:
        save_safetensors(target, file.net, encoder=file.encoder, dataset_kwargs=kwargs, source_sha256=file.sha256)
    click.echo(target)


def _beside(source: str) -> Path:
    """Where a conversion goes by default: next to a file, for a URL into the current folder."""
    return Path(urlsplit(source).path.rpartition("/")[2] or "network") if is_url(source) else Path(source)


@main.command()
@click.argument("sources", metavar="PRESET|URL|FILE...", nargs=-1, required=True)
@takes_options
def fetch(sources: tuple[str, ...], asked: FetchOptions) -> None:
    """Bring files into the cache, for machines without a network later; print where they are.

    With --offline: say whether they are there.
    """
    with bad_input():
        wanted = dict.fromkeys(name for source in sources for name in _files_of(source))
    from edm2_guidance.models import fetch_network, open_model

    for name in wanted:
        click.echo(fetch_network(name, offline=asked.offline))
    if asked.encoders:
        for name in wanted:
            open_model(name, offline=asked.offline).load_decoder(offline=asked.offline)


def _files_of(source: str) -> list[str]:
    if is_url(source) or is_pipeline(source) or source in PUBLISHED or find_file(source).exists():
        return [source]
    return all_presets()[source].sources if source in all_presets() else find_preset(source).sources


@main.command()
@takes_options
def entropy(asked: EntropyOptions) -> None:
    """Measure the noise levels that suit a network: how far it is from images of its data, at each.

    For the schedule entropy of arXiv 2504.13612. Unguided, the same images and noise at every level.
    """
    if not asked.sigma_min < asked.sigma_max:
        raise click.UsageError(f"--sigma_min={asked.sigma_min:g} is not below --sigma_max={asked.sigma_max:g}")
    if Path(asked.out).exists() and not asked.overwrite:
        raise click.UsageError(f"{asked.out} exists: take another --out, or --overwrite to replace it")
    threads_for([asked.net])
    with bad_input():
        check_destination(Path(asked.out))
        model, images = _measured(asked)
    from edm2_guidance.sampling.denoising_error import denoising_errors, even_levels

    levels = even_levels(asked.sigma_min, asked.sigma_max, asked.points)
    with bad_input(), progress_bar(images.num_images, "images") as advance:
        errors = denoising_errors(model, images, levels, advance)
    _write_errors(asked, model, images, errors)
    click.echo(asked.out)


def _measured(asked: EntropyOptions) -> "tuple[Model, StoredImages]":
    """The network and the images, both fit for each other as far as the first image says; notes what is odd."""
    from edm2_guidance.images.sources import StoredImages
    from edm2_guidance.models import open_model
    from edm2_guidance.sampling.denoising_error import check_images
    from torch_utils.distributed import pick_device

    device = pick_device(asked.device)
    images = StoredImages(find_file(asked.data), asked.batch, asked.num_images, asked.seed)
    model = open_model(asked.net, device, trust_pickle=asked.trust_pickle, offline=asked.offline)
    model.load_decoder(offline=asked.offline)
    check_images(model, images.pick([0]))
    say_notes(images.notes)
    if not model.sigma_min <= asked.sigma_min < asked.sigma_max <= model.sigma_max:
        note(
            f"{asked.net} is for noise levels from {model.sigma_min:g} to {model.sigma_max:g}: measure it there, by "
            "--sigma_min and --sigma_max"
        )
    if images.num_images < asked.num_images:
        note(f"{asked.data} has {counted(images.num_images, 'image')}: all are taken")
    return model, images


def _write_errors(asked: EntropyOptions, model: "Model", images: "StoredImages", errors: list[float]) -> None:
    """As the schedule reads it, whole or not at all; with what it was measured on."""
    from edm2_guidance.images.sources import content_sha256

    held = {
        "errors_of": "D(x; sigma), squared, summed over an image; even in ln sigma from sigma_min to sigma_max",
        "net": {"source": Path(asked.net).name, "sha256": model.identity["sha256"]},
        "data": {"source": Path(asked.data).name, "sha256": content_sha256(images), "images": images.num_images,
                 "seed": asked.seed},
        "sigma_min": asked.sigma_min,
        "sigma_max": asked.sigma_max,
        "errors": [float(f"{error:.6g}") for error in errors],
    }  # fmt: skip
    with atomic_path(asked.out) as temporary:
        temporary.write_text(json.dumps(held, indent=1) + "\n")
