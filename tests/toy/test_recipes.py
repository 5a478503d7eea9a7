"""The toy by recipes: points are guided as images are, by every kind that they can have."""

import pytest
import torch

from edm2_guidance.papers.gallery import entries, unguided
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.toy import methods, recipes
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.recipes import Points

POINTS = [entry for entry in entries() if not entry.not_on_points]
LACKING = [entry for entry in entries() if entry.not_on_points]
SCHEDULE = f"edm:sigma_max={methods.SIGMA_MAX:g}"


def model(seed):
    torch.manual_seed(seed)
    made = ToyModel(num_layers=1, hidden_dim=8).eval()
    torch.nn.init.constant_(made.gain, 0.05)
    return made


MODELS = {role: model(seed) for seed, role in enumerate(("main", "weak", "unconditional"))}
NETS = {role: recipes.network(made) for role, made in MODELS.items()}


def test_a_point_is_an_image_of_one_pixel():
    x, sigma = torch.randn(5, 2, 1, 1), torch.tensor(0.3)
    made = Points(MODELS["main"]).predict(x, sigma, None)
    assert torch.equal(made.flatten(1), MODELS["main"].denoise(x.flatten(1), sigma))


def test_the_gradient_is_that_of_finite_differences():
    net, h = Points(model(0).double()), 1e-5
    x, sigma = torch.randn(3, 2, 1, 1, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net.predict(leaf, sigma, None).sum(), leaf)
    for axis in range(2):
        step = torch.zeros(2, 1, 1, dtype=torch.float64)
        step[axis] = h
        up, down = (net.predict(x + side * step, sigma, None).sum((1, 2, 3)) for side in (1, -1))
        torch.testing.assert_close(gradient[:, axis, 0, 0], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_cfg_by_a_recipe_is_that_of_the_figures():
    """The same starts, steps and networks: by the engine alone, and by all that recipes go through."""
    recipe = Recipe(NETS["main"], Guide(NETS["unconditional"], 4.0), 8, schedule=SCHEDULE)
    by_recipe = recipes.paths(recipe, range(6))
    start = torch.stack([torch.randn(2, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in range(6)])
    at = methods.guided(MODELS["main"].denoise, (MODELS["unconditional"].denoise, 4.0))
    paths = methods.trajectories(at, start.flatten(1) * methods.SIGMA_MAX, methods.SIGMA_MAX, 8)
    torch.testing.assert_close(by_recipe, paths[1:], rtol=1e-4, atol=1e-5)


def test_paths_begin_where_noise_was_added_last():
    """A round more goes on from where the round before ended, and from noise of level sigma around it."""
    once, twice = (
        Recipe(NETS["main"], (), 2 + 3 * rounds, schedule=SCHEDULE, around=f"cfgig:init=2:sigma=0.5:rounds={rounds}")
        for rounds in (1, 2)
    )
    paths = recipes.paths(twice, range(300))
    assert len(paths) == 1 + 3
    noise = (paths[0] - recipes.paths(once, range(300))[-1]) / 0.5
    assert noise.mean().abs() < 0.15
    assert noise.std() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(paths[-1], recipes.sample(twice, 300, 0), rtol=1e-5, atol=1e-6)


def test_samples_are_a_function_of_their_number(monkeypatch):
    recipe = Recipe(NETS["main"], Guide(NETS["weak"], 2.0), 2, schedule=SCHEDULE)
    whole = recipes.sample(recipe, 6, 1)
    monkeypatch.setattr(recipes, "_AT_ONCE", 4)
    torch.testing.assert_close(recipes.sample(recipe, 6, 1), whole, rtol=1e-5, atol=1e-6)
    assert not torch.equal(recipes.sample(recipe, 6, 0), whole)
    torch.testing.assert_close(recipes.paths(recipe, range(6, 12))[-1], whole, rtol=1e-5, atol=1e-6)
    assert list(recipes.samplers({"it": recipe})) == ["it"]


@pytest.mark.parametrize("entry", POINTS, ids=lambda entry: entry.name)
def test_every_kind_that_points_can_have_makes_points(entry, monkeypatch):
    """Finite ones, other than without guidance, at the cost that was announced."""
    monkeypatch.setattr("edm2_guidance.papers.gallery.POINT_STEPS", 16)
    monkeypatch.setattr("edm2_guidance.papers.gallery.FEW_STEPS", 6)
    recipe = entry.of_points(NETS)
    images = open_recipe(recipe, "cpu").images(range(3), 3)
    (made,) = images.latents()
    assert torch.isfinite(made.values).all()
    assert not torch.allclose(made.values.flatten(1), recipes.sample(unguided(NETS), 3, 0), atol=1e-4)
    assert images.evaluations == {name: 3 * count for name, count in recipe.evaluations().items()}


@pytest.mark.parametrize("entry", LACKING, ids=lambda entry: entry.name)
def test_what_points_cannot_have_is_refused(entry):
    with pytest.raises(ValueError, match=f"not on points: {entry.not_on_points}"):
        entry.of_points(NETS)


def test_points_have_no_pixels():
    with pytest.raises(ValueError, match="ask for their latents"):
        Points(MODELS["main"]).decode(torch.zeros(1, 2, 1, 1))
