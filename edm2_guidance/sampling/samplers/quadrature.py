"""Weights of polynomials through what past steps saw: what multistep solvers share. Floats only."""

import math
from collections.abc import Sequence

from edm2_guidance.recipe.parts import Step, StepInfo


def seen(info: StepInfo, past: Sequence[Step], order: int) -> int:
    """How many values a step uses, its own with them: at most `order`, and what there is at the start."""
    return min(order, info.index + 1, len(past) + 1)


def lowered(info: StepInfo, past: Sequence[Step], order: int) -> int:
    """The same, falling to 1 at the last step, to 2 at the one before it."""
    return min(seen(info, past, order), info.left)


def cardinals(nodes: Sequence[float]) -> list[list[float]]:
    """Of each node, the coefficients, constant first, of the polynomial that is 1 there and 0 at the others."""
    made = []
    for node in nodes:
        coefficients, others = [1.0], [other for other in nodes if other != node]
        for other in others:
            shifted, same = [0.0, *coefficients], [*coefficients, 0.0]
            coefficients = [(a - other * b) / (node - other) for a, b in zip(shifted, same, strict=True)]
        made.append(coefficients)
    return made


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Of the values at the nodes, whose interpolating polynomial is integrated. moments: of 1, u, u^2, ...."""
    return [math.fsum(c * m for c, m in zip(each, moments, strict=False)) for each in cardinals(nodes)]


def decaying_moments(count: int, h: float, rate: float = 1.0) -> list[float]:
    """rate times the integral of e^(rate (u - h)) u^k over u in [0, h], for k = 0, 1, ...: of the data form."""
    return [_decaying_moment(k, h, rate) for k in range(count)]


def _decaying_moment(k: int, h: float, rate: float) -> float:
    z = rate * h
    if z < 0.5:  # where the recursion cancels
        terms = [(-z) ** m * math.factorial(k) / math.factorial(k + 1 + m) for m in range(20)]
        return z * h**k * math.fsum(terms)
    moment = -math.expm1(-z)
    for power in range(1, k + 1):
        moment = h**power - power * moment / rate
    return moment


def plain_moments(count: int, end: float) -> list[float]:
    """The integral of u^k over u from 0 to `end`, for k = 0, 1, ...: of the slope form."""
    return [end ** (k + 1) / (k + 1) for k in range(count)]


def growing_moments(count: int, end: float) -> list[float]:
    """The integral of e^u u^k over u from 0 to `end` <= 0, or minus infinity, for k = 0, 1, ...."""
    if end == -math.inf:
        return [-((-1) ** k) * math.factorial(k) for k in range(count)]
    return [-((-1) ** k) * _falling_moment(k, -end) for k in range(count)]  # by u = -v


def _falling_moment(k: int, h: float) -> float:
    """The integral of e^(-v) v^k over v in [0, h]."""
    if h < 0.5:
        terms = [(-h) ** m / (math.factorial(m) * (k + m + 1)) for m in range(20)]
        return h ** (k + 1) * math.fsum(terms)
    moment = -math.expm1(-h)
    for power in range(1, k + 1):
        moment = power * moment - h**power * math.exp(-h)
    return moment
