"""What a measure is: features of two sets of images in, a number out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edm2_guidance.recipe.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

#: From what is known of a set of images to the measure's numbers by name, the one that is reported first.
Comparison = Callable[["Moments"], Mapping[str, float]]


@dataclass(frozen=True)
class Measure(Spec):
    """Base of all measures.

    A measure keeps nothing: what it needs of either set is collected for it, once for all measures of one extractor.

    Attributes:
        better: Which values are better.
        biased: Whether fewer images give other values in the mean.
        decimals: How many tables show.
        features: Which of an extractor's features it compares, by their name there.
        needs: What it compares: mean and covariance alone, or the features themselves, [N, D] in the images' order.
        needs_reference: Likewise of the reference, of which some measures need nothing.
    """

    axis = "measure"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    biased: ClassVar[bool] = True
    decimals: ClassVar[int] = 4
    features: ClassVar[str] = "pool"
    needs: ClassVar[Literal["moments", "features"]] = "moments"
    needs_reference: ClassVar[Literal["moments", "features", "nothing"]] = "moments"

    def check_count(self, count: int, what: str, metric: str) -> None:
        """ValueError if so many images are too few for `metric`. what: the word for them."""

    def against(self, reference: "Moments", name: str) -> Comparison:
        """What compares sets of images with this reference, computed in float64.

        Everything that can fail because of the reference is done here, before any image is made. name: of the
        reference and the metric, for errors. ValueError for a reference that is damaged, or holds too little.
        """
        raise NotImplementedError

    def notes(self, moments: "Moments", what: str, metric: str) -> list[str]:
        """What to mind of a value of `metric` because of one set, a sentence each. what: the word for its images."""
        return []


def features_of(moments: "Moments") -> "Tensor":
    """The features, [N, D], of a set for a measure that needs them."""
    assert moments.features is not None  # `Measure.needs`
    return moments.features
