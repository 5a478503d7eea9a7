"""Count the operations of a network's evaluation. Nothing is computed, so it takes neither a GPU nor memory."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from dnnlib.places import embedded, find_file, is_pipeline, near, python_function
from dnnlib.published import PUBLISHED
from dnnlib.urls import is_url, without_secrets
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import OptionGroup, takes_options
from edm2_guidance.cli.run_options import format_option, offline_option
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.papers.train_presets import all_train_presets, network_arguments


class FlopsOptions(OptionGroup):
    """How the count is printed, and whether files are fetched for it."""

    form: Literal["text", "json"] = format_option("text")
    offline: bool = offline_option()


@click.command(cls=Command)
@click.argument("net", metavar="PKL|URL|NAME")
@takes_options
def main(net: str, asked: FlopsOptions) -> None:
    """Count parameters and the Gflops of one evaluation of one image.

    NAME is a size, for which no file is needed, or a preset, whose main network is counted. Gflops are 10^9
    multiply-adds, as in the papers: half of what torch counts. The papers' own, which include elementwise work, are up
    to 1.5 % higher. The decoder of latents is not included.

    \b
    Examples:
      python count_flops.py edm2-img512-s
      python count_flops.py mnist16-cond
      python count_flops.py https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions/edm2-img512-s-2147483-0.130.pkl
    """
    of_file = net in PUBLISHED or find_file(net).is_file() or is_pipeline(net)
    source = net if of_file or net not in all_presets() else all_presets()[net].net
    with bad_input():
        from edm2_guidance.models import family_of
        from training.flops import network_cost

        if is_file(source):
            cost = family_of(source, offline=asked.offline).cost(source, offline=asked.offline)
        else:
            cost = network_cost(arguments_of(source))
    if asked.form == "json":
        click.echo(json.dumps({"net": without_secrets(source), "gflops": cost.gflops} | asdict(cost), indent=2))
        return
    click.echo(f"net         {without_secrets(source)}")
    click.echo(f"input       {' x '.join(map(str, cost.input_shape))}")
    click.echo(f"parameters  {cost.parameters:,}")
    click.echo(f"Gflops      {cost.gflops:.4g}")
    for kind, count in sorted(cost.by_kind.items(), key=lambda item: -item[1]):
        click.echo(f"  {count / cost.multiply_adds:7.2%} {kind}")


def is_file(source: str) -> bool:
    """Whether it is meant as a network file rather than a size, be it there or not."""
    named = Path(source).suffix in (".pkl", ".pt", ".safetensors") or python_function(source) is not None
    return named or source in PUBLISHED or is_url(source) or is_pipeline(source) or find_file(source).exists()


def arguments_of(size: str) -> dict[str, Any]:  # of many types
    """Constructor arguments of the network of that size; ValueError that lists the nearest names if it is none."""
    try:
        return network_arguments(size)
    except ValueError:
        names = [*embedded(), *all_train_presets(), *all_presets()]
        hint = near(size, names, cutoff=0.3) or f"; sizes are {', '.join(all_train_presets())}"
        raise ValueError(f"'{size}' is neither a size nor a preset, a file or a URL{hint}") from None
