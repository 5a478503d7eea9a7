"""Realism: how close each image is to the reference, by the size of the reference's own neighbourhoods there.

Of an image y and reference images r_i, R_i the distance of r_i to its k-th nearest neighbour in the reference
(Kynkaanniemi et al. 2019, Sec. 5):

    realism(y) = max_i R_i / sqrt(|y - r_i|^2 + 1e-5)   over the balls whose R_i is not above the median of all

So it is 1 or more for images within such a ball. The paper's ratio is R_i / |y - r_i|. Its program adds 1e-5, so that
copies have a score, to squared distances, and does not take the root: its score is the square of this one. Copies
of reference images score in the hundreds, and an image of which the reference holds k + 1 copies, whose ball is a
point, by other balls alone. The paper measures in features of VGG-16; scores of other features are of other sizes.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import Comparison, features_of
from edm2_guidance.metrics.measures.neighbours import NeighbourMeasure, least_ratio, own_nearest
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments

_PLUS = 1e-5  # of the authors' program


@dataclass(frozen=True)
class Realism(NeighbourMeasure):
    """Mean realism score: how close images are to the reference, in units of its own neighbourhoods; fidelity."""

    kind = "realism"
    limits = (0, math.inf)
    source = "arXiv 1904.06991, Sec. 5"
    few = ""
    shows = "fidelity"
    ranks = True

    k: int = option(3, "Balls reach to the k-th nearest other point of their set", low=1)

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        return lambda images: {self.kind: float(self.influence(images, reference).mean())}

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """It is a mean over images: the score of each."""

        import numpy as np

        def make() -> Any:
            squared = own_nearest(reference, self.k).squared[:, self.k - 1]
            kept = (squared <= squared.median()) & (squared > 0)  # of two in the middle, the lower one
            if not kept.any():
                return np.zeros(len(features_of(images)))
            least = least_ratio(features_of(images), features_of(reference)[kept], squared[kept], _PLUS)
            return least.rsqrt().numpy()

        made: NDArray[Any] = images.once((self, reference), make)
        return made
