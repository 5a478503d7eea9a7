"""Batches that memory does not hold: which errors mean that, how batches are cut, and that nothing holds the memory."""

import re
import threading
import warnings
import weakref
from itertools import chain

import numpy as np
import pytest
import torch

from torch_utils.memory import Batches, is_out_of_memory

CUDA_TEXT = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a capacity of 7.92 GiB of which 4.31 MiB is free. "
    "If reserved but unallocated memory is large try setting an allocator option to avoid fragmentation."
)


def cuda_allocator():
    raise torch.OutOfMemoryError(CUDA_TEXT)


def cublas():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def torch_on_cpu():
    torch.empty(10**15)


def numpy():
    np.zeros(10**15)


def torch_on_windows():
    raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000000000 bytes.")


def mps():
    raise RuntimeError("MPS backend out of memory (MPS allocated: 17.96 GB, max allowed: 18.13 GB).")


def metal():
    raise RuntimeError("Invalid buffer size: 24.03 GiB")


OUT_OF_MEMORY = [cuda_allocator, cublas, torch_on_cpu, torch_on_windows, mps, metal, numpy]


@pytest.mark.parametrize("fail", OUT_OF_MEMORY)
def test_what_is_out_of_memory(fail):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fail()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("CUDA error: out of memory"), OSError(12)]
)
def test_what_is_not(error):
    assert not is_out_of_memory(error)
    tried = []

    def work(part):
        tried.append(part)
        raise error

    with pytest.raises(type(error), match=re.escape(str(error))):
        Batches("sampling").run(work, 8, 8)
    assert len(tried) == 1


class Holding:
    """Work that fits up to `size` items; remembers what was tried."""

    def __init__(self, size, fail=cuda_allocator):
        self.size, self.fail = size, fail
        self.tried = []

    def __call__(self, part):
        self.tried.append(part.stop - part.start)
        if part.stop - part.start > self.size:
            self.fail()
        return list(range(part.start, part.stop))


@pytest.mark.parametrize(
    ("fail", "size", "tried", "limit"),
    [
        *((fail, 7, [13, 7, 6], 7) for fail in OUT_OF_MEMORY),
        (cuda_allocator, 13, [13], None),
        (cuda_allocator, 6, [13, 7, 4, 4, 4, 1], 4),
        (cuda_allocator, 1, [13, 7, 4, 2, *[1] * 13], 1),
    ],
)
def test_batches_are_halved_until_they_fit(fail, size, tried, limit):
    batches, work = Batches("sampling"), Holding(size, fail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results, reduced = batches.run(work, 13, 13)
    assert list(chain(*results)) == list(range(13)), "every item once, in order"
    assert work.tried == tried
    assert reduced == batches.limit == limit


def test_the_size_that_fits_is_kept_and_told_once():
    batches, work = Batches("decoding"), Holding(4)
    with pytest.warns(RuntimeWarning) as told:
        _, reduced = batches.run(work, 16, 16)
    assert reduced == 4
    (message,) = (str(warning.message) for warning in told)
    assert message.startswith("decoding: memory does not hold 16 images at a time; from now on 4 ")
    work.tried.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert batches.run(work, 9, 16)[1] == 4
        assert work.tried == [4, 4, 1]
        assert batches.run(work, 4, 16)[1] is None, "was done as asked"
        assert batches.run(work, 9, 2)[1] is None


def test_memory_that_shrinks_later_is_told_again():
    batches, work = Batches("sampling"), Holding(8)
    for size in (8, 2):
        work.size = size
        with pytest.warns(RuntimeWarning, match=f"hold 16 images at a time; from now on {size} "):
            results, reduced = batches.run(work, 16, 16)
        assert list(chain(*results)) == list(range(16))
        assert reduced == size


def test_one_item_too_many_says_what_to_do():
    with pytest.raises(
        RuntimeError, match=r"^sampling: not even one image fits into memory \(CUDA out of memory\. Tried"
    ):
        Batches("sampling").run(Holding(0), 8, 8)
    with pytest.raises(RuntimeError, match="--device") as caught:
        Batches("sampling").run(Holding(0), 1, 8)
    assert len(str(caught.value)) < 300, "torch's advice is left out"
    assert caught.value.__context__ is None, "it would hold the memory of the failed attempt"


def test_nothing_holds_the_memory_of_a_failed_attempt(monkeypatch):
    """Tensors of the frames that failed are gone, and the device's cache is emptied, before the next attempt."""
    emptied, held = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append([tensor() for tensor in held]))

    def work(part):
        activations = torch.zeros(part.stop - part.start, 1000)
        assert [tensor() for tensor in held] == [None] * len(held)
        if len(activations) > 2:
            held.append(weakref.ref(activations))
            activations.cycle = activations  # as frames and closures do: only the garbage collector frees this
            cuda_allocator()

    with pytest.warns(RuntimeWarning):
        Batches("sampling").run(work, 8, 8)
    assert emptied == [[None], [None, None]]


def test_a_cache_that_cannot_be_emptied_stops_nothing(monkeypatch):
    def empty_cache():  # while another thread captures a CUDA graph
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    with pytest.warns(RuntimeWarning):
        results, reduced = Batches("decoding").run(Holding(4), 8, 8)
    assert (list(chain(*results)), reduced) == (list(range(8)), 4)


def test_work_that_memory_does_not_hold_beside_other_work_waits_for_it():
    """It is tried again alone before it is cut in two, and only then; meanwhile the other begins nothing."""
    sampling = Batches("sampling")
    decoding = Batches("decoding", beside=sampling)
    decodes, tried, order = threading.Event(), [], []
    failed = threading.Event()

    def decode(part):
        decodes.set()
        assert failed.wait(20)
        order.append("decoded")

    def sample(part):
        assert decodes.wait(20)
        tried.append(part.stop - part.start)
        if "decoded" not in order:
            failed.set()
            cuda_allocator()
        order.append("sampled")

    other = threading.Thread(target=lambda: decoding.run(decode, 4, 4))
    other.start()
    assert sampling.run(sample, 8, 8)[1] is None
    other.join()
    assert tried == [8, 8]
    assert order == ["decoded", "sampled"]
    with pytest.warns(RuntimeWarning):
        assert sampling.run(Holding(4), 8, 8)[1] == 4
    alone = Holding(2)
    with pytest.warns(RuntimeWarning):
        decoding.run(alone, 4, 4)
    assert alone.tried == [4, 2, 2], "nothing else was at work"
