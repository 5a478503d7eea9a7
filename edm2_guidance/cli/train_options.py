"""The options of `train_edm2.py`, their types, and presets applied to them. No torch here."""

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

import click

from edm2_guidance.cli.option_group import COUNT, Field, OptionGroup, flag, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.typed import given, plain_number
from edm2_guidance.papers.train_presets import find_train_preset

if TYPE_CHECKING:
    from training.config import TrainingConfig

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


def _switch(help: str, default: bool | None, *names: str) -> Field:
    return option(help, *names, type=click.BOOL, default=default)


def _images(help: str, default: str | int | None = None) -> Field:
    """A number of images."""
    return option(help, type=NIMG, default=default)


class TrainOptions(OptionGroup):
    """Everything of a run. None: as `TrainingConfig` has it, if the preset says nothing."""

    outdir: str = option("Where the run's files go; goes on with the run there", metavar="DIR", required=True)
    data: str = option("Images, or latents, made by dataset_tool.py", metavar="ZIP|DIR", required=True)
    cond: bool = _switch("Train with class labels", True)
    preset: str = option("Settings by name", metavar="STR", default="edm2-img512-s")
    duration: int | None = _images("Images in all")
    batch: int | None = _images("Images per step, over all workers")
    channels: int | None = option("Width of the first level", type=COUNT)
    channel_mult: tuple[int, ...] = option("Width of every level, times --channels", type=INTS, default="1,2,3,4")
    num_blocks: int = option("Blocks per level", type=COUNT, default=3)
    attn_resolutions: tuple[int, ...] = option("Sizes with attention; none = middle only", type=INTS, default="16,8")
    channels_per_head: int = option("Width of an attention head", type=COUNT, default=64)
    dropout: float | None = option("Dropout probability", type=SHARE)
    P_mean: float | None = option("Mean of ln sigma", "--P_mean", type=click.FLOAT)
    P_std: float | None = option("Standard deviation of ln sigma", "--P_std", type=POSITIVE)
    lr: float | None = option("Learning rate after ramp-up, before decay", type=POSITIVE)
    decay: float | None = option("Steps until the rate falls; 0 = never", metavar="BATCHES", type=FROM_0)
    rampup: int = _images("Images over which the rate rises; 0 = none", 10_000_000)
    ema: tuple[float, ...] = option("Relative lengths of the parameter averages", type=FLOATS, default="0.05,0.10")
    batch_gpu: int = _images("Most images per worker at once; 0 = no limit", 0)
    fp16: bool = _switch("float16 activations, on CUDA devices", True)
    bf16: bool = _switch("bfloat16 autocast, on CPUs", False)
    ls: float = option("Loss scaling", type=POSITIVE, default=1)
    bench: bool = _switch("Let cuDNN time its algorithms first", True)
    device: str = option("cpu, cuda, cuda:1, mps; auto = the best", metavar="NAME", default="auto")
    cache: bool | None = _switch("Keep decoded images; default: if under 1 GiB", None)
    workers: int = option("Threads that read images", type=COUNT, default=2)
    status: int = _images("Report every so many images", "128Ki")
    snapshot: int = _images("Network files every so many, and at the end", "8Mi")
    checkpoint: int = _images("Checkpoint every so many, and at the end", "128Mi")
    seed: int = option("Seed of everything random", type=click.INT, default=0)
    dry_run: bool = flag("Print what would be done, and stop", "-n", "--dry-run")

    def with_preset(self) -> Self:
        """These, with the preset's values in place of what the command line left out.

        Raises ValueError for an unknown preset.
        """
        context = click.get_current_context()
        casts = {each.name: each.type_cast_value for each in context.command.params}
        left = {name: text for name, text in find_train_preset(self.preset).items() if not given(name)}
        return replace(self, **{name: casts[name](context, text) for name, text in left.items()})

    def given_of(self, config: "type[TrainingConfig]") -> dict[str, Any]:
        """Its fields, but for those that are None here: arguments of it."""
        values = {field.name: getattr(self, field.name, None) for field in fields(config)}
        return {name: value for name, value in values.items() if value is not None}
