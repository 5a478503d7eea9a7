"""What a training run is made of. No torch here: the command line reads it before anything heavy is loaded."""

import math
from dataclasses import asdict, dataclass
from typing import Any

#: Network snapshots are named by thousands of images, and tools recover the exact number as a multiple of this.
SNAPSHOT_UNIT = 1024

_FREE = ("duration", "batch_gpu", "status", "snapshot", "checkpoint")


@dataclass(frozen=True)
class TrainingConfig:
    """Options of `train_edm2.py` after presets were applied. Counts are images unless a comment says otherwise.

    Raises ValueError, naming the option and the fix, for a combination that cannot be trained.
    """

    data: str  # ZIP or folder
    cond: bool = True  # train with the labels of the data set

    duration: int = 2 << 30  # in all
    batch: int = 2048  # per step, over all workers and accumulation rounds
    lr: float = 0.0100  # alpha_ref, the rate after ramp-up and before decay
    decay: float = 70000  # steps after which the rate begins to fall as 1/sqrt; 0 = never
    rampup: int = 10_000_000  # over which the rate rises from 0; 0 = none
    P_mean: float = -0.4
    P_std: float = 1.0
    sigma_data: float = 0.5
    ema: tuple[float, ...] = (0.05, 0.10)  # lengths sigma_rel

    channels: int = 192  # width of the first level
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)  # width of every level, in multiples of channels
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    dropout: float = 0.0

    batch_gpu: int = 0  # most per worker and round; 0 = no limit
    fp16: bool = True  # float16 activations on CUDA
    bf16: bool = False  # bfloat16 autocast, in place of float16; slow on CPUs without units for it
    ls: float = 1.0  # loss scaling
    seed: int = 0
    status: int = 128 << 10
    snapshot: int = 8 << 20
    checkpoint: int = 128 << 20

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_network()
        for name in ("lr", "P_std", "sigma_data", "ls"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"--{name}={getattr(self, name)}: give a number above 0")
        if not math.isfinite(self.P_mean):
            raise ValueError(f"--P_mean={self.P_mean}: give a finite number")
        if not (self.ema and len(set(self.ema)) == len(self.ema) and all(0 < s < 12**-0.5 for s in self.ema)):
            given = ",".join(f"{s:g}" for s in self.ema)
            raise ValueError(f"--ema={given}: give different lengths between 0 and 0.289, such as 0.05,0.1")

    def _check_counts(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch={self.batch}: give 1 or more")
        named = math.lcm(self.batch, SNAPSHOT_UNIT)
        for name, unit in (
            ("duration", named),
            ("snapshot", named),
            ("status", self.batch),
            ("checkpoint", self.batch),
        ):
            count = getattr(self, name)
            if count < 1 or count % unit != 0:
                nearest = max(round(count / unit), 1) * unit
                why = "--batch" if unit == self.batch else f"both --batch and {SNAPSHOT_UNIT}"
                raise ValueError(f"--{name}={count}: give a multiple of {why}, such as {nearest}")
        for name in ("batch_gpu", "rampup", "decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name}={getattr(self, name)}: give 0 or more")

    def _check_network(self) -> None:
        for name in ("channels", "num_blocks", "channels_per_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}={getattr(self, name)}: give 1 or more")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError("--channel_mult: give one width of 1 or more for every level, such as 1,2,3,4")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout={self.dropout}: give a share from 0 up to, not including, 1")

    def check_resolution(self, resolution: int) -> None:
        """Raise ValueError if images of resolution x resolution pixels (or latents) do not fit the levels."""
        levels = len(self.channel_mult)
        if resolution % (1 << (levels - 1)) != 0 or resolution >> (levels - 1) < 1:
            raise ValueError(
                f"{resolution}x{resolution} does not halve {levels - 1} times: "
                f"give fewer levels (--channel_mult has {levels})"
            )
        for level, mult in enumerate(self.channel_mult):
            width, size = self.channels * mult, resolution >> level
            attends = size in self.attn_resolutions or level == levels - 1
            if attends and width % self.channels_per_head != 0:
                raise ValueError(
                    f"the level at {size}x{size} attends with {width} channels, no multiple of "
                    f"{self.channels_per_head}: change --channels_per_head"
                )

    def split_batch(self, world_size: int) -> tuple[int, int]:
        """Images per worker and round, and number of accumulation rounds, for a number of workers.

        The round is the largest one within `batch_gpu` that divides the worker's share evenly.
        """
        if self.batch % world_size != 0:
            raise ValueError(f"--batch={self.batch} cannot be shared evenly by {world_size} workers")
        share = self.batch // world_size
        limit = share if self.batch_gpu == 0 else min(self.batch_gpu, share)
        if share % limit != 0:
            raise ValueError(f"--batch-gpu={self.batch_gpu}: {share} images per worker do not split into such rounds")
        return limit, share // limit

    def network_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the network, beside resolution, channels and label count."""
        return {
            "use_fp16": self.fp16,
            "sigma_data": self.sigma_data,
            "model_channels": self.channels,
            "channel_mult": list(self.channel_mult),
            "num_blocks": self.num_blocks,
            "attn_resolutions": list(self.attn_resolutions),
            "channels_per_head": self.channels_per_head,
            "dropout": self.dropout,
        }

    def identity(self) -> dict[str, Any]:
        """The options that a run must keep when it is resumed, as plain data."""
        kept = {name: value for name, value in asdict(self).items() if name not in {"data", *_FREE}}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def free_options(self) -> dict[str, Any]:
        """The options that may change from start to start of a run."""
        return {name: getattr(self, name) for name in _FREE}
