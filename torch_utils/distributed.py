"""The device of this process, and the one process group that training opens.

Which process of a job this is comes from dnnlib.workers. Everything but `init`, `any_rank`, `sum_over_ranks`,
`gather`, `agree`, `on_first` and `while_others_wait` works without a process group, and those need none for a single
process.
"""

import os
import re
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from dnnlib.errors import Refused
from dnnlib.workers import launched

Result = TypeVar("Result")

_LET_GO = 0.5  # seconds; without it one ending in fifteen hung, with a tenth of it none in sixty


def rank() -> int:
    """Number of this worker, from 0."""
    return launched().rank


def world_size() -> int:
    """Number of workers in the job; 1 for a process alone."""
    return launched().world


def local_rank() -> int:
    """Number of this worker among those on the same machine, from 0; names the GPU to use."""
    return launched().local


def pick_device(name: str = "auto", option: str = "--device") -> torch.device:
    """The device of that name; 'auto' is this worker's CUDA device, else mps, else the CPU.

    'cuda' without a number is also this worker's own. option: what to call the setting in error messages. Raises
    ValueError, naming the choices, if there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{option}={name} is no device: give cpu, cuda, cuda:1, mps or auto") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cpu": 1, "cuda": count, "mps": int(torch.backends.mps.is_available())}
    if counts.get(device.type, 0) == 0:
        there = ", ".join(kind for kind, number in counts.items() if number > 0)
        raise ValueError(f"{option}={name} is not available here: give one of {there}, or auto")
    if device.type == "cpu":
        return device
    index = local_rank() % counts[device.type] if device.index is None else device.index
    if index >= counts[device.type]:
        last = counts[device.type] - 1
        raise ValueError(f"{option}={name} is not available here: give {device.type}:0 to {device.type}:{last}")
    return torch.device("cuda", index) if device.type == "cuda" else device


def device_identity(device: torch.device) -> str | None:
    """What tells this device from all others, in characters that a file name can hold; None for the CPU.

    CUDA devices are told apart by their own identity, since every process may number them otherwise.
    """
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return None if device.type == "cpu" else f"{device.type}-{re.sub('[^A-Za-z0-9]', '-', socket.gethostname())}"


def device_name(device: torch.device) -> str:
    """The kind of this device, for what was measured on it. That of a CPU is not known: it is this machine's, and says
    by how many threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = f" {torch.get_num_threads()}" if device.type == "cpu" else ""
    return f"{device.type}{threads} {socket.gethostname()}"


def wait_for(device: torch.device) -> None:
    """Until the device has computed everything that it was given: before a time is taken."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def require_one_process(program: str) -> None:
    """Raise ValueError if this process is one of several workers, which would all do the same work."""
    if world_size() > 1:
        raise ValueError(f"{program} runs as one process for now: start it without torchrun or srun")


def init(device: torch.device) -> None:
    """Open the process group of the job, if there is more than one worker: NCCL on CUDA, gloo otherwise.

    Raises RuntimeError if the workers cannot find each other, ValueError if the address to meet at is not given, or for
    a device between which nothing can be sent.
    """
    this, world = rank(), world_size()
    if world == 1 or torch.distributed.is_initialized():
        return
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{world} workers cannot share a run on {device.type}: start one, or take --device=cpu")
    if "MASTER_ADDR" not in os.environ:
        raise ValueError(f"{world} workers need MASTER_ADDR: start them with torchrun, or set it to the first host")
    os.environ.setdefault("MASTER_PORT", "29500")
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, rank=this, world_size=world)


def shutdown() -> None:
    """Close the process group, if one is open."""
    if torch.distributed.is_initialized():
        # gloo's threads need Python's lock to let go of the last operation's tensors, and whoever destroys the group
        # waits for them while holding it. Let them finish first: a worker that comes here too early hangs forever.
        time.sleep(_LET_GO)
        torch.distributed.destroy_process_group()


def any_rank(flags: list[float], device: torch.device) -> list[bool]:
    """Which of some flags (0 or 1) is up on at least one worker; the same answer on all of them."""
    return [total > 0 for total in sum_over_ranks(flags, device)]


def gather(values: list[int], device: torch.device) -> list[list[int]]:
    """The values of all workers, by rank; every worker gives as many, of at most 63 bits."""
    if not torch.distributed.is_initialized():
        return [values]
    mine = torch.tensor(values, dtype=torch.int64, device=device)
    rows = [torch.empty_like(mine) for _ in range(world_size())]
    torch.distributed.all_gather(rows, mine)
    return [row.tolist() for row in rows]


def agree(failure: Exception | None, device: torch.device) -> None:
    """Raise on all workers if something failed on one: what it was on that one, what to look for on the others.

    That is Refused if it was one of those, RuntimeError otherwise.
    """
    rows = gather([int(failure is not None), int(isinstance(failure, Refused))], device)
    if failure is not None:
        raise failure
    for number, (failed, refused) in enumerate(rows):
        if failed:
            raise (Refused if refused else RuntimeError)(f"worker {number} cannot go on: see its message")


def on_first(work: Callable[[], Result], device: torch.device) -> Result | None:
    """What `work` returns on the first worker, None on the others; what it raises there ends all, as in `agree`."""
    result: Result | None = None
    failure: Exception | None = None
    if rank() == 0:
        try:
            result = work()
        except Exception as error:
            failure = error
    agree(failure, device)
    return result


def while_others_wait(
    work: Callable[[Callable[[], bool]], None], told: Callable[[], bool], device: torch.device
) -> bool:
    """Long `work` on the first worker alone; returns on all of them whether one was `told` to stop meanwhile.

    The work calls what it is given every minute or so. That meets the others, so that none waits in one collective for
    as long as the work takes, and times out; and it says whether some worker was told to stop.
    """
    stopped = False

    def meet(busy: bool) -> bool:
        nonlocal stopped
        going_on, some_told = any_rank([float(busy), float(told())], device)
        stopped |= some_told
        return going_on

    def beat() -> bool:
        meet(True)
        return stopped

    if rank() > 0:
        while meet(False):
            pass
        return stopped
    try:
        work(beat)
    finally:
        meet(False)
    return stopped


def wide_dtype(device: torch.device) -> torch.dtype:
    """For sums on a device: float64; float32 on mps, which has no wider one."""
    return torch.float32 if device.type == "mps" else torch.float64


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Elementwise sum of `values` over the workers, in float64."""
    if not torch.distributed.is_initialized():
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    result: list[float] = total.tolist()
    return result


def print0(*args: object) -> None:
    """Print on the first worker only."""
    if rank() == 0:
        print(*args, flush=True)
