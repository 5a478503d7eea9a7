"""Diagnostics of guidance on the exact mixture: what is recorded is what the trajectory says, and moves nothing."""

import itertools

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Prediction, Reference, Rule, Sampler, Seen, Weight, constant, planned
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import Batch, guided
from edm2_guidance.sampling.guidance.recorder import Recorder
from tests import mixture
from tests.functions import levels, network

LABELS = [0, 3, 4, 1, 2, 0]
NOISE = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
FIRST = (Guide(NetworkRef("a"), constant(1.7), StepInterval(2, 5)), network(lambda x, sigma: 0.5 * x))
SECOND = (Guide(NetworkRef("b"), Weight.parse("cosine:w=1.4")), network(lambda x, sigma: mixture.denoise(x, 2 * sigma)))
CLASSIFIER = Reference.parse("classifier")


def main(x, sigma, labels):
    """Exact, with a variance that differs by coordinate."""
    return Prediction(mixture.denoise(x, sigma), x.sigmoid())


def run(sampler, *guides, noise=NOISE, labels=LABELS, recorder=None, rule=None):
    """Every step from noise to data; the churn's noise is each image's own, one column of a fixed table per step."""
    solver, drawn = Sampler.parse(sampler), itertools.count()
    at = guided(main, guides, rule, Batch(labels, 5), recorder=recorder, clip=solver.clips)
    made = []
    for step in trajectory(solver, planned(solver, levels(8)), at, noise, lambda x: 0.1 * (1 + next(drawn)) + 0 * x):
        made.append(step)
        if recorder is not None:
            recorder.end(step.info, [0])
    return made


def recorded(sampler, *guides, **more):
    recorder = Recorder()
    steps = run(sampler, *guides, recorder=recorder, **more)
    count = len(more.get("noise", NOISE))
    return steps, recorder.diagnostics(range(count), None, [f"guide {n + 1}" for n in range(len(guides))], ["main"])


def size(difference):
    return np.array([float((row**2).mean().sqrt()) for row in difference])


@pytest.mark.parametrize("sampler", ["heun:S_churn=4", "euler", "dpmpp-2m", "ddim:eta=1"])
def test_it_is_what_the_trajectory_says(sampler):
    steps, found = recorded(sampler, FIRST, SECOND)
    np.testing.assert_allclose(found.sigma, [step.info.sigma for step in steps], rtol=1e-6)
    assert (found.sigma > levels(8)).all() == (sampler == "heun:S_churn=4")
    for k, step in enumerate(steps):
        D = mixture.denoise(step.start, step.info.sigma)
        expected = size(D - 0.5 * step.start) if 2 <= k <= 5 else [np.nan] * 6
        np.testing.assert_allclose(found.difference[:, k, 0], expected, rtol=1e-5)
        assert (found.weight[:, k, 0] == np.float32(1.7 if 2 <= k <= 5 else 1)).all()
        second = size(D - mixture.denoise(step.start, 2 * step.info.sigma))
        np.testing.assert_allclose(found.difference[:, k, 1], second if k > 0 else [np.nan] * 6, rtol=1e-5)
        np.testing.assert_allclose(found.weight[:, k, 1], 1 + 0.4 * (1 - np.cos(np.pi * k / 7)), rtol=1e-6)
    plain = run(sampler, FIRST, SECOND)
    assert all(torch.equal(a.x, b.x) for a, b in zip(steps, plain, strict=True))


def test_no_batch_changes_it():
    _, whole = recorded("heun", FIRST, SECOND)
    halves = (slice(2), slice(2, 6))
    parts = [recorded("heun", FIRST, SECOND, noise=NOISE[half], labels=LABELS[half])[1] for half in halves]
    for name in ("difference", "weight"):
        apart = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(getattr(whole, name), apart, rtol=1e-5)


def test_of_a_classifier_it_is_what_the_class_adds():
    """By Bayes' rule, sigma^2 grad log p is D(x | y) - D(x). The posterior's weight differs by coordinate."""
    guide = Guide(NetworkRef("c"), Weight.parse("posterior:w=3"), None, CLASSIFIER)
    steps, found = recorded("ddpm:clip=false", (guide, mixture.log_probs))
    apart = []
    for k, step in enumerate(steps):
        x, sigma = step.start, step.info.sigma
        adds = size(mixture.denoise_of(x, sigma, LABELS) - mixture.denoise(x, sigma))
        np.testing.assert_allclose(found.difference[:, k, 0], adds, rtol=1e-4, atol=1e-6)
        weight = guide.weight.at(step.info, Seen(x, x, x, step.info.sigma, x.sigmoid()))
        np.testing.assert_allclose(found.weight[:, k, 0], weight.mean(1), rtol=1e-5)
        apart.append(float((weight[:, 0] - weight[:, 1]).abs().max()))
    assert max(apart) > 0.1


def test_rules_are_looked_at_before_they_shape_anything():
    _, linear = recorded("euler", SECOND)
    _, rescaled = recorded("euler", SECOND, rule=Rule.parse("rescale:phi=1"))
    assert np.array_equal(linear.difference[:, 1], rescaled.difference[:, 1])  # the first step that is guided
    assert not np.array_equal(linear.difference[:, 2], rescaled.difference[:, 2])
    assert np.array_equal(linear.weight, rescaled.weight)
