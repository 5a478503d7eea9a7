"""Solvers that look back, and the midpoint: ends that independent codes agree on, orders, identities, costs."""

import itertools

import pytest
import torch

from edm2_guidance.recipe.parts import Sampler, planned
from edm2_guidance.sampling.engine import trajectory
from tests import mixture
from tests.functions import denoise_at
from tests.mixture import GOLDEN, golden, order

#: By the name in the golden file.
SPECS = {
    "dpmpp-3m": "dpmpp-3m",
    "dpmpp-3m-tail": "dpmpp-3m:end=tail",
    "dpmpp-3m-true": "dpmpp-3m:form=true",
    "unipc2-bh1": "unipc:order=2:base=bh1",
    "unipc2-bh2": "unipc:order=2",
    "unipc3-bh1": "unipc:base=bh1",
    "unipc3-bh2": "unipc",
    "deis-rho2": "deis:poly=rho:order=2",
    "deis-rho3": "deis:poly=rho",
    "deis-rho4": "deis:poly=rho:order=4",
    "deis-log2": "deis:order=2",
    "deis-log3": "deis",
    "deis-log4": "deis:order=4",
    "ipndm2": "ipndm:order=2",
    "ipndm3": "ipndm:order=3",
    "ipndm4": "ipndm",
    "dpm2": "dpm2",
    "sa34-ode": "sa:tau=0",
    "sa22-ode": "sa:tau=0:predictor=2:corrector=2",
    "sa34-exact-ode": "sa:tau=0:exact=true",
    "sa34-tau": "sa",
    "sa22-tau": "sa:predictor=2:corrector=2",
}
ENDS = [(name, key) for key in GOLDEN.files if key.startswith("final/") and (name := key.split("/")[1]) in SPECS]


def steps(spec, count):
    """All steps on the mixture; noise, where it is drawn, is the recorded one of the step."""
    solver, starts = Sampler.parse(spec), golden(f"sigmas/{count}").tolist()[:-1]
    plan, recorded = planned(solver, starts), golden("noise")
    noisy = solver.kind == "sa" and solver.tau > 0
    drawn = (recorded[each.index] for each in plan if noisy and solver.lo <= each.sigma <= solver.hi)
    at = denoise_at(mixture.denoise)
    return list(trajectory(solver, plan, at, golden("x_start") / starts[0], lambda x: next(drawn)))


@pytest.mark.parametrize(("name", "key"), ENDS)
def test_golden_ends(name, key):
    made = steps(SPECS[name], int(key.split("/")[2]))
    torch.testing.assert_close(made[-1].x, golden(key), rtol=1e-9, atol=1e-9)


def test_there_are_two_ends_of_each():
    assert sorted(name for name, _ in ENDS) == sorted(2 * [*SPECS])


@pytest.mark.parametrize("name", ["dpmpp-3m", "deis-log3", "ipndm4", "unipc3-bh2", "sa34-tau"])
def test_golden_states(name):
    """Where steps start from: after the correction, of those that correct."""
    made = steps(SPECS[name], 8)
    states = torch.stack([*(step.start for step in made), made[-1].x])
    torch.testing.assert_close(states, golden(f"path/{name}/8"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dpm2", 2),
        ("dpmpp-3m:end=tail", 2),
        ("dpmpp-3m:end=tail:form=true", 3),
        ("deis:poly=rho:order=2", 2),
        ("deis:poly=rho:order=3", 3),
        ("ipndm:order=2", 2),
        ("ipndm:order=4", 2),
    ],
)
def test_orders(spec, expected):
    (seen,) = order(spec, (128, 256))
    assert seen == pytest.approx(expected, abs=0.25)


def test_unipc_is_sa_without_noise():
    """With bh1, and a corrector of one value more."""
    made = [torch.stack([step.start for step in steps(spec, 12)]) for spec in ("unipc:base=bh1", "sa:tau=0")]
    torch.testing.assert_close(*made, rtol=1e-9, atol=1e-9)


def test_first_order_is_euler():
    ends = [steps(spec, 12)[-1].x for spec in ("euler", "deis:order=1", "deis:order=1:poly=rho", "ipndm:order=1")]
    for one, other in itertools.pairwise(ends):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", sorted({spec.split(":")[0] for spec in SPECS.values()}))
def test_costs(spec):
    solver, asked = Sampler.parse(spec), []

    def denoise(x, sigma):
        asked.append(sigma)
        return mixture.denoise(x, sigma)

    starts = golden("sigmas/8").tolist()[:-1]
    plan = planned(solver, starts)
    *_, last = trajectory(solver, plan, denoise_at(denoise), golden("z_start"), torch.randn_like)
    assert len(asked) == sum(solver.evaluations(starts)) == (15 if spec == "dpm2" else 8)
    assert last.info.sigma_next == 0
    assert bool(torch.isfinite(last.x).all())


def test_one_step_is_the_denoiser():
    for spec in SPECS.values():
        (step,) = trajectory(
            Sampler.parse(spec), planned(Sampler.parse(spec), [80.0]), denoise_at(mixture.denoise), golden("z_start")
        )
        torch.testing.assert_close(step.x, mixture.denoise(step.start, 80.0))


def test_sa_without_noise_levels_for_its_noise_is_refused():
    with pytest.raises(ValueError, match="sa: lo=5 is above hi=1: for no noise anywhere, tau=0"):
        Sampler.parse("sa:lo=5:hi=1")
    assert str(Sampler.parse("sa:lo=1:hi=1")) == "sa:lo=1:hi=1"
