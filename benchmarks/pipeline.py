"""Up to which rate of a network all that is behind it keeps up: `python -m benchmarks.pipeline`.

A stub takes a set time per image, asleep, as a network on a GPU does; its 512x512 images go the whole way into shards
of a ZIP. Per rate: the share of the time, from the first evaluation to the last, in which the network was at work, in
turn with the way of one thread alone; and the stage that was busiest, which limits where the share is low.

Other work on the cores lowers the shares. What it does not change is how many images per second the cores could finish
if they did nothing else, by the processor time of an image: no rate beyond that can be kept up with.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from edm2_guidance.images.pool import OrderedPool, usable_cores
from edm2_guidance.images.zips import ZipWriter
from edm2_guidance.models.base import Model, Prediction
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import GeneratedImages
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.work import zip_output
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.shards import ShardFolder
from edm2_guidance.work.zip_output import ZipOutput

if TYPE_CHECKING:
    from benchmarks.side_by_side import Options, Result

RATES = (10.0, 20.0, 40.0, 60.0, 80.0, 120.0)  # images per second
KEEPS_UP = 0.95
BATCH, SHARD = 8, 32
STEPS, EVALUATIONS = 4, 7


class Stub(Model):
    """A network of latents whose evaluations take no core; its images cost as much to encode as photographs."""

    source, device, shape, image_size = "stub", torch.device("cpu"), (4, 64, 64), 512

    def __init__(self, rate: float) -> None:
        """rate: images per second."""
        self.identity = {"sha256": "0" * 64}
        self.spans: list[tuple[float, float]] = []  # of evaluations
        self._seconds = 1 / rate / EVALUATIONS
        draws = torch.Generator().manual_seed(0)
        rough = [torch.rand(8, 3, size, size, generator=draws) for size in (8, 64, 256)]
        smooth = [functional.interpolate(each, 512, mode="bilinear") for each in rough]
        self._pictures = (torch.stack(smooth).sum(dim=0) * 85).to(torch.uint8)

    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        began = time.perf_counter()
        time.sleep(self._seconds * len(x))
        self.spans.append((began, time.perf_counter()))
        return Prediction(x / (1 + sigma))

    def load_decoder(self, *, offline: bool = False) -> None:
        self.identity["encoder"] = {"class": "stub"}

    def decode(self, latents: Tensor) -> Tensor:
        return self._pictures[torch.arange(len(latents)) % len(self._pictures)]

    def share(self) -> float:
        """Of the time from the first evaluation to the last, that in which it was at work."""
        return sum(end - began for began, end in self.spans) / (self.spans[-1][1] - self.spans[0][0])


@contextmanager
def watched(seconds: dict[str, float]) -> Iterator[None]:
    """Adds up how long threads are in each stage."""
    stages = {
        "decoding": (GeneratedImages, "_finish"),
        "encoding": (zip_output, "png_bytes"),
        "writing": (ZipWriter, "add"),
        "syncing": (os, "fsync"),
    }
    lock = threading.Lock()

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with lock:
                    seconds[stage] += time.perf_counter() - began

        return call

    with ExitStack() as stack:
        for stage, (owner, name) in stages.items():
            stack.enter_context(patch.object(owner, name, timed(stage, getattr(owner, name))))
        yield


class Measured(NamedTuple):
    """share: of the network. busy: share of each stage behind it. most: images per second that the cores could do."""

    share: float
    busy: Mapping[str, float]
    most: float


def measured(rate: float, seconds: float, *, apart: bool = True) -> Measured:
    """At this rate, for about so many seconds. apart: with a thread that finishes what is sampled, as in use."""
    stub, busy = Stub(rate), defaultdict[str, float](float)
    generation = open_recipe(Recipe(NetworkRef.of(stub), num_steps=STEPS), "cpu")
    count = max(2 * SHARD, round(rate * seconds / BATCH) * BATCH)
    with tempfile.TemporaryDirectory() as folder, watched(busy):
        plan = ShardPlan(tuple(range(count)), SHARD)
        output = ZipOutput(Path(folder) / "a.zip", plan, generation.recipe, Run(BATCH))
        assert isinstance(output.work, ShardFolder)
        output.work.finished_apart = apart
        began = time.process_time()
        with patch.object(output, "join", lambda: output.path):  # which is no part of the way of a shard
            complete(output, partial(generation.images, batch=BATCH))
        processor = time.process_time() - began
    elapsed = stub.spans[-1][1] - stub.spans[0][0]
    threads = {"encoding": OrderedPool[None]().threads}
    shares = {stage: each / elapsed / threads.get(stage, 1) for stage, each in busy.items()}
    return Measured(stub.share(), shares, usable_cores() * count / processor)


class Row(NamedTuple):
    """Of one rate: shares with a thread behind and with one alone, in turn; the busiest stage; `Measured.most`."""

    rate: float
    apart: list[float]
    alone: list[float]
    stage: str
    most: float


def swept(rates: Sequence[float], seconds: float, rounds: int) -> Iterator[Row]:
    """A row per rate."""
    for rate in rates:
        pairs = [(measured(rate, seconds), measured(rate, seconds, apart=False)) for _ in range(rounds)]
        both, single = zip(*pairs, strict=True)
        busy = {stage: statistics.median(each.busy[stage] for each in both) for stage in both[0].busy}
        stage = max(busy, key=lambda name: busy[name])
        most = statistics.median(each.most for each in both)
        shares = [each.share for each in both], [each.share for each in single]
        yield Row(rate, *shares, f"{stage}, {min(1.0, busy[stage]):.0%}", most)


def run(options: "Options") -> "Iterator[Result]":
    """As a stage of `python -m benchmarks`."""
    from benchmarks.side_by_side import Result

    rounds, seconds, rates = (1, 1.0, RATES[1:2]) if options.quick else (3, 3.0, RATES)
    for row in swept(rates, seconds, rounds):
        ratios = sorted(one / other for one, other in zip(row.apart, row.alone, strict=True))
        share = f"{statistics.median(row.apart):.0%} of the network's own rate"
        note = f"{share}; busiest behind it: {row.stage}; the cores could do {row.most:.3g} images/s"
        yield Result(
            "pipeline", f"512x512 to a ZIP, {row.rate:g} images/s", "a thread behind", "one thread",
            times=statistics.median(ratios), low=ratios[0], high=ratios[-1], rounds=rounds, note=note,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default=",".join(map("{:g}".format, RATES)), help="images per second, rising")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement, about")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates = [float(text) for text in options.rates.split(",")]
    print(f"512x512 to shards of a ZIP, batch {BATCH}, {OrderedPool[None]().threads} threads encode")
    print("| images/s | of the network's own rate | with one thread | busiest behind it | the cores could do |")
    print("|---|---|---|---|---|")
    kept = 0.0
    for row in swept(rates, options.seconds, options.rounds):
        share = statistics.median(row.apart)
        kept = max(kept, row.rate) if share >= KEEPS_UP else kept
        spread = f"{share:.0%} ({min(row.apart):.0%} to {max(row.apart):.0%})"
        alone = f"{statistics.median(row.alone):.0%}"
        print(f"| {row.rate:g} | {spread} | {alone} | {row.stage} | {row.most:.3g} images/s |", flush=True)
    print(f"keeps up ({KEEPS_UP:.0%}) up to {kept:g} images/s")


if __name__ == "__main__":
    main()
