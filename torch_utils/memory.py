"""Batches that memory does not hold: cut in two and tried again, and the size that fits kept from then on."""

import ctypes
import gc
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch

T = TypeVar("T")

# What says "out of memory" among the many meanings of a RuntimeError, where it has no class of its own.
_SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # on Windows
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "Invalid buffer size",  # of MPS: a single tensor larger than Metal's limit
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory, or the machine's, was too small."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def give_back_freed() -> None:
    """Let other programs have what was freed here and is kept for the next allocation; glibc alone keeps much."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class Batches:
    """One kind of work on batches, and how many items of it memory holds at a time.

    Attributes:
        work: What it is called in messages, such as "sampling".
        limit: Items that were found to fit, once more of them did not; None until then.
    """

    def __init__(self, work: str, beside: "Batches | None" = None) -> None:
        """beside: other work that another thread may do at the same time, as long as memory holds both."""
        self.work = work
        self.limit: int | None = None
        self._busy = threading.Lock()
        self._ended = 0  # calls
        self._beside = beside
        if beside is not None:
            beside._beside = self

    def run(self, function: Callable[[slice], T], count: int, size: int) -> tuple[list[T], int | None]:
        """Call `function` on slices of `count` items, `size` of them at a time, fewer if memory does not hold those.

        A slice that runs out of memory beside other work is tried again without; else it is cut in two and tried
        again, down to one item; the smaller size stays the limit of all later calls, which a RuntimeWarning says once.

        Returns what the calls returned, in order, and the limit if it made any slice smaller, else None. Raises
        RuntimeError, saying what to do, if not even one item fits, and whatever else `function` raises.
        """
        results: list[T] = []
        start, reduced, told = 0, False, self.limit
        while start < count:
            wanted = min(size, count - start)
            number = wanted if self.limit is None else min(wanted, self.limit)
            try:
                results.append(self._call(function, slice(start, start + number)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = _short(error)
            else:
                if self.limit != told:
                    told = self.limit
                    self._tell(wanted)
                start, reduced = start + number, reduced or number < wanted
                continue
            self._halve(number, reason)  # out here nothing refers to the error, whose frames hold the tensors
        return results, self.limit if reduced else None

    def _call(self, function: Callable[[slice], T], part: slice) -> T:
        """Beside the other work if memory holds both, else when that is done, and begins nothing meanwhile."""
        other = self._beside
        ended = 0 if other is None else other._ended
        try:
            with self._busy:
                return function(part)
        except Exception as error:
            alone = other is None or not (other._busy.locked() or other._ended != ended)
            if other is None or alone or not is_out_of_memory(error):
                raise
        finally:
            self._ended += 1
        _free()
        first, second = sorted((self, other), key=id)
        with first._busy, second._busy:
            return function(part)

    def _halve(self, number: int, reason: str) -> None:
        if number == 1:
            raise RuntimeError(
                f"{self.work}: not even one image fits into memory ({reason}): free memory on the device, or take "
                "another --device or a smaller network"
            )
        self.limit = (number + 1) // 2
        _free()

    def _tell(self, wanted: int) -> None:
        text = f"{self.work}: memory does not hold {wanted} images at a time; from now on {self.limit}"
        warnings.warn(f"{text} (last bits may differ from those of an undisturbed run)", RuntimeWarning, stacklevel=3)


def _free() -> None:
    gc.collect()
    with suppress(RuntimeError):  # refused while another thread captures a CUDA graph
        torch.cuda.empty_cache()


def _short(error: BaseException) -> str:
    """The beginning of what the error says, without the paragraphs of advice that torch adds."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else f"{words[:157]}..."
