"""Frechet distance: `gaussians.py` has the formula."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, Measure
from edm2_guidance.metrics.measures.gaussians import (
    FactoredMoments,
    distance_and_influence,
    factor_of,
    frechet_distance,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class Frechet(Measure):
    """Frechet distance of two Gaussians with the means and covariances of the features."""

    kind = "fd"
    limits = (0, math.inf)
    frechet = True
    source = "arXiv 1706.08500, Eq. 6"

    def against(self, reference: "Moments", name: str) -> Comparison:
        factored = factor_of(reference, name)

        def compare(images: "Moments") -> Mapping[str, float]:
            if images.features is None and images.sample is None:
                return {self.kind: frechet_distance(images, factored)}
            return {self.kind: _with_influence(images, factored)[0]}

        return compare

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        return _with_influence(images, factor_of(reference, self.kind))[1]

    def notes(self, moments: "Moments", what: str, metric: str) -> list[str]:
        if moments.num_images is None or moments.num_images > moments.dim:
            return []
        return [
            f"{moments.num_images} {what} for the {moments.dim} features of {metric}: the covariance is singular and "
            "the value far too high; compare it only with values at the same number"
        ]


def _with_influence(images: "Moments", reference: "FactoredMoments") -> "tuple[float, NDArray[Any]]":
    """The distance and its influences, which share what takes the time."""

    made: tuple[float, NDArray[Any]] = images.once(
        ("frechet", reference), lambda: distance_and_influence(images, reference)
    )
    return made
