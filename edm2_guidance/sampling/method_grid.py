"""The pictures of a grid: methods by weights or classes, the same seeds everywhere."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from edm2_guidance.models.base import Classifier
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
    guides = zip(generation.recipe.guides, generation.guides, strict=True)
    of_networks = [(guide, model) for guide, model in guides if not isinstance(model, Classifier)]
    if any(model is None and guide.reference.kind != "unconditional" for guide, model in of_networks):
        raise ValueError("a blend needs two guiding networks: give --gnet twice")
    first, second = (
        guide.reference.kind == "unconditional" or (model is not None and model.num_classes == 0)
        for guide, model in of_networks
    )
    if second and not first:
        names = [guide.name if guide.net is None else guide.net.source for guide, _ in of_networks]
        raise ValueError(
            f"alpha = 0 is guidance by the first guide, CFG in the papers: give {names[1]} before {names[0]}"
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
