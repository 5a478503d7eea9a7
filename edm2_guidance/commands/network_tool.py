"""Look into network files, convert them, fetch them. Nothing in a file is executed."""

import json
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click

from dnnlib.atomic import check_destination
from dnnlib.places import find_file
from dnnlib.published import PUBLISHED
from dnnlib.urls import is_url
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.option_group import OptionGroup, flag, option, takes_options
from edm2_guidance.cli.run_options import format_option, offline_option
from edm2_guidance.cli.start import as_started
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import all_presets


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


@click.group(cls=Group)
def main() -> None:
    """Network files: what they hold, in another form, on this machine.

    \b
    python network_tool.py inspect mnist16-cond
    python network_tool.py convert edm2-img512-xs-2147483-0.135.pkl --format=safetensors
    python network_tool.py fetch edm2-img512-s-guid-dino
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
        from training.network_io import load_network, save_network, save_safetensors

        check_destination(target)
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
    from dnnlib import download

    for name in wanted:
        click.echo(download.fetch(name, offline=asked.offline))
    if asked.encoders:
        from edm2_guidance.models import open_model

        for name in wanted:
            open_model(name, offline=asked.offline).load_decoder(offline=asked.offline)


def _files_of(source: str) -> list[str]:
    if is_url(source) or source in PUBLISHED or find_file(source).exists():
        return [source]
    return all_presets()[source].sources if source in all_presets() else find_preset(source).sources
