"""AuthPct: the percentage of images that are no copies of reference images, by a test of nearest neighbours.

An image is authentic if it is farther from the nearest reference image than that is from its own nearest reference
image (Alaa et al. 2022, Sec. 4.3). Only meaningful against the very images that a network was trained with.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, Measure, features_of
from edm2_guidance.metrics.measures.neighbours import nearest, own_nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class AuthPct(Measure):
    """Percentage of images that are farther from the nearest training image than another training image is."""

    kind = "authpct"
    limits = (0, 100)
    source = "arXiv 2102.08921, Sec. 4.3"
    few = ""
    needs = "features"
    needs_reference = "features"
    better = "higher"
    decimals = 2

    def against(self, reference: "Moments", name: str) -> Comparison:
        return lambda images: {self.kind: float(self.influence(images, reference).mean())}

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """It is a mean over images: 100 for the authentic, 0 for others."""

        def make() -> Any:
            found = nearest(features_of(images), features_of(reference), 1)
            apart = own_nearest(reference, 1).squared[:, 0][found.place[:, 0]]
            return 100 * (apart < found.squared[:, 0]).double().numpy()

        made: NDArray[Any] = images.once((self, reference), make)
        return made
