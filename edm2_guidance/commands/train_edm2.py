"""Train an EDM2 network on a ZIP or folder of images or latents."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGTERM

import click

from dnnlib.atomic import check_destination
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.report import say_notes
from edm2_guidance.cli.signals import stop_signals
from edm2_guidance.cli.train_options import TrainOptions

CACHE_LIMIT = 1 << 30  # bytes of decoded images that are kept in memory unless --cache says otherwise


@click.command(cls=Command)
@takes_options
def main(asked: TrainOptions) -> int:
    """Train an EDM2 network on a ZIP or folder of images or latents.

    NIMG is a number of images: 4096, 128Ki, 8Mi, 1Gi. Options given beside a preset replace its values. Stopped by
    whatever means and started again with the same options and data, a run goes on from its last sound checkpoint and
    ends with the same networks; Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 write a checkpoint first (exit code 128 + signal).
    From start to start --duration, --batch-gpu, --status, --snapshot, --checkpoint and the number of workers may
    change; a folder with a run of other options or data is refused. A loss that stays NaN ends the run (exit code 1).

    \b
    Examples:
      # EDM2-XS for ImageNet-512 as published, on 8 GPUs
      torchrun --standalone --nproc_per_node=8 train_edm2.py --outdir=training-runs/00000-edm2-img512-xs \\
          --data=datasets/img512-sd.zip --preset=edm2-img512-xs --batch-gpu=32
      # A small network for 16x16 digits, on a CPU
      python train_edm2.py --outdir=runs/mnist16 --data=datasets/mnist16-train.zip --preset=mnist16
    """
    outdir = Path(asked.outdir)
    with bad_input():
        asked = asked.with_preset()
        check_destination(outdir / "log.txt")
        from torch_utils import distributed
        from training.config import TrainingConfig
        from training.dataset import ImageFolderDataset
        from training.plan import plan_training
        from training.training_loop import configure_backends, train

        config = TrainingConfig(**asked.given_of(TrainingConfig))
        device = distributed.pick_device(asked.device)
        dataset = ImageFolderDataset(config.data, use_labels=config.cond)
        plan = plan_training(config, dataset, distributed.world_size())
    if distributed.rank() == 0:
        say_notes(dataset.notes)
    if asked.dry_run:
        distributed.print0(plan)
        return 0
    if asked.cache or (asked.cache is None and dataset.nbytes < CACHE_LIMIT):
        dataset.cache()
    configure_backends(asked.bench)
    bar = _Bar(config.duration, outdir.name)
    with stop_signals() as stopped, closing(bar):
        seen = train(
            config, dataset, outdir, device=device, workers=asked.workers,
            should_stop=lambda: stopped() is not None, progress=bar.advance if distributed.rank() == 0 else None,
        )  # fmt: skip
        signal = stopped()
    if seen >= config.duration:
        return 0
    return 128 + (SIGTERM if signal is None else signal)  # None: another worker was told


class _Bar:
    """A progress bar that is drawn when there is progress: not for a run that is refused."""

    def __init__(self, total: int, name: str) -> None:
        self._bar, self._open = progress_bar(total, name), ExitStack()
        self._advance: Callable[[int], None] | None = None

    def advance(self, count: int) -> None:
        """So many more images are done."""
        self._advance = self._advance or self._open.enter_context(self._bar)
        self._advance(count)

    def close(self) -> None:
        self._open.close()
