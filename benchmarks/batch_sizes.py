"""How far samples of the same seeds lie apart across batch sizes on this device: `python -m benchmarks.batch_sizes`.

Noise and labels are the same bits; what differs is the order in which a device adds up. Prints, per method and pair
of batch sizes, the largest difference of the samples (float32 in [-1, 1]), then of the pixels, in levels of 8 bits,
and the share of pixel values (3 per pixel) that differ.
"""

import argparse
import itertools

import torch
from torch import Tensor

from dnnlib.places import EMBEDDED
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import Generation, sample
from edm2_guidance.sampling.opening import open_recipe

SIZES = (1, 3, 64)


def recipes() -> dict[str, Recipe]:
    """The shipped digits, unguided and by autoguidance."""
    main, weak = (NetworkRef(str(EMBEDDED / f"mnist16-{kind}.pkl")) for kind in ("cond", "weak"))
    steps = 16
    return {
        "unguided": Recipe(main, num_steps=16),
        "autoguidance, w = 1.5": Recipe(main, (Guide(weak, constant(1.5)),), steps),
    }


def made(generation: Generation, num: int, batch: int) -> Tensor:
    """Samples of seeds 0 to num - 1, float32 [num, 3, H, W] in about [-1, 1], before they are rounded to levels."""
    batches = [range(start, min(start + batch, num)) for start in range(0, num, batch)]
    return torch.cat([sample(generation, seeds)[0].cpu() for seeds in batches])


def difference(generation: Generation, a: Tensor, b: Tensor) -> str:
    """The largest difference of two sets of samples and of their pixels, and the share of pixel values that differ."""
    first, second = (generation.decode(each.to(generation.device))[0].int() for each in (a, b))
    levels = (first - second).abs()
    share = float((levels > 0).double().mean())
    return f"at most {float((a - b).abs().max()):.1e}; {int(levels.max())} of 255, {share:.5%} of values"


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
            print(f"{name:24} batch {first:2} and {second:2}: {difference(generation, images[first], images[second])}")
        again = made(generation, options.num, SIZES[-1])
        same = torch.equal(images[SIZES[-1]], again)
        print(f"{name:24} batch {SIZES[-1]} twice: {'the same bits' if same else 'other bits'}")


if __name__ == "__main__":
    main()
