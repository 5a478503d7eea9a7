"""Extrapolation along every push."""

from dataclasses import dataclass
from typing import ClassVar

from edm2_guidance.recipe.parts import Rule


@dataclass(frozen=True)
class Linear(Rule):
    """D = D_m + sum_i (w_i - 1) (D_m - D_i): with one guide the usual extrapolation."""

    kind: ClassVar[str] = "linear"
    source: ClassVar[str] = "arXiv 2406.02507, Eq. 6"
    formula: ClassVar[str] = "D = D_m + sum_i (w_i - 1) (D_m - D_i)"
