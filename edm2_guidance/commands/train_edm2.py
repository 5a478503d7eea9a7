"""Train an EDM2 network on a ZIP or folder of images or latents."""

import re
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, Self

import click

from dnnlib.atomic import check_destination
from dnnlib.extras import need_tracker
from dnnlib.urls import without_secrets
from edm2_guidance.cli.command import Command, bad_input
from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option, takes_options
from edm2_guidance.cli.param_type import Name, ParamType
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.run_options import device_option
from edm2_guidance.cli.say import say_notes
from edm2_guidance.cli.signals import stop_signals
from edm2_guidance.cli.typed import arguments, given, plain_number
from edm2_guidance.cli.watch_options import WatchOptions
from edm2_guidance.papers.train_presets import all_train_presets, find_train_preset

if TYPE_CHECKING:
    import torch

    from training.config import TrainingConfig
    from training.dataset import ImageFolderDataset
    from training.watch import Watcher

CACHE_LIMIT = 1 << 30  # bytes of decoded images that are kept in memory unless --cache says otherwise


_UNITS = {"": 1, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


class ImageCount(ParamType):
    """A number of images, such as 4096, 128Ki (x 1024), 8Mi (x 1024^2) or 1Gi (x 1024^3)."""

    name = "nimg"

    def parse(self, text: str) -> int:
        match = re.fullmatch(r"(\d+)(|ki|mi|gi)", text.lower())
        if match is None:
            digits = plain_number(text)
            meant = f"; {text} is {digits}" if digits is not None and digits.isdigit() else ""
            raise ValueError(f"give a number of images, such as 4096, 128Ki, 8Mi or 1Gi{meant}")
        return int(match[1]) * _UNITS[match[2]]


class Numbers(ParamType):
    """Comma-separated numbers of one kind, as a tuple; 'none' is the empty one."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind
        self.name = f"{kind.__name__}s"

    def parse(self, text: str) -> tuple[float, ...]:
        if text.lower() == "none":
            return ()
        try:
            return tuple(self.kind(part) for part in text.split(","))
        except ValueError:
            kind = "whole numbers" if self.kind is int else "numbers"
            raise ValueError(f"give {kind}, such as 1,2, or none") from None


NIMG, INTS, FLOATS = ImageCount(), Numbers(int), Numbers(float)
POSITIVE, FROM_0, SHARE = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0), click.FloatRange(0, 1)


def _switch(help: str, default: bool | None, **settings: Any) -> Field:
    return option(help, type=click.BOOL, default=default, **settings)


def _images(help: str, default: str | int | None = None, **settings: Any) -> Field:
    """A number of images."""
    return option(help, type=NIMG, default=default, **settings)


class RunFiles(OptionGroup, heading="Run"):
    """Where a run's files are, and how often some are written."""

    outdir: str = option(
        "Where the run's files go; goes on with the run there", metavar="DIR", required=True, first=True
    )
    data: str = option("Images, or latents, made by dataset_tool.py", metavar="ZIP|DIR", required=True, first=True)
    cond: bool = _switch("Train with class labels", True, first=True)
    preset: str = option(
        "Settings by name; list = which there are",
        type=Name(lambda: "\n".join(all_train_presets())),
        metavar="NAME",
        default="edm2-img512-s",
        first=True,
    )
    duration: int | None = _images("Images in all", first=True)
    status: int = _images("Report every so many images", "128Ki", first=True)
    snapshot: int = _images("Network files every so many, and at the end", "8Mi", first=True)
    checkpoint: int = _images("Checkpoint every so many, and at the end", "128Mi", first=True)
    dry_run: bool = flag("Print what would be done, and stop", first=True)


class SizeOptions(RunFiles, heading="Network"):
    """The network."""

    channels: int | None = option("Width of the first level", type=COUNT)
    channel_mult: tuple[int, ...] = option("Width of every level, times --channels", type=INTS, default="1,2,3,4")
    num_blocks: int = option("Blocks per level", type=COUNT, default=3)
    attn_resolutions: tuple[int, ...] = option("Sizes with attention; none = middle only", type=INTS, default="16,8")
    channels_per_head: int = option("Width of an attention head", type=COUNT, default=64)
    dropout: float | None = option("Dropout probability", type=SHARE)


class ComputeOptions(SizeOptions, heading="Computing"):
    """How it is computed."""

    batch_gpu: int = _images("Most images per worker at once; 0 = no limit", 0, first=True)
    device: str = device_option()
    fp16: bool = _switch("float16 activations, on CUDA devices", True)
    bf16: bool = _switch("bfloat16 autocast; slow on CPUs without its units", False)
    bench: bool = _switch("Let cuDNN time its algorithms first", True)
    cache: bool | None = _switch("Keep decoded images; default: if under 1 GiB", None)
    workers: int = option("Threads that read images", type=COUNT, default=2)


class TrainOptions(ComputeOptions, heading="Training"):
    """Everything of a run. None: as `TrainingConfig` has it, if the preset says nothing."""

    batch: int | None = _images("Images per step, over all workers", first=True)
    lr: float | None = option("Learning rate after ramp-up, before decay", type=POSITIVE, first=True)
    decay: float | None = option("Steps until the rate falls; 0 = never", metavar="BATCHES", type=FROM_0)
    rampup: int = _images("Images over which the rate rises; 0 = none", 10_000_000)
    P_mean: float | None = option("Mean of ln sigma", "--P_mean", type=click.FLOAT)
    P_std: float | None = option("Standard deviation of ln sigma", "--P_std", type=POSITIVE)
    ls: float = option("Loss scaling", type=POSITIVE, default=1)
    ema: tuple[float, ...] = option("Relative lengths of the parameter averages", type=FLOATS, default="0.05,0.10")
    seed: int = option("Seed of everything random", type=click.INT, default=0)
    watch: WatchOptions

    def with_preset(self) -> Self:
        """These, with the preset's values in place of what the command line left out.

        Raises ValueError for an unknown preset.
        """
        context = click.get_current_context()
        casts = {each.name: each.type_cast_value for each in context.command.params}
        left = {name: text for name, text in find_train_preset(self.preset).items() if not given(name)}
        return replace(self, **{name: casts[name](context, text) for name, text in left.items()})

    def config(self) -> "TrainingConfig":
        """What is trained. ValueError for what cannot be."""
        from training.config import TrainingConfig

        values = {field.name: getattr(self, field.name, None) for field in fields(TrainingConfig)}
        return TrainingConfig(**{name: value for name, value in values.items() if value is not None})


@click.command(cls=Command)
@takes_options
def main(asked: TrainOptions) -> int:
    """Train an EDM2 network on a ZIP or folder of images or latents.

    NIMG is a number of images: 4096, 128Ki, 8Mi, 1Gi. Options given beside a preset replace its values. Stopped by
    whatever means and started again with the same options and data, a run goes on from its last sound checkpoint and
    ends with the same networks; Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 write a checkpoint first (exit code 128 + signal).
    From start to start --duration, --batch-gpu, --status, --snapshot, --checkpoint and the number of workers may
    change; a folder with a run of other options or data is refused. A loss that stays NaN ends the run (exit code 1).
    Previews, --evaluate and --trackers show how it goes; whatever becomes of them, the networks are the same.

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
        from training.dataset import ImageFolderDataset
        from training.plan import plan_training
        from training.training_loop import configure_backends, train
        from training.watch import cost_text

        config = asked.config()
        device = distributed.pick_device(asked.device)
        dataset = ImageFolderDataset(config.data, use_labels=config.cond)
        plan = plan_training(config, dataset, distributed.world_size())
        for name in asked.watch.trackers:
            need_tracker(name)
        watchers = watchers_from(asked.watch, config, dataset, outdir, device) if distributed.rank() == 0 else []
    if distributed.rank() == 0:
        say_notes(dataset.notes)
    if asked.dry_run:
        distributed.print0("\n".join([str(plan), *(cost_text(watcher, config) for watcher in watchers)]))
        return 0
    if asked.cache or (asked.cache is None and dataset.nbytes < CACHE_LIMIT):
        dataset.cache()
    configure_backends(asked.bench)
    with stop_signals() as stopped, ExitStack() as at_end:
        bar = cache(lambda: at_end.enter_context(progress_bar(config.duration, outdir.name)))
        seen = train(
            config, dataset, outdir, device=device, workers=asked.workers, should_stop=lambda: stopped() is not None,
            progress=(lambda count: bar()(count)) if distributed.rank() == 0 else None,  # none of a run that is refused
            watchers=watchers, trackers=asked.watch.trackers, about=about_start(asked, config, device),
        )  # fmt: skip
        signal = stopped()
    if seen >= config.duration:
        return 0
    return 128 + (SIGTERM if signal is None else signal)  # None: another worker was told


def watchers_from(
    watch: WatchOptions, config: "TrainingConfig", dataset: "ImageFolderDataset", outdir: Path, device: "torch.device"
) -> "list[Watcher]":
    """What looks at the snapshots. ValueError, OSError or RuntimeError for what is asked for and cannot be had.

    The previews that nobody asked for download nothing: of latents, they are left out where the VAE is not there.
    """
    from edm2_guidance.models.edm2 import load_encoder
    from edm2_guidance.reproduction.snapshots import Previews, open_scores
    from training.training_loop import make_encoder

    if watch.preview == 0 and watch.evaluate is None:
        return []
    wanted = watch.evaluate is not None or given("preview")
    encoder, resolution = make_encoder(dataset.image_shape), dataset.image_shape[-1]
    try:
        size = load_encoder(encoder, resolution, device="cpu", offline=not wanted)
    except (ValueError, OSError, RuntimeError) as error:
        if wanted:
            raise
        say_notes([f"no previews (--preview=0 leaves them out in silence): {error}"])
        return []
    found: list[Watcher] = [Previews(watch.preview, watch.preview_every, device)] if watch.preview > 0 else []
    if watch.evaluate is not None:
        how = {name: getattr(watch.evaluate, name) for name in ("num", "every", "steps")}
        found.append(
            open_scores(watch.evaluate.metrics, watch.reference(), outdir / "ledger.jsonl", size, device,
                        networks=len(config.ema), **how)
        )  # fmt: skip
    return found


def about_start(asked: TrainOptions, config: "TrainingConfig", device: "torch.device") -> dict[str, Any]:
    """For the run's record: the options as given and as they came out, software and hardware."""
    from edm2_guidance.metrics.environment import environment

    typed = [without_secrets(word) for word in arguments()]
    return {"given": typed, "options": {**asdict(asked), **asdict(config)}, **environment(device)}
