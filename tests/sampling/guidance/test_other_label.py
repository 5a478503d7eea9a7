"""The reference other-label: the push, its classes, its cost, and the way from a command line."""

import json

import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import generate_images
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Prediction, Reference, StepInfo, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import TOGETHER, Batch, guided
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.sampling.seeds import Draws

OTHER = Reference.parse("other-label")
STEP = StepInfo(0, 1, 1.0, 1.0, 0.0)


def by_class(x, sigma, labels):
    """A network whose D is the class, everywhere."""
    return Prediction(torch.tensor(labels, dtype=x.dtype)[:, None].expand_as(x))


def classes_of(seeds, calls, high=1000):
    """The classes that the reference draws for these seeds, in each of so many calls."""
    labels = [0] * len(seeds)
    at = guided(
        by_class, [(Guide(None, constant(2.0), reference=OTHER), None)], batch=Batch(labels, high, Draws(seeds))
    )
    x = torch.zeros(len(seeds), 1)
    return [(-at(STEP)(x, 1.0)).flatten().tolist() for _ in range(calls)]  # D = 0 + (2 - 1) (0 - class)


def test_every_image_and_step_has_a_class_of_its_own():
    drawn = torch.tensor(classes_of(range(200), 5))
    assert ((drawn >= 0) & (drawn < 1000)).all()
    assert len(drawn.flatten().unique()) > 500
    assert abs(float(drawn.mean()) - 499.5) < 5 * 289 / 1000**0.5
    assert abs(float(torch.corrcoef(drawn[:2])[0, 1])) < 5 / 200**0.5


def test_a_step_keeps_its_class():
    """Heun's second evaluation asks for the class of the first, in one batch with the main network or not."""
    guides = [(Guide(None, constant(2.0), reference=OTHER), None)]
    at = guided(by_class, guides, batch=Batch([0] * 5, 1000, Draws(range(5))))
    step, x = at(STEP), torch.zeros(5, 1)
    first, corrector = step(x, 1.0), step(x, 0.5)
    assert torch.equal(first, corrector)
    assert not torch.equal(at(STEP)(x, 1.0), first)


def test_no_batch_changes_an_image():
    whole = classes_of([3, 4, 5], 3)
    assert classes_of([4], 3) == [[row[1]] for row in whole]
    assert classes_of([5, 3], 3) == [[row[2], row[0]] for row in whole]


def test_what_it_asks_is_counted_with_the_main_network(tiny_networks):
    net = NetworkRef(str(tiny_networks["cond"]))
    recipe = Recipe(net, (Guide(None, constant(1.5), reference=OTHER),), 4, noise_device="cpu")
    generation = open_recipe(recipe, "cpu")
    counted = dict.fromkeys(generation.evaluations_per_image(), 0)
    guided_samples, labels = sample(generation, [1, 2], counted)
    assert generation.evaluations_per_image() == {"main": 14}
    assert counted == {"main": 28}
    plain, same = sample(open_recipe(Recipe(net, (), 4, noise_device="cpu"), "cpu"), [1, 2])
    assert labels == same, "its draws move neither labels nor noise"
    assert (guided_samples - plain).abs().max() > 1e-3


def test_both_in_one_batch_are_the_same(tiny_networks, monkeypatch):
    net = NetworkRef(str(tiny_networks["cond"]))
    guides = (Guide(None, constant(1.5), reference=OTHER), Guide(None, constant(0.5), reference="noise-embedding"))
    generation = open_recipe(Recipe(net, guides, 3, noise_device="cpu"), "cpu")
    counted = {"main": 0}
    apart, _ = sample(generation, [1, 2], counted)
    sizes = []
    predict = generation.main.predict
    monkeypatch.setattr(
        generation.main, "predict", lambda x, *a, **how: (sizes.append(len(x)), predict(x, *a, **how))[1]
    )
    monkeypatch.setitem(TOGETHER, "cpu", 2)
    together, _ = sample(generation, [1, 2], counted)
    assert sizes == [4, 2] * 5
    assert counted == {"main": 2 * 2 * 3 * 5}
    assert (together - apart).abs().max() < 1e-4


def test_from_the_command_line(tiny_networks, tmp_path):
    words = ["--reference=other-label", "--seeds=0-1", "--steps=3", f"--outdir={tmp_path / 'out'}"]
    done = CliRunner().invoke(generate_images.main, [f"--net={tiny_networks['cond']}", "--guidance=1.4", *words])
    assert done.exit_code == 0, done.stderr
    assert "guided by the main network (other-label), w = 1.4, at all steps" in done.stderr
    assert "evaluations per image: 10 main" in done.stderr
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())["recipe"]
    assert recipe["guides"] == [{"net": None, "reference": "other-label", "weight": "constant:w=1.4", "steps": None}]
    done = CliRunner().invoke(generate_images.main, [f"--net={tiny_networks['cond']}", *words])
    assert (done.exit_code, "a guide needs a weight" in done.stderr) == (2, True)


def test_without_classes_it_is_refused(tiny_networks):
    guide = Guide(None, constant(1.5), reference=OTHER)
    with pytest.raises(ValueError, match="the reference 'other-label' needs classes"):
        open_recipe(Recipe(NetworkRef(str(tiny_networks["uncond"])), (guide,), noise_device="cpu"), "cpu")
    told = Guide(NetworkRef(str(tiny_networks["uncond"])), constant(1.5), reference=OTHER)
    with pytest.raises(ValueError, match=r"needs classes, and .*uncond\.pkl knows none"):
        open_recipe(Recipe(NetworkRef(str(tiny_networks["cond"])), (told,), noise_device="cpu"), "cpu")
    with pytest.raises(ValueError, match="'network' asks another network"):
        Guide(None, constant(1.5))
