"""The reference unconditional: classifier-free guidance by one network, its cost, and who cannot be asked."""

import pytest
import torch

from edm2_guidance.models.base import Prediction
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Reference, StepInfo, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import Batch, guided
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.sampling.seeds import Draws

UNCONDITIONAL = Reference.parse("unconditional")
STEP = StepInfo(0, 1, 1.0, 1.0, 0.0)


class ByClass:
    """D is the class, 7 without; knows what to do without."""

    shape, num_classes, supports = (3, 8, 8), 3, frozenset({"unconditional"})

    def conditions(self, labels, device):
        return torch.full([1], 7.0) if labels is None else torch.tensor(labels)

    def predict(self, x, sigma, y):
        return Prediction(y.to(x.dtype).view(-1, 1, 1, 1).expand_as(x))


def asked(net=None, w=3.0):
    return Guide(net, constant(w), reference=UNCONDITIONAL)


def test_it_is_classifier_free_guidance():
    """arXiv 2207.12598, Eq. 6, with w here for 1 + w there."""
    network = ByClass()

    def main(x, sigma, labels):
        return network.predict(x, sigma, network.conditions(labels, x.device))

    at = guided(main, [(asked(w=3.0), None)], batch=Batch([0, 2, 1], 3, Draws(range(3))))
    made = at(STEP)(torch.zeros(3, 1, 1, 1), 1.0)
    assert made.flatten().tolist() == [3 * label - 2 * 7 for label in (0, 2, 1)]


def test_it_costs_one_evaluation_of_the_main_network():
    generation = open_recipe(Recipe(ByClass(), asked(), 4, labels="balanced"), "cpu")
    counted = {"main": 0}
    made, labels = sample(generation, [0, 5], counted)
    assert generation.evaluations_per_image() == {"main": 14}
    assert counted == {"main": 28}
    assert labels == [0, 2]
    assert made[:, 0, 0, 0].tolist() == pytest.approx([-14, -8], abs=1e-3)


def test_another_network_may_be_asked_without_a_class():
    alone, other = (
        sample(open_recipe(Recipe(ByClass(), asked(net), 3, labels=1), "cpu"), [0])[0] for net in (None, ByClass())
    )
    assert torch.equal(alone, other)


def test_networks_that_were_not_trained_so_are_refused(tiny_networks):
    net = NetworkRef(str(tiny_networks["cond"]))
    with pytest.raises(
        ValueError, match=r"cond\.pkl was not trained to denoise so: name an unconditional one, --gnet="
    ):
        open_recipe(Recipe(net, asked(), noise_device="cpu"), "cpu")
    with pytest.raises(ValueError, match="the reference 'unconditional' needs classes"):
        open_recipe(Recipe(ByClass(), asked(), labels="none"), "cpu")
