"""Options that do not determine the images: where, how and by how many workers they are computed. No torch here."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict

import click

from dnnlib.inference import AUTO, Inference
from dnnlib.workers import ALONE, Workers, launched
from edm2_guidance.cli import settings
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.say import say
from edm2_guidance.metrics.catalog import find_metric


def device_option() -> Field:
    """--device."""
    return option("cpu, cuda, cuda:1, mps; auto = the best", metavar="NAME", default="auto", heading="Computing")


def offline_option() -> Field:
    """--offline."""
    return flag("Never download; use what is there or say what is missing", heading="Computing")


def deterministic_option() -> Field:
    """--deterministic."""
    return flag("Only kernels that give the same bits every time; no TF32")


def batch_option(default: int) -> Field:
    """--batch: images at a time."""
    return option("Images at a time", type=COUNT, default=default, heading="Computing")


class CountOrAuto(click.IntRange):
    """A number of at least 1, or `auto`, which is None."""

    or_auto = True

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == AUTO else super().convert(value, param, ctx)


def sampling_batch_option(default: int) -> Field:
    """--batch where images are sampled."""
    return option(
        "Images at a time; auto = as many as are fast and fit", metavar="INT|auto", type=CountOrAuto(), default=default,
        heading="Computing",
    )  # fmt: skip


def shard_option(default: int) -> Field:
    """--shard-size."""
    return option(
        "Images per shard: what an interruption costs at most", type=COUNT, default=default, heading="Workers"
    )


def format_option(default: str) -> Field:
    """--format: of what is printed, one of the Literal of the field."""
    return option("Form in which it is printed", "--format", default=default, heading="Output", first=True)


class Opening(TypedDict):
    """Keyword arguments of `sampling.opening.open_recipe`."""

    trust_pickle: bool
    offline: bool
    inference: Inference


class RunOptions(OptionGroup, heading="Computing"):
    """What does not determine the images: where and how they are computed. (The noise's device does: `Method`.)"""

    device: str = device_option()
    noise_device: Literal["cpu", "cuda", "mps"] | None = option(
        "Whose generator draws the noise: the numbers differ (default: the device's)"
    )
    network_form: Literal["auto", "plain", "prepared", "compiled"] = option(
        "Of the networks: as in their files, made ready for inference, or that compiled; auto = the faster one",
        "--form",
        default=AUTO,
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = option(
        "Of the networks  [default: as published: fp16 on CUDA if the network allows it, else fp32]"
    )
    deterministic: bool = deterministic_option()
    offline: bool = offline_option()
    trust_pickle: bool = flag("Execute the code in network files. Only for files you trust")

    @property
    def opening(self) -> Opening:
        """How networks are opened."""
        inference = Inference.of(self.network_form, self.precision)
        return {"trust_pickle": self.trust_pickle, "offline": self.offline, "inference": inference}


def threads_for(sources: Sequence[str], metrics: Iterable[str] = ()) -> None:
    """As many threads as these networks, and the detectors of these metrics, are worth, until the current command ends.

    More on this in `settings.threads_for`.
    """
    context = click.get_current_context(silent=True)
    if context is not None and all(find_metric(metric).extractor.small for metric in metrics):
        context.with_resource(settings.threads_for(sources))


class WorkerNumber(ParamType):
    """I/N as the pair (I, N): the I-th of N, counted from 0."""

    name = "i/n"

    def parse(self, text: str) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)\s*/\s*(\d+)", text)
        if match is None:
            raise ValueError("give I/N, such as 0/4 for the first of four")
        number, count = int(match[1]), int(match[2])
        if number >= count:
            raise ValueError(f"workers count from 0 to N - 1, such as 0/{max(count, 1)}")
        return number, count


class StealingOptions(OptionGroup, heading="Workers"):
    """Which worker of several this process is, of work whose next part depends on the one before: they share each."""

    worker: tuple[int, int] | None = option(
        "This is launch I of N, from 0, as in a job array; torchrun and srun number their own processes",
        type=WorkerNumber(),
    )
    share_device: bool = flag("Several workers may compute on one device")

    def place(self) -> Workers:
        """The place of this process: that of the launcher, and of --worker. ValueError if they make no sense."""
        job, jobs = self.worker or (0, 1)
        return replace(launched(), job=job, jobs=jobs, steal=True, share_device=self.share_device)


class WorkerOptions(StealingOptions, heading="Workers"):
    """The same, of work whose parts are known."""

    steal: bool = flag("Do any part of the work that nobody is at, until all is done")

    def place(self) -> Workers:
        return replace(super().place(), steal=self.steal)


def announce_workers(workers: Workers, parts: str) -> None:
    """Say on stderr, once per launch, how the work is shared. parts: what there is to share, such as "98 shards"."""
    if workers.speaks and workers != ALONE:
        say(f"{workers}; {parts} in all")
