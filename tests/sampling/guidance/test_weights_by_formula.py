"""Weights from papers, each against its formula written out for one image and one step at a time."""

import math

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Rule, Sampler, Seen, Weight, planned
from edm2_guidance.recipe.recipe import Recipe
from tests.functions import denoise_at, levels

STEPS = planned(Sampler.parse("heun"), levels(8))
X, MAIN, PUSH = torch.randn(3, 4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
SIGMA = 0.7


def values(text, steps=STEPS):
    return [Weight.parse(text).at(step, None) for step in steps]


def of_images(text, step=STEPS[3]):
    """The weight of each image, as numbers."""
    made = Weight.parse(text).at(step, Seen(X, MAIN, PUSH, SIGMA))
    assert made.shape == (4, 1, 1, 1)
    return made.flatten().tolist()


def lengths(x):
    return [float(np.sqrt((image**2).sum())) for image in x.numpy()]


def test_tv_at_the_papers_example():
    """Eight steps, mean 2: as the facts on it print them."""
    assert values("tv:w=2") == pytest.approx([1, 1.5, 2, 2.5, 3, 2.5, 2, 1.5])
    early = values("tv:w=2:peak=0.4")
    assert math.fsum(early) / 8 == pytest.approx(2)
    assert early.index(max(early)) == 4
    assert values("tv:w=1") == [1] * 8


def test_tv_is_off_at_the_noise():
    """Exactly, whatever rounding makes of the mean: else a guide is evaluated to be left alone."""
    for n in range(2, 41):
        steps = planned(Sampler.parse("heun"), levels(n))
        for w in np.arange(1.05, 5, 0.05):
            assert Weight.parse(f"tv:w={w}").off(steps[0])
            assert math.fsum(values(f"tv:w={w}", steps)) / n == pytest.approx(w)


def test_c2fg_grows_to_w_times_exp_of_the_rate():
    """By quarters of the time that is left, with the paper's setting for DiT: 1, rate log 2."""
    steps = planned(Sampler.parse("heun"), levels(5))
    made = values(f"c2fg:w=1:rate={math.log(2)!r}", steps)
    assert made == pytest.approx([1, 1.1892, 1.4142, 1.6818, 2], abs=5e-5)
    by_level = values(f"c2fg:w=1:rate={math.log(2)!r}:time=sigma", steps)
    assert by_level == pytest.approx([2 ** (1 - level / 80) for level in levels(5)])
    assert Guide(NetworkRef("net"), Weight.parse("c2fg:w=1:rate=0")).off
    assert not Guide(NetworkRef("net"), Weight.parse("c2fg:w=1")).off


def test_dg_has_its_mean_over_the_time_of_the_process():
    """Time by bisection, the area by the plain sum."""

    def time(sigma):
        low, high = 0.0, 2.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if 0.1 * middle + 9.95 * middle**2 < math.log1p(sigma**2) else (low, middle)
        return low

    times = [time(level) for level in levels(8)] + [0]
    passed = -np.diff(times)
    made = np.array(values("dg:w=3"))
    assert float((made * passed).sum() / passed.sum()) == pytest.approx(3)
    kept = [1 / (1 + level**2) for level in levels(8)]
    shape = np.array([(1 - a) * math.sqrt(a) / (0.1 + 19.9 * t) for a, t in zip(kept, times, strict=False)])
    np.testing.assert_allclose((made - 1) / (made[3] - 1), shape / shape[3], rtol=1e-9)
    assert values("dg:w=1") == [1] * 8


def test_beta_by_image():
    assert values("beta:w=1:gamma=0", planned(Sampler.parse("heun"), levels(32)))[:2] == pytest.approx(
        [0, 0.1873], abs=5e-5
    )
    density = 6 * (3 / 7) * (4 / 7)
    expected = [2.5 * density * (SIGMA / length) for length in lengths(PUSH)]
    assert of_images("beta:w=2.5") == pytest.approx(expected)
    half = [2.5 * density * (SIGMA / length) ** 0.5 for length in lengths(PUSH)]
    assert of_images("beta:w=2.5:gamma=0.5") == pytest.approx(half)
    assert Recipe("net", (Guide("net2", Weight.parse("beta:w=1")),), 4).evaluations() == {"main": 7, "guide 1": 7}


def test_power_law_by_image():
    assert of_images("power-law:w=1.01") == pytest.approx([1 + 0.01 * (n / SIGMA**2) ** 0.9 for n in lengths(PUSH)])
    assert of_images("power-law:w=3:alpha=0.5:norm=x0") == pytest.approx([1 + 2 * n**0.5 for n in lengths(PUSH)])
    assert of_images("power-law:w=3:alpha=0") == pytest.approx([3] * 4)


def test_mambo_g_by_image():
    expected = []
    for x, main, push in zip(X.numpy(), MAIN.numpy(), PUSH.numpy(), strict=True):
        velocity, of_reference = ((x - d) / SIGMA - d for d in (main, main - push))
        ratio = np.linalg.norm(velocity - of_reference) / np.linalg.norm(of_reference)
        expected.append(1 + 9 * math.exp(-8 * ratio))
    assert of_images("mambo-g:w=10") == pytest.approx(expected)
    assert of_images("mambo-g:w=10:alpha=0") == pytest.approx([10] * 4)


@pytest.mark.parametrize("kind", ["tv", "dg", "power-law", "mambo-g"])
def test_1_is_off(kind):
    guide = Guide(NetworkRef("net"), Weight.parse(kind))
    assert guide.off
    assert all(guide.weight.off(step) for step in STEPS)


def test_cfgpp_is_renoising_with_the_reference():
    """Euler: x goes on with the noise that the reference sees, from D_g + w (D_m - D_g)."""
    weight = Weight.parse("cfgpp:w=0.3")
    for step in planned(Sampler.parse("euler"), levels(8)):
        far = weight.at(step, None)
        reference = MAIN - PUSH
        guided = MAIN + (far - 1) * PUSH
        euler = X + (step.sigma_next - step.sigma) * (X - guided) / step.sigma
        renoised = reference + 0.3 * PUSH + step.sigma_next * (X - reference) / step.sigma
        torch.testing.assert_close(euler, renoised, rtol=1e-10, atol=1e-10)
    assert far == pytest.approx(0.3), "at the last step it is w itself"


def test_cfgpp_everywhere_takes_the_next_lower_level_at_the_end_of_a_step():
    """As the code of arXiv 2505.21101, which asks for the weight by the noise level of each evaluation."""
    asked = []

    def main(x, sigma):
        asked.append(float(sigma))
        return 0.5 * x

    at = denoise_at(main, (lambda x, sigma: 0.25 * x, "cfgpp:everywhere:w=0.3"))
    grid = [*levels(6), 0.0]
    for index, step in enumerate(planned(Sampler.parse("heun"), levels(6))):
        denoise = at(step)
        for here in grid[index : index + 2] if index < 5 else grid[5:6]:
            below = grid[grid.index(here) + 1]
            made = denoise(X, here) / X
            torch.testing.assert_close(made, torch.full_like(made, 0.25 + 0.25 * 0.3 * here / (here - below)))
    assert len(asked) == 11


@pytest.mark.parametrize("sampler", ["ddpm:clip=false", "ddim:clip=false:eta=0.5", "ddim:clip=false"])
def test_cfgpp_under_samplers_that_add_noise(sampler):
    """What is renoised goes to the level that their own noise leaves for it."""
    solver, weight = Sampler.parse(sampler), Weight.parse("cfgpp:w=0.3")
    for step in planned(solver, levels(8)):
        reference, guided = MAIN - PUSH, MAIN + (weight.at(step, None) - 1) * PUSH
        denoise = denoise_at(lambda x, sigma, guided=guided: guided)(step)
        made = solver.step(X, step, denoise, torch.zeros_like, ()).x
        renoised = reference + 0.3 * PUSH + step.lands * (X - reference) / step.sigma
        torch.testing.assert_close(made, renoised, rtol=1e-10, atol=1e-10)
        assert (
            step.lands == pytest.approx(step.sigma_next) if sampler == "ddim:clip=false" else step.lands <= step.sigma
        )


def test_cfgpp_is_of_one_network_and_linear():
    plus, other = Guide("net2", "cfgpp:w=0.3"), Guide("net3", 2.0)
    with pytest.raises(ValueError, match="the weight cfgpp is of one reference, and net3 guides as well"):
        Recipe("net", (plus, other), 8, sampler="euler")
    with pytest.raises(ValueError, match="the weight cfgpp is of the linear rule, and means nothing under apg"):
        Recipe("net", plus, 8, sampler="euler", rule="apg")
    with pytest.raises(ValueError, match="adds back the noise of a network, which a classifier has not"):
        Recipe("net", Guide("c", "cfgpp:w=0.3", None, "classifier"), 8, sampler="euler")
    Recipe("net", (plus, Guide("net3", 1.0)), 8, sampler="euler")


def test_cfgpp_is_of_first_order_steps():
    guide = Guide("net2", Weight.parse("cfgpp:w=0.3"))
    for sampler in ("heun", "dpmpp-2m"):
        with pytest.raises(ValueError, match="the weight cfgpp is of first-order steps"):
            Recipe("net", (guide,), 8, sampler=sampler)
        Recipe("net", (Guide("net2", Weight.parse("cfgpp:w=0.3:everywhere")),), 8, sampler=sampler)
    for sampler in ("euler", "ddim"):
        Recipe("net", (guide,), 8, sampler=sampler)
    with pytest.raises(ValueError, match="w=2: must be at least 0 and at most 1"):
        Weight.parse("cfgpp:w=2")


@pytest.mark.parametrize("text", ["power-law:w=3:alpha=-3", "beta:w=7:gamma=3", "mambo-g:w=3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_push_the_weight_is_finite(text, dtype):
    """As of another label that is the image's own."""
    x, main = X.to(dtype), MAIN.to(dtype)
    made = Weight.parse(text).at(STEPS[1], Seen(x, main, torch.zeros_like(main), 1e-3))
    assert bool(torch.isfinite(made).all())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tv:w=0", "above 0, to be the mean"),
        ("power-law:alpha=inf", "must be finite"),
        ("feedback:most=inf", "must be finite"),
        ("feedback:lo=5:hi=1", "lo=5 is not below hi=1: to add nothing, w=1"),
        ("feedback:w=2:lo=1:hi=1", "lo=1 is not below hi=1"),
        ("c2fg:rate=1000", "at most 100"),
        ("beta:gamma=4", "at most 3"),
    ],
)
def test_fields_out_of_which_no_weight_comes(text, says):
    with pytest.raises(ValueError, match=says):
        Weight.parse(text)


def test_where_infinity_means_all():
    assert str(Weight.parse("feedback:w=2:hi=inf")) == "feedback:w=2"
    assert str(Rule.parse("apg:radius=inf")) == "apg:radius=inf"
    assert str(Sampler.parse("sa:hi=inf")) == "sa:hi=inf"
