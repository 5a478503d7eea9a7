"""Rules from papers, each against its formula, written out image by image in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dnnlib.inference import Inference
from edm2_guidance.models import open_model
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Rule, StepInfo, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import Batch, Counted, guided
from edm2_guidance.sampling.guidance.references.previous_step import PreviousStep
from edm2_guidance.sampling.opening import open_recipe
from tests import mixture
from tests.functions import denoise_at, network

STEP, SIGMA = StepInfo(3, 8, 0.7, 0.7, 0.2), 0.7
X, MAIN, GUIDE = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()


def result(rule, weight=3.0, x=X, main=MAIN, guide=GUIDE, step=STEP):
    at = denoise_at(lambda x, sigma: main, (lambda x, sigma: guide, weight), rule=Rule.parse(rule))
    return at(step)(x, step.sigma)


@pytest.mark.parametrize("rule", ["tcfg", "cfg-zero", "fdg", "fdg:low=0.3:parallel=0", "fdg:bands=1:parallel=0"])
def test_no_image_sees_another(rule):
    alone = [result(rule, x=X[n : n + 1], main=MAIN[n : n + 1], guide=GUIDE[n : n + 1]) for n in range(4)]
    torch.testing.assert_close(torch.cat(alone), result(rule), rtol=1e-10, atol=1e-10)
    assert torch.equal(result(rule, 1.0), MAIN), "w = 1 is off"


def test_tcfg():
    """By the singular vectors of numpy."""
    for n, made in enumerate(result("tcfg").numpy()):
        x, main, guide = (each[n].numpy().ravel() for each in (X, MAIN, GUIDE))
        eps_main, eps_guide = (x - main) / SIGMA, (x - guide) / SIGMA
        first = np.linalg.svd(np.stack([eps_main, eps_guide]), full_matrices=False)[2][0]
        kept = (eps_guide @ first) * first
        eps = kept + 3 * (eps_main - kept)
        np.testing.assert_allclose(made.ravel(), x - SIGMA * eps, rtol=1e-9, atol=1e-9)


def test_cfg_zero():
    for n, made in enumerate(result("cfg-zero").numpy()):
        x, main, guide = (each[n].numpy() for each in (X, MAIN, GUIDE))
        v_main, v_guide = ((x - d) / SIGMA - d for d in (main, guide))
        scaled = v_guide * (v_main * v_guide).sum() / ((v_guide**2).sum() + 1e-8)
        v = scaled + 3 * (v_main - scaled)
        np.testing.assert_allclose(made, (x - SIGMA * v) / (1 + SIGMA), rtol=1e-9, atol=1e-9)


def test_cfg_zero_stands_still_where_a_guide_is_on():
    first = StepInfo(0, 8, 0.7, 0.7, 0.2)
    torch.testing.assert_close(result("cfg-zero", step=first), X / (1 + SIGMA))
    # In the variables of flow matching, x / (1 + sigma), nothing moves.
    moved = X + (0.2 - SIGMA) * (X - X / (1 + SIGMA)) / SIGMA
    torch.testing.assert_close(moved / 1.2, X / (1 + SIGMA))
    assert not torch.equal(result("cfg-zero:zero=0", step=first), result("cfg-zero", step=first))
    recipe = Recipe("net", (Guide("net2", constant(3)),), 8, rule="cfg-zero:zero=2")
    assert recipe.evaluations() == {"main": 11, "guide 1": 11}


@pytest.mark.parametrize(("around", "legs"), [("", 0), ("restart", 4)])
def test_cfg_zero_that_only_stands_still_is_refused(around, legs):
    """Two steps twice are what restart adds."""
    guide, made = Guide("net2", constant(3)), {"around": around, "rule": "cfg-zero:zero=12"}
    for steps in (12 - legs, 8 - legs):
        with pytest.raises(ValueError, match=rf"zero=12 stands still at all steps \({steps + legs}\), .* fewer"):
            Recipe("net", guide, steps, **made)
    Recipe("net", guide, 13 - legs, **made)
    Recipe("net", Guide("net2", constant(1)), 8, **made)  # nothing guides
    Recipe("net", guide, 14, around="cfgig", rule="cfg-zero:zero=14")  # whose first steps have no guides


BESIDE = {"previous-step": (None, None), "classifier": ("net3", mixture.log_probs)}


@pytest.mark.parametrize(
    ("sampler", "beside", "count"),
    [
        ("heun", (), 3),
        ("euler", (), 2),
        ("heun", ("previous-step",), 5),  # which remembers D at the start of every step
        ("heun", ("classifier",), 7),
        ("ddpm:clip=false", (), 4),  # whose noise may be as the network learned
    ],
)
def test_still_steps_ask_for_what_else_looks_at_it(monkeypatch, sampler, beside, count):
    """Of four steps the first two stand still."""
    others = [(Guide(BESIDE[kind][0], constant(2), None, kind), BESIDE[kind][1]) for kind in beside]
    main, guide = Counted(network(mixture.denoise)), Counted(network(lambda x, sigma: x.tanh()))
    pairs = [(Guide("net2", constant(3)), guide), *others]
    recipe = Recipe("net", [spec for spec, _ in pairs], 4, sampler, rule="cfg-zero:zero=2")
    remembered = []
    monkeypatch.setattr(PreviousStep, "observe", lambda self, main, memory: remembered.append(main))
    noise = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at = guided(main, pairs, recipe.rule, Batch([0, 3, 4], 5))
    steps = list(trajectory(recipe.sampler, recipe.steps(), at, noise, torch.zeros_like))
    assert (main.evaluations, recipe.evaluations()["main"]) == (3 * count, count)
    assert guide.evaluations == 3 * recipe.evaluations()["guide 1"]
    for step, seen in zip(steps, remembered, strict=False):
        torch.testing.assert_close(seen, mixture.denoise(step.start, step.info.sigma))
    assert len(remembered) == 4 * len(set(beside) & {"previous-step"})


def blurred(image):
    """5 x 5 binomial, borders mirrored without the edge; numpy, [H,W]."""
    wide = np.pad(image, 2, mode="reflect")
    taps = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    rows, columns = image.shape
    return np.array([[(wide[i : i + 5, j : j + 5] * taps).sum() for j in range(columns)] for i in range(rows)])


def halved(image):
    return blurred(image).reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean((1, 3))


def doubled(image):
    """Twice the size: every new pixel is at a quarter of a pixel from an old one; edges repeated; then blurred."""
    wide = np.pad(image, 1, mode="edge")
    for axis in (0, 1):
        count = wide.shape[axis] - 2
        before, here, after = (np.take(wide, range(first, first + count), axis) for first in range(3))
        wide = np.stack([0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after], axis + 1)
        shape = list(here.shape)
        shape[axis] *= 2
        wide = wide.reshape(shape)
    return blurred(wide)


def test_the_slow_pyramid_at_known_values():
    np.testing.assert_allclose(halved(np.arange(16.0).reshape(4, 4)), [[4.6875, 5.8125], [9.1875, 10.3125]])
    impulse = np.zeros((8, 8))
    impulse[3, 4] = 1
    assert doubled(halved(impulse))[3, 4] == pytest.approx(0.0508890, abs=5e-8)


def test_fdg():
    for n, made in enumerate(result("fdg:low=0.25").numpy()):
        for channel, plane in enumerate(made):
            main, push = MAIN[n, channel].numpy(), (MAIN - GUIDE)[n, channel].numpy()
            low = doubled(halved(push))
            np.testing.assert_allclose(plane, main + 2 * (push - low) + 0.5 * low, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("bands", "shares"), [(3, [0.2, 0.6, 1]), (4, [0.1, 0.4, 0.7, 1])])
def test_fdg_of_more_bands(bands, shares):
    """24 x 24, halved twice or three times to 6 or 3; shares rise evenly from the lowest band."""
    x, main, guide = torch.randn(3, 2, 1, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    made = result(f"fdg:low={shares[0]}:bands={bands}", x=x, main=main, guide=guide)[1:]
    main, guide = main[1:], guide[1:]
    images = [(main - guide)[0, 0].numpy()]
    for _ in range(bands - 1):
        images.append(halved(images[-1]))
    pushed = shares[0] * images[-1]
    for share, image, smaller in zip(shares[1:], images[-2::-1], images[:0:-1], strict=True):
        pushed = doubled(pushed) + share * (image - doubled(smaller))
    np.testing.assert_allclose(made[0, 0], main[0, 0].numpy() + 2 * pushed, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["fdg:low=1", "fdg:bands=1", "fdg:bands=1:low=0.5"])
def test_fdg_of_one_band_is_linear(rule):
    torch.testing.assert_close(result(rule), result("linear"))


def test_sizes_that_do_not_halve_are_refused_when_the_network_is_opened(tiny_networks):
    """These are 8 x 8: halved once they are 4 x 4, which is too small."""
    guide = Guide(str(tiny_networks["weak"]), constant(2))
    recipe = Recipe(str(tiny_networks["cond"]), guide, 2, rule="fdg:bands=3")
    with pytest.raises(ValueError, match=r"fdg halves images 2 times, whose sides must be even and .*, not 8 x 8"):
        open_recipe(recipe, "cpu")
    open_recipe(replace(recipe, rule="fdg"), "cpu")
    open_recipe(replace(recipe, guides=()), "cpu")


def test_fdg_adds_nothing_along_the_main_network():
    """A push along D_m in every band: with parallel=0 nothing of it is left."""
    twice = result("fdg:low=0.5:parallel=0", main=MAIN, guide=2 * MAIN)
    torch.testing.assert_close(twice, MAIN, rtol=1e-9, atol=1e-9)
    kept = result("fdg:low=0.5:parallel=0.25", main=MAIN, guide=2 * MAIN)
    full = result("fdg:low=0.5", main=MAIN, guide=2 * MAIN)
    torch.testing.assert_close(kept - MAIN, 0.25 * (full - MAIN), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sides", [(7, 8), (4, 4)])
def test_fdg_says_which_sizes_it_takes(sides):
    x = torch.randn(2, 3, *sides)
    with pytest.raises(ValueError, match=f"must be even and at least 6, not {sides[0]} x {sides[1]}"):
        result("fdg", x=x, main=x, guide=2 * x)


def test_fdg_says_how_often_it_halves():
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"halves images 2 times, .* even and at least 6 each time, not 8 x 8"):
        result("fdg:bands=3", x=x, main=x, guide=2 * x)


def test_reg_of_one_gaussian():
    """D_m = m + c (x - m), whose gradient is c everywhere: the push shrinks by it."""
    c = 0.25 / (0.25 + SIGMA**2)
    at = denoise_at(lambda x, sigma: 0.3 + c * (x - 0.3), (lambda x, sigma: GUIDE, 3.0), rule=Rule.parse("reg"))
    main = 0.3 + c * (X - 0.3)
    torch.testing.assert_close(at(STEP)(X, SIGMA), main + 2 * c * (main - GUIDE))


def test_reg_of_a_mixture():
    """The gradient of the sum by central differences, point by point."""
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradient = torch.zeros_like(x)
    for place in np.ndindex(*x.shape):
        apart = torch.zeros_like(x)
        apart[place] = 1e-5
        above, below = (mixture.denoise(x + sign * apart, SIGMA)[place[0]].sum() for sign in (1, -1))
        gradient[place] = (above - below) / 2e-5
    main, other = mixture.denoise(x, SIGMA), torch.tanh(x)
    with torch.no_grad():
        at = denoise_at(mixture.denoise, (lambda x, sigma: torch.tanh(x), 2.5), rule=Rule.parse("reg"))
        made = at(STEP)(x, SIGMA)
    assert not made.requires_grad
    torch.testing.assert_close(made, main + 1.5 * gradient * (main - other), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_reg_counts_what_it_was_said_to_cost(tiny_networks, form):
    nets = [str(tiny_networks[kind]) for kind in ("cond", "weak")]
    recipe = Recipe(nets[0], (Guide(nets[1], constant(2), (1, 2)),), 4, rule="reg")
    assert recipe.evaluations() == {"main": 7, "guide 1": 4, "main gradient": 4}
    counted, generation = {}, open_recipe(recipe, "cpu", inference=Inference(form))
    counted = dict.fromkeys(generation.evaluations_per_image(), 0)
    made, _ = sample(generation, [0, 1], counted)
    assert counted == {"main": 14, "guide 1": 8, "main gradient": 8}
    alone, _ = sample(generation, [1])
    torch.testing.assert_close(made[1:], alone, rtol=1e-3, atol=1e-4)


def test_reg_needs_a_network_that_lets_gradients_through(tiny_networks):
    net = open_model(str(tiny_networks["cond"]), "cpu")
    net.supports = frozenset()
    with pytest.raises(ValueError, match=r"the rule reg takes gradients, which .* does not let through"):
        open_recipe(Recipe(net, (Guide(net, constant(2)),), 2, rule="reg"), "cpu")
    open_recipe(Recipe(net, (Guide(net, constant(1)),), 2, rule="linear"), "cpu")


def test_names_in_recipes():
    recipe = Recipe("net", (Guide(NetworkRef("net2"), constant(2)),), 4, rule="fdg:low=0.5")
    assert recipe.to_json()["rule"] == "fdg:low=0.5"
