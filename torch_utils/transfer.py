"""Tensors between host and device, such that a thread which keeps the device busy waits for nothing."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; on CUDA the copy is queued behind what the thread has asked for before."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A tensor on the CPU. On CUDA the thread sleeps until the stream is so far, and leaves its core to others."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    _event(tensor.device).synchronize()
    return host


class Queued:
    """What this thread has asked a device for until now, for another thread to go on with."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = _event(device) if device.type == "cuda" else None

    @contextmanager
    def after(self) -> Iterator[None]:
        """Waits for that, asleep. Inside, the thread waits for its own work alone, not for what the other has asked
        for since: on CUDA a second stream. It is through with what the other made when the block ends."""
        if self._event is None:
            yield
            return
        self._event.synchronize()
        stream = _second_stream(self._device)
        with torch.cuda.stream(stream):
            try:
                yield
            finally:
                stream.synchronize()


def _event(device: torch.device) -> torch.cuda.Event:
    """When all that the thread has asked for is done; who waits for it sleeps."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event


@functools.cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    """One, since each keeps memory for itself."""
    return torch.cuda.Stream(device)
