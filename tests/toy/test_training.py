"""Training on a small scale: it learns, repeats itself, and follows its schedule."""

import copy

import pytest
import torch

from edm2_guidance.toy import training
from edm2_guidance.toy.distribution import fractal
from edm2_guidance.toy.training import ToyTraining, learning_rate, new_model, score_matching_loss, train

TINY = ToyTraining(num_layers=2, hidden_dim=8, iterations=6, batch_size=16)


def parameters_of(config):
    snapshots = [(s.iteration, copy.deepcopy(s.net)) for s in train(config)]
    return {iteration: torch.cat([p.flatten() for p in net.parameters()]) for iteration, net in snapshots}


def test_a_shorter_run_makes_the_same_networks_until_its_end(monkeypatch):
    monkeypatch.setattr(training, "SNAPSHOT_EVERY", 2)
    long = parameters_of(TINY)
    short = parameters_of(ToyTraining(num_layers=2, hidden_dim=8, iterations=3, batch_size=16))
    assert list(long) == [2, 4, 6]
    assert list(short) == [2, 3]
    assert torch.equal(long[2], short[2])


def test_the_seed_decides():
    other = ToyTraining(num_layers=2, hidden_dim=8, iterations=6, batch_size=16, seed=1)
    assert torch.equal(parameters_of(TINY)[6], parameters_of(TINY)[6])
    assert not torch.equal(parameters_of(TINY)[6], parameters_of(other)[6])


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    list(train(TINY))
    assert torch.equal(torch.randn(2), expected)


def test_the_loss_falls(monkeypatch):
    monkeypatch.setattr(training, "SNAPSHOT_EVERY", 10)
    losses = [s.loss for s in train(ToyTraining(hidden_dim=16, iterations=40, batch_size=128))]
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_zero_for_the_truth_itself():
    """A network whose score is the true one: stand in for it with the mixture."""

    class Exact:
        def score(self, x, sigma, graph):
            return fractal("A").score(x, sigma)

    x, sigma = torch.randn(20, 2), torch.rand(20) + 0.1
    assert float(score_matching_loss(Exact(), fractal("A"), x, sigma)) == 0


def test_the_loss_by_hand():
    """Untrained, the score is -x / (sigma^2 + 1/4)."""
    x, sigma = torch.tensor([[0.3, -0.2]]), torch.tensor([0.5])
    truth = fractal("A")
    error = -x / (0.25 + 0.25) - truth.score(x, 0.5)
    expected = (0.25 * error**2).mean().item()
    assert score_matching_loss(new_model(TINY), truth, x, sigma).item() == pytest.approx(expected, rel=1e-5)


def test_the_rate_falls_after_512_iterations():
    assert [learning_rate(t) for t in (0, 512, 2048)] == pytest.approx([0.01, 0.01, 0.005])


@pytest.mark.parametrize("wrong", [{"classes": "C"}, {"iterations": 0}, {"hidden_dim": 0}])
def test_what_cannot_be_trained(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        ToyTraining(**wrong)
