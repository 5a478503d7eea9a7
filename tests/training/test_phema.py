from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training import phema

GOLDEN = Path(__file__).parents[1] / "data" / "phema.npz"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def sigma_rel_of(exponent):
    """Relative width of the profile with this exponent, Eq. 123; elementwise."""
    gamma = np.asarray(exponent)
    return np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def response(t, sigma_rel, length):
    """Weights of times 0, 1, ..., length - 1 in the profile that ends at t: proportional to t'^exponent, sum 1."""
    time = np.arange(length, dtype=np.float64)
    profile = np.where(time <= t, time ** phema.sigma_rel_to_exponent(sigma_rel), 0)
    return profile / profile.sum()


def test_exponents(golden):
    np.testing.assert_allclose(phema.sigma_rel_to_exponent(golden["std"]), golden["exp"], rtol=1e-7)
    np.testing.assert_allclose(sigma_rel_of(golden["exp_in"]), golden["exp_to_std"], rtol=1e-7)


def test_betas(golden):
    std, t_next = np.meshgrid([0.05, 0.1], [4096, 204800, 8388608], indexing="ij")
    np.testing.assert_allclose(phema.power_function_beta(std, t_next, 2048).ravel(), golden["beta"], rtol=1e-7)


def test_coefficients(golden):
    ours = phema.solve_posthoc_coefficients(golden["in_ofs"], golden["in_std"], golden["out_ofs"], golden["out_std"])
    np.testing.assert_allclose(ours, golden["coefs"], rtol=1e-7)


def test_response(golden):
    np.testing.assert_allclose(response(20, 0.1, 32), golden["response"], rtol=1e-7)


def test_exponent_and_length_are_inverse():
    lengths = np.linspace(0.005, 0.28, 57)
    back = sigma_rel_of(phema.sigma_rel_to_exponent(lengths))
    np.testing.assert_allclose(back, lengths, rtol=1e-9)


@pytest.mark.parametrize("length", [0, -0.1, 12**-0.5, 1, float("nan")])
def test_lengths_out_of_range(length):
    with pytest.raises(ValueError, match=r"between 0 and 0\.289"):
        phema.sigma_rel_to_exponent(length)


def test_profile_dot_is_the_integral():
    # Independent: midpoint rule over the two profiles (g + 1) t^g / T^(g + 1).
    def profile(t, end, g):
        return np.where(t <= end, (g + 1) * (t / end) ** g / end, 0)

    t = (np.arange(2_000_000) + 0.5) / 2_000_000 * 30
    for t_a, g_a, t_b, g_b in [(10, 16.97, 30, 6.94), (30, 6.94, 10, 16.97), (20, 6.94, 20, 16.97), (5, 1, 25, 2)]:
        slow = (profile(t, t_a, g_a) * profile(t, t_b, g_b)).sum() * 30 / len(t)
        assert float(phema.profile_dot(t_a, g_a, t_b, g_b)) == pytest.approx(slow, rel=1e-4)


def test_reconstruction_of_a_stored_average_is_that_average():
    times, lengths = [10, 20, 30] * 2, [0.05] * 3 + [0.1] * 3
    weights = phema.solve_posthoc_coefficients(times, lengths, 20, 0.1)
    np.testing.assert_allclose(weights[:, 0], [0, 0, 0, 0, 1, 0], atol=1e-8)


def test_times_of_many_images_do_not_overflow():
    times = np.arange(1, 33) * 2.0**26
    in_t, in_len = np.tile(times, 2), np.repeat([0.05, 0.1], 32)
    large = phema.solve_posthoc_coefficients(in_t, in_len, 2.0**31, 0.015)
    small = phema.solve_posthoc_coefficients(in_t / 2.0**26, in_len, 32, 0.015)
    assert np.isfinite(large).all()
    np.testing.assert_allclose(large, small, rtol=1e-5, atol=1e-7)


def test_bad_snapshots():
    with pytest.raises(ValueError, match="given twice"):
        phema.solve_posthoc_coefficients([10, 10], [0.05, 0.05], 10, 0.1)
    with pytest.raises(ValueError, match="positive"):
        phema.solve_posthoc_coefficients([0, 10], [0.05, 0.05], 10, 0.1)


def test_running_average_follows_the_profile():
    """A parameter that equals the time averages to (g + 1) / (g + 2) of it: the mean of the profile."""
    net = nn.Linear(1, 1, bias=False)
    ema = phema.PowerFunctionEMA(net, (0.05, 0.10))
    for step in range(1, 2001):
        with torch.no_grad():
            net.weight.fill_(step / 2000)
        ema.update(net, images_seen=step * 8, batch_size=8)
    for length, average in ema.snapshots(net):
        exponent = float(phema.sigma_rel_to_exponent(length))
        assert float(average.weight) == pytest.approx((exponent + 1) / (exponent + 2), abs=1e-3)


def test_first_update_forgets_the_initial_parameters():
    net = nn.Linear(2, 2)
    ema = phema.PowerFunctionEMA(net, (0.1,))
    with torch.no_grad():
        net.weight.fill_(3.0)
    ema.update(net, images_seen=8, batch_size=8)
    assert torch.equal(ema.averages[0].weight, net.weight)


def test_buffers_are_the_current_ones():
    net = nn.BatchNorm1d(2)
    ema = phema.PowerFunctionEMA(net, (0.1,))
    net.running_mean.fill_(5)
    assert torch.equal(ema.snapshots(net)[0][1].running_mean, torch.tensor([5.0, 5.0]))


def test_state_of_other_lengths_is_refused():
    net = nn.Linear(1, 1)
    state = phema.PowerFunctionEMA(net, (0.05,)).state_dict()
    with pytest.raises(ValueError, match="lengths differ"):
        phema.PowerFunctionEMA(net, (0.1,)).load_state_dict(state)


def test_posthoc_error_is_the_distance_of_profiles():
    # Independent: the midpoint rule over the profiles themselves.
    times, lengths = np.array([1, 2, 3.0] * 2), np.repeat([0.05, 0.1], 3)
    wanted = np.array([0.03, 0.1, 0.2])
    weights = phema.solve_posthoc_coefficients(times, lengths, 3, wanted)

    def profile(end, length):
        t, g = (np.arange(300_000) + 0.5) / 100_000, float(phema.sigma_rel_to_exponent(length))
        return np.where(t <= end, (g + 1) * (t / end) ** g / end, 0)

    stored = np.stack([profile(*pair) for pair in zip(times, lengths, strict=True)])
    exact = np.stack([profile(3, length) for length in wanted])
    slow = np.linalg.norm(weights.T @ stored - exact, axis=1) / np.linalg.norm(exact, axis=1)
    ours = phema.posthoc_error(weights, times, lengths, 3, wanted)
    np.testing.assert_allclose(ours, slow, atol=1e-4)
    assert ours[1] < 1e-7 < 0.1 < ours[0]
