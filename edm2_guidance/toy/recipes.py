"""The toy by recipes: whatever guides images guides points too, which are images of two channels and one pixel."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.parts import Step
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.scoring import Sampler

_AT_ONCE = 4096  # points; no batch changes a point


class Points:
    """A network of the toy as those of images are (`models.base.Model`). x [N, 2, 1, 1]: its channels are the axes."""

    shape = (2, 1, 1)
    supports = frozenset({"gradients"})

    def __init__(self, net: ToyModel) -> None:
        self.net = net.requires_grad_(False)
        weights = (values.cpu().numpy().tobytes() for values in net.state_dict().values())
        self.identity = {"sha256": hashlib.sha256(b"".join(weights)).hexdigest()}

    def predict(self, x: Tensor, sigma: Tensor, y: Any) -> Tensor:
        """D(x; sigma) [N, 2, 1, 1], which can be differentiated if x can. y: None, for points have no classes."""
        wanted = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            leaf = x if wanted else x.detach().requires_grad_()
            (score,) = torch.autograd.grad(self.net(leaf.flatten(1), sigma).sum(), leaf, create_graph=wanted)
        denoised: Tensor = x + sigma**2 * score
        return denoised

    def decode(self, latents: Tensor) -> Tensor:
        """ValueError: there is nothing to see."""
        raise ValueError("points are no pixels: ask for their latents")


def network(net: ToyModel) -> NetworkRef:
    """A network of the toy for recipes."""
    return NetworkRef.of(Points(net))


def sample(recipe: Recipe, num: int, seed: int) -> Tensor:
    """Points of a recipe, float32 [num, 2], each a function of its number seed * num + i.

    ValueError for a recipe that points cannot be made by.
    """
    images = open_recipe(recipe, "cpu").images(range(seed * num, (seed + 1) * num), _AT_ONCE)
    return torch.cat([made.values.flatten(1) for made in images.latents()]).float()


def samplers(recipes: Mapping[str, Recipe]) -> dict[str, Sampler]:
    """Recipes by name as samplers that `scoring.score_methods` takes."""
    return {name: functools.partial(sample, recipe) for name, recipe in recipes.items()}


def paths(recipe: Recipe, seeds: Sequence[int]) -> Tensor:
    """Where the points of these seeds are after each step, float32 [num_steps, N, 2]. ValueError as above.

    Where noise is added on the way, since that was done last, from there: [1 + steps of the last leg, N, 2].
    """
    steps: list[Step] = []
    for _ in open_recipe(recipe, "cpu").images(seeds, len(seeds), watch=steps.append).latents():
        pass
    noisy = [index for index, step in enumerate(steps) if step.info.renoise > 0]
    last = steps[noisy[-1] :] if noisy else steps
    places = [*([last[0].start] if noisy else []), *(step.x for step in last)]
    return torch.stack([place.flatten(1) for place in places]).float()
