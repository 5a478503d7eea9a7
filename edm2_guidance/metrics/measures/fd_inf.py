"""FD_infinity: the Frechet distance of infinitely many images, extrapolated.

The distance of N images is in the mean a line in 1 / N, to first order (Chong and Forsyth 2020, Sec. 3): a line is
fitted to the distances of subsets of the images to the whole reference, and its value at 1 / N = 0 reported. Sizes and
line as in dgm-eval: 15 sizes evenly from min(5000, max(n // 10, 2)) to n, drawn without replacement, least squares.
Its draws differ from run to run; here they are those of its generator with the seed 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edm2_guidance.metrics.measures.base import Comparison, Measure, rows_of
from edm2_guidance.metrics.measures.gaussians import FactoredMoments, distance_and_influence, factor_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments

SEED = 0
SIZES = 15
_PIECE = 4096  # images at once in float64


@dataclass(frozen=True)
class FrechetInfinity(Measure):
    """Frechet distance extrapolated to infinitely many images, by a line in 1 / N."""

    kind = "fd-inf"
    source = "arXiv 1911.07023"
    few = ""
    needs = "features"
    needs_reference = "moments"

    def check_count(self, count: int, what: str, metric: str) -> None:
        if count < 2 * SIZES:
            raise ValueError(f"{metric}: {count} {what} are too few for {SIZES} subsets of different sizes: give more")

    def against(self, reference: "Moments", name: str) -> Comparison:
        factored = factor_of(reference, name)

        def compare(images: "Moments") -> Mapping[str, float]:
            """FD_infinity, and the slope of the line: what a distance of N images is too high by, times N."""
            import numpy as np

            rows = rows_of(images)
            self.check_count(len(rows), "images", name)
            slope, intercept = np.polyfit(1 / sizes(len(rows)), _on_subsets(images, factored).distances, 1)
            return {self.kind: float(intercept), "slope": float(slope)}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """That on each of the distances, times the distance's weight in the end of the line."""
        import numpy as np

        count = len(rows_of(images))
        weights = np.linalg.pinv(np.stack([np.ones(SIZES), 1 / sizes(count)], axis=1))[0]
        found, influences = np.zeros(count), _on_subsets(images, factor_of(reference, self.kind)).influences
        for weight, which, each in zip(weights, subsets(count), influences, strict=True):
            found[which] += weight * count / len(which) * (each - each.mean())
        return found

    def notes(self, moments: "Moments", what: str, metric: str) -> list[str]:
        if moments.num_images is None or what.startswith("reference") or sizes(moments.num_images)[0] > moments.dim:
            return []
        return [
            f"{metric} fits a line to sets of {sizes(moments.num_images)[0]} images and more, which is straight only "
            f"where they are more than the {moments.dim} features"
        ]


class _OnSubsets(NamedTuple):
    """The distance of each subset, and the influences of its images on that, float64 [size]."""

    distances: "list[float]"
    influences: "list[NDArray[Any]]"


def _on_subsets(images: "Moments", reference: "FactoredMoments") -> _OnSubsets:
    """Both at once, as they share what takes the time."""

    def make() -> _OnSubsets:
        rows = rows_of(images)
        found = [distance_and_influence(moments_of(rows[which]), reference) for which in subsets(len(rows))]
        return _OnSubsets([distance for distance, _ in found], [each for _, each in found])

    made: _OnSubsets = images.once(("fd-inf", reference), make)
    return made


def sizes(count: int) -> Any:
    """Sizes of the subsets of so many images, int32 [SIZES]."""
    import numpy as np

    return np.linspace(min(5000, max(count // 10, 2)), count, SIZES).astype(np.int32)


def subsets(count: int) -> "Iterator[NDArray[Any]]":
    """Places of the images in each subset."""
    import numpy as np

    draws = np.random.default_rng(SEED)
    return (draws.choice(count, size, replace=False) for size in sizes(count))


def moments_of(rows: "NDArray[Any]") -> "Moments":
    """Mean and covariance of features [N, D], and these."""
    import torch

    from edm2_guidance.metrics.running import RunningMoments

    running = RunningMoments(rows.shape[1], keep=True)
    for piece in torch.from_numpy(rows).split(_PIECE):
        running.append(piece)
    return running.moments()
