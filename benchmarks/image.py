"""Whole images: Heun's method under guidance, in an interval and prepared, beside guiding everywhere, plainly."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import PUBLISHED, network
from benchmarks.plain_network import plain
from benchmarks.side_by_side import Options, Result, Way, compare
from dnnlib.inference import Inference
from edm2_guidance.models.edm2 import Edm2Model
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.generation import Generation
from edm2_guidance.sampling.opening import open_recipe
from training.encoders import StandardRGBEncoder
from training.network_io import NetworkFile

WEIGHT = 1.5
PUBLISHED["S, pixels"] = {**PUBLISHED["S"], "img_channels": 3}  # of ImageNet at 64x64, which needs no VAE

Denoiser = Callable[..., Any]


def run(options: Options) -> Iterator[Result]:
    """32 steps of which 17 to 22 are guided, by a network of the main one's size: 63 + 12 evaluations, not 126."""
    steps, guided, batch = (4, (2, 2), 4) if options.quick else (32, (17, 22), 16)
    pairs = [("mnist16-cond", "mnist16-uncond")]
    if options.device.type == "cuda":
        pairs.append(("S, pixels", "S, pixels"))
    for names in pairs:
        yield from _images(names, steps, StepInterval(*guided), range(batch), options)


def usual(device: torch.device) -> str:
    """The precision that networks were published with on this device."""
    return "float16" if device.type == "cuda" else "float32"


def opened(names: Sequence[str], steps: int, interval: StepInterval, form: str, options: Options) -> Generation:
    """A recipe of these networks, main one first, in this form."""

    def load(name: str) -> NetworkFile:
        net = copy.deepcopy(network(name)).to(options.device)
        return NetworkFile(net, StandardRGBEncoder(), name, "0" * 64)

    models = [Edm2Model(load(name), options.device, partial(load, name)) for name in names]
    main, guide = map(NetworkRef.of, models)
    recipe = Recipe(main, (Guide(guide, constant(WEIGHT), interval),), steps)
    return open_recipe(recipe, inference=Inference(form, usual(options.device)))


def plain_samples(
    main: Denoiser, guide: Denoiser, noise: Tensor, labels: Tensor | None, levels: Sequence[float],
    on: Callable[[int], bool] = lambda step: True,
) -> Tensor:  # fmt: skip
    """Heun's method (arXiv 2206.00364, Algorithm 1) under guidance at the steps that are `on`; noise: unit normal."""

    def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
        at = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        denoised: Tensor = main(x, at, labels)
        return guide(x, at, labels).lerp(denoised, WEIGHT) if on(step) else denoised

    x = noise * levels[0]
    for step, (sigma, following) in enumerate(itertools.pairwise([*levels, 0.0])):
        slope = (x - denoise(x, sigma, step)) / sigma
        x_next = x + (following - sigma) * slope
        if following > 0:
            slope_next = (x_next - denoise(x_next, following, step)) / following
            x_next = x + (following - sigma) * (slope + slope_next) / 2
        x = x_next
    return x


class PlainSampler:
    """Images of seeds by plain networks."""

    def __init__(self, names: Sequence[str], steps: int, options: Options) -> None:
        self.nets = [plain(network(name), usual(options.device)).to(options.device) for name in names]
        self.levels = Recipe(NetworkRef(names[0]), num_steps=steps).levels()
        self.device = options.device

    @torch.no_grad()
    def __call__(self, seeds: Sequence[int], on: Callable[[int], bool] = lambda step: True) -> Tensor:
        main: Any = self.nets[0]
        shape = [main.img_channels, main.img_resolution, main.img_resolution]
        _, noise, labels = seeding.start(seeds, shape, main.label_dim, "random")
        onehot = torch.nn.functional.one_hot(torch.tensor(labels), main.label_dim).float().to(self.device)
        return plain_samples(self.nets[0], self.nets[1], noise.to(self.device), onehot, self.levels, on)


def _images(
    names: Sequence[str], steps: int, interval: StepInterval, seeds: Sequence[int], options: Options
) -> list[Result]:
    plainly = PlainSampler(names, steps, options)
    made = {form: opened(names, steps, interval, form, options) for form in ("plain", "prepared")}
    main, guide = next(iter(made.values())).evaluations_per_image().values()
    ways = [
        Way(f"{form}, {main} + {guide} evaluations", partial(sampled, generation, seeds))
        for form, generation in made.items()
    ]
    yardstick = Way(f"plain, guided everywhere, {2 * main} evaluations", partial(plainly, seeds))
    case = f"{names[0]}, batch {len(seeds)}, {steps} steps, guided at {interval}"
    same = plainly(seeds, lambda step: step in interval)
    return compare("image", case, yardstick, ways, options, expected=same)


def sampled(generation: Generation, seeds: Sequence[int]) -> Tensor:
    """The samples of one batch."""
    (made,) = generation.images(seeds, len(seeds)).latents()
    return made.values
