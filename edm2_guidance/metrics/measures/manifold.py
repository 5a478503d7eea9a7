"""What precision and recall share: how many points of one set lie in the manifold of the other.

The manifold of a set is the union of balls around its points, each out to its k-th nearest neighbour in the set
(Kynkaanniemi et al. 2019, Sec. 2). Evaluators differ in k, in whether the surface counts, and in their distances:

    (default)   k 3, the surface counts, as the paper has it
    adm         the same, distances in half precision: guided-diffusion's evaluator as it runs by default
    adm32       the same in single precision, of which these are the exact distances: the default again
    prdc        k 5, the surface does not count: prdc 0.2, dgm-eval
    interval    the default of exactly 50,000 images of each set: the interval paper's Fig. 4, in DINOv2's features

Of copies within a set, k or more, the radius is 0: then the surface decides whether copies in the other set count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edm2_guidance.metrics.measures.base import Comparison
from edm2_guidance.metrics.measures.neighbours import Balls, Counting, NeighbourMeasure, Neighbours, Set
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments


@dataclass(frozen=True)
class Manifold(NeighbourMeasure):
    """Base of precision and recall. around: whose manifold it is; counted is what of the other set lies in it."""

    limits = (0, 1)
    variants = MappingProxyType(
        {
            "adm": {"distances": "float16"},
            "adm32": {},
            "prdc": {"k": 5, "surface": "out"},
            "interval": {"count": 50_000},
        }
    )
    around: ClassVar[Set]

    k: int = option(3, "Balls reach to the k-th nearest other point of their set", low=1)
    surface: Literal["in", "out"] = option("in", "Whether points at just the radius are in or out of a ball")
    distances: Literal["exact", "float16"] = option("exact", "How distances are computed")
    count: int | None = option(None, "So many images of either set, neither more nor fewer; none = any", low=2)

    def check_count(self, count: int, what: str, metric: str) -> None:
        super().check_count(count, what, metric)
        if self.count not in (None, count):
            raise ValueError(f"{metric} is of {self.count} images of either set, and these are {count} {what}")

    def against(self, reference: "Moments", name: str) -> Comparison:
        self.rows(reference, "reference images", name)
        self.held(reference)  # asked before images come

        def compare(images: "Moments") -> Mapping[str, float]:
            self.rows(images, "images", name)
            return {self.kind: float(self.held(reference)(images).mean())}

        return compare

    def held(self, reference: "Moments") -> "Callable[[Moments], NDArray[Any]]":
        """By images, whether each point of the other set is in the manifold, bool."""
        found = self.in_balls(reference)
        if self.around == "reference":
            return lambda images: found(images).by_image > 0
        return lambda images: found(images).by_reference > 0

    def in_balls(self, reference: "Moments") -> Counting:
        """By images, in how many balls of the manifold each is."""
        balls = Balls(self.around, self.k, closed=self.surface == "in")
        return Neighbours.of(reference, self.distances).ask(balls)
