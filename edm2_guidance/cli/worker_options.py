"""Options that say which worker of several a process is, and what it then tells. No torch here."""

import re
from dataclasses import replace

import click

from dnnlib.workers import ALONE, Workers, launched
from edm2_guidance.cli.option_group import Field, OptionGroup, flag, option
from edm2_guidance.cli.param_type import ParamType


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


def share_device_option() -> Field:
    """--share-device."""
    return flag("Several workers may compute on one device")


class WorkerOptions(OptionGroup):
    """Which worker of several this process is."""

    worker: tuple[int, int] | None = option(
        "This is launch I of N, from 0, as in a job array; torchrun and srun number their own processes",
        type=WorkerNumber(),
    )
    steal: bool = flag("Do any part of the work that nobody is at, until all is done")
    share_device: bool = share_device_option()

    def place(self) -> Workers:
        """The place of this process: that of the launcher, and of --worker. ValueError if they make no sense."""
        job, jobs = self.worker or (0, 1)
        return replace(launched(), job=job, jobs=jobs, steal=self.steal, share_device=self.share_device)


def announce_workers(workers: Workers, parts: str) -> None:
    """Say on stderr, once per launch, how the work is shared. parts: what there is to share, such as "98 shards"."""
    if workers.speaks and workers != ALONE:
        click.echo(f"{workers}; {parts} in all", err=True)
