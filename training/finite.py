"""Losses, gradients and weights that are not finite: noticed in every step of a training run.

A gradient that is not finite counts as 0, so a single step that overflows does no harm. Many of them mean that nothing
is learned any more, without any other sign.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

#: So many steps in a row with a loss that is not finite, or without any gradient to learn from, end a run.
LOST_STEPS = 3
#: So many steps in a row in which a part of the gradients overflows end it, too: that part learns nothing.
OVERFLOW_STEPS = 100
#: Adam keeps squares of gradients, and the square of a larger one is beyond float32.
LARGEST_GRADIENT = 1e19


class NotFiniteError(ArithmeticError):
    """Training ended because loss, gradients or weights are not finite: the message says what can be done."""


def gradient_flags(gradients: list[Tensor]) -> Tensor:
    """Whether some gradient overflowed, and whether none of them can be learned from: float32 [2] of 0 and 1.

    A tensor can be learned from if it is finite, within `LARGEST_GRADIENT`, and not 0 everywhere.
    """
    largest = _largest(gradients)
    finite = largest <= LARGEST_GRADIENT  # False for NaN
    return torch.stack([~finite.all(), ~(finite & (largest > 0)).any()]).float()


def not_finite_flag(tensors: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """1 if a value in them is not finite in this type, else 0: float32 [1]."""
    return (~_largest(list(tensors)).to(dtype).isfinite().all()).float().reshape(1)


@torch.no_grad()
def _largest(tensors: list[Tensor]) -> Tensor:
    """Largest magnitude in each tensor, NaN where there is one; float32 [number of tensors]."""
    if tensors[0].is_cuda:  # one kernel; on the CPU it takes eight times as long as what follows
        return torch.stack(torch._foreach_norm(tensors, float("inf"))).float()
    return torch.stack([tensor.abs().max() for tensor in tensors]).float()


class Behind:
    """Flags of steps, read one step late on CUDA, where the next step is already begun: so that none waits."""

    def __init__(self, device: torch.device) -> None:
        self._lag = 1 if device.type == "cuda" else 0
        self._steps: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, images_seen: int, flags: Tensor) -> None:
        """Those of the step that ended at `images_seen` images: 0, or above where one is up, [number of flags]."""
        copied = None
        here = flags.to("cpu", non_blocking=flags.is_cuda)
        if flags.is_cuda:
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(flags.device))
        self._steps.append((images_seen, here, copied))

    def read(self, everything: bool) -> Iterator[tuple[int, list[bool]]]:
        """Images seen and flags of the steps not read yet, oldest first; the newest only if `everything` is asked."""
        while len(self._steps) > (0 if everything else self._lag):
            images_seen, flags, copied = self._steps.popleft()
            if copied is not None:
                copied.synchronize()
            yield images_seen, [flag > 0 for flag in flags.tolist()]


class StepWatch:
    """Counts steps that went wrong, and ends the run when it is no use to go on."""

    def __init__(self, steps: int) -> None:
        """steps: how many are to be taken; if fewer than `LOST_STEPS`, that many lost ones are the limit."""
        self._limit = max(min(LOST_STEPS, steps), 1)
        self._lost = self._overflowed = 0

    @property
    def losing(self) -> bool:
        """Whether the last step was lost."""
        return self._lost > 0

    def after_step(self, loss: bool, overflow: bool, nothing: bool, weights: bool) -> str | None:
        """Take note of a step; why the run cannot go on, or None if it can.

        loss: it is not finite; overflow: some gradients are not; nothing: no gradient can be learned from; weights:
        some are not finite. The same on all workers.
        """
        self._overflowed = self._overflowed + 1 if overflow else 0
        self._lost = self._lost + 1 if loss or nothing else 0
        if weights:
            return "weights are not finite"
        if self._lost >= self._limit:
            what = "a loss that is not finite" if loss else "no finite gradient" if overflow else "no gradient above 0"
            return f"{self._lost} steps in a row with {what}, which is the limit"
        if self._overflowed >= OVERFLOW_STEPS:
            return f"{OVERFLOW_STEPS} steps in a row with gradients that overflow in part, which is the limit"
        return None


def explain(reason: str, images_seen: int, last: str | None) -> str:
    """The message at the end of such a run. last: its last sound checkpoint, None if there is none."""
    here = "There is no checkpoint yet" if last is None else f"The last sound checkpoint is {last}"
    again = "The same command goes on from there, which helps if a device erred; else start"
    start = "Start" if last is None else again
    return (
        f"training stopped at {images_seen / 1000:.1f} kimg: {reason}. Nothing was written from these steps. {here}. "
        f"{start} in another --outdir with a lower --lr, a longer --rampup, another --ls (smaller where gradients "
        "overflow, larger where they vanish) or --fp16=False"
    )
