"""Rules and weights that remember: against loops over steps and images, and what their memory must not depend on."""

import math

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Rule, Sampler, Weight, planned
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import guided
from tests.functions import levels, network

NOISE = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LEVELS = levels(6)


def main(x, sigma):
    return x / (1 + sigma**2) + 0.1 * torch.tanh(x)


def reference(x, sigma):
    return 0.9 * x / (1 + sigma**2) - 0.2 * torch.cos(x)


def run(weight="constant:w=3", rule="linear", noise=NOISE, sampler="heun", starts=LEVELS):
    """Where every step ended."""
    solver, guide = Sampler.parse(sampler), Guide(NetworkRef("guide"), Weight.parse(weight))
    at = guided(network(main), [(guide, network(reference))], Rule.parse(rule))
    return [step.x for step in trajectory(solver, planned(solver, starts), at, noise)]


def follow(noise, weigh, shape=lambda push, denoised, first: push, observe=lambda *seen: None, heun=True):
    """Heun or Euler for one image: the plain loop."""
    x = noise * LEVELS[0]
    ends = [*LEVELS[1:], 0]

    def guided_at(x, sigma, index, first):
        denoised, other = main(x, sigma), reference(x, sigma)
        push = denoised - other
        return denoised + (weigh(index) - 1) * shape(push, denoised, first), denoised, push

    for index, (sigma, after) in enumerate(zip(LEVELS, ends, strict=True)):
        start = x
        made, denoised, push = guided_at(x, sigma, index, True)
        slope = (x - made) / sigma
        x = start + (after - sigma) * slope
        if after > 0 and heun:
            corrected, _, _ = guided_at(x, after, index, False)
            x = start + (after - sigma) * (slope + (x - corrected) / after) / 2
        observe(index, start, x, denoised, denoised - push)
    return x


@pytest.mark.parametrize("sampler", ["heun", "euler"])
@pytest.mark.parametrize(("momentum", "radius", "parallel"), [(-0.75, 2.5, 0.0), (0.5, 0.3, 0.25)])
def test_apg(sampler, momentum, radius, parallel):
    made = run(rule=f"apg:momentum={momentum}:radius={radius}:parallel={parallel}", sampler=sampler)[-1]
    for n, noise in enumerate(NOISE):
        kept = {"now": torch.zeros_like(noise), "before": torch.zeros_like(noise)}

        def shape(push, denoised, first, kept=kept):
            if first:
                kept["before"] = kept["now"]
                kept["now"] = push + momentum * kept["before"]
            d = push + momentum * kept["before"]
            d = d * min(1, radius / float(d.norm()))
            unit = denoised / denoised.norm()
            along = (d * unit).sum() * unit
            return d - along + parallel * along

        expected = follow(noise, lambda index: 3, shape, heun=sampler == "heun")
        torch.testing.assert_close(made[n], expected, rtol=1e-9, atol=1e-9)


def test_apg_that_changes_nothing_is_linear():
    torch.testing.assert_close(run(rule="apg:momentum=0:radius=inf:parallel=1")[-1], run()[-1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run("constant:w=1", "apg")[-1], run("constant:w=1")[-1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("count", "fields", "tau", "delta"),
    [
        (32, "pi=0.999:t0=0.556:t1=0.429", 0.0515, -0.4576),
        (32, "pi=0.999:t0=0.556:t1=0.492", 0.1686, -0.4576),
        (32, "pi=0.95:t0=0.5:t1=0.4", 0.0101, -0.1619),
        (64, "pi=0.999:t0=0.556:t1=0.429", 0.0173, -0.2288),
        (64, "pi=0.999:t0=0.556:t1=0.492", 0.0545, -0.2288),
        (64, "pi=0.95:t0=0.5:t1=0.4", 0.0035, -0.0809),
    ],
)
def test_constants_of_feedback(count, fields, tau, delta):
    assert Weight.parse(f"feedback:{fields}").constants(tuple(levels(count))) == pytest.approx((tau, delta), abs=1e-9)


FEEDBACKS = [
    "pi=0.95:t0=0.5:t1=0.4:most=5",
    "pi=0.9:tau=0.3:delta=-0.2",
    "w=1.5:lo=0.3:hi=20:tau=0.1:delta=-0.5",
]


@pytest.mark.parametrize("fields", FEEDBACKS)
@pytest.mark.parametrize("sampler", ["heun", "euler"])
def test_feedback(fields, sampler):
    weight = Weight.parse(f"feedback:{fields}")
    tau, delta = weight.constants(tuple(LEVELS))
    made, weights = run(f"feedback:{fields}", sampler=sampler)[-1], []
    for n, noise in enumerate(NOISE):
        likely = [0.0]

        def weigh(index, likely=likely):
            raised = math.exp(likely[-1])
            added = weight.w - 1 if weight.lo < LEVELS[index] < weight.hi else 0
            weights.append(raised / (raised - (1 - weight.pi)) + added)
            return weights[-1]

        def observe(index, start, end, of_main, of_reference, likely=likely):
            after = [*LEVELS[1:], 0][index]
            if after == 0:
                return
            r = after**2 / LEVELS[index] ** 2
            v = (LEVELS[index] ** 2 - after**2) * r
            away = [float(((end - (r * start + (1 - r) * each)) ** 2).sum()) for each in (of_main, of_reference)]
            most = weight.most - (weight.w - 1)
            value = likely[-1] - tau / (2 * v) * (away[0] - away[1]) + delta
            likely.append(float(np.clip(value, math.log((1 - weight.pi) * most / (most - 1)), 3)))

        expected = follow(noise, weigh, observe=observe, heun=sampler == "heun")
        torch.testing.assert_close(made[n], expected, rtol=1e-7, atol=1e-7)
    assert max(weights) > min(weights) + 0.01, "it moved"
    assert max(weights) <= weight.most + 1e-9


def test_feedback_without_evidence_and_drift_is_constant():
    made = run("feedback:pi=0.5:tau=0:delta=0")[-1]
    torch.testing.assert_close(made, run("constant:w=2")[-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("weight", "rule"), [("constant:w=3", "apg"), ("feedback:pi=0.95:t0=0.5:t1=0.4", "linear")])
def test_memory_is_of_an_image_and_of_a_run(weight, rule):
    whole = run(weight, rule)[-1]
    parts = [run(weight, rule, noise=NOISE[n : n + 1])[-1] for n in range(4)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-9)
    assert torch.equal(run(weight, rule)[-1], whole), "a second batch begins anew"


def test_feedback_is_for_all_steps():
    guide = Guide("net2", Weight.parse("feedback"), (2, 5))
    with pytest.raises(ValueError, match=r"feedback looks back .* \(steps 2-5\); give it lo and hi, between"):
        Recipe("net", (guide,), 8)
    assert Recipe("net", (Guide("net2", Weight.parse("feedback")),), 8).evaluations() == {"main": 15, "guide 1": 15}
