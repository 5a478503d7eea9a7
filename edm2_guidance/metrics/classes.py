"""Classes of a set of images beside those of a reference: counts, distances class by class, and what counts explain.

Counts are held against the label rule of the recipe: those of `balanced` are exact, those of `random` a draw, and so
are those of images without a recipe, from the reference's shares. How likely a draw lies as far off (Pearson's
chi-squared) is found by drawing, which is right for few images of many classes, too.

Distances of single classes are Frechet distances in a small space, since a class has few images and a covariance needs
many: the first principal axes of the whole reference, as many as the smallest class has tens of images. They are too
high by an amount that depends on the class's counts, so each has its floor beside it: the mean over random exchanges of
the class's samples and references, which is what two sets of these sizes have if they are alike. A class differs if its
distance is above those of all exchanges, 39 of them: of classes that are alike one in 40 is said to differ.

Counts explain of a distance what is gone once the reference has the samples' counts: each of its images is weighted by
its class, and the distance taken to mean and covariance with these weights. Both distances have the samples' bias,
which cancels in their difference. That of the reference stays: it should be large, as it should for any distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edm2_guidance.images.sources import seeds_of
from edm2_guidance.metrics.evaluation import StoredSet
from edm2_guidance.metrics.measures.base import GROUPS, features_of
from edm2_guidance.metrics.measures.gaussians import distance_and_influence, factor_of, frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.uncertainty import Interval, difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 0
MAX_CLASSES = 100_000
DRAWS = 999  # of counts
EXCHANGES = 39  # of a class's images: 1 / 40 is the chance that none is above a distance of sets that are alike
PER_AXIS = 10  # images of the smallest class
LEAST = 2 * PER_AXIS  # images of a class that is compared


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features [N, D] of images, as `Moments` that hold them, and their classes, int64 [N]."""

    moments: Moments
    labels: "NDArray[Any]"

    @property
    def rows(self) -> Tensor:
        return features_of(self.moments)

    def of(self, label: int) -> Tensor:
        """The features of one class."""
        return self.rows[torch.from_numpy(self.labels == label)]


def histogram(labels: "Sequence[int] | NDArray[Any]", num_classes: int) -> "NDArray[Any]":
    """Images per class, int64 [num_classes]. ValueError for a class beyond."""
    found = np.bincount(np.asarray(labels, dtype=np.int64), minlength=num_classes)
    if len(found) > num_classes:
        raise ValueError(f"class {len(found) - 1} is none of {num_classes} classes")
    return found


@dataclass(frozen=True, eq=False)
class Balance:
    """Counts beside those of a rule. expected: float64 [K]. exact: whether the rule leaves nothing to chance.

    chance: how likely counts are as far off, or farther; 1 or 0 of an exact rule.
    """

    rule: str
    counts: "NDArray[Any]"
    expected: "NDArray[Any]"
    exact: bool
    chance: float

    @property
    def text(self) -> str:
        """One sentence."""
        if self.exact:
            off = int(np.abs(self.counts - self.expected).sum()) // 2
            return f"counts are those of the rule {self.rule}" if self.chance else (
                f"{off} images are of other classes than by the rule {self.rule}"
            )  # fmt: skip
        alike = "as far off as draws are" if self.chance > 0.05 else "farther off than draws are"
        return f"counts by the rule {self.rule} are {alike} (p = {self.chance:.3f})"


def balance(
    counts: "NDArray[Any]", rule: object, seeds: Sequence[int] | None, shares: "NDArray[Any] | None" = None
) -> Balance:
    """Counts against a label rule: "balanced", "random", a class, or None for images that no recipe made.

    seeds: of the images; without them, "balanced" is taken to be of consecutive ones. shares: of the reference's
    classes, [K], which add up to 1, for None.
    """
    classes, total = len(counts), int(counts.sum())
    if rule == "balanced" and seeds is not None:
        return _exact("balanced", counts, histogram([seed % classes for seed in seeds], classes))
    if rule == "balanced":
        expected = np.full(classes, total // classes)
        expected[np.argsort(-counts, kind="stable")[: total % classes]] += 1
        return _exact("balanced", counts, expected)
    if isinstance(rule, int):
        return _exact(f"class {rule}", counts, histogram([rule] * total, max(classes, rule + 1))[:classes])
    uniform = np.full(classes, 1 / classes)
    chances = uniform if rule is not None or shares is None else shares
    named = "random" if rule is not None else "that they are drawn as the reference"
    return Balance(named, counts, total * chances, False, chance_of(counts, chances))


def _exact(rule: str, counts: "NDArray[Any]", expected: "NDArray[Any]") -> Balance:
    return Balance(rule, counts, expected.astype(np.float64), True, float((counts == expected).all()))


def chance_of(counts: "NDArray[Any]", shares: "NDArray[Any]") -> float:
    """How likely a draw of as many images by these shares [K] is as far off in chi-squared, or farther.

    By `DRAWS` draws, so never below 1 / (DRAWS + 1); 0 if a class is there that has no share.
    """
    known = shares > 0
    if counts[~known].any():
        return 0.0
    expected, total = counts.sum() * shares[known], int(counts.sum())
    drawn = np.random.RandomState(SEED).multinomial(total, shares[known] / shares[known].sum(), DRAWS)
    off = ((np.concatenate([counts[known][None], drawn]) - expected) ** 2 / expected).sum(axis=1)
    return float((off >= off[0] * (1 - 1e-12)).mean())


@dataclass(frozen=True)
class ClassDistance:
    """One class. distance, floor: None if it has too few images on a side. differs: as the module says."""

    label: int
    samples: int
    reference: int
    distance: float | None = None
    floor: float | None = None
    differs: bool = False


def principal_axes(reference: Labelled, samples: Labelled) -> Tensor:
    """The axes of the small space, float64 [D, d]: as many as the classes that are compared have tens of images."""
    classes = range(max(reference.labels.max(), samples.labels.max()) + 1)
    counts = [min(int((side.labels == label).sum()) for side in (samples, reference)) for label in classes]
    least = min((count for count in counts if count >= LEAST), default=LEAST)
    _, vectors = np.linalg.eigh(reference.moments.cov)
    return torch.from_numpy(vectors[:, ::-1][:, : max(1, least // PER_AXIS)].copy())


def class_distances(samples: Labelled, reference: Labelled) -> list[ClassDistance]:
    """Every class of either side, by number."""
    axes, draws = principal_axes(reference, samples), np.random.RandomState(SEED)
    found = []
    for label in range(int(max(reference.labels.max(), samples.labels.max())) + 1):
        ours, theirs = (side.of(label).double() @ axes for side in (samples, reference))
        one = ClassDistance(label, len(ours), len(theirs))
        if min(len(ours), len(theirs)) >= LEAST:
            distance, both = _distance(ours, theirs), torch.cat([ours, theirs])
            exchanged = []
            for _ in range(EXCHANGES):
                order = torch.from_numpy(draws.permutation(len(both)))
                exchanged.append(_distance(both[order[: len(ours)]], both[order[len(ours) :]]))
            one = replace(one, distance=distance, floor=float(np.mean(exchanged)), differs=distance > max(exchanged))
        found.append(one)
    return found


def _distance(a: Tensor, b: Tensor) -> float:
    running = [RunningMoments(rows.shape[1], keep=True) for rows in (a, b)]
    for each, rows in zip(running, (a, b), strict=True):
        each.append(rows)
    return frechet_distance(running[0].moments(), running[1].moments())


@dataclass(frozen=True)
class Explained:
    """Frechet distances. whole: to the reference. left: to it with the samples' class counts. counts_alone: of the one
    reference to the other. difference: the interval of whole - left, of samples with these counts; None if too few.
    """

    whole: float
    left: float
    counts_alone: float
    difference: Interval | None


def explained_by_counts(samples: Labelled, reference: Labelled) -> Explained:
    """What of a distance the counts of classes explain. ValueError for samples of a class that the reference lacks."""
    classes = int(max(samples.labels.max(), reference.labels.max())) + 1
    weighted = reweighted(reference, histogram(samples.labels, classes))
    plain, other = (factor_of(each, "the reference") for each in (reference.moments, weighted))
    (whole, on_whole), (left, on_left) = (distance_and_influence(samples.moments, each) for each in (plain, other))
    enough = len(samples.labels) >= 2 * GROUPS
    known = difference(whole, left, on_whole, on_left, paired=True) if enough else None
    return Explained(whole, left, frechet_distance(plain, other), known)


def reweighted(reference: Labelled, counts: "NDArray[Any]") -> Moments:
    """Mean and covariance of a reference whose classes count as in `counts`, int64 [K].

    ValueError for a class that it has no image of.
    """
    theirs = histogram(reference.labels, len(counts))
    check_known(counts, theirs)
    shares = counts / counts.sum() / np.maximum(theirs, 1)
    weights, dim = torch.from_numpy(shares[reference.labels]), reference.rows.shape[1]
    mean, scatter = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
    pieces = list(zip(reference.rows.split(4096), weights.split(4096), strict=True))
    for rows, weight in pieces:
        mean += weight @ rows.double()
    for rows, weight in pieces:
        centred = rows.double() - mean
        scatter += (centred * weight[:, None]).T @ centred
    cov = scatter / (1 - float(weights.square().sum()))
    return Moments(mean.numpy(), cov.numpy(), reference.moments.num_images)


def check_known(counts: "NDArray[Any]", theirs: "NDArray[Any]") -> None:
    """ValueError for a class of the samples, by counts [K], that the reference has no image of."""
    lacking = np.flatnonzero((counts > 0) & (theirs == 0))
    if len(lacking):
        raise ValueError(f"the reference has no image of class {lacking[0]}, and the samples have {counts[lacking[0]]}")


def table(balanced: Balance, distances: Sequence[ClassDistance]) -> str:
    """Classes as an aligned table."""
    lines: list[tuple[str, ...]] = [("class", "samples", "expected", "reference", "distance", "floor", "")]
    for one in distances:
        numbers = ("-" if value is None else f"{value:.4f}" for value in (one.distance, one.floor))
        expected = f"{balanced.expected[one.label]:g}" if balanced.exact else f"{balanced.expected[one.label]:.1f}"
        counts = str(one.label), str(one.samples), expected, str(one.reference)
        lines.append((*counts, *numbers, "differs" if one.differs else ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)).rstrip() for line in lines)


def summary(metric: str, explained: Explained) -> list[str]:
    """What counts explain, in lines."""
    known, gone = explained.difference, explained.whole - explained.left
    ends = "" if known is None else f"  [{known.low:.4f}, {known.high:.4f}]"
    share = f", {100 * gone / explained.whole:.1f} %" if explained.whole > 0 else ""
    return [
        f"{metric} {explained.whole:.4f}",
        f"with the samples' class counts in the reference {explained.left:.4f}",
        f"explained by class counts {gone:.4f}{share}{ends}",
        f"by class counts alone, of images as the reference's, {explained.counts_alone:.4f}",
    ]


def labels_of(images: StoredSet) -> "NDArray[Any]":
    """The classes of stored images, int64 [N]. ValueError if nobody says them, or there are too many."""
    labels = images.source.labels
    if labels is None:
        raise ValueError(
            f"{images.source.path} has no classes: a dataset.json beside the images gives them, of an .npz arr_1, as "
            "generate_zip.py and dataset_tool.py write them"
        )
    if max(labels) >= MAX_CLASSES:
        raise ValueError(f"{images.source.path} has a class {max(labels)}: at most {MAX_CLASSES} classes are counted")
    return np.asarray(labels, dtype=np.int64)


def balance_of(images: StoredSet, ours: "NDArray[Any]", theirs: "NDArray[Any]") -> Balance:
    """The counts of stored images against the label rule that their recipe has. ours, theirs: of `labels_of`.

    ValueError as `check_known`.
    """
    classes = int(max(ours.max(), theirs.max())) + 1
    rule = (images.description.get("recipe") or {}).get("labels")
    known = rule if rule in ("random", "balanced") or type(rule) is int else None
    seeds = None if images.names is None else seeds_of(images.names)
    reference = histogram(theirs, classes)
    check_known(histogram(ours, classes), reference)
    return balance(histogram(ours, classes), known, seeds, reference / reference.sum())
