"""Frechet distance between two Gaussians, without a matrix square root.

d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))   (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

With S = F F^T, the nonzero eigenvalues of S_1 S_2 are the squared singular values of F_1^T F_2, so the last trace is
the sum of those singular values. This is exact also when a covariance is singular (fewer images than features,
features that never fire), is never complex, and needs no offset on the diagonal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edm2_guidance.metrics.measures.base import Comparison, Measure

if TYPE_CHECKING:
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

# Eigenvalues of a covariance may be this far below zero, relative to the largest: statistics stored in float32.
NEGATIVE_TOLERANCE = 1e-5
SELF_DISTANCE_TOLERANCE = 1e-9  # relative to the trace of the covariance


@dataclass(frozen=True)
class Frechet(Measure):
    """Frechet distance of two Gaussians with the means and covariances of the features."""

    kind = "fd"
    source = "arXiv 1706.08500, Eq. 6"

    def against(self, reference: "Moments", name: str) -> Comparison:
        """The covariance of the reference is factored once, and its distance to itself computed: that runs the code
        that the score will need, and is zero for sound statistics."""
        try:
            factored = factorize(reference)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        distance = frechet_distance(factored, factored)
        if not distance <= SELF_DISTANCE_TOLERANCE * (1 + factored.trace):
            raise ValueError(f"{name} is at distance {distance:.3g} from itself: damaged, or a faulty LAPACK")

        def compare(images: "Moments") -> Mapping[str, float]:
            return {self.kind: frechet_distance(images, factored)}

        return compare

    def notes(self, moments: "Moments", what: str, metric: str) -> list[str]:
        if moments.num_images is None or moments.num_images > moments.dim:
            return []
        return [
            f"{moments.num_images} {what} for the {moments.dim} features of {metric}: the covariance is singular and "
            "the value far too high; compare it only with values at the same number"
        ]


@dataclass(frozen=True, eq=False)
class FactoredMoments:
    """A Gaussian as mean [D], covariance factor F [D, rank] with cov = F F^T, and tr(cov); float64 on the CPU.

    Factor a reference once and compare many sets with it: half of the work of a distance is the factor.
    """

    mean: "Tensor"
    factor: "Tensor"
    trace: float


def factorize(moments: "Moments") -> FactoredMoments:
    """Factors a covariance by its eigenvectors, dropping eigenvalues that are rounding noise.

    Noise is w < D * eps * w_max, the rank rule of numpy.linalg.matrix_rank for symmetric matrices.
    ValueError: not finite, not symmetric, or clearly not positive semidefinite.
    """
    import torch

    mean, cov = moments.mean.cpu(), moments.cov.cpu()
    if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
        raise ValueError("mean or covariance holds NaN or infinity: the statistics are damaged")
    scale = cov.abs().max()
    if (cov - cov.T).abs().max() > NEGATIVE_TOLERANCE * scale:
        raise ValueError("the covariance is not symmetric: the statistics are damaged")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    largest = values[-1]
    if values[0] < -NEGATIVE_TOLERANCE * scale:
        message = f"the covariance has a negative eigenvalue ({float(values[0]):.3g}, largest {float(largest):.3g})"
        raise ValueError(f"{message}: the statistics are damaged")
    keep = (values > 0) & (values >= moments.dim * torch.finfo(torch.float64).eps * largest)
    return FactoredMoments(mean, vectors[:, keep] * values[keep].sqrt(), float(cov.trace()))


def frechet_distance(a: "Moments | FactoredMoments", b: "Moments | FactoredMoments") -> float:
    """Frechet distance (the squared one, as FID reports it) of two Gaussians; at least 0, symmetric.

    Either side may be factored already. ValueError as `factorize`, or when the dimensions differ.
    """
    import torch

    if a.mean.shape != b.mean.shape:
        raise ValueError(f"cannot compare {a.mean.shape[0]} features with {b.mean.shape[0]}")
    a = a if isinstance(a, FactoredMoments) else factorize(a)
    b = b if isinstance(b, FactoredMoments) else factorize(b)
    difference = a.mean - b.mean
    overlap = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    distance = float(difference @ difference) + a.trace + b.trace - 2 * float(overlap)
    # For positive semidefinite covariances only rounding can end below zero (of the order 1e-13 of the traces).
    return max(distance, 0.0)
