"""Options that do not determine the images: where and how they are computed. No torch here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from edm2_guidance.cli import settings
from edm2_guidance.cli.command import stack
from edm2_guidance.metrics.catalog import find_metric


@dataclass(frozen=True)
class RunOptions:
    """What does not determine the images: where and how they are computed."""

    device: str
    trust_pickle: bool
    offline: bool


deterministic_option = click.option(
    "--deterministic", is_flag=True, help="Only kernels that give the same bits every time; no TF32"
)


run_options = stack(
    [
        click.option(
            "--device",
            metavar="NAME",
            default="auto",
            show_default=True,
            help="cpu, cuda, cuda:1, mps; auto = the best",
        ),
        click.option(
            "--noise-device",
            type=click.Choice(["cpu", "cuda", "mps"]),
            help="Whose generator draws the noise: the numbers differ (default: the device's)",
        ),
        deterministic_option,
        click.option("--offline", is_flag=True, help="Never download; use what is there or say what is missing"),
        click.option(
            "--trust-pickle", is_flag=True, help="Execute the code in network files. Only for files you trust"
        ),
    ]
)


def batch_option(default: int) -> Callable[[Any], Any]:
    """--batch: images at a time."""
    return click.option(
        "--batch", "--batch_size", "batch", metavar="INT", type=click.IntRange(min=1), default=default,
        show_default=True, help="Images at a time",
    )  # fmt: skip


def run_options_from(params: dict[str, Any]) -> RunOptions:
    return RunOptions(device=params["device"], trust_pickle=params["trust_pickle"], offline=params["offline"])


def threads_for(sources: Sequence[str], metrics: Iterable[str] = ()) -> None:
    """As many threads as these networks, and the detectors of these metrics, are worth, until the current command ends.

    More on this in `settings.threads_for`.
    """
    context = click.get_current_context(silent=True)
    if context is not None and all(find_metric(metric).extractor.small for metric in metrics):
        context.with_resource(settings.threads_for(sources))
