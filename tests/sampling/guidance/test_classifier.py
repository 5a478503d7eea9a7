"""Classifier guidance on the exact mixture, whose classes' posterior is known: identities, the gradient, both forms."""

import math
from dataclasses import replace

import pytest
import torch

from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide, classifier_guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import (
    Prediction,
    Reference,
    Rule,
    Sampler,
    Schedule,
    StepInfo,
    Weight,
    constant,
    planned,
)
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import Batch, Counted, guided
from edm2_guidance.sampling.opening import open_recipe
from tests import mixture

CLASSIFIER = Reference.parse("classifier")
LABELS = [0, 3, 4, 1, 2, 0]
X = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
STEP, SIGMA = StepInfo(0, 1, 0.7, 0.7, 0.0), torch.tensor(0.7, dtype=torch.float64)


def unconditional(x, sigma, labels):
    return Prediction(mixture.denoise(x, sigma))


def conditional(x, sigma, labels):
    return Prediction(mixture.denoise_of(x, sigma, labels))


def guide(scale, weight="constant", interval=None):
    return Guide(NetworkRef("c"), Weight.parse(weight).with_fields({"w": 1 + scale}), interval, CLASSIFIER)


def made(main, scale, *others, labels=LABELS, x=X, step=STEP, weight="constant", **more):
    guides = [(guide(scale, weight), mixture.log_probs), *others]
    return guided(main, guides, batch=Batch(labels, 5), **more)(step)(x, 0.7)


def test_at_scale_1_it_is_the_conditional_network():
    """Bayes: D(x | y) = D(x) + sigma^2 grad log p(y | x)."""
    expected = mixture.denoise_of(X, SIGMA, LABELS)
    torch.testing.assert_close(made(unconditional, 1.0), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 3.0, -0.5])
def test_of_a_conditional_network_it_is_cfg_with_w_of_1_and_the_scale(scale):
    cfg = guided(conditional, [(Guide(NetworkRef("u"), constant(1 + scale)), unconditional)], batch=Batch(LABELS, 5))
    torch.testing.assert_close(made(conditional, scale), cfg(STEP)(X, 0.7), rtol=1e-9, atol=1e-9)


def test_beside_cfg_the_pushes_add_up():
    cfg = (Guide(NetworkRef("u"), constant(2.0)), unconditional)
    expected = made(conditional, 2.5)
    torch.testing.assert_close(made(conditional, 1.5, cfg), expected, rtol=1e-9, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    push = made(unconditional, 1.0) - mixture.denoise(X, 0.7)
    for axis in range(2):
        h = torch.zeros(2, dtype=torch.float64)
        h[axis] = 1e-5
        up, down = (mixture.log_probs(X + side * h, 0.7)[range(6), LABELS] for side in (1, -1))
        torch.testing.assert_close(push[:, axis], 0.7**2 * (up - down) / 2e-5, rtol=1e-6, atol=1e-8)


def test_no_batch_changes_an_image():
    whole = made(unconditional, 3.0)
    for k in range(6):
        alone = made(unconditional, 3.0, labels=LABELS[k : k + 1], x=X[k : k + 1])
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-12, atol=1e-12)


def test_scale_0_is_unguided_and_asks_nothing():
    counted = Counted(mixture.log_probs)
    at = guided(conditional, [(guide(0.0), counted)], batch=Batch(LABELS, 5))
    assert torch.equal(at(STEP)(X, 0.7), conditional(X, SIGMA, LABELS).denoised)
    assert counted.evaluations == 0


def test_the_gradient_is_taken_without_one_around_it():
    with torch.no_grad():
        result = made(unconditional, 1.0)
    assert not result.requires_grad
    torch.testing.assert_close(result, made(unconditional, 1.0))


def test_clipping_holds_the_networks_and_not_the_push():
    main = 4 * mixture.denoise(X, 0.7)
    push = made(unconditional, 2.0) - mixture.denoise(X, 0.7)

    def far(x, sigma, labels):
        return Prediction(4 * mixture.denoise(x, sigma))

    clipped = made(far, 2.0, clip=True)
    torch.testing.assert_close(clipped, main.clamp(-1, 1) + push)
    assert clipped.abs().max() > 1.01
    assert (clipped - (main + push).clamp(-1, 1)).abs().max() > 0.01, "clipped after guidance it is another"


def test_a_rule_is_of_the_networks_alone():
    """Rescaled is what CFG made; the push of the classifier is added to it as it is."""
    rule = Rule.parse("rescale:phi=1")
    x = X.T.reshape(1, 12).repeat(2, 1)

    def main(x, sigma, labels):
        return Prediction(x * 0.5)

    def other(x, sigma, labels):
        return Prediction(x * 0.3)

    def log_probs(x, sigma):
        return torch.stack([x.sum(1), -x.sum(1)], 1)

    def at(*guides):
        return guided(main, guides, rule, Batch([0, 1], 2))(STEP)(x, 0.7)

    cfg = (Guide(NetworkRef("u"), constant(2.0)), other)
    sign = torch.tensor([1.0, -1.0])[:, None]
    torch.testing.assert_close(at(cfg, (guide(3.0), log_probs)), at(cfg) + 3 * 0.49 * sign)
    torch.testing.assert_close(at((guide(3.0), log_probs)), 0.5 * x + 3 * 0.49 * sign)
    net = NetworkRef("net")
    assert Recipe(net, (guide(1.0),), rule=rule).hash == Recipe(net, (guide(1.0),)).hash


# ----------------------------------------------------------------------------
# Whole runs against the published forms, on x / sqrt(1 + sigma^2).

BETAS = [0.002 + 0.03 * k for k in range(10)]
KEPT = [math.prod(1 - beta for beta in BETAS[: k + 1]) for k in range(10)]
LEVELS = [math.sqrt((1 - kept) / kept) for kept in KEPT][::-1]
DRAWS = torch.randn(11, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SCALE = 1.5


def mix(x):
    return torch.sin(3 * x) * 0.6 + 0.5


def gradient(x, kept):
    """SCALE times that of log p(y | x), to x / sqrt(1 + sigma^2)."""
    x = x.clone().requires_grad_()
    chosen = mixture.log_probs(x / math.sqrt(kept), math.sqrt((1 - kept) / kept))[range(6), LABELS]
    return SCALE * torch.autograd.grad(chosen.sum(), x)[0]


def published(form, wrong=None):
    """The end of ten steps of Algorithm 1 (ancestral) or 2 (ddim) of arXiv 2105.05233, or of a wrong variant."""
    x = DRAWS[0]
    least = [b * (1 - p) / (1 - a) for b, p, a in zip(BETAS, [1.0, *KEPT], KEPT, strict=False)]
    least[0] = least[1]
    for k in range(9, -1, -1):
        beta, kept, before = BETAS[k], KEPT[k], KEPT[k - 1] if k > 0 else 1.0
        first = mixture.denoise(x / math.sqrt(kept), math.sqrt((1 - kept) / kept)).clamp(-1, 1)
        if form == "ddim":
            noise = (x / math.sqrt(kept) - first) / math.sqrt(1 / kept - 1) - math.sqrt(1 - kept) * gradient(x, kept)
            first = x / math.sqrt(kept) - math.sqrt(1 / kept - 1) * noise
            if wrong == "clipped after":
                first = first.clamp(-1, 1)
            x = math.sqrt(before) * first + math.sqrt(1 - before) * noise
            continue
        mean = beta * math.sqrt(before) / (1 - kept) * first + (1 - before) * math.sqrt(1 - beta) / (1 - kept) * x
        variance = (mix(x) * math.log(beta) + (1 - mix(x)) * math.log(least[k])).exp()
        where = mean if wrong == "gradient at the mean" else x
        by = math.sqrt(1 - kept) if wrong == "by sqrt(1 - alpha bar)" else variance
        x = mean + by * gradient(where, kept)
        if k > 0:
            x = x + variance.sqrt() * DRAWS[10 - k]
    return x


def house(sampler, weight, start=DRAWS[0]):
    solver, noises = Sampler.parse(sampler), iter(DRAWS[1:])

    def main(x, sigma, labels):
        return Prediction(mixture.denoise(x, sigma), mix(x / math.sqrt(1 + sigma**2)))

    at = guided(main, [(guide(SCALE, weight), mixture.log_probs)], batch=Batch(LABELS, 5), clip=solver.clips)
    *_, last = trajectory(solver, planned(solver, LEVELS), at, start, lambda x: next(noises))
    return last.x


def test_the_ancestral_form():
    made = house("ddpm", "posterior")
    torch.testing.assert_close(made, published("ancestral"), rtol=1e-9, atol=1e-9)
    for wrong in ("gradient at the mean", "by sqrt(1 - alpha bar)"):
        assert (made - published("ancestral", wrong)).abs().max() > 1e-3, wrong
    assert (made - house("ddpm", "constant")).abs().max() > 1e-3, "the scales of the two forms are not the same"


def test_the_form_of_ddim_is_the_one_of_every_other_sampler():
    made = house("ddim", "constant")
    torch.testing.assert_close(made, published("ddim"), rtol=1e-9, atol=1e-9)
    assert (made - published("ddim", "clipped after")).abs().max() > 1e-3
    start = DRAWS[0] * math.hypot(1, LEVELS[0]) / LEVELS[0]
    torch.testing.assert_close(house("ddim:clip=false", "constant"), house("euler", "constant", start))


def test_posterior_is_refused_where_it_makes_no_sense():
    net = NetworkRef("net")
    with pytest.raises(ValueError, match="by the variance of an ancestral step, which the sampler heun has not: take"):
        Recipe(net, (guide(1.0, "posterior"),))
    other = Guide(net, Weight.parse("posterior:w=2"))
    with pytest.raises(ValueError, match="is of a classifier: the reference network has no gradient"):
        Recipe(net, (other,), sampler=Sampler.parse("ddpm"))
    with pytest.raises(ValueError, match=r"'classifier' asks a classifier: name it \(--classifier\)"):
        Guide(None, constant(2.0), reference=CLASSIFIER)


def test_evaluations_are_of_a_network_of_its_own():
    net = NetworkRef("net")
    one = Recipe(net, (guide(1.0, interval=StepInterval(2, 4)),), 8, schedule=Schedule.parse("logsnr"))
    assert one.evaluations() == {"main": 15, "classifier 1": 6}
    two = Recipe(net, (Guide(net, constant(2.0)), guide(1.0)), 8)
    assert two.evaluations() == {"main": 15, "guide 1": 15, "classifier 2": 15}


def test_a_rule_that_no_network_guides_by_is_said_to_be_unused():
    """Beside networks a classifier may stand under any rule: its push is added to what the rule made."""
    classifier = classifier_guide("mnist16-classifier", 1.0, "heun")
    alone = Recipe("mnist16-cond", classifier, 2, rule="apg")
    (note,) = open_recipe(alone, "cpu").notes
    assert note == "the rule apg is of networks that guide, and a classifier alone does: unused"
    assert open_recipe(replace(alone, guides=(Guide("mnist16-weak", 2.0), classifier)), "cpu").notes == ()
    (note,) = open_recipe(replace(alone, guides=()), "cpu").notes
    assert note == "the rule apg is of networks that guide, and none does: unused"
    for quiet in (replace(alone, guides=Guide("mnist16-weak", 1.0)), Recipe("mnist16-cond", num_steps=2)):
        assert open_recipe(quiet, "cpu").notes == ()
