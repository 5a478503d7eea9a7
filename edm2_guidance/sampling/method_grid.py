"""The pictures of a grid: methods by weights or classes, the same seeds everywhere."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from edm2_guidance.sampling.generation import Generation


def sample_cells(
    generations: Sequence[Generation],
    seeds: Sequence[int],
    batch: int | None,
    progress: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Sample cells of a grid, each with all seeds: uint8 [seeds, 3, H, W].

    Cells that describe the same images are sampled once, such as weight 1, which is the main network alone.
    """
    made: dict[str, Tensor] = {}
    for generation in generations:
        key = generation.recipe.hash
        if key not in made:
            made[key] = torch.cat([part.images for part in generation.images(seeds, batch)])
        if progress is not None:
            progress(len(seeds))
    return [made[generation.recipe.hash] for generation in generations]


def sample_pictures(
    generations: Sequence[Generation],
    seeds: Sequence[int],
    batch: int | None,
    progress: Callable[[int], None] | None = None,
) -> list[Image.Image]:
    """The images of one row of cells in a line: setting by setting, within a setting seed by seed."""
    return tiles(torch.cat(sample_cells(generations, seeds, batch, progress)))


def check_blend(generation: Generation) -> None:
    """ValueError if a blend of CFG and autoguidance has its two guides the wrong way round."""
    pairs = zip(generation.recipe.guides, generation.guides, strict=True)
    (first, told), (second, also) = (
        (guide, str(guide.reference) != "unconditional" and (model or generation.main).num_classes > 0)
        for guide, model in pairs
        if not guide.of_classifier
    )
    if told and not also:
        raise ValueError(
            f"alpha = 0 is guidance by the first guide, CFG in the papers: give {second.name} before {first.name}"
        )


def tiles(images: Tensor) -> list[Image.Image]:
    """Images uint8 [N, 3, H, W] as pictures."""
    return [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]


def block(images: Tensor, across: int | None = None) -> list[list[Image.Image]]:
    """Images uint8 [N, 3, H, W] as lines of pictures for one cell.

    across: how many in a line, a divisor of N; None for as near to a square as N divides into.
    """
    pictures = tiles(images)
    if across is None:
        across = min(n for n in range(1, len(pictures) + 1) if len(pictures) % n == 0 and n * n >= len(pictures))
    return [pictures[start : start + across] for start in range(0, len(pictures), across)]
