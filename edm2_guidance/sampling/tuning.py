"""How fast networks compute, and what is chosen by that where nobody says: their form, and images at a time.

Compiling takes a minute or more, for each number of images at a time. Networks are compiled where that saves several
times as much, by what is known of their cost; else they are prepared, which takes no time.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

import torch

from dnnlib import measured
from dnnlib.inference import COMPILED, PLAIN, PREPARED, Inference, precision_option
from dnnlib.terminal import is_verbose
from edm2_guidance.models.base import Classifier, Model
from edm2_guidance.models.edm2 import cannot_compile, compile_key
from torch_utils.distributed import device_name, wait_for
from torch_utils.memory import is_out_of_memory

#: Multiply-adds per second of the prepared form, roughly: they decide where a factor of two decides nothing.
_RATES = {"cpu": 1e11, "cuda": 5e13, "mps": 2e12}
_SAVED = 0.2  # of the time that the prepared form takes, by compiling
_COMPILE_SECONDS = {"cpu": 120.0, "cuda": 40.0}  # of a network, until it was measured here
_TIMES = 4.0  # that which compiling costs is to be saved
_GAINS = 1.03  # images per second of a doubled batch, to those of the batch
_MOST = 1024  # images at a time
_PATIENCE = 5.0  # seconds of one evaluation; of what takes longer, larger batches are not tried
_TRIES, _TIMED = 2, 0.3  # of each size, after one that is not timed: so many, and for so many seconds
_LOOKS = 2  # sizes in a row that gain nothing before larger ones are given up: machines are never quiet


class Generation(Protocol):
    """What is needed of `sampling.generation.Generation`, which says more."""

    @property
    def device(self) -> torch.device: ...
    @property
    def inference(self) -> Inference: ...
    @property
    def precision(self) -> str: ...
    def stages(self) -> Sequence[Self]: ...
    def networks(self) -> Mapping[str, Model | Classifier]: ...
    def evaluations_per_image(self) -> Mapping[str, int]: ...
    def evaluate(self, size: int) -> None: ...
    def in_form(self, form: str) -> Self: ...


def check_inference(inference: Inference, networks: Sequence[Model | Classifier], device: torch.device) -> None:
    """ValueError for a form that none of the networks has, a precision that one lacks, or what this machine cannot."""
    form, precision = inference.form, inference.precision
    if form not in (None, PLAIN) and not any(form in net.forms for net in networks if isinstance(net, Model)):
        raise ValueError(f"--form={form}: none of these networks has it; leave it out, or give --form={PLAIN}")
    if form == COMPILED and torch.are_deterministic_algorithms_enabled():
        raise ValueError(f"--form={COMPILED}: compiled code need not give the same bits: leave out --deterministic")
    reason = cannot_compile(device) if form == COMPILED else None
    if reason is not None:
        raise ValueError(f"--form={COMPILED}: {reason}; give --form={PREPARED}, or go on where it can be had")
    if precision == "tf32" and torch.are_deterministic_algorithms_enabled():
        raise ValueError("--precision=tf32: --deterministic is without TF32: leave one of them out")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"--precision=tf32 is of CUDA devices alone, and this is {device}: leave it out")
    for net in networks:
        has = net.precisions if isinstance(net, Model) else (net.precision,)
        if precision is not None and precision not in has:
            given, known = precision_option(precision), ", ".join(map(precision_option, has))
            cure = "leave it out" if len(has) == 1 else "give one of these, or leave it out"
            raise ValueError(f"--precision={given}: {net.source} computes in {known} on {device}; {cure}")


def fast_form(generation: Generation, images: int, batch: int) -> str:
    """The form that is faster for so many images, `batch` at a time, on this device."""
    stages = generation.stages()
    models = {id(net): net for stage in stages for net in stage.networks().values() if isinstance(net, Model)}
    ours = [net for net in models.values() if PREPARED in net.forms]
    if not ours:
        return PLAIN
    if torch.are_deterministic_algorithms_enabled():
        return PREPARED
    usual = _COMPILE_SECONDS.get(generation.device.type, 120.0)
    costs = [measured.find("compile_seconds", compile_key(net, batch)) or usual for net in ours]
    needed = _TIMES * sum(costs) / _SAVED * _RATES.get(generation.device.type, 1e11) / images  # per image, at least
    # A weight multiplies once for each position at most: of short work nobody needs to know the cost in full.
    if _multiply_adds(stages, lambda net: net.num_parameters * net.shape[1] * net.shape[2]) < needed:
        return PREPARED
    if cannot_compile(generation.device) is not None:
        return PREPARED
    return COMPILED if _multiply_adds(stages, lambda net: net.multiply_adds) >= needed else PREPARED


def _multiply_adds(stages: Sequence[Generation], of: Callable[[Model], int]) -> int:
    """Of one image, by the networks that have another form than the plain one. of: one evaluation."""
    evaluations = [(stage.evaluations_per_image(), stage.networks()) for stage in stages]
    each = ((counts[name], net) for counts, networks in evaluations for name, net in networks.items())
    return sum(count * of(net) for count, net in each if isinstance(net, Model) and PREPARED in net.forms)


def fast_batch(generation: Generation, most: int) -> int:
    """The largest power of two of images at a time, up to `most`, that memory holds, and faster than all smaller ones.

    Found by a few evaluations of each network at each size, from one image on, and kept for the next time. Where they
    are compiled, which takes long for every size, they are timed as they are prepared. --verbose says that it begins.
    """
    networks = [net for stage in generation.stages() for net in stage.networks().values()]
    what = " ".join(str(net.identity["sha256"])[:16] for net in networks)
    form, precision = generation.inference.form, generation.precision
    key = f"{device_name(generation.device)} torch {torch.__version__} {form} {precision} {what}"
    limit = min(_MOST, 1 << (most.bit_length() - 1))
    of_few = f"{key} up to {limit}"  # what is best of more may be larger
    known = measured.find("batch", key) or measured.find("batch", of_few)
    if known is None or known < 1:
        if is_verbose():
            print(f"--batch=auto: timing the networks, up to {limit} images at a time", file=sys.stderr)
        known, is_best = _timed_batch(generation, limit)
        measured.keep("batch", key if is_best else of_few, known)
    return min(int(known), limit)


def _timed_batch(generation: Generation, limit: int) -> tuple[int, bool]:
    """The best size up to a limit, and whether it is known to be the best of all."""
    if generation.inference.form == COMPILED:
        generation = generation.in_form(PREPARED)
    best, rate, size = 1, 0.0, 1
    is_best = limit == _MOST
    while size <= limit:
        seconds = _seconds(generation, size)
        if seconds is not None and size / seconds >= _GAINS * rate:
            best, rate = size, size / seconds
        size *= 2
        if seconds is None or seconds > _PATIENCE or size > best << _LOOKS:
            is_best = True
            break
    if generation.device.type == "cuda":
        torch.cuda.empty_cache()
    return best, is_best


def _seconds(generation: Generation, size: int) -> float | None:
    """Of one evaluation of every network for so many images; None if memory does not hold them."""
    tries: list[float] = []
    try:
        while len(tries) <= _TRIES or sum(tries[1:]) < _TIMED:
            begun = time.perf_counter()
            for stage in generation.stages():
                stage.evaluate(size)
            wait_for(generation.device)
            tries.append(time.perf_counter() - begun)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    return min(tries[1:])
