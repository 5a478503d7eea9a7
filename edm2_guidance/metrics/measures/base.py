"""What a measure is: features of two sets of images in, a number out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edm2_guidance.recipe.spec import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

GROUPS = 20  # of images, for the jackknife
SEED = 0

#: From what is known of a set of images to the measure's numbers by name, the one that is reported first.
Comparison = Callable[["Moments"], Mapping[str, float]]


@dataclass(frozen=True)
class Measure(Spec):
    """Base of all measures.

    A measure keeps nothing: what it needs of either set is collected for it, once for all measures of one extractor.

    Attributes:
        better: Which values are better.
        few: Which values fewer images give in the mean; "" for the same.
        decimals: How many tables show.
        limits: Between which all values are; intervals end there.
        features: Which of an extractor's features it compares, by their name there.
        needs: What it compares: mean and covariance alone, or the features themselves, [N, D] in the images' order.
        needs_reference: Likewise of the reference, of which some measures need nothing.
        shows: What of the images it is about, if it is about one thing: as good as the reference's, or as many kinds.
        ranks: Whether `influence` is the score of each image, by which they can be put in order, high ones better.
        frechet: Whether it is the Frechet distance of two sets itself, whose gradient `gaussians.py` has.
    """

    axis = "measure"
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    few: ClassVar[Literal["", "higher", "lower"]] = "higher"
    decimals: ClassVar[int] = 4
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    features: ClassVar[str] = "pool"
    needs: ClassVar[Literal["moments", "features"]] = "moments"
    needs_reference: ClassVar[Literal["moments", "features", "nothing"]] = "moments"
    shows: ClassVar[Literal["fidelity", "diversity", ""]] = ""
    ranks: ClassVar[bool] = False
    frechet: ClassVar[bool] = False

    def check_count(self, count: int, what: str, metric: str) -> None:
        """ValueError if so many images are too few for `metric`. what: the word for them."""

    def against(self, reference: "Moments", name: str) -> Comparison:
        """What compares sets of images with this reference, computed in float64.

        Everything that can fail because of the reference is done here, before any image is made. name: of the
        reference and the metric, for errors. ValueError for a reference that is damaged, or holds too little.
        """
        raise NotImplementedError

    def influence(self, images: "Moments", reference: "Moments") -> "NDArray[Any]":
        """How much the value depends on each image, float64 [b]; the features of the images are needed.

        Up to a constant: their standard deviation over sqrt(b) is the standard error of the value, over repeated
        sampling of so many images with the reference as it is (`metrics/uncertainty.py`). One number per image where
        a formula is known; this one asks what the value is without each of `GROUPS` groups of images.
        """
        from edm2_guidance.metrics.running import RunningMoments

        rows, group_of, compare = features_of(images), groups(len(features_of(images))), self.against(reference, "")
        without = []
        for group in range(GROUPS):
            running = RunningMoments(rows.shape[1], keep=True)
            running.append(rows[group_of != group])
            without.append(next(iter(compare(running.moments()).values())))
        return left_out(without)

    def notes(self, moments: "Moments", what: str, metric: str) -> list[str]:
        """What to mind of a value of `metric` because of one set, a sentence each. what: the word for its images."""
        return []


def groups(count: int) -> "NDArray[Any]":
    """The group that each of so many images is in, int64 [count]: as equal as can be, by a fixed random order."""
    import numpy as np

    return np.random.RandomState(SEED).permutation(count) % GROUPS


def left_out(values: "Sequence[float]") -> "NDArray[Any]":
    """Influences of groups by the values without each, so that the standard error is the jackknife's (Tukey 1958)."""
    import numpy as np

    return -(len(values) - 1) * np.asarray(values, dtype=np.float64)


def rows_of(moments: "Moments") -> "NDArray[Any]":
    """The features, [N, D], of a set for a measure that needs them."""
    assert moments.features is not None  # `Measure.needs`
    return moments.features


def features_of(moments: "Moments") -> "Tensor":
    """The same as a tensor, one and the same whenever it is asked for."""
    import torch

    found: Tensor = moments.once("tensor", lambda: torch.from_numpy(rows_of(moments)))
    return found
