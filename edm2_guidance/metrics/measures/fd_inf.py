"""FD_infinity: the Frechet distance of infinitely many images, extrapolated.

The distance of N images is in the mean a line in 1 / N, to first order (Chong and Forsyth 2020, Sec. 3): a line is
fitted to the distances of subsets of the images to the whole reference, and its value at 1 / N = 0 reported. Sizes and
line as in dgm-eval: 15 sizes evenly from min(5000, max(n // 10, 2)) to n, drawn without replacement, least squares.
Its draws differ from run to run; here they are those of its generator with the seed 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of
from edm2_guidance.metrics.measures.gaussians import factor_of, frechet_distance, influence

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

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

            rows = features_of(images)
            self.check_count(len(rows), "images", name)
            distances = [frechet_distance(moments_of(rows[which]), factored) for which in subsets(len(rows))]
            slope, intercept = np.polyfit(1 / sizes(len(rows)), distances, 1)
            return {self.kind: float(intercept), "slope": float(slope)}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """That on each of the distances, times the distance's weight in the end of the line."""
        import numpy as np

        rows, factored = features_of(images), factor_of(reference, self.kind)
        weights = np.linalg.pinv(np.stack([np.ones(SIZES), 1 / sizes(len(rows))], axis=1))[0]
        found = np.zeros(len(rows))
        for weight, which in zip(weights, subsets(len(rows)), strict=True):
            each = influence(moments_of(rows[which]), factored).numpy()
            found[which] += weight * len(rows) / len(which) * (each - each.mean())
        return found

    def notes(self, moments: "Moments", what: str, metric: str) -> list[str]:
        if moments.num_images is None or what.startswith("reference") or sizes(moments.num_images)[0] > moments.dim:
            return []
        return [
            f"{metric} fits a line to sets of {sizes(moments.num_images)[0]} images and more, which is straight only "
            f"where they are more than the {moments.dim} features"
        ]


def sizes(count: int) -> Any:
    """Sizes of the subsets of so many images, int32 [SIZES]."""
    import numpy as np

    return np.linspace(min(5000, max(count // 10, 2)), count, SIZES).astype(np.int32)


def subsets(count: int) -> "Iterator[NDArray[Any]]":
    """Places of the images in each subset."""
    import numpy as np

    draws = np.random.default_rng(SEED)
    return (draws.choice(count, size, replace=False) for size in sizes(count))


def moments_of(rows: "Tensor") -> "Moments":
    """Mean and covariance of features [N, D], and these."""
    from edm2_guidance.metrics.moments import RunningMoments

    running = RunningMoments(rows.shape[1], keep=True)
    for piece in rows.split(_PIECE):
        running.append(piece)
    return running.moments()
