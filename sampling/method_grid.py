"""The pictures of a grid: methods by weights, methods by classes, the same seeds everywhere."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from images.recipe import Recipe
from sampling.generation import Generation

Opener = Callable[[Recipe], Generation]


def sample_cells(
    rows: Sequence[Recipe],
    columns: Sequence[Callable[[Recipe], Recipe]],
    seeds: Sequence[int],
    batch: int,
    open_: Opener,
) -> Iterator[tuple[int, int, Tensor]]:
    """Sample every cell: (row, column, images uint8 [seeds, 3, H, W]), row by row.

    A column changes the recipe of its row, such as its weight or class. Every network is checked before the first
    image is made. Cells whose recipes are the same (weight 1 is always the main network alone) are sampled once.
    """
    generations = [[open_(column(row)) for column in columns] for row in rows]
    made: dict[str, Tensor] = {}
    for i, line in enumerate(generations):
        for j, generation in enumerate(line):
            key = generation.recipe.without_idle_guides().hash
            if key not in made:
                made[key] = _sample(generation, seeds, batch)
            yield i, j, made[key]


def _sample(generation: Generation, seeds: Sequence[int], batch: int) -> Tensor:
    return torch.cat([part.images for part in generation.images(seeds, batch)])
