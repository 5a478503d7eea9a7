"""What rows, searches and arenas are run by."""

from pathlib import Path
from typing import TYPE_CHECKING

from dnnlib.atomic import check_destination
from dnnlib.workers import Workers
from edm2_guidance.cli import reproduce_options as opt
from edm2_guidance.cli.progress import Agenda

if TYPE_CHECKING:
    from edm2_guidance.reproduction.rows import Runner, Settings


def settings_from(work: opt.WorkOptions, workers: Workers) -> "Settings":
    """How rows and points are made."""
    from edm2_guidance.reproduction.rows import Settings

    run = work.run
    return Settings(
        Path(work.results_dir), Path(work.ledger), Path(work.networks), noise_device=run.noise_device,
        keep_images=work.keep_images, again=work.again, batch=work.batch, shard_size=work.shard_size,
        device=run.device, workers=workers, **run.opening,
    )  # fmt: skip


def runner_from(settings: "Settings", agenda: Agenda) -> "Runner":
    """A runner that tells the agenda of its progress; makes nothing yet."""
    from edm2_guidance.metrics.ledger import check_writable, read
    from edm2_guidance.reproduction.rows import Runner
    from torch_utils.distributed import pick_device

    check_writable(settings.ledger)
    check_destination(settings.results / "work" / "plan.json")
    if settings.ledger.exists():
        read(settings.ledger)  # a damaged line is refused now, not after the first block
    if settings.noise_device is not None:
        pick_device(settings.noise_device, "--noise-device")
    return Runner(settings, agenda.bar)
