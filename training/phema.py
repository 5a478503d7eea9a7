"""Power-function EMA of network parameters, and how to make other lengths from stored ones afterwards.

Equation and algorithm numbers refer to "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv 2312.02696), Section 3 and Appendix C. A length is `sigma_rel`, the profile's standard deviation relative to
the time of training; the profile itself is p(t') ~ t'^exponent for t' in [0, t].
"""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

Float64 = NDArray[np.float64]
Net = TypeVar("Net", bound=nn.Module)

#: Longest profile: exponent 0, a plain average of everything, has sigma_rel = 12**-0.5.
MAX_SIGMA_REL = 12**-0.5


def sigma_rel_to_exponent(sigma_rel: ArrayLike) -> Float64:
    """Exponent of the profile with the given relative width, elementwise, float64; the inverse of Eq. 123.

    s^2 = (g + 1) / ((g + 2)^2 (g + 3)) for s = sigma_rel: the largest real root of
    g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2).

    Raises ValueError unless 0 < sigma_rel < 12**-0.5 (about 0.289), where the exponent would reach 0.
    """
    sigma_rel = np.asarray(sigma_rel, dtype=np.float64)
    bad = sigma_rel[~((sigma_rel > 0) & (sigma_rel < MAX_SIGMA_REL))]
    if bad.size > 0:
        raise ValueError(f"EMA length {bad.flat[0]:g}: relative lengths lie between 0 and {MAX_SIGMA_REL:.3f}")
    flat = [_largest_root(float(s) ** -2) for s in sigma_rel.flat]
    return np.array(flat, dtype=np.float64).reshape(sigma_rel.shape)


@cache  # asked after every step, of the same lengths
def _largest_root(inverse_variance: float) -> float:
    roots = np.roots([1, 7, 16 - inverse_variance, 12 - inverse_variance])
    return float(np.real(roots[np.isreal(roots)]).max())


def power_function_beta(sigma_rel: ArrayLike, t_next: ArrayLike, t_delta: ArrayLike) -> Float64:
    """Weight that an average keeps when the time (in images) advances by t_delta to t_next, Eq. 127.

    beta = (1 - t_delta / t_next)^(exponent + 1); float64, broadcast over the arguments.
    """
    t_next, t_delta = np.asarray(t_next, dtype=np.float64), np.asarray(t_delta, dtype=np.float64)
    result: NDArray[np.float64] = (1 - t_delta / t_next) ** (sigma_rel_to_exponent(sigma_rel) + 1)
    return result


def profile_dot(t_a: ArrayLike, exp_a: ArrayLike, t_b: ArrayLike, exp_b: ArrayLike) -> Float64:
    """Inner product of two profiles with end times t (any unit > 0) and exponents; broadcast, float64; Eq. 149.

    (g_a + 1) (g_b + 1) (t_a / t_b)^e / ((g_a + g_b + 1) max(t_a, t_b)), e = g_b if t_a < t_b else -g_a. Only the
    ratio of times is raised to the power, so nothing overflows for times of many millions of images.
    """
    t_a, exp_a = np.asarray(t_a, dtype=np.float64), np.asarray(exp_a, dtype=np.float64)
    t_b, exp_b = np.asarray(t_b, dtype=np.float64), np.asarray(exp_b, dtype=np.float64)
    power = (t_a / t_b) ** np.where(t_a < t_b, exp_b, -exp_a)
    result: NDArray[np.float64] = (exp_a + 1) * (exp_b + 1) * power / ((exp_a + exp_b + 1) * np.maximum(t_a, t_b))
    return result


def solve_posthoc_coefficients(
    in_t: ArrayLike, in_sigma_rel: ArrayLike, out_t: ArrayLike, out_sigma_rel: ArrayLike
) -> Float64:
    """Weights with which stored averages sum to the averages wanted: Algorithm 3, each column divided by its sum.

    Args:
        in_t: Times of the stored averages, in images (or any one unit) [I].
        in_sigma_rel: Their lengths [I].
        out_t: Times of the averages wanted [O], or one for all.
        out_sigma_rel: Their lengths [O], or one for all.

    Returns:
        float64 [I, O], columns summing to 1.

    Raises:
        ValueError: A length out of range, a time that is not positive, or the same stored average given twice.
    """
    t_in, exp_in = _profiles(in_t, in_sigma_rel)
    t_out, exp_out = _profiles(out_t, out_sigma_rel)
    if len(set(zip(t_in.tolist(), exp_in.tolist(), strict=True))) < t_in.size:
        raise ValueError("the same EMA snapshot (time and length) is given twice")
    gram = profile_dot(t_in[:, None], exp_in[:, None], t_in[None, :], exp_in[None, :])
    target = profile_dot(t_in[:, None], exp_in[:, None], t_out[None, :], exp_out[None, :])
    coefficients = np.asarray(np.linalg.solve(gram, target), dtype=np.float64)
    result: NDArray[np.float64] = coefficients / coefficients.sum(axis=0)
    return result


def posthoc_error(
    coefficients: Float64, in_t: ArrayLike, in_sigma_rel: ArrayLike, out_t: ArrayLike, out_sigma_rel: ArrayLike
) -> Float64:
    """How far the weighted profiles are from the ones wanted: ||sum_i x_i p_i - p|| / ||p||, L2 over time.

    For `coefficients` [I, O] and the arguments of `solve_posthoc_coefficients`; float64 [O], 0 is exact. If the
    parameters were white noise around a mean, this would be the error of the reconstructed average relative to the
    noise that the exact one still has; what they do slowly is met more closely.
    """
    t_in, exp_in = _profiles(in_t, in_sigma_rel)
    t_out, exp_out = _profiles(out_t, out_sigma_rel)
    gram = profile_dot(t_in[:, None], exp_in[:, None], t_in[None, :], exp_in[None, :])
    target = profile_dot(t_in[:, None], exp_in[:, None], t_out[None, :], exp_out[None, :])
    wanted = profile_dot(t_out, exp_out, t_out, exp_out)
    square = wanted - 2 * (coefficients * target).sum(axis=0) + (coefficients * (gram @ coefficients)).sum(axis=0)
    result: NDArray[np.float64] = np.sqrt(np.maximum(square, 0) / wanted)
    return result


def _profiles(t: ArrayLike, sigma_rel: ArrayLike) -> tuple[Float64, Float64]:
    """Times and exponents of some profiles, as two float64 [N]."""
    times, exponents = np.broadcast_arrays(np.atleast_1d(np.asarray(t, np.float64)), sigma_rel_to_exponent(sigma_rel))
    if np.any(times <= 0):
        raise ValueError("times of EMA snapshots must be positive; leave out the one before training began")
    return times, exponents


class PowerFunctionEMA(Generic[Net]):
    """Running averages of a network's parameters at several lengths, updated after every training step.

    Attributes:
        sigma_rels: The lengths, as given.
        averages: One network per length, in evaluation mode, parameters as stored by the network (float32).
    """

    def __init__(self, net: Net, sigma_rels: Sequence[float] = (0.05, 0.10)) -> None:
        sigma_rel_to_exponent(list(sigma_rels))  # refuses lengths out of range before any training
        self.sigma_rels = tuple(sigma_rels)
        self.averages = [copy.deepcopy(net).eval().requires_grad_(False) for _ in self.sigma_rels]
        self._parameters: list[list[Tensor]] = [list(average.parameters()) for average in self.averages]

    @torch.no_grad()
    def update(self, net: nn.Module, images_seen: int, batch_size: int) -> None:
        """Take in the parameters after a step of `batch_size` images that ended at `images_seen`, Eq. 127."""
        parameters = [parameter.detach() for parameter in net.parameters()]
        for sigma_rel, average in zip(self.sigma_rels, self._parameters, strict=True):
            beta = float(power_function_beta(sigma_rel, images_seen, batch_size))
            torch._foreach_lerp_(average, parameters, 1 - beta)

    @torch.no_grad()
    def snapshots(self, net: Net) -> list[tuple[float, Net]]:
        """Pairs of length and averaged network; buffers, which are not averaged, are those of `net`."""
        for average in self.averages:
            for own, current in zip(average.buffers(), net.buffers(), strict=True):
                own.copy_(current)
        return list(zip(self.sigma_rels, self.averages, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Lengths and tensors, for a checkpoint."""
        return {
            "sigma_rels": list(self.sigma_rels),
            "averages": [average.state_dict() for average in self.averages],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state written by `state_dict`. Raises ValueError if it holds other lengths."""
        if list(self.sigma_rels) != state["sigma_rels"]:
            raise ValueError(f"EMA lengths differ: {list(self.sigma_rels)} now, {state['sigma_rels']} stored")
        averages: list[dict[str, Tensor]] = state["averages"]
        for average, tensors in zip(self.averages, averages, strict=True):
            average.load_state_dict(tensors)
