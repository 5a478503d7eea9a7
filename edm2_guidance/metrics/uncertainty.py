"""How far a value may be from what repeated sampling gives in the mean: intervals, and of differences.

The question is: with other seeds, as many images, and the same reference, where would values lie? An interval covers
their mean, which for few images is not that of infinitely many (a Frechet distance is too high): compare values of
equal numbers of images, or extrapolated ones.

A bootstrap is the usual answer, and wrong for a Frechet distance: a resampled set has only 63 % different images, so
that its covariance is off by the sampling error once more. Every bootstrap value has the bias of few images twice, and
their percentiles lie above the value itself. Copies among the drawn break kernel and neighbour measures as well.
What is used instead gives every image, or group of images, its influence on the value (`Measure.influence`), whose
spread is that of the value:

    means over images                 precision, density, clipped-density, authpct      exact
    derivative by an image's weight   fd, fd-inf, kid, is, mind, vendi                  infinitesimal jackknife
    values without each of 20 groups  recall, coverage, clipped-coverage, and others    jackknife

A jackknife's variance is on average not below the true one (Efron and Stein 1981): where second-order terms count,
because images and reference are very alike, intervals are too wide by a third or so, those of recall by up to two.
Of Vendi they are right only if there are more images than features.

Where a pass keeps no features, as for a Frechet distance alone, influences are those of a sample of the images, which
has the spread of all (`Moments.sample`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from edm2_guidance.metrics.measures.base import GROUPS, Measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edm2_guidance.metrics.moments import Moments

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Of a value or a difference: the ends at a level of confidence, and the standard error."""

    low: float
    high: float
    error: float
    level: float = LEVEL

    @property
    def word(self) -> str:
        """Of a difference: 'lower', 'higher', or 'inconclusive' if 0 is within."""
        return "lower" if self.high < 0 else "higher" if self.low > 0 else "inconclusive"


def interval(measure: Measure, value: float, images: "Moments", reference: "Moments", level: float = LEVEL) -> Interval:
    """The interval of a measure's value.

    images: with their features. reference: as the measure needs it. ValueError for too few images to tell.
    """
    return _limited(measure, spread(value, influence(measure, images, reference), level))


def interval_if_known(
    measure: Measure, value: float, images: "Moments", reference: "Moments", level: float = LEVEL
) -> Interval | None:
    """`interval`, or None where it would refuse."""
    found = influence_if_known(measure, images, reference)
    return None if found is None else _limited(measure, spread(value, found, level))


def _limited(measure: Measure, found: Interval) -> Interval:
    low, high = measure.limits
    return replace(found, low=max(found.low, low), high=min(found.high, high))


def influence_if_known(measure: Measure, images: "Moments", reference: "Moments") -> "NDArray[Any] | None":
    """`influence`, or None where it would refuse."""
    rows = _rows(measure, images)
    return None if rows is None or len(rows) < 2 * GROUPS else influence(measure, images, reference)


def influence(measure: Measure, images: "Moments", reference: "Moments") -> "NDArray[Any]":
    """`Measure.influence`, by a sample of the images where not all features were kept and the measure needs none.

    ValueError for fewer than two images in a group, or images without features.
    """
    rows = _rows(measure, images)
    if rows is None:
        raise ValueError(f"{measure.kind}: an interval needs the features of the images, not mean and covariance alone")
    if len(rows) < 2 * GROUPS:
        raise ValueError(f"{measure.kind}: {len(rows)} images are too few for an interval: {2 * GROUPS} do")
    some = 1.0 if rows is images.features else math.sqrt(len(rows) / (images.num_images or len(rows)))
    found: NDArray[Any] = images.once(
        ("influence", measure, reference), lambda: some * measure.influence(images, reference)
    )
    return found


def _rows(measure: Measure, images: "Moments") -> "NDArray[Any] | None":
    """The features by which influences are had."""
    return images.sample if images.features is None and measure.needs == "moments" else images.features


def spread(value: float, influences: "NDArray[Any]", level: float = LEVEL) -> Interval:
    """The interval of a value by influences, [b] with b of 2 or more; also by values of b repeats, and their mean.

    By Student's t with b - 1 degrees of freedom; of a share, the mean of influences of 0 and 1, by Wilson's score.
    """
    count, error = len(influences), _error(influences)
    if ((influences == 0) | (influences == 1)).all() and math.isclose(value, influences.mean(), abs_tol=1e-9):
        z = NormalDist().inv_cdf((1 + level) / 2)
        centre = (value + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z * math.sqrt(value * (1 - value) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
        return Interval(centre - half, centre + half, error, level)
    half = student(count - 1, level) * error
    return Interval(value - half, value + half, error, level)


def difference(
    a: float, b: float, of_a: "NDArray[Any]", of_b: "NDArray[Any]", *, paired: bool, level: float = LEVEL
) -> Interval:
    """The interval of a - b by the influences on both.

    paired: image by image of the same seeds, so that what both have in common cancels. ValueError if their numbers
    differ then.
    """
    if paired and len(of_a) != len(of_b):
        raise ValueError(f"{len(of_a)} and {len(of_b)} images cannot be paired")
    if paired:
        half = student(len(of_a) - 1, level) * _error(of_a - of_b)
        return Interval(a - b - half, a - b + half, _error(of_a - of_b), level)
    errors = _error(of_a), _error(of_b)
    error = math.hypot(*errors)
    shares = [each**4 / (len(of) - 1) for each, of in zip(errors, (of_a, of_b), strict=True)]
    half = student(error**4 / sum(shares) if error > 0 else 1, level) * error  # Welch's degrees of freedom
    return Interval(a - b - half, a - b + half, error, level)


def mean_of(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of the mean of independent values with theirs, one or more: what each may be off by adds up."""
    mean, count = math.fsum(values) / len(values), len(values)
    low, high, error = (
        math.hypot(*offs) / count
        for offs in zip(
            *((v - i.low, i.high - v, i.error) for v, i in zip(values, intervals, strict=True)), strict=True
        )
    )
    return Interval(mean - low, mean + high, error, intervals[0].level)


def interval_of(record: Mapping[str, Any]) -> Interval | None:
    """That of a ledger's line, if it has one."""
    known = record.get("interval")
    return None if not known else Interval(known["low"], known["high"], known["error"])


def mean_interval(records: Sequence[Mapping[str, Any]]) -> Interval | None:
    """Of the mean of lines of a ledger, blocks of seeds: by their intervals, or else by the spread of two or more."""
    import numpy as np

    values = [float(record["value"]) for record in records]
    known = [each for each in map(interval_of, records) if each is not None]
    if len(known) == len(values):
        return mean_of(values, known)
    return spread(math.fsum(values) / len(values), np.asarray(values)) if len(values) > 1 else None


def apart(a: float, b: float, of_a: Interval, of_b: Interval) -> Interval:
    """The interval of a - b by those of two independent values (Zou and Donner 2008, Eq. 3), also if they are lopsided.

    Of values of the same seeds it is too wide.
    """
    low, high = math.hypot(a - of_a.low, of_b.high - b), math.hypot(of_a.high - a, b - of_b.low)
    return Interval(a - b - low, a - b + high, math.hypot(of_a.error, of_b.error), of_a.level)


def student(freedom: float, level: float = LEVEL) -> float:
    """The quantile of Student's t that is exceeded on either side with probability 1 - level.

    With t = sqrt(n) tan(u) its density is in proportion to cos(u)^(n - 1), which is summed up until the level is there.
    """
    import numpy as np

    angle = np.linspace(0, math.atan(40 / math.sqrt(freedom)) if freedom > 100 else math.pi / 2, 20_001)
    scale = 2 / math.sqrt(math.pi) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    heights = scale * np.cos(angle) ** (freedom - 1)
    within = np.concatenate([[0], np.cumsum(heights[1:] + heights[:-1]) * angle[1] / 2])
    return math.sqrt(freedom) * math.tan(float(np.interp(level, within, angle)))


def _error(influences: "NDArray[Any]") -> float:
    return float(influences.std(ddof=1)) / math.sqrt(len(influences))
