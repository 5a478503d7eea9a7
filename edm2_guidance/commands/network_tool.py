"""Look into network files, convert them, fetch them. Nothing in a file is executed."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import click

from dnnlib.atomic import check_destination
from dnnlib.places import find_file
from dnnlib.published import PUBLISHED
from dnnlib.urls import is_url
from edm2_guidance.cli.command import Group, bad_input
from edm2_guidance.cli.run_options import OFFLINE
from edm2_guidance.cli.start import as_started
from edm2_guidance.papers.lookup import find_preset
from edm2_guidance.papers.presets import all_presets

offline_option = click.option("--offline", is_flag=True, help=OFFLINE)


@click.group(cls=Group)
def main() -> None:
    """Network files: what they hold, in another form, on this machine.

    \b
    python network_tool.py inspect mnist16-cond
    python network_tool.py convert edm2-img512-xs-2147483-0.135.pkl --to=safetensors
    python network_tool.py fetch edm2-img512-s-guid-dino
    """  # fmt: skip


@main.command()
@click.argument("source", metavar="FILE|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text")
@offline_option
def inspect(source: str, as_json: bool, offline: bool) -> None:
    """Say what a file holds: classes, arguments, parameters, encoder, hashes, and whether it would be read.

    Also for networks of the 2D toy, and for files that would be refused, as far as they can be followed.
    """
    with bad_input():
        from edm2_guidance.models import family_of
        from edm2_guidance.toy.network_io import complete_report
        from training.network_inspect import report_lines

        report = family_of(source, offline=offline).inspect(source, offline=offline)
        report = complete_report(report, source, offline=offline)
    click.echo(json.dumps(report, indent=2) if as_json else as_started("\n".join(report_lines(report))))


@main.command()
@click.argument("source", metavar="FILE|URL")
@click.option("--to", "form", type=click.Choice(["safetensors", "pkl"]), required=True, help="Form to write")
@click.option("--out", metavar="PATH", help="File to write (default: FILE's name with the new suffix)")
@click.option("--force", is_flag=True, help="Replace the file if it exists")
@offline_option
def convert(source: str, form: str, out: str | None, force: bool, offline: bool) -> None:
    """Write a network in another form, bit for bit the same tensors.

    safetensors: tensors, and class, arguments, encoder and the hash of FILE in the metadata. pkl: EDM2's pickle, with
    the source of our classes (tensors in float16).
    """
    target = Path(out) if out is not None else _beside(source).with_suffix(f".{form}")
    if target.exists() and not force:
        raise click.UsageError(f"{target} exists: take another --out, or --force to replace it")
    with bad_input():
        from training.network_io import load_network, save_network, save_safetensors

        check_destination(target)
        file = load_network(source, offline=offline)
    kwargs = file.dataset_kwargs
    if form == "pkl":
        save_network(target, file.net, encoder=file.encoder, dataset_kwargs=kwargs, loss_fn=file.loss_fn)
    else:
        save_safetensors(target, file.net, encoder=file.encoder, dataset_kwargs=kwargs, source_sha256=file.sha256)
    click.echo(target)


def _beside(source: str) -> Path:
    """Where a conversion goes by default: next to a file, for a URL into the current folder."""
    return Path(urlsplit(source).path.rpartition("/")[2] or "network") if is_url(source) else Path(source)


@main.command()
@click.argument("sources", metavar="PRESET|URL|FILE...", nargs=-1, required=True)
@click.option("--encoders", is_flag=True, help="Open the networks and fetch what their encoders need too: the VAE")
@offline_option
def fetch(sources: tuple[str, ...], encoders: bool, offline: bool) -> None:
    """Bring files into the cache, for machines without a network later; print where they are.

    With --offline: say whether they are there.
    """
    with bad_input():
        wanted = dict.fromkeys(name for source in sources for name in _files_of(source))
    from dnnlib import download

    for name in wanted:
        click.echo(download.fetch(name, offline=offline))
    if encoders:
        from edm2_guidance.models import open_model

        for name in wanted:
            open_model(name, offline=offline).load_decoder(offline=offline)


def _files_of(source: str) -> list[str]:
    if is_url(source) or source in PUBLISHED or find_file(source).exists():
        return [source]
    return all_presets()[source].sources if source in all_presets() else find_preset(source).sources
