"""Kernel distance (KID): the squared maximum mean discrepancy of two sets of features, without bias.

With k(x, y) = (x . y / D + 1)^3 and subsets of s rows of either set (Binkowski et al. 2018, Eq. 4):

    [sum_{i != j} k(x_i, x_j) + sum_{i != j} k(y_i, y_j)] / (s (s - 1)) - 2 sum_{ij} k(x_i, y_j) / s^2

The mean over many subsets is reported, which may be negative. Subsets are drawn as torch-fidelity draws them, in its
order and with its seed, so that its numbers come out; it computes the kernel in float32, which moves them by less
than 1e-6. The variant `fidelity` is another name for the default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, Measure, rows_of
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments

SEED = 2020


@dataclass(frozen=True)
class Kernel(Measure):
    """Kernel distance: unbiased squared MMD by the cubic kernel, the mean over random subsets."""

    kind = "kid"
    source = "arXiv 1801.01401, Eq. 4"
    needs = "features"
    needs_reference = "features"
    few = ""
    decimals = 6
    variants = MappingProxyType({"fidelity": {}})

    size: int = option(1000, "Images of either set in a subset", unit="images", low=2)
    subsets: int = option(100, "How many subsets", low=1)

    def check_count(self, count: int, what: str, metric: str) -> None:
        if count < self.size:
            few = f"{count} {what} are too few for subsets of {self.size}"
            raise ValueError(f"{metric}: {few}: give more, or smaller subsets, as in {_with_size(metric, count)}")

    def against(self, reference: "Moments", name: str) -> Comparison:
        import numpy as np

        theirs = rows_of(reference)
        self.check_count(len(theirs), "reference images", name)
        first = theirs[: self.size].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sound = np.isfinite(unbiased_mmd(first, first))
        if not sound:
            raise ValueError(f"{name}: its features are too large for a cubic kernel; the file is damaged")

        def compare(images: "Moments") -> Mapping[str, float]:
            """KID, and the standard deviation over subsets."""
            ours = rows_of(images)
            self.check_count(len(ours), "images", name)
            values = [unbiased_mmd(x, y) for _, x, y in self._drawn(ours, theirs)]
            return {self.kind: float(np.mean(values)), "std": float(np.std(values))}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """What each image adds to each subset that it is drawn into, by the kernels of its pairs."""
        import numpy as np

        ours, found = rows_of(images), np.zeros(len(rows_of(images)))
        for which, x, y in self._drawn(ours, rows_of(reference)):
            own = _cubic(x, x)
            others = (own.sum(axis=1) - own.diagonal()) / (self.size - 1)
            found[which] += 2 * (others - _cubic(x, y).mean(axis=1)) / self.size
        return found * len(ours) / self.subsets

    def _drawn(self, ours: "NDArray[Any]", theirs: "NDArray[Any]") -> "Iterator[tuple[NDArray[Any], ...]]":
        """Subsets: the places of images, their features and those of as many of the reference, float64."""
        import numpy as np

        draws = np.random.RandomState(SEED)
        for _ in range(self.subsets):
            which = draws.choice(len(ours), self.size, replace=False)
            y = theirs[draws.choice(len(theirs), self.size, replace=False)]
            yield which, ours[which].astype(np.float64), y.astype(np.float64)


def unbiased_mmd(x: "NDArray[Any]", y: "NDArray[Any]") -> float:
    """The formula above for two subsets, float64 [s, D], s of 2 or more."""
    size = len(x)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_cubic(x, x), _cubic(y, y)))
    return float(within / (size * (size - 1)) - 2 * _cubic(x, y).sum() / size**2)


def _cubic(x: "NDArray[Any]", y: "NDArray[Any]") -> "NDArray[Any]":
    inner: NDArray[Any] = x @ y.T / x.shape[1] + 1
    result: NDArray[Any] = inner * inner * inner  # a power takes ten times as long
    return result


def _with_size(metric: str, size: int) -> str:
    """The metric's name, which "FILE: " may come before, with subsets of another size."""
    named, slash, features = metric.rpartition(": ")[2].partition("/")
    return f"{named.partition(':')[0]}:size={size}{slash}{features}"
