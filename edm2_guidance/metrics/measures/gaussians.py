"""Frechet distance between two Gaussians, without a matrix square root.

d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^(1/2))   (Dowson and Landau 1982; Heusel et al. 2017, eq. 6)

With S = F F^T, the nonzero eigenvalues of S_1 S_2 are the squared singular values of G = F_1^T F_2, so the last trace
is the sum of those singular values. This is exact also when a covariance is singular (fewer images than features,
features that never fire), is never complex, and needs no offset on the diagonal.

Two positive definite covariances take a shorter way, a quarter of the time at 2048 features: Cholesky factors, and
the roots of the eigenvalues of G^T G. Squaring costs the small ones digits; how many is seen from the determinant,
which the factors give to full precision. If it is too many, the singular values are computed.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments

# Eigenvalues of a covariance may be this far below zero, relative to the largest: statistics stored in float32.
NEGATIVE_TOLERANCE = 1e-5
LEAST_PIVOT = 1e-9  # of a covariance that counts as positive definite, relative to its largest: far above rounding
FACTOR_TOLERANCE = 1e-9  # relative
EIGENVALUE_TOLERANCE = 2e-14  # of the sum of the roots, relative to the traces
_PIECE = 4096  # images at once in float64
_BLOCK = 512  # rows and columns at once of a product of which half is zero


@dataclass(frozen=True, eq=False)
class FactoredMoments:
    """A Gaussian as mean [D], covariance factor F [D, rank] with cov = F F^T, and tr(cov); float64.

    Factor a reference once and compare many sets with it. log_det: of a positive definite covariance, whose F is its
    Cholesky factor; otherwise None.
    """

    mean: "NDArray[Any]"
    factor: "NDArray[Any]"
    trace: float
    log_det: float | None = None


def factorize(moments: "Moments") -> FactoredMoments:
    """Factors a covariance by Cholesky, or, if it is singular or nearly so, by its eigenvectors.

    ValueError: not finite, not symmetric, or clearly not positive semidefinite.
    """
    import numpy as np

    mean, cov = moments.mean, moments.cov
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("mean or covariance holds NaN or infinity: the statistics are damaged")
    if not np.array_equal(cov, cov.T):
        if np.abs(cov - cov.T).max() > NEGATIVE_TOLERANCE * np.abs(cov).max():
            raise ValueError("the covariance is not symmetric: the statistics are damaged")
        cov = (cov + cov.T) / 2
    factor, trace = _cholesky(cov), float(cov.trace())
    if factor is None:
        return FactoredMoments(mean, _low_rank_factor(cov), trace)
    _check(cov, lambda v: factor @ (factor.T @ v))
    return FactoredMoments(mean, factor, trace, 2 * float(np.log(factor.diagonal()).sum()))


def _cholesky(cov: "NDArray[Any]") -> "NDArray[Any] | None":
    """The Cholesky factor; None of a covariance that is singular or nearly so."""
    import numpy as np

    try:
        factor: NDArray[Any] = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        return None
    pivots = np.square(factor.diagonal())
    return factor if pivots.min() >= LEAST_PIVOT * pivots.max() else None


def factor_of(reference: "Moments", name: str) -> FactoredMoments:
    """A reference, factored once for all who compare with it. ValueError as `factorize`. name: of it, for errors."""

    def make() -> FactoredMoments:
        try:
            return factorize(reference)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    factored: FactoredMoments = reference.once("factor", make)
    return factored


def _low_rank_factor(cov: "NDArray[Any]") -> "NDArray[Any]":
    """F [D, rank] by eigenvectors, dropping eigenvalues that are rounding noise.

    Noise is w < D * eps * w_max, the rank rule of numpy.linalg.matrix_rank for symmetric matrices.
    """
    import numpy as np

    values, vectors = np.linalg.eigh(cov)
    _check(cov, lambda v: vectors @ (values * (vectors.T @ v)))
    largest = values[-1]
    if values[0] < -NEGATIVE_TOLERANCE * np.abs(cov).max():
        message = f"the covariance has a negative eigenvalue ({values[0]:.3g}, largest {largest:.3g})"
        raise ValueError(f"{message}: the statistics are damaged")
    keep = (values > 0) & (values >= len(cov) * np.finfo(np.float64).eps * largest)
    factor: NDArray[Any] = vectors[:, keep] * np.sqrt(values[keep])
    return factor


def _check(cov: "NDArray[Any]", times: "Callable[[NDArray[Any]], NDArray[Any]]") -> None:
    """ValueError unless the factors give what S gives, for a vector of random signs: nearly free, and nearly sure."""
    import numpy as np

    signs = np.random.RandomState(0).choice([-1.0, 1.0], len(cov))
    wrong = np.linalg.norm(times(signs) - cov @ signs)
    if not wrong <= FACTOR_TOLERANCE * np.linalg.norm(cov):
        raise ValueError(f"the factors of its covariance are off by {wrong:.3g}: a faulty LAPACK")


def frechet_distance(a: "Moments | FactoredMoments", b: "Moments | FactoredMoments") -> float:
    """Frechet distance (the squared one, as FID reports it) of two Gaussians; at least 0, symmetric.

    Either side may be factored already. ValueError as `factorize`, or when the dimensions differ.
    """
    import numpy as np

    a, b, product = _multiplied(a, b)
    definite = a.log_det is not None and b.log_det is not None
    return _distance(a, b, product, np.linalg.eigvalsh(product.T @ product) if definite else None)


def distance_and_transport(images: "Moments", reference: FactoredMoments) -> "tuple[float, NDArray[Any]]":
    """The distance, and R, float64 [D, r]: T = R R^T is the linear map that carries the images' Gaussian to the other.

    T = F (F^T S F)^(-1/2) F^T with F the factor of the reference; I - T is the derivative of the distance in S. Along
    directions in which the images do not vary at all, and the reference does, the distance has a kink: T is 0 there.
    Errors as of `frechet_distance`.
    """
    import numpy as np

    factored, reference, product = _multiplied(images, reference)
    values, vectors = np.linalg.eigh(product.T @ product)
    keep = values > len(values) * np.finfo(np.float64).eps * values[-1]
    root: NDArray[Any] = reference.factor @ (vectors[:, keep] * values[keep] ** -0.25)
    return _distance(factored, reference, product, values), root


def distance_and_influence(images: "Moments", reference: FactoredMoments) -> "tuple[float, NDArray[Any]]":
    """The distance, and its derivative in the weight of each image (or of a sample), float64 [n], up to a constant.

    With c = x - mu and d = mu - mu_ref it is 2 c . d + c^T (I - T) c, T of `distance_and_transport`. Errors as there.
    """
    import numpy as np

    distance, root = distance_and_transport(images, reference)
    difference = images.mean - reference.mean

    def of(rows: "NDArray[Any]") -> "NDArray[Any]":
        centred = rows - images.mean
        squares = np.square(centred).sum(axis=1) - np.square(centred @ root).sum(axis=1)
        found: NDArray[Any] = squares + 2 * centred @ difference
        return found

    rows = images.sample if images.features is None else images.features
    assert rows is not None  # where influences are asked for
    influences = np.concatenate([of(rows[start : start + _PIECE]) for start in range(0, len(rows), _PIECE)])
    return distance, influences


def _multiplied(
    a: "Moments | FactoredMoments", b: "Moments | FactoredMoments"
) -> "tuple[FactoredMoments, FactoredMoments, NDArray[Any]]":
    """Both with their factors, and G."""
    import numpy as np

    if a.mean.shape != b.mean.shape:
        raise ValueError(f"cannot compare {a.mean.shape[0]} features with {b.mean.shape[0]}")
    a = a if isinstance(a, FactoredMoments) else factorize(a)
    b = b if isinstance(b, FactoredMoments) else factorize(b)
    if a.log_det is None or b.log_det is None:
        return a, b, a.factor.T @ b.factor
    product, starts = np.empty_like(a.factor), range(0, len(a.factor), _BLOCK)
    for row, column in itertools.product(starts, starts):  # each factor is zero above its diagonal
        first, rows, columns = max(row, column), slice(row, row + _BLOCK), slice(column, column + _BLOCK)
        product[rows, columns] = a.factor[first:, rows].T @ b.factor[first:, columns]
    return a, b, product


def _distance(a: FactoredMoments, b: FactoredMoments, product: "NDArray[Any]", values: "NDArray[Any] | None") -> float:
    """values: the eigenvalues of G^T G, if they are there."""
    import numpy as np

    difference, overlap = a.mean - b.mean, None
    if values is not None and a.log_det is not None and b.log_det is not None:
        overlap = _sum_of_roots(values, a.log_det + b.log_det, a.trace + b.trace)
    if overlap is None:
        overlap = float(np.linalg.svd(product, compute_uv=False).sum())
    distance = float(difference @ difference) + a.trace + b.trace - 2 * overlap
    # For positive semidefinite covariances only rounding can end below zero (of the order 1e-13 of the traces).
    return max(distance, 0.0)


def _sum_of_roots(values: "NDArray[Any]", log_det: float, scale: float) -> float | None:
    """The sum of the singular values of G by the eigenvalues of G^T G; None if too many digits of these are lost.

    log_det: log det G^T G. If rounding moved every eigenvalue by e, this sum moved by e sum(1 / w) and that of the
    roots by e sum(w^(-1/2)) / 2, which is to be small against `scale`.
    """
    import numpy as np

    if not values[0] > 0:
        return None
    roots = np.sqrt(values)
    moved = abs(float(np.log(values).sum()) - log_det) / float((1 / values).sum())
    lost = moved * float((1 / roots).sum()) / 2
    return float(roots.sum()) if lost <= EIGENVALUE_TOLERANCE * scale else None
