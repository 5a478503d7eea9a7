"""Options that do not determine the images: where and how they are computed. No torch here."""

from collections.abc import Iterable, Sequence
from typing import Literal

import click

from edm2_guidance.cli import settings
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option
from edm2_guidance.metrics.catalog import find_metric


def deterministic_option() -> Field:
    """--deterministic."""
    return flag("Only kernels that give the same bits every time; no TF32")


def batch_option(default: int) -> Field:
    """--batch: images at a time."""
    return option("Images at a time", "--batch", "--batch_size", type=COUNT, default=default)


class RunOptions(OptionGroup):
    """What does not determine the images: where and how they are computed. (The noise's device does: `Method`.)"""

    device: str = option("cpu, cuda, cuda:1, mps; auto = the best", metavar="NAME", default="auto")
    noise_device: Literal["cpu", "cuda", "mps"] | None = option(
        "Whose generator draws the noise: the numbers differ (default: the device's)"
    )
    deterministic: bool = deterministic_option()
    offline: bool = flag("Never download; use what is there or say what is missing")
    trust_pickle: bool = flag("Execute the code in network files. Only for files you trust")


def threads_for(sources: Sequence[str], metrics: Iterable[str] = ()) -> None:
    """As many threads as these networks, and the detectors of these metrics, are worth, until the current command ends.

    More on this in `settings.threads_for`.
    """
    context = click.get_current_context(silent=True)
    if context is not None and all(find_metric(metric).extractor.small for metric in metrics):
        context.with_resource(settings.threads_for(sources))
