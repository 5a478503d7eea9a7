"""Ancestral sampling on the exact mixture: where it ends, its variances, and the published form step by step."""

import math

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.parts import Prediction, Sampler, Schedule, planned
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import guided
from tests.mixture import COVARIANCES, MEANS, WEIGHTS, denoise

DDPM = "ddpm:clip=false"


def noises(count, points, seed=0):
    return torch.randn(count, points, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(sampler, levels, draws, mix=None, main=denoise, clip=False):
    """All states; draws: the start, and what each step adds."""
    solver = Sampler.parse(sampler)
    at = guided(lambda x, sigma, labels: Prediction(main(x, sigma), None if mix is None else mix(x)), clip=clip)
    rest = iter(draws[1:])
    made = list(trajectory(solver, planned(solver, levels), at, draws[0], lambda x: next(rest)))
    return torch.stack([made[0].start, *(step.x for step in made)])


def test_it_ends_in_the_distribution():
    levels = Schedule.parse("logsnr:sigma_max=10:sigma_min=0.02").levels(48)
    end = run(DDPM, levels, noises(49, 4000))[-1]
    mean = WEIGHTS @ MEANS
    away = MEANS - mean
    covariance = torch.einsum("k,kij->ij", WEIGHTS, COVARIANCES + away[:, :, None] * away[:, None])
    spread = covariance.diag().sqrt()
    assert ((end.mean(0) - mean).abs() < 5 * spread / math.sqrt(4000)).all()
    assert ((end.T.cov() / covariance - 1).abs().diag() < 0.15).all(), "too narrow by some 1/N, as few steps are"
    assert (run(DDPM, levels[::6], noises(9, 4000))[-1].T.cov() / covariance).diag().max() < 0.8


def published(betas, draws, mix):
    """Algorithm 2 of arXiv 2006.11239 on x / sqrt(1 + sigma^2), with the variance of arXiv 2102.09672, Eq. 15."""
    kept = np.cumprod(1 - betas)
    before = np.append(1.0, kept[:-1])
    least = betas * (1 - before) / (1 - kept)
    states = [draws[0]]
    for k in range(len(betas) - 1, -1, -1):
        x = states[-1]
        sigma = math.sqrt((1 - kept[k]) / kept[k])
        first = denoise(x / math.sqrt(kept[k]), sigma)
        mean = betas[k] * math.sqrt(before[k]) / (1 - kept[k]) * first
        mean = mean + (1 - before[k]) * math.sqrt(1 - betas[k]) / (1 - kept[k]) * x
        if k > 0:
            share = mix(x) if mix is not None else 0.0
            log_variance = share * math.log(betas[k]) + (1 - share) * math.log(least[k])
            mean = mean + (torch.as_tensor(log_variance, dtype=x.dtype) / 2).exp() * draws[len(betas) - k]
        states.append(mean)
    return torch.stack(states), np.sqrt((1 - kept) / kept)


@pytest.mark.parametrize("learned", [False, True])
def test_it_is_the_published_form_in_other_coordinates(learned):
    betas = np.linspace(1e-3, 0.4, 12)
    draws = noises(13, 5)

    def mix(x):  # of a learned variance, about in [0, 1]
        return torch.sin(3 * x) * 0.6 + 0.5

    unit, levels = published(betas, draws, mix if learned else None)
    solver_mix = None
    if learned:
        sigmas = iter(levels[::-1].tolist())

        def solver_mix(x):
            return mix(x / math.sqrt(1 + next(sigmas) ** 2))

    made = run(DDPM, levels[::-1].tolist(), draws, solver_mix)
    scale = torch.tensor([*levels[::-1], 0.0], dtype=torch.float64).square().add(1).sqrt()[:, None, None]
    torch.testing.assert_close(made / scale, unit, rtol=1e-9, atol=1e-9)


def test_clipping_holds_what_the_steps_are_made_of():
    levels = Schedule.parse("logsnr").levels(8)
    far = run("ddpm", levels, noises(9, 5), main=lambda x, sigma: torch.full_like(x, 3.0), clip=True)
    assert torch.equal(far[-1], torch.ones_like(far[-1]))
    assert Sampler.parse("ddpm").clips
    assert not Sampler.parse(DDPM).clips


def test_a_single_step_has_a_variance_too():
    (step,) = planned(Sampler.parse("ddpm"), [2.0])
    assert step.variances == (pytest.approx(0.8), pytest.approx(0.8)), "beta = sigma^2 / (1 + sigma^2), for both"


@pytest.mark.parametrize(
    ("betas", "steps", "log_least"),
    [
        ("linear", "1000", -9.816725135), ("linear", "250", -9.36462816), ("linear", "ddim25", -9.215195023),
        ("cosine", "1000", -10.73408253), ("cosine", "250", -10.27162611), ("cosine", "ddim25", -10.10230346),
    ],
)  # fmt: skip
def test_the_last_step_has_the_least_variance_of_the_one_before_as_published(betas, steps, log_least):
    schedule = Schedule.parse(f"timesteps:steps={steps}:betas={betas}")
    *_, last = planned(Sampler.parse("ddpm"), schedule.levels(schedule.num_steps))
    assert math.log(last.variances[0]) == pytest.approx(log_least, rel=1e-8)
