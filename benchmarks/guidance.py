#!/usr/bin/env python3
"""How long sampling takes, side by side: `make bench`. Prints ratios to unguided sampling, measured in one run."""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from dnnlib.places import EMBEDDED
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Guide, NetworkRef, Recipe, StepInterval
from edm2_guidance.sampling.generation import open_recipe, sample

SEEDS = list(range(64))
REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """Median wall time of several calls after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def cases() -> dict[str, Recipe]:
    main, unconditional = (NetworkRef(str(EMBEDDED / f"mnist16-{kind}.pkl")) for kind in ("cond", "uncond"))
    steps = 16
    return {
        "unguided": Recipe(main, num_steps=16),
        "guided at all steps": Recipe(main, (Guide(unconditional, constant(1.5)),), steps),
        "guided at steps 6-11": Recipe(main, (Guide(unconditional, constant(1.5), StepInterval(6, 11)),), steps),
        "a guide that is off": Recipe(main, (Guide(unconditional, constant(1.0)),), steps),
        "float64 state": Recipe(main, num_steps=16, dtype="float64"),
    }


def main() -> None:
    reference = None
    print(f"{len(SEEDS)} digits, 16 steps, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, recipe in cases().items():
        generation = open_recipe(recipe)
        duration = seconds(partial(sample, generation, SEEDS))
        reference = reference or duration
        evaluations = sum(generation.evaluations_per_image().values())
        print(f"{name:24}{duration / reference:6.2f} x unguided   {evaluations} evaluations per image")


if __name__ == "__main__":
    main()
