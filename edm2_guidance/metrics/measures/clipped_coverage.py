"""Clipped coverage: how full the reference's balls are, on a scale on which x means: as of a share x of good images.

With R_i the distance of reference image r_i to its k-th nearest neighbour in the reference (Salvy et al. 2025):

    y = mean_i min(#{j: |r_i - y_j| < R_i}, k) / k

Of M images of which m are drawn as the N reference images were, and the others are far from all, y is expected to be
f(m) = E[min(J, k)] / k with J beta-binomial (m; k, N - k), and 0 for m < k. The value is the first m in 0..M with
f(m) >= y, over M + 1. Made for DINOv2's features and k = 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison
from edm2_guidance.metrics.measures.neighbours import Balls, NeighbourMeasure, Neighbours

if TYPE_CHECKING:
    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class ClippedCoverage(NeighbourMeasure):
    """Coverage with counts clipped at k, as the share of good images that would give it: diversity, from 0 to 1."""

    kind = "clipped-coverage"
    source = "arXiv 2507.01761"

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        counts = Neighbours.of(reference).ask(Balls("reference", self.k, closed=False))

        def compare(images: "Moments") -> Mapping[str, float]:
            found = counts(images)
            filled = float(found.by_reference.clip(max=self.k).mean()) / self.k
            return {self.kind: self.share(filled, len(found.by_image), len(found.by_reference))}

        return compare

    def share(self, filled: float, images: int, reference: int) -> float:
        """The value for y = filled."""
        import numpy as np

        table = expected_fill(images, reference, self.k)
        return int(np.searchsorted(table, filled)) / len(table)


def expected_fill(images: int, reference: int, k: int) -> Any:
    """f(m) for m = 0..images, float64. reference: N, more than k.

    f(m) = 1 - (1 / k) sum_{j < k} (k - j) P(J = j), with P(J = j) = C(m, j) B(k + j, N + m - k - j) / B(k, N - k).
    """
    import numpy as np
    import torch

    def log_beta(a: Any, b: Any) -> Any:
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    m = torch.arange(images + 1, dtype=torch.float64)
    missing = torch.zeros_like(m)
    for j in range(k):
        some = m.clamp(min=j)
        choose = torch.lgamma(some + 1) - torch.lgamma(some - j + 1) - torch.lgamma(torch.tensor(j + 1.0).double())
        hits = torch.full_like(m, k + j)
        start = log_beta(torch.tensor(float(k)).double(), torch.tensor(float(reference - k)).double())
        chance = (choose + log_beta(hits, reference + some - k - j) - start).exp()
        missing += (k - j) * chance
    table = (1 - missing / k).numpy()
    table[:k] = 0
    return np.maximum.accumulate(table)  # what rounding takes back, where f is nearly flat
