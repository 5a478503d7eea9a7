"""Train an EDM2 network on a ZIP or folder of images or latents."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGTERM
from typing import Any

import click

from dnnlib.atomic import check_destination
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.report import say_notes
from edm2_guidance.cli.signals import stop_signals
from edm2_guidance.cli.train_options import ImageCount, Numbers, apply_preset

CACHE_LIMIT = 1 << 30  # bytes of decoded images that are kept in memory unless --cache says otherwise


def option(names: str, metavar: str, kind: Any, default: Any, text: str) -> Any:
    """One row of the table below. Default None: as the preset says."""
    shown = default is not None
    return click.option(*names.split(), metavar=metavar, type=kind, default=default, show_default=shown, help=text)


NIMG, INT, INTS, FLOATS = ImageCount(), click.IntRange(min=1), Numbers(int), Numbers(float)
POSITIVE, FROM_0, SHARE = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0), click.FloatRange(0, 1)


# fmt: off
OPTIONS = [
    click.option("--outdir", metavar="DIR", required=True, help="Where the run's files go; goes on with the run there"),
    click.option("--data", metavar="ZIP|DIR", required=True, help="Images, or latents, made by dataset_tool.py"),
    option("--cond",              "BOOL",    bool,     True,            "Train with class labels"),
    option("--preset",            "STR",     str,      "edm2-img512-s", "Settings by name"),
    option("--duration",          "NIMG",    NIMG,     None,            "Images in all"),
    option("--batch",             "NIMG",    NIMG,     None,            "Images per step, over all workers"),
    option("--channels",          "INT",     INT,      None,            "Width of the first level"),
    option("--channel-mult",      "INTS",    INTS,     "1,2,3,4",       "Width of every level, times --channels"),
    option("--num-blocks",        "INT",     INT,      3,               "Blocks per level"),
    option("--attn-resolutions",  "INTS",    INTS,     "16,8",          "Sizes with attention; none = middle only"),
    option("--channels-per-head", "INT",     INT,      64,              "Width of an attention head"),
    option("--dropout",           "FLOAT",   SHARE,    None,            "Dropout probability"),
    option("--P_mean P_mean",     "FLOAT",   float,    None,            "Mean of ln sigma"),
    option("--P_std P_std",       "FLOAT",   POSITIVE, None,            "Standard deviation of ln sigma"),
    option("--lr",                "FLOAT",   POSITIVE, None,            "Learning rate after ramp-up, before decay"),
    option("--decay",             "BATCHES", FROM_0,   None,            "Steps until the rate falls; 0 = never"),
    option("--rampup",            "NIMG",    NIMG,     10_000_000,      "Images over which the rate rises; 0 = none"),
    option("--ema",               "FLOATS",  FLOATS,   "0.05,0.10",     "Relative lengths of the parameter averages"),
    option("--batch-gpu",         "NIMG",    NIMG,     0,               "Most images per worker at once; 0 = no limit"),
    option("--fp16",              "BOOL",    bool,     True,            "float16 activations, on CUDA devices"),
    option("--bf16",              "BOOL",    bool,     False,           "bfloat16 autocast, on CPUs"),
    option("--ls",                "FLOAT",   POSITIVE, 1,               "Loss scaling"),
    option("--bench",             "BOOL",    bool,     True,            "Let cuDNN time its algorithms first"),
    option("--device",            "NAME",    str,      "auto",          "cpu, cuda, cuda:1, mps; auto = the best"),
    option("--cache",             "BOOL",    bool,     None,            "Keep decoded images; default: if under 1 GiB"),
    option("--workers",           "INT",     INT,      2,               "Threads that read images"),
    option("--status",            "NIMG",    NIMG,     "128Ki",         "Report every so many images"),
    option("--snapshot",          "NIMG",    NIMG,     "8Mi",           "Network files every so many, and at the end"),
    option("--checkpoint",        "NIMG",    NIMG,     "128Mi",         "Checkpoint every so many, and at the end"),
    option("--seed",              "INT",     int,      0,               "Seed of everything random"),
    click.option("-n", "--dry-run", is_flag=True, help="Print what would be done, and stop"),
]
# fmt: on


def with_options(function: Any) -> Any:
    """Put the table on a command."""
    for row in reversed(OPTIONS):
        function = row(function)
    return function


@click.command(cls=Command)
@with_options
@click.pass_context
def main(context: click.Context, /, preset: str, outdir: str, **params: Any) -> int:
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
    with bad_input():
        given = apply_preset(preset, context, params)
        run = {name: given.pop(name, None) for name in ("dry_run", "device", "bench", "cache", "workers")}
        check_destination(Path(outdir) / "log.txt")
        from torch_utils import distributed
        from training.config import TrainingConfig
        from training.dataset import ImageFolderDataset
        from training.plan import plan_training
        from training.training_loop import configure_backends, train

        config = TrainingConfig(**given)
        device = distributed.pick_device(run["device"])
        dataset = ImageFolderDataset(config.data, use_labels=config.cond)
        plan = plan_training(config, dataset, distributed.world_size())
    if distributed.rank() == 0:
        say_notes(dataset.notes)
    if run["dry_run"]:
        distributed.print0(plan)
        return 0
    if run["cache"] or (run["cache"] is None and dataset.nbytes < CACHE_LIMIT):
        dataset.cache()
    configure_backends(run["bench"])
    bar = _Bar(config.duration, Path(outdir).name)
    with stop_signals() as stopped, closing(bar):
        seen = train(
            config, dataset, Path(outdir), device=device, workers=run["workers"],
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
