"""An exact model, a mixture of Gaussians in two dimensions, and the points where known solvers end on it."""

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import torch

from edm2_guidance.recipe.parts import Sampler, planned
from edm2_guidance.sampling.engine import trajectory
from tests.functions import denoise_at, levels

GOLDEN = np.load(Path(__file__).parent / "data" / "solvers.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


WEIGHTS, MEANS, COVARIANCES = golden("mix_weights"), golden("mix_means"), golden("mix_covs")


def denoise(x, sigma):
    """The posterior mean of x0 given x = x0 + sigma n, x float64 [N, 2]."""
    logits, means = _components(x, sigma)
    return (logits.softmax(1)[..., None] * means).sum(1)


def denoise_of(x, sigma, labels):
    """The same, of the Gaussian of each point's class."""
    return _components(x, sigma)[1][range(len(x)), labels]


def log_probs(x, sigma):
    """Which Gaussian x is of, as log-probabilities [N, K]: the exact classifier."""
    return _components(x, sigma)[0].log_softmax(1)


def _components(x, sigma):
    inverse = torch.linalg.inv(COVARIANCES + sigma**2 * torch.eye(2, dtype=torch.float64))
    away = x[:, None] - MEANS
    pulled = torch.einsum("kij,nkj->nki", inverse, away)
    logits = WEIGHTS.log() - (away * pulled).sum(-1) / 2 + torch.logdet(inverse) / 2
    return logits, x[:, None] - sigma**2 * pulled


def path(sampler, starts):
    """The states at the levels and at 0, from the golden start; recorded noise for samplers that draw."""
    solver, recorded = Sampler.parse(sampler), golden("noise")
    steps, drawn = planned(solver, starts), itertools.count()
    noises = [recorded[step.index] for step in steps if step.sigma > step.level]
    start = golden("x_start")
    made = trajectory(solver, steps, denoise_at(denoise), start / starts[0], lambda x: noises[next(drawn)])
    return torch.stack([start, *(step.x for step in made)])


def order(sampler, counts=(64, 128, 256), stop=0.02):
    """The orders that a solver shows on the way from 80 to a level above 0, where the end hides nothing."""
    truth = _truth(2 * counts[-1], stop)
    errors = [float((_end(sampler, count, stop) - truth).norm(dim=1).mean()) for count in counts]
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@functools.cache
def _truth(num_steps, stop):
    """Heun with twice as many steps leaves a quarter of the error: without that, a third order at least is left."""
    return (4 * _end("heun", 2 * num_steps, stop) - _end("heun", num_steps, stop)) / 3


def _end(sampler, num_steps, stop):
    solver = Sampler.parse(sampler)
    steps = planned(solver, levels(num_steps + 1, sigma_min=stop))[:-1]
    *_, last = trajectory(solver, steps, denoise_at(denoise), golden("x_start") / 80)
    return last.x
