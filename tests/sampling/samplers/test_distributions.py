"""Where whole runs end on the exact mixture: the mean of -log p of many samples, beside that of the distribution."""

import math

import pytest
import torch

from edm2_guidance.recipe.parts import Sampler, planned
from edm2_guidance.sampling.engine import trajectory
from tests import mixture
from tests.functions import denoise_at, levels

CHURN = "S_churn=40:S_min=0.05:S_max=50"
SAMPLES = 6000
ENTROPY = 0.329  # the mean of -log p of the mixture itself


def surprise(x):
    """-log p [N] of points of the mixture."""
    inverse = torch.linalg.inv(mixture.COVARIANCES)
    away = x[:, None] - mixture.MEANS
    squares = torch.einsum("nki,kij,nkj->nk", away, inverse, away)
    logits = mixture.WEIGHTS.log() - squares / 2 + torch.logdet(inverse) / 2 - math.log(2 * math.pi)
    return -logits.logsumexp(1)


def excess(sampler, count):
    """The mean of -log p over samples, less that of the distribution."""
    solver, draws = Sampler.parse(sampler), torch.Generator().manual_seed(0)

    def normal(like):
        return torch.randn(like.shape, dtype=torch.float64, generator=draws)

    plan = planned(solver, levels(count))
    noise = normal(torch.empty(SAMPLES, 2))
    *_, last = trajectory(solver, plan, denoise_at(mixture.denoise), noise, normal)
    return float(surprise(last.x).mean()) - ENTROPY


#: Of 20,000 samples of independent code, by sampler and number of steps.
KNOWN = {
    "euler": {12: 0.49, 18: 0.27, 48: 0.08},
    "heun": {12: 0.36, 18: 0.12, 48: 0.03},
    "dpmpp-2m": {12: 0.54, 18: 0.15, 48: 0.05},
    f"euler:{CHURN}": {12: 0.49, 18: 0.22, 48: -0.07},
    f"heun:{CHURN}": {12: 0.93, 18: 0.31, 48: 0.09},
    "ddpm:clip=false": {12: 0.29, 18: -0.01, 48: -0.13},
    "ddim:clip=false:eta=1": {12: 0.29, 18: -0.01, 48: -0.13},
    "sa": {12: 25.7, 18: 2.7, 48: 0.06},
}
QUICK = {("sa", 48), (f"euler:{CHURN}", 18), ("ddpm:clip=false", 18)}


@pytest.mark.parametrize(
    ("sampler", "count"),
    [
        pytest.param(sampler, count, marks=() if (sampler, count) in QUICK else pytest.mark.slow)
        for sampler, known in KNOWN.items()
        for count in known
    ],
)
def test_ends(sampler, count):
    """The mean has a standard deviation of 0.013; where steps are too few, single samples that are far off count."""
    assert excess(sampler, count) == pytest.approx(KNOWN[sampler][count], abs=0.05, rel=0.08)
