"""Frechet distance between two Gaussians, without a matrix square root.

d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))   (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

With S = F F^T, the nonzero eigenvalues of S_1 S_2 are the squared singular values of G = F_1^T F_2, so the last trace
is the sum of those singular values. This is exact also when a covariance is singular (fewer images than features,
features that never fire), is never complex, and needs no offset on the diagonal.

Two positive definite covariances take a shorter way, a quarter of the time at 2048 features: Cholesky factors, and
the roots of the eigenvalues of G^T G. Squaring costs the small ones digits; how many is seen from the determinant,
which the factors give to full precision. If it is too many, the singular values are computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edm2_guidance.metrics.measures.base import some_features

if TYPE_CHECKING:
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

# Eigenvalues of a covariance may be this far below zero, relative to the largest: statistics stored in float32.
NEGATIVE_TOLERANCE = 1e-5
LEAST_PIVOT = 1e-9  # of a covariance that counts as positive definite, relative to its largest: far above rounding
FACTOR_TOLERANCE = 1e-9  # relative
EIGENVALUE_TOLERANCE = 2e-14  # of the sum of the roots, relative to the traces
_PIECE = 4096  # images at once in float64
_BLOCK = 512  # rows at once of products of which half is zero, or known


@dataclass(frozen=True, eq=False)
class FactoredMoments:
    """A Gaussian as mean [D], covariance factor F [D, rank] with cov = F F^T, and tr(cov); float64 on the CPU.

    Factor a reference once and compare many sets with it. log_det: of a positive definite covariance, whose F is its
    Cholesky factor; otherwise None.
    """

    mean: "Tensor"
    factor: "Tensor"
    trace: float
    log_det: float | None = None


def factorize(moments: "Moments") -> FactoredMoments:
    """Factors a covariance by Cholesky, or, if it is singular or nearly so, by its eigenvectors.

    ValueError: not finite, not symmetric, or clearly not positive semidefinite.
    """
    import torch

    mean, cov = moments.mean.cpu(), moments.cov.cpu()
    if not all(torch.isfinite(end) for part in (mean, cov) for end in part.aminmax()):
        raise ValueError("mean or covariance holds NaN or infinity: the statistics are damaged")
    if not torch.equal(cov, cov.T):
        if (cov - cov.T).abs().max() > NEGATIVE_TOLERANCE * cov.abs().max():
            raise ValueError("the covariance is not symmetric: the statistics are damaged")
        cov = (cov + cov.T) / 2
    factor, failed = torch.linalg.cholesky_ex(cov)
    pivots = factor.diagonal().square()
    if failed or not pivots.min() >= LEAST_PIVOT * pivots.max():
        factored = FactoredMoments(mean, _low_rank_factor(cov), float(cov.trace()))
    else:
        _check(cov, lambda v: factor @ (factor.T @ v))
        factored = FactoredMoments(mean, factor, float(cov.trace()), float(pivots.log().sum()))
    return factored


def factor_of(reference: "Moments", name: str) -> FactoredMoments:
    """A reference, factored once for all who compare with it. ValueError as `factorize`. name: of it, for errors."""

    def make() -> FactoredMoments:
        try:
            return factorize(reference)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    factored: FactoredMoments = reference.once("factor", make)
    return factored


def _low_rank_factor(cov: "Tensor") -> "Tensor":
    """F [D, rank] by eigenvectors, dropping eigenvalues that are rounding noise.

    Noise is w < D * eps * w_max, the rank rule of numpy.linalg.matrix_rank for symmetric matrices.
    """
    import torch

    values, vectors = torch.linalg.eigh(cov)
    _check(cov, lambda v: vectors @ (values * (vectors.T @ v)))
    largest = values[-1]
    if values[0] < -NEGATIVE_TOLERANCE * cov.abs().max():
        message = f"the covariance has a negative eigenvalue ({float(values[0]):.3g}, largest {float(largest):.3g})"
        raise ValueError(f"{message}: the statistics are damaged")
    keep = (values > 0) & (values >= len(cov) * torch.finfo(torch.float64).eps * largest)
    factor: Tensor = vectors[:, keep] * values[keep].sqrt()
    return factor


def _check(cov: "Tensor", times: "Callable[[Tensor], Tensor]") -> None:
    """ValueError unless the factors give what S gives, for a vector of random signs: nearly free, and nearly sure."""
    import torch

    signs = torch.randint(2, (len(cov),), generator=torch.Generator().manual_seed(0)).to(cov) * 2 - 1
    wrong = (times(signs) - cov @ signs).norm()
    if not wrong <= FACTOR_TOLERANCE * cov.norm():
        raise ValueError(f"the factors of its covariance are off by {float(wrong):.3g}: a faulty LAPACK")


def frechet_distance(a: "Moments | FactoredMoments", b: "Moments | FactoredMoments") -> float:
    """Frechet distance (the squared one, as FID reports it) of two Gaussians; at least 0, symmetric.

    Either side may be factored already. ValueError as `factorize`, or when the dimensions differ.
    """
    import torch

    a, b, product = _multiplied(a, b)
    definite = a.log_det is not None and b.log_det is not None
    return _distance(a, b, product, torch.linalg.eigvalsh(_gram(product)) if definite else None)


def distance_and_influence(images: "Moments", reference: FactoredMoments) -> "tuple[float, Tensor]":
    """The distance, and its derivative in the weight of each image (or of a sample), float64 [n], up to a constant.

    With c = x - mu and d = mu - mu_ref it is 2 c . d + c^T (I - T) c, where T = F (F^T S F)^(-1/2) F^T, F the factor of
    the reference, is the linear map that carries the images' Gaussian to the reference's. Errors as of
    `frechet_distance`.
    """
    import torch

    factored, reference, product = _multiplied(images, reference)
    values, vectors = torch.linalg.eigh(_gram(product))
    keep = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
    root = reference.factor @ (vectors[:, keep] * values[keep] ** -0.25)
    difference = images.mean - reference.mean

    def of(rows: "Tensor") -> "Tensor":
        centred = rows.double() - images.mean
        found: Tensor = 2 * centred @ difference + centred.square().sum(dim=1) - (centred @ root).square().sum(dim=1)
        return found

    influences = torch.cat([of(piece) for piece in some_features(images).split(_PIECE)])
    return _distance(factored, reference, product, values), influences


def _multiplied(
    a: "Moments | FactoredMoments", b: "Moments | FactoredMoments"
) -> "tuple[FactoredMoments, FactoredMoments, Tensor]":
    """Both with their factors, and G."""
    import torch

    if a.mean.shape != b.mean.shape:
        raise ValueError(f"cannot compare {a.mean.shape[0]} features with {b.mean.shape[0]}")
    a = a if isinstance(a, FactoredMoments) else factorize(a)
    b = b if isinstance(b, FactoredMoments) else factorize(b)
    if a.log_det is None or b.log_det is None:
        return a, b, a.factor.T @ b.factor
    product = torch.zeros_like(a.factor)
    for start in range(0, len(product), _BLOCK):  # each factor is zero above its diagonal
        rows, end = slice(start, start + _BLOCK), start + _BLOCK
        product[:end, :end].addmm_(a.factor[rows, :end].T, b.factor[rows, :end])
    return a, b, product


def _gram(product: "Tensor") -> "Tensor":
    """G^T G, of which what is above the diagonal is not filled in: solvers for symmetric matrices look below it."""
    size = product.shape[1]
    gram = product.new_zeros(size, size)
    for start in range(0, size, _BLOCK):
        gram[start:, start : start + _BLOCK] = product[:, start:].T @ product[:, start : start + _BLOCK]
    return gram


def _distance(a: FactoredMoments, b: FactoredMoments, product: "Tensor", values: "Tensor | None") -> float:
    """values: the eigenvalues of G^T G, if they are there."""
    import torch

    difference, overlap = a.mean - b.mean, None
    if values is not None and a.log_det is not None and b.log_det is not None:
        overlap = _sum_of_roots(values, a.log_det + b.log_det, a.trace + b.trace)
    if overlap is None:
        overlap = float(torch.linalg.svdvals(product).sum())
    distance = float(difference @ difference) + a.trace + b.trace - 2 * overlap
    # For positive semidefinite covariances only rounding can end below zero (of the order 1e-13 of the traces).
    return max(distance, 0.0)


def _sum_of_roots(values: "Tensor", log_det: float, scale: float) -> float | None:
    """The sum of the singular values of G by the eigenvalues of G^T G; None if too many digits of these are lost.

    log_det: log det G^T G. If rounding moved every eigenvalue by e, this sum moved by e sum(1 / w) and that of the
    roots by e sum(w^(-1/2)) / 2, which is to be small against `scale`.
    """
    if not values[0] > 0:
        return None
    moved = abs(float(values.log().sum()) - log_det) / float(values.reciprocal().sum())
    lost = moved * float(values.rsqrt().sum()) / 2
    return float(values.sqrt().sum()) if lost <= EIGENVALUE_TOLERANCE * scale else None
