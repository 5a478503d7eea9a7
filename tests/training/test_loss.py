import numpy as np
import pytest
import torch
from torch import nn

from torch_utils import persistence, safe_pickle
from training.loss import EDM2Loss


class LinearDenoiser(nn.Module):
    """D = a x + b sigma, u = c ln sigma."""

    def forward(self, x, sigma, labels=None, return_logvar=False):
        assert return_logvar
        self.labels = labels
        return 0.7 * x + 0.1 * sigma, 0.3 * sigma.log()


def randn_from(generator):
    return lambda shape: torch.randn(list(shape), generator=generator)


def test_loss_against_numpy():
    loss_fn = EDM2Loss(P_mean=-0.8, P_std=1.6, sigma_data=0.4)
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    loss = loss_fn(LinearDenoiser(), images, None, randn_from(torch.Generator().manual_seed(2)))

    draws = torch.Generator().manual_seed(2)
    sigma = np.exp(torch.randn(5, 1, 1, 1, generator=draws).double().numpy() * 1.6 - 0.8)
    noisy = images.double().numpy() + torch.randn(5, 3, 4, 4, generator=draws).double().numpy() * sigma
    weight = 1 / sigma**2 + 1 / 0.4**2  # the same lambda, otherwise written
    u = 0.3 * np.log(sigma)
    expected = weight * np.exp(-u) * (0.7 * noisy + 0.1 * sigma - images.double().numpy()) ** 2 + u
    np.testing.assert_allclose(loss.numpy(), expected, rtol=2e-5, atol=1e-5)


def test_learned_uncertainty_settles_at_the_log_of_the_weighted_error():
    """The minimum over u of e/exp(u) + u is at u = ln e (Eq. 21)."""
    u = nn.Parameter(torch.zeros([]))

    class Constant(nn.Module):
        def forward(self, x, sigma, labels=None, return_logvar=False):
            return torch.zeros_like(x), u.expand(len(x), 1, 1, 1)

    optimizer = torch.optim.Adam([u], lr=0.05)
    images = torch.full([4, 1, 2, 2], 2.0)
    for _ in range(300):
        optimizer.zero_grad()
        EDM2Loss(P_mean=0, P_std=1e-6, sigma_data=1)(Constant(), images).mean().backward()
        optimizer.step()
    assert float(u.detach()) == pytest.approx(np.log(2 * 4), abs=0.02)  # lambda(1) = 2, error 2^2


def test_labels_reach_the_network():
    net, labels = LinearDenoiser(), torch.eye(3)
    EDM2Loss()(net, torch.zeros(3, 3, 2, 2), labels)
    assert net.labels is labels


def test_without_randn_the_global_stream_is_used():
    images = torch.zeros(2, 3, 4, 4)
    torch.manual_seed(7)
    first = EDM2Loss()(LinearDenoiser(), images)
    torch.manual_seed(7)
    assert torch.equal(first, EDM2Loss()(LinearDenoiser(), images))


def test_is_stored_as_a_persistent_object(tmp_path):
    import pickle

    path = tmp_path / "loss.pkl"
    path.write_bytes(pickle.dumps(EDM2Loss(P_mean=-1.0)))
    record = safe_pickle.load(path)
    assert persistence.is_persistent(EDM2Loss)
    assert record.class_name == "EDM2Loss"
    assert record.state["P_mean"] == -1.0
    assert record.state["_init_kwargs"] == {"P_mean": -1.0}
