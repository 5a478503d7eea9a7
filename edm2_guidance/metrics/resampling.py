"""Choosing among images those that lower a Frechet distance (Kynkaanniemi et al. 2023, arXiv 2203.06026, Sec. 4).

Each candidate i has a log-weight w_i, 0 at first, and is drawn with p = softmax(w). With W = sum_i e^(w_i), mean and
covariance of the features are

    mu = sum_i e^(w_i) f_i / W        S = sum_i e^(w_i) c_i c_i^T / (W - 1),    c_i = f_i - mu

and plain gradient descent over all candidates at once lowers L, the Frechet distance to the reference. With
d = mu - mu_ref, and T of `gaussians`,

    dL/dw_i = e^(w_i) (2 d . c_i / W + (c_i^T (I - T) c_i - tr((I - T) S)) / (W - 1))

No image is changed, and none is added: what falls is what the features say of a set, not what anybody sees in it.
What is matched may be the features, or merely which classes are likeliest (`class_indicators`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edm2_guidance.metrics.catalog import Metric, find_metric, value_text
from edm2_guidance.metrics.classes import histogram
from edm2_guidance.metrics.measures.base import rows_of
from edm2_guidance.metrics.measures.gaussians import (
    FactoredMoments,
    distance_and_transport,
    factor_of,
    frechet_distance,
)
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.scoring import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 3  # of which the best is kept
SHOWN = 12  # classes
ROUNDING = 1e-9  # of a distance that is nearly 0, relative to the covariances


def weighted_moments(features: Tensor, log_weights: Tensor) -> Moments:
    """Mean and covariance as above. features: float64 [N, D]; log_weights: float64 [N], on the same device."""
    weights = log_weights.exp()
    total = weights.sum()
    mean = weights @ features / total
    scaled = (features - mean) * weights.sqrt()[:, None]
    cov = scaled.T @ scaled / (total - 1)
    return Moments(mean.cpu().numpy(), ((cov + cov.T) / 2).cpu().numpy(), len(features))


def distance_and_gradient(features: Tensor, log_weights: Tensor, reference: FactoredMoments) -> tuple[float, Tensor]:
    """L, and dL/dw, float64 [N]; arguments as `weighted_moments`, reference by `gaussians.factor_of`."""
    moments = weighted_moments(features, log_weights)
    distance, root = distance_and_transport(moments, reference)
    mean, difference, moved = (
        torch.from_numpy(each).to(features) for each in (moments.mean, moments.mean - reference.mean, root)
    )
    weights, centred = log_weights.exp(), features - mean
    total = weights.sum()
    squares = centred.square().sum(dim=1) - (centred @ moved).square().sum(dim=1)
    spread = squares - weights @ squares / (total - 1)  # the sum is tr((I - T) S)
    return distance, weights * (2 * (centred @ difference) / total + spread / (total - 1))


def matched(
    features: Tensor,
    reference: FactoredMoments,
    *,
    lr: float = 10.0,
    iterations: int = 1000,
    progress: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """The log-weights, float64 [N], of the lowest distance on the way of gradient descent.

    features: float64 [N, D], any device. lr: times the gradient is a step. progress: told 1 after each step.
    ValueError if `lr` is so large that the distance rises above twice what it was at first, or weights vanish.
    """
    log_weights = torch.zeros(len(features), dtype=torch.float64, device=features.device)
    best, limit, lowest, too_large = log_weights, math.inf, math.inf, f"lr={lr:g} is too large"
    for number in range(iterations + 1):
        if not 1 < float(log_weights.exp().sum()) < math.inf:
            raise ValueError(f"{too_large}: the weights add up to nothing, or to more than numbers hold; lower it")
        distance, gradient = distance_and_gradient(features, log_weights, reference)
        limit = 2 * distance + ROUNDING * reference.trace if number == 0 else limit
        if distance > limit:
            raise ValueError(f"{too_large}: the distance rose to {distance:.4g}; lower it")
        if distance < lowest:
            best, lowest = log_weights, distance
        if number < iterations:
            log_weights = log_weights - lr * gradient
            progress(1)
    return best


def shares(log_weights: Tensor) -> "NDArray[Any]":
    """p = softmax(w), float64 [N]."""
    found: NDArray[Any] = torch.softmax(log_weights, dim=0).cpu().numpy()
    return found


def drawn(
    chances: "NDArray[Any] | None", num: int, features: "NDArray[Any]", reference: FactoredMoments, seed: int
) -> "NDArray[Any]":
    """Which images, int64 [num], ascending: with replacement, the best of three draws by their distance.

    chances: float64 [N] that add up to 1; None for equal ones.
    """
    draws = np.random.RandomState(seed % (1 << 31))
    tries = [np.sort(draws.choice(len(features), num, p=chances)) for _ in range(DRAWS)]
    return min(tries, key=lambda rows: frechet_distance(moments_of(features[rows]), reference))


def class_indicators(logits: "NDArray[Any]", num: int, *, middle: bool = False) -> "NDArray[Any]":
    """1 where a class is among an image's `num` likeliest, or among those in the middle of its order, else 0.

    logits: [N, K], K above `num` -> float64 [N, K]. The middle begins at place (K - num) // 2, from 0: the paper does
    not say where.
    """
    first = (logits.shape[1] - num) // 2 if middle else 0
    places = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1)
    return ((places >= first) & (places < first + num)).astype(np.float64)


def that_vary(images: "NDArray[Any]", reference: "NDArray[Any]") -> "tuple[NDArray[Any], NDArray[Any]]":
    """Both without the columns that are the same number in all rows of both."""
    varies = np.ptp(np.concatenate([images, reference]), axis=0) > 0
    return images[:, varies], reference[:, varies]


def moments_of(rows: "NDArray[Any]") -> Moments:
    """Mean and covariance of features [n, D], which it holds, too."""
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


@dataclass(frozen=True)
class Classes:
    """Of which classes sets of images are. shares: float64 [K] that add up to 1, by the name of the set."""

    shares: Mapping[str, "NDArray[Any]"]

    @classmethod
    def of(cls, labels: Mapping[str, "NDArray[Any]"]) -> "Classes":
        """labels: int64 [n], from 0, by the name of the set."""
        count = 1 + max(int(each.max()) for each in labels.values())
        return cls({name: histogram(each, count) / len(each) for name, each in labels.items()})

    def cells(self) -> list[list[str]]:
        """Rows of a table, the header first: shares in percent of the classes that a set has most of; and a last row.

        That is how far each set is from the last one, half the sum of the differences: the share of images that would
        have to be of another class.
        """
        every = np.stack([*self.shares.values()])
        shown = np.sort(np.argsort(-every.max(axis=0), kind="stable")[:SHOWN])
        named = [*((str(label), every[:, label]) for label in shown)]
        named.append((f"from {[*self.shares][-1]}", np.abs(every - every[-1]).sum(axis=1) / 2))
        return [["class", *self.shares], *([name, *(f"{100 * each:.1f} %" for each in row)] for name, row in named)]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images to choose among, as they were measured.

    metric: the Frechet distance. moments: with their features, by the name of these in files. reference: opened for all
    metrics that are asked for. labels: int64, classes of "candidates", and of "reference" if these are known.
    """

    metric: Metric
    moments: Mapping[str, Moments]
    reference: Reference
    labels: Mapping[str, "NDArray[Any]"]

    @property
    def features(self) -> "NDArray[Any]":
        """Of the metric, [N, D]."""
        return rows_of(self.moments[self.metric.stored_as])

    @property
    def factored(self) -> FactoredMoments:
        return factor_of(self.reference.moments[self.metric.name], "the reference")

    def logits(self) -> "dict[str, NDArray[Any]]":
        """Of "candidates", and of "reference" if its images were measured: of `running.SAMPLE` of them. {} for none."""
        found = {}
        for name in logits_of(self.metric):
            found["candidates"] = rows_of(self.moments[find_metric(name).stored_as])
            theirs = self.reference.moments.get(name)
            if theirs is not None and theirs.sample is not None:
                found["reference"] = theirs.sample
        return found

    def to_match(self, classes: int | None, *, middle: bool = False) -> "tuple[NDArray[Any], FactoredMoments]":
        """What is to be matched, [N, D], and to what: features, or `class_indicators` of so many classes."""
        if classes is None:
            return self.features, self.factored
        logits = self.logits()
        both = (class_indicators(logits[side], classes, middle=middle) for side in ("candidates", "reference"))
        ours, theirs = that_vary(*both)
        return ours, factor_of(moments_of(theirs), "the reference")

    def drawn(self, chances: "NDArray[Any] | None", num: int, seed: int) -> "NDArray[Any]":
        """As the function `drawn`, by the metric."""
        return drawn(chances, num, self.features, self.factored, seed)

    def scores(self, metrics: Iterable[str], before: "NDArray[Any]", after: "NDArray[Any]") -> list[list[str]]:
        """Rows of a table, the header first: metrics of two subsets, by the numbers of their images."""
        lines = [["metric", "better", "before", "after", "change"]]
        for name in metrics:
            metric, compare = find_metric(name), self.reference.comparisons[name]
            rows = rows_of(self.moments[metric.stored_as])
            old, new = (next(iter(compare(moments_of(rows[each])).values())) for each in (before, after))
            change = f"{100 * (new / old - 1):+.1f} %" if old > 0 else ""
            lines.append([name, metric.measure.better, value_text(name, old), value_text(name, new), change])
        return lines

    def notes(self, metrics: Iterable[str], chosen: "NDArray[Any]") -> list[str]:
        """What to mind of values of so many images, a sentence each."""
        found = []
        for metric in map(find_metric, metrics):
            rows = rows_of(self.moments[metric.stored_as])[chosen]
            found += metric.measure.notes(moments_of(rows), "images", metric.name)
        return found

    def classes(self, chosen: "NDArray[Any]") -> Classes | None:
        """Top-1 classes by the detector, or labels if it has no logits; None if neither is known."""
        known = {name: each.argmax(axis=1) for name, each in self.logits().items()} or dict(self.labels)
        if not known:
            return None
        candidates = known.pop("candidates")
        return Classes.of({"candidates": candidates, "chosen": candidates[chosen], **known})


def logits_of(metric: Metric) -> list[str]:
    """The metric of the logits of the same extractor; none if it has none."""
    return [f"fd/{metric.extractor.kind}.logits"] if "logits" in metric.extractor.features else []
