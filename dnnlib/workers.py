"""Which worker of a job this process is, and which part of the work is its own. No torch here.

A launcher (torchrun, srun) numbers the processes that it starts; `--worker=i/n` numbers launches (a job array, several
terminals). Together they give one index. Nothing is ever asked of another worker.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

# Rank, number of processes, rank on this machine. Slurm numbers the processes of a step, which srun starts; the batch
# script runs once, however many tasks its job has, and lacks SLURM_STEP_NUM_TASKS, as does the shell of salloc.
_LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True)
class Workers:
    """The place of this process among all that share the work; by default it is alone.

    Attributes:
        rank: Its number among the processes of its launch, from 0.
        world: How many processes that launch has.
        local: Its number among those on this machine, from 0; names the GPU.
        launcher: torchrun, srun, or "" for a process started by itself.
        job: Number of this launch among `jobs` that share the work, from 0.
        jobs: How many launches share the work.
        steal: Take over any part that nobody is at, not only its own.
        share_device: Several workers may use one device.

    Raises ValueError for numbers that make no sense.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    launcher: str = ""
    job: int = 0
    jobs: int = 1
    steal: bool = False
    share_device: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world or self.local < 0:
            rank, world, _ = _LAUNCHERS.get(self.launcher, ("rank", "world", ""))
            raise ValueError(f"worker layout is impossible: {rank}={self.rank}, {world}={self.world}")
        if not 0 <= self.job < self.jobs:
            raise ValueError(
                f"--worker={self.job}/{self.jobs}: workers count from 0 to their number - 1, such as "
                f"--worker=0/{max(self.jobs, 1)}"
            )

    @property
    def index(self) -> int:
        """Number of this worker among all, from 0."""
        return self.job * self.world + self.rank

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self.jobs * self.world

    @property
    def shared(self) -> bool:
        """Whether there may be others."""
        return self.count > 1 or self.steal

    @property
    def speaks(self) -> bool:
        """Whether this is the process of its launch that reports progress."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """How its messages begin: "worker 1 of 2: ", counted from 0; nothing if it is the only one."""
        return f"worker {self.index} of {self.count}: " if self.count > 1 else ""

    def own(self, number: int) -> range:
        """Which of so many parts are this worker's own: index, index + count, ...; possibly none."""
        return range(self.index, number, self.count)

    def order(self, number: int) -> list[int]:
        """The parts that this worker may do, in order: its own first, then, if it steals, those after them."""
        own = self.own(number)
        if not self.steal:
            return list(own)
        start = own[0] if own else 0
        return [*own, *(part for part in [*range(start, number), *range(start)] if part not in own)]

    def __str__(self) -> str:
        """Such as "worker 3 of 8 (launch 1 of 4, torchrun: rank 1 of 2)"."""
        details = [f"launch {self.job} of {self.jobs}"] if self.jobs > 1 else []
        details += [f"{self.launcher}: rank {self.rank} of {self.world}"] if self.world > 1 else []
        details += ["stealing"] if self.steal else []
        place = f"worker {self.index} of {self.count}" if self.count > 1 else "one worker"
        return f"{place} ({', '.join(details)})" if details else place


ALONE = Workers()


def restarted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether Slurm starts this job not for the first time: after pre-emption, a failed node, or when asked to."""
    environ = os.environ if environ is None else environ
    return environ.get("SLURM_RESTART_COUNT", "0") != "0"


def launched(environ: Mapping[str, str] | None = None) -> Workers:
    """The place of this process in its launch, from the environment; `ALONE` when nothing is said.

    Raises ValueError if the numbers make no sense, such as a rank not below the number of processes.
    """
    environ = os.environ if environ is None else environ
    for launcher, names in _LAUNCHERS.items():
        if names[0] not in environ or names[1] not in environ:
            continue
        if launcher == "srun" and environ.get("SLURM_NTASKS") != environ[names[1]]:
            continue  # a batch script that was submitted from inside a step, whose variables leaked into it
        texts = [environ.get(name, "0") for name in names]
        try:
            rank, world, local = (int(text) for text in texts)
        except ValueError:
            pairs = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
            raise ValueError(f"worker layout is not made of whole numbers: {pairs}") from None
        return Workers(rank, world, local, launcher)
    return ALONE
