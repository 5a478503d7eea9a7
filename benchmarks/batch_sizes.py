#!/usr/bin/env python3
"""How far the pixels of the same seeds lie apart across batch sizes on this device: `python benchmarks/batch_sizes.py`.

Noise and labels are the same bits; what differs is the order in which a device adds up. Prints, per method and pair
of batch sizes, the largest difference in levels of 8 bits and the share of values (of 3 per pixel) that differ.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from images.recipe import GuideSpec, NetworkRef, Recipe, SamplerSpec
from papers.presets import PRETRAINED
from sampling.generation import Generation, open_recipe

SIZES = (1, 3, 64)


def recipes() -> dict[str, Recipe]:
    """The shipped digits, unguided and by autoguidance."""
    main, weak = (NetworkRef(str(PRETRAINED / f"mnist16-{kind}.pkl")) for kind in ("cond", "weak"))
    steps = SamplerSpec(16)
    return {
        "unguided": Recipe(main, sampler=steps),
        "autoguidance, w = 1.5": Recipe(main, (GuideSpec(weak, 1.5),), steps),
    }


def made(generation: Generation, num: int, batch: int) -> Tensor:
    """Seeds 0 to num - 1, int16 [num, 3, H, W]."""
    return torch.cat([part.images for part in generation.images(range(num), batch)]).to(torch.int16)


def difference(a: Tensor, b: Tensor) -> tuple[int, float]:
    """The largest difference in levels, and the share of values that differ."""
    apart = (a - b).abs()
    return int(apart.max()), float((apart > 0).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=64, help="images")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    print(f"{options.num} digits, 16 steps, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, recipe in recipes().items():
        generation = open_recipe(recipe, options.device)
        images = {size: made(generation, options.num, size) for size in SIZES}
        for first, second in itertools.combinations(SIZES, 2):
            levels, share = difference(images[first], images[second])
            print(f"{name:24} batch {first:2} and {second:2}: at most {levels} of 255, {share:.5%} of values differ")
        levels, _ = difference(images[SIZES[-1]], made(generation, options.num, SIZES[-1]))
        print(f"{name:24} batch {SIZES[-1]} twice: {'the same bytes' if levels == 0 else f'{levels} apart'}")


if __name__ == "__main__":
    main()
