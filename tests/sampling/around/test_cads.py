"""CADS: its schedule, what the noise does to embedded labels, both forms of a network, and whole runs."""

import copy
from dataclasses import replace

import pytest
import torch

from dnnlib.inference import Inference
from edm2_guidance.recipe.around import Around
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Prediction, Reference, StepInfo, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import TOGETHER, Batch, guided
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.sampling.seeds import Draws
from tests.training.test_inference_form import inputs, relative, small
from training.inference_form import prepare

MANY = Draws(range(400))
EMBEDDED = torch.randn(400, 24, generator=torch.Generator().manual_seed(5)) * 2 + 0.3


def step(index, num_steps=11, level=1.0):
    return StepInfo(index, num_steps, level, level, 0.5)


def test_its_schedule():
    """t = 1 - index / 10 here."""
    plain = Around.parse("cads")
    assert [plain.kept(step(index)) for index in range(11)] == pytest.approx([0, 0, 0.25, 0.5, 0.75, *[1] * 6])
    flow = Around.parse("cads:tau1=0.6:tau2=1:time=flow")
    assert [flow.kept(step(0, level=level)) for level in (80.0, 4.0, 1.5, 0.1)] == pytest.approx([1 / 32.4, 0.5, 1, 1])
    assert plain.told(step(6), MANY.normal) is None, "nothing is drawn where labels stay"
    with pytest.raises(ValueError, match=r"tau1=0.7, tau2=0.5: need tau1 < tau2"):
        Around.parse("cads:tau1=0.7:tau2=0.5")


def test_what_the_noise_is():
    change = Around.parse("cads:psi=0:s=0.4").told(step(3), Draws(range(400)).normal)  # gamma = 0.5
    noise = (change(EMBEDDED) - 0.5**0.5 * EMBEDDED) / (0.4 * 0.5**0.5)
    assert abs(float(noise.mean())) < 5 / (400 * 24) ** 0.5
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    assert abs(float(torch.corrcoef(noise[:, :2].T)[0, 1])) < 5 / 400**0.5
    assert torch.equal(change(EMBEDDED), change(EMBEDDED)), "the same for predictor, corrector and other networks"
    twice = change(torch.cat([EMBEDDED, EMBEDDED + 1]))
    torch.testing.assert_close(twice[:400], change(EMBEDDED))
    torch.testing.assert_close(twice[400:] - twice[:400], torch.full_like(EMBEDDED, 0.5**0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", [0, 3])
def test_mean_and_deviation_come_back(index):
    back, free = (
        Around.parse(f"cads:psi={psi}").told(step(index), Draws(range(400)).normal)(EMBEDDED) for psi in (1, 0)
    )
    torch.testing.assert_close(back.mean(1), EMBEDDED.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(back.std(1), EMBEDDED.std(1), rtol=1e-4, atol=0)
    half = Around.parse("cads:psi=0.5").told(step(index), Draws(range(400)).normal)(EMBEDDED)
    torch.testing.assert_close(half, (back + free) / 2, rtol=0, atol=1e-5)


def test_every_step_and_image_has_noise_of_its_own():
    draws, about = Draws([7, 8]), Around.parse("cads:psi=0")
    first, second = (about.told(step(0), draws.normal)(torch.zeros(2, 6)) for _ in range(2))
    assert len(torch.cat([first, second]).unique()) == 24
    alone = Draws([8])
    for whole in (first, second):
        assert torch.equal(about.told(step(0), alone.normal)(torch.zeros(1, 6))[0], whole[1])


def test_all_networks_of_a_step_are_told_the_same():
    seen = []

    def network(x, sigma, labels, **how):
        seen.append(how["label_embedding"](torch.ones(len(labels), 3)))
        return Prediction(x)

    asked = Guide(None, constant(2.0), reference=Reference.parse("other-label"))
    weak = Guide(NetworkRef("weak"), constant(2.0))
    at = guided(
        network, [(asked, None), (weak, network)], batch=Batch([0, 1], 5, Draws([0, 1])), around=[Around.parse("cads")]
    )
    denoise = at(step(1))
    denoise(torch.zeros(2, 1), 1.0)
    denoise(torch.zeros(2, 1), 0.5)
    assert len(seen) == 6
    assert all(torch.equal(each, seen[0]) for each in seen)


@pytest.mark.parametrize("form", ["plain", "prepared"])
@pytest.mark.parametrize("kwargs", [{}, {"label_balance": 0.3}])
def test_networks_take_other_embedded_labels(form, kwargs):
    """Those of other classes are the other classes, in every form."""
    net = small(**kwargs)
    x, labels = inputs(net)
    others, sigma = labels.roll(1, 0), torch.tensor(0.7)
    embedded = net.unet.emb_label(others * net.label_dim**0.5)
    expected = net(x, sigma, others)
    given = []

    def change(found):
        given.append(found)
        return embedded

    denoise = prepare(copy.deepcopy(net), form, "float32")
    assert relative(denoise(x, sigma, labels, label_embedding=change), expected) < 1e-5
    assert relative(given[0], net.unet.emb_label(labels * net.label_dim**0.5)) < 1e-5
    assert relative(denoise(x, sigma, labels), net(x, sigma, labels)) < 1e-5, "nothing is left of it"
    assert relative(expected, net(x, sigma, labels)) > 1e-3


def run(net, around, seeds=range(4), guides=()):
    generation = open_recipe(Recipe(str(net), guides, 6, around=around), "cpu")
    counted = dict.fromkeys(generation.evaluations_per_image(), 0)
    made, labels = sample(generation, list(seeds), counted)
    assert counted == {name: count * len(made) for name, count in generation.evaluations_per_image().items()}
    return made, labels


def test_whole_runs(tiny_networks):
    net, weak = tiny_networks["cond"], tiny_networks["weak"]
    plain, labels = run(net, ())
    noised, same = run(net, "cads")
    assert labels == same
    assert float((noised - plain).abs().max()) > 1e-3
    guides = (Guide(str(weak), 2.0), Guide(str(tiny_networks["uncond"]), 1.5))
    for others in ((), guides):
        whole, _ = run(net, "cads", guides=others)
        parts = torch.cat([run(net, "cads", seeds, others)[0] for seeds in ([0], [1, 2, 3])])
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3)
    idle, _ = run(net, "cads:s=0:tau2=1.5")
    torch.testing.assert_close(idle, plain, rtol=1e-3, atol=1e-3)


def test_images_without_classes(tiny_networks):
    with pytest.raises(ValueError, match="cads is of images with classes, and these are made without"):
        open_recipe(Recipe(str(tiny_networks["uncond"]), around="cads"), "cpu")
    with pytest.raises(ValueError, match="cads is of images with classes"):
        open_recipe(Recipe(str(tiny_networks["cond"]), labels="none", around="cads"), "cpu")


def test_networks_that_do_not_take_it():
    class Other(torch.nn.Module):
        img_channels, img_resolution, label_dim = 3, 8, 4

        def forward(self, x, sigma, labels):
            return 0 * x

    with pytest.raises(ValueError, match=r"cads asks networks for label noise, which .* does not support"):
        open_recipe(Recipe(Other().eval(), around="cads"), "cpu")


def test_one_batch_for_two_classes_is_the_same(tiny_networks, monkeypatch):
    """On some devices the main network and the same one under other classes are asked at once."""
    guides = (Guide(None, 1.8, reference="other-label"),)
    apart, _ = run(tiny_networks["cond"], "cads", guides=guides)
    monkeypatch.setitem(TOGETHER, "cpu", 16)
    together, _ = run(tiny_networks["cond"], "cads", guides=guides)
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reference", ["skip-blocks", "noise-embedding", "previous-step"])
def test_references_that_ask_the_network_otherwise(reference, tiny_networks):
    """They are told the same labels, in both forms."""
    recipe = Recipe(str(tiny_networks["cond"]), (Guide(None, 1.8, reference=reference),), 6, around="cads")
    made = [sample(open_recipe(recipe, "cpu", inference=Inference(form)), [0, 1])[0] for form in ("plain", "prepared")]
    torch.testing.assert_close(*made, rtol=1e-3, atol=1e-3)
    plain = sample(open_recipe(replace(recipe, around=()), "cpu"), [0, 1])[0]
    assert float((made[0] - plain).abs().max()) > 1e-3
