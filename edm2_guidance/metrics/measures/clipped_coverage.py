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

from edm2_guidance.metrics.measures.base import Comparison, left_out
from edm2_guidance.metrics.measures.neighbours import NeighbourMeasure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class ClippedCoverage(NeighbourMeasure):
    """Coverage with counts clipped at k, as the share of good images that would give it: diversity, from 0 to 1."""

    kind = "clipped-coverage"
    limits = (0, 1)
    source = "arXiv 2507.01761"
    few = ""
    shows = "diversity"

    def against(self, reference: "Moments", name: str) -> Comparison:
        import numpy as np

        self.rows(reference, "reference images", name)
        counts = self.counts(reference)

        def compare(images: "Moments") -> Mapping[str, float]:
            found = counts(images)
            table = expected_fill(len(found.by_image), len(found.by_reference), self.k)
            return {self.kind: int(np.searchsorted(table, self._filled(found.by_reference))) / len(table)}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """On y, by leaving out groups of images, over the slope of f: as if the scale went on beyond 1."""
        import numpy as np

        counts = self.counts(reference)(images)
        table = expected_fill(len(counts.by_image), len(counts.by_reference), self.k)
        at = int(np.searchsorted(table, self._filled(counts.by_reference)))
        slope = float(np.gradient(table)[min(max(at, self.k), len(table) - 1)])
        return left_out([self._filled(each) / (slope * len(table)) for each in counts.without])

    def _filled(self, counts: "NDArray[Any]") -> float:
        """y by the number of images in each ball."""
        return float(counts.clip(max=self.k).mean()) / self.k


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
