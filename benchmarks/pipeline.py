"""Up to which rate of a network all that is behind it keeps up: `python -m benchmarks.pipeline`.

A stub takes a set time per image, asleep, as a network on a GPU does; its 512x512 images go the whole way into shards
of a ZIP. Per rate: the share of the time, from the first evaluation to the last, in which the network was at work, in
turn with the way of one thread alone; and the stage that was busiest, which limits where the share is low.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from edm2_guidance.images.pool import OrderedPool
from edm2_guidance.images.zips import ZipWriter
from edm2_guidance.models.base import Model, Prediction
from edm2_guidance.recipe.recipe import NetworkRef, Recipe
from edm2_guidance.sampling.generation import GeneratedImages, open_recipe
from edm2_guidance.work import zip_output
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.shards import ShardFolder
from edm2_guidance.work.zip_output import ZipOutput

if TYPE_CHECKING:
    from benchmarks.side_by_side import Options, Result

RATES = (10.0, 20.0, 40.0, 60.0, 80.0, 120.0)  # images per second
KEEPS_UP = 0.95
BATCH, SHARD = 16, 64
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
def watched(seconds: Counter[str]) -> Iterator[None]:
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


def measured(rate: float, seconds: float, *, apart: bool = True) -> tuple[float, dict[str, float]]:
    """The share of the network in the time, and that of each stage, at this rate for about so many seconds.

    apart: with a thread that finishes what is sampled, as in use.
    """
    stub, busy = Stub(rate), Counter[str]()
    generation = open_recipe(Recipe(NetworkRef.of(stub), num_steps=STEPS), "cpu")
    count = max(2 * SHARD, round(rate * seconds / BATCH) * BATCH)
    with tempfile.TemporaryDirectory() as folder, watched(busy):
        plan = ShardPlan(tuple(range(count)), SHARD)
        output = ZipOutput(Path(folder) / "a.zip", plan, generation.recipe, Run(BATCH))
        assert isinstance(output.work, ShardFolder)
        output.work.finished_apart = apart
        with patch.object(output, "join", lambda: output.path):  # which is no part of the way of a shard
            complete(output, partial(generation.images, batch=BATCH))
    elapsed = stub.spans[-1][1] - stub.spans[0][0]
    threads = Counter({"encoding": OrderedPool[None]().threads})
    return stub.share(), {stage: each / elapsed / max(1, threads[stage]) for stage, each in busy.items()}


def swept(rates: Sequence[float], seconds: float, rounds: int) -> Iterator[tuple[float, list[float], list[float], str]]:
    """Per rate: the shares with a thread behind and without, in turn, and the busiest stage with its share."""
    for rate in rates:
        pairs = [(measured(rate, seconds), measured(rate, seconds, apart=False)) for _ in range(rounds)]
        stages = Counter[str]()
        for (_, busy), _ in pairs:
            stages.update({stage: share / rounds for stage, share in busy.items()})
        ((stage, share),) = stages.most_common(1)
        shares = [with_it for (with_it, _), _ in pairs], [without for _, (without, _) in pairs]
        yield rate, *shares, f"{stage} {share:.0%}"


def run(options: "Options") -> "Iterator[Result]":
    """As a stage of `python -m benchmarks`."""
    from benchmarks.side_by_side import Result

    rounds, seconds = (1, 1.0) if options.quick else (3, 3.0)
    for rate, apart, alone, stage in swept(RATES[:2] if options.quick else RATES, seconds, rounds):
        ratios = sorted(one / other for one, other in zip(apart, alone, strict=True))
        share = statistics.median(apart)
        note = f"{share:.0%} of the network's own rate; busiest behind it: {stage}"
        yield Result(
            "pipeline", f"512x512 to a ZIP, {rate:g} images/s", "a thread behind", "one thread",
            times=statistics.median(ratios), low=ratios[0], high=ratios[-1], rounds=rounds, note=note,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default=",".join(map("{:g}".format, RATES)), help="images per second, rising")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement, about")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"512x512 to shards of a ZIP, batch {BATCH}, {OrderedPool[None]().threads} threads encode")
    print("| images/s | reached | of the network's own rate | with one thread | busiest behind the network |")
    print("|---|---|---|---|---|")
    kept = 0.0
    for rate, apart, alone, stage in swept(
        [float(text) for text in options.rates.split(",")], options.seconds, options.rounds
    ):
        share = statistics.median(apart)
        kept = max(kept, rate) if share >= KEEPS_UP else kept
        spread = f"{share:.0%} ({min(apart):.0%} to {max(apart):.0%})"
        print(f"| {rate:g} | {rate * share:.3g} | {spread} | {statistics.median(alone):.0%} | {stage} |", flush=True)
    print(f"kept up ({KEEPS_UP:.0%}) up to {kept:g} images/s")


if __name__ == "__main__":
    main()
