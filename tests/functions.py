"""Samplers and guidance over plain functions of x and sigma, for tests."""

import itertools

import torch

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Prediction, Sampler, Schedule, planned
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import guided


def levels(num_steps=32, **fields):
    """The EDM schedule's."""
    return Schedule.parse("edm").with_fields(fields).levels(num_steps)


def shrinks(num_steps, std):
    """What Heun's steps multiply a distance to the mean by: the slope of N(m, std^2) is (x - m) s / (std^2 + s^2).

    In the limit std / sqrt(std^2 + sigma_max^2).
    """
    factor = 1.0
    for sigma, after in itertools.pairwise([*levels(num_steps), 0.0]):
        slope, slope_after = (level / (std**2 + level**2) for level in (sigma, after))
        euler = 1 + (after - sigma) * slope
        factor *= euler if after == 0 else 1 + (after - sigma) * (slope + slope_after * euler) / 2
    return factor


def network(denoiser):
    """A function of x and sigma as a network that knows no labels."""
    return lambda x, sigma, labels: Prediction(denoiser(x, sigma))


class Plain:
    """A function of x and sigma as the denoiser of a step, which nothing guides."""

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def __call__(self, x, sigma):
        return self.denoiser(x, x.new_tensor(sigma))

    def end(self, step):
        """Nothing looks at where the step led."""
        return step


def denoise_at(main, *guides, **more):
    """The guided denoiser of every step; guides: (function, weight[, interval])."""
    specs = [(Guide(NetworkRef("guide"), w, *interval), network(f)) for f, w, *interval in guides]
    return guided(network(main), specs, **more)


def steps_of(at, noise, starts, sampler="heun", randn_like=torch.randn_like):
    """Every step from noise to data; starts: levels that steps start from."""
    solver = Sampler.parse(sampler)
    return trajectory(solver, planned(solver, starts), at, noise, randn_like)
