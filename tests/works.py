"""What tests of long work share: stated recipes, images of seeds, other processes, a result without a ledger."""

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.metrics.score_output import measured
from edm2_guidance.work import lease

ELSEWHERE = "elsewhere.17.0123abcd"  # a process of another machine
SEEDS = (4, 5, 6, 7, 0, 1, 2, 9, 8, 30)  # three full shards of 3, one of 1


@dataclass(frozen=True)
class Stated:
    """A recipe of any content, for works that are made of something else than networks."""

    hash: str
    content: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return self.content


def pixels(seed, size=6):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, [3, size, size], dtype=np.uint8))


class Generated:
    """A source whose images and labels depend on the seed alone, like generated ones."""

    def __init__(self, seeds, batch=2, labels=True, size=6):
        self.seeds, self.batch, self.labels, self.size = tuple(seeds), batch, labels, size
        self.num_images = len(self.seeds)

    def __len__(self):
        return -(-len(self.seeds) // self.batch)

    def __iter__(self):
        for start in range(0, len(self.seeds), self.batch):
            seeds = self.seeds[start : start + self.batch]
            labels = tuple(seed % 7 for seed in seeds) if self.labels else None
            yield ImageBatch(torch.stack([pixels(seed, self.size) for seed in seeds]), seeds, labels)


@contextmanager
def held(folder, name):
    """A lease of another process of this machine, which lives during the block; gives its number."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        host, _, token = lease.owner().split(".")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.0.claim").write_text(f"{host}.{process.pid}.{token}")
        yield process.pid


def left(folder, name):
    """A lease of a process that has ended."""
    with held(folder, name):
        pass


class MomentsOutput:
    """The moments of all images as the result, which is kept nowhere."""

    def __init__(self, work, detectors):
        self.work, self.detectors = work, detectors

    def find(self):
        self.work.check()

    def join(self):
        made = measured(self.work, self.detectors)
        self.work.lease.check()
        return made
