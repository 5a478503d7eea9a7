"""Noise levels at equal steps of what a network tells of the image."""

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dnnlib.plain_json import parse_json
from dnnlib.regular import read_regular
from dnnlib.terminal import counted
from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.from_file import MAX_BYTES, FromFile

_MEASURED_BY = "network_tool.py entropy"
_SHA256 = re.compile("[0-9a-f]{64}")
_SHAPES = {
    "sigma_min": "a number",
    "sigma_max": "a number",
    "errors": "a list of numbers",
    "net.sha256": "64 hexadecimal digits",
}


@dataclass(frozen=True)
class Entropy(FromFile, Schedule):
    """Equal steps of the entropy of the image given x, measured for a network: entropy:file=FILE.

    Its derivative is E / sigma^3, where E(sigma) is the expected squared error of D, over all pixels; `rescaled` is
    the form of the published tables of EDM2's networks, E / sigma^2. FILE is what `network_tool.py entropy` writes: E
    on a grid that is even in ln sigma. In between, the integral is that of the trapezoids, and linear in ln sigma.
    """

    kind: ClassVar[str] = "entropy"
    source: ClassVar[str] = "arXiv 2504.13612"
    formula: ClassVar[str] = (
        "sigma_i at equal shares of the integral of E(sigma) / sigma^3, rescaled: E(sigma) / sigma^2\n"
        "E: expected squared error of D"
    )

    rescaled: bool = option(False, "Weigh each step of the entropy by sigma")
    sigma_min: float = option(0.002, "Lowest noise level", unit="sigma", low=1e-30)
    sigma_max: float = option(80.0, "Highest noise level", unit="sigma", above=0)
    errors: tuple[float, ...] = option((), "E from sigma_min to sigma_max, even in ln sigma, joined by +")
    net: str = option("", "SHA-256 of the network that they were measured on")

    def check(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g}, sigma_max {self.sigma_max:g}: need min < max")
        if len(self.errors) == 1 or not all(0 < error < math.inf for error in self.errors):
            raise ValueError(f"{self.kind}: errors must be two at least, all above 0 and finite")

    def read(self, path: Path) -> dict[str, Any]:
        try:
            held = parse_json(read_regular(path, MAX_BYTES))
            errors, net = held["errors"], held["net"]["sha256"]
            ends = {name: held[name] for name in ("sigma_min", "sigma_max")}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no file of {_MEASURED_BY}: measure the network again") from error
        wrong = [name for name, value in ends.items() if not _is_number(value)]
        wrong += [] if isinstance(errors, list) and errors and all(map(_is_number, errors)) else ["errors"]
        wrong += [] if isinstance(net, str) and _SHA256.fullmatch(net) else ["net.sha256"]
        if wrong:
            raise ValueError(f"{path} is no file of {_MEASURED_BY}: {wrong[0]} is not {_SHAPES[wrong[0]]}")
        return {**{name: float(end) for name, end in ends.items()}, "errors": tuple(map(float, errors)), "net": net}

    @property
    def measured_on(self) -> str:
        return self.net

    def levels(self, num_steps: int) -> list[float]:
        if not self.errors:
            raise ValueError(f"the schedule {self.kind} needs a file, {self.kind}:file=FILE: {_MEASURED_BY} writes it")
        passed, places = self._passed()
        shares = [1 - index / max(num_steps - 1, 1) for index in range(num_steps)]
        inner = [math.exp(_interpolated(share * passed[-1], passed, places)) for share in shares[1:-1]]
        levels = [self.sigma_max, *inner, self.sigma_min][:num_steps]
        if not all(a > b for a, b in itertools.pairwise(levels)):
            raise ValueError(f"{counted(num_steps, 'step')} of {self.caption} are no falling noise levels: take fewer")
        return levels

    def _passed(self) -> tuple[list[float], list[float]]:
        """The integral from sigma_min up to each point of the grid, and ln sigma there."""
        count, (bottom, top) = len(self.errors), (math.log(self.sigma_min), math.log(self.sigma_max))
        places = [bottom + (top - bottom) * index / (count - 1) for index in range(count)]
        power = 1 if self.rescaled else 2
        rates = [error * math.exp(-power * place) for error, place in zip(self.errors, places, strict=True)]
        areas = [(a + b) / 2 for a, b in itertools.pairwise(rates)]
        return list(itertools.accumulate(areas, initial=0.0)), places


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _interpolated(at: float, known: Sequence[float], values: Sequence[float]) -> float:
    """The value at a place between rising known ones, on the straight line."""
    after = min(bisect_right(known, at), len(known) - 1)
    share = (at - known[after - 1]) / (known[after] - known[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])
