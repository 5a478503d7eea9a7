"""Intervals: what they cover when sampling is repeated, and influences against values without one image."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from edm2_guidance.metrics import running as running_module
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.uncertainty import (
    Interval,
    apart,
    difference,
    influence,
    interval,
    mean_of,
    spread,
    student,
)
from edm2_guidance.recipe import catalog

#: Every kind, with fewer draws where the default's are many.
TEXTS = [
    "fd", "fd-inf", "kid:size=150:subsets=20", "is", "is:given:size=100", "mind:directions=50", "vendi", "precision",
    "precision:adm", "recall", "realism", "density", "coverage", "clipped-density", "clipped-coverage", "authpct",
]  # fmt: skip


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


class Sampling:
    """Images drawn again and again from one Gaussian, and a reference from another."""

    def __init__(self, count: int = 300, dim: int = 8, apart: float = 0.3, seed: int = 0) -> None:
        self._draws = np.random.default_rng(seed)
        mixing = np.eye(dim) + 0.3 * self._draws.standard_normal((dim, dim)) / math.sqrt(dim)
        self.reference = kept((self._draws.standard_normal((300, dim)) @ mixing).astype(np.float32))
        self._count, self._apart, self._mixing = count, apart, (1 + apart) * mixing

    def images(self) -> Moments:
        rows = self._draws.standard_normal((self._count, len(self._mixing))) @ self._mixing + self._apart
        return kept(rows.astype(np.float32))

    def covered(self, text: str, repeats: int) -> float:
        """The share of 95 % intervals that hold the mean of all values."""
        measure = Measure.parse(text)
        compare = measure.against(self.reference, text)
        values, found = [], []
        for _ in range(repeats):
            images = self.images()
            values.append(next(iter(compare(images).values())))
            found.append(interval(measure, values[-1], images, self.reference))
        return float(np.mean([each.low <= np.mean(values) <= each.high for each in found]))


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.3, 0])
@pytest.mark.parametrize(
    "text",
    [
        "fd",
        "fd-inf",
        TEXTS[2],
        "is",
        "mind:directions=50",
        "vendi",
        "precision",
        "recall",
        "coverage",
        "clipped-coverage",
    ],
)
def test_nominal_coverage(text: str, apart: float) -> None:
    """Of 400 repeats; sets that are alike may be covered more often, as a jackknife is never too narrow on average."""
    assert Sampling(apart=apart).covered(text, 400) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400)


@pytest.mark.parametrize("text", ["fd", "is", "precision", "coverage"])
def test_coverage_of_few_repeats(text: str) -> None:
    assert Sampling().covered(text, 60) > 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / 60)


@pytest.mark.parametrize(
    ("text", "dim", "tolerance"), [("fd", 6, 0.05), ("is:parts=1", 6, 0.05), ("vendi", 6, 0.02), ("vendi", 500, 0.2)]
)
def test_influences_are_what_leaving_out_an_image_does(text: str, dim: int, tolerance: float) -> None:
    """(n - 1) (value - value without it), up to a constant and to second order."""
    sampling = Sampling(400, dim)
    images, measure = sampling.images(), Measure.parse(text)
    rows, compare = images.features, measure.against(sampling.reference, text)
    assert rows is not None
    whole = next(iter(compare(images).values()))
    chosen = range(0, 400, 20)
    without = [whole - next(iter(compare(kept(np.delete(rows, i, axis=0))).values())) for i in chosen]
    found = influence(measure, images, sampling.reference)[list(chosen)]
    expected = 399 * np.array(without)
    off = (found - found.mean()) - (expected - expected.mean())
    assert np.abs(off).max() < tolerance * np.ptp(expected)


@pytest.mark.parametrize("text", [text for text in TEXTS if text.partition(":")[0] not in ("kid", "fd-inf", "mind")])
def test_formulas_agree_with_leaving_out_groups(text: str) -> None:
    """The measure's own way against the plain one of every measure, whose 20 groups leave the error itself uncertain.

    Not of KID, FD_infinity and MIND, which without a group draw other subsets.
    """
    sampling = Sampling(400)
    images, measure = sampling.images(), Measure.parse(text)
    ways = (influence(measure, images, sampling.reference), Measure.influence(measure, images, sampling.reference))
    errors = [spread(0.5, each).error for each in ways]
    assert 0.5 < errors[0] / errors[1] < 2


def test_a_naive_bootstrap_of_frechet_distances_is_too_high() -> None:
    """The mean of resampled values is above the value by about the bias that the value has, and so are percentiles."""
    sampling = Sampling(200, 20, apart=0.05)
    images, measure = sampling.images(), Measure.parse("fd")
    compare = measure.against(sampling.reference, "fd")
    repeated = np.mean([compare(sampling.images())["fd"] for _ in range(40)])
    rows = images.features
    draws = np.random.default_rng(1)
    resampled = [compare(kept(rows[draws.integers(200, size=200)]))["fd"] for _ in range(100)]
    value = compare(images)["fd"]
    assert np.percentile(resampled, 2.5) > max(value, repeated)
    found = interval(measure, value, images, sampling.reference)
    assert found.low < repeated < found.high


def test_paired_differences_see_what_unpaired_ones_do_not() -> None:
    """Of the same noise, moved a little: the difference is clear image by image, and lost in the spread of either."""
    sampling = Sampling(500)
    images, measure = sampling.images(), Measure.parse("fd")
    moved = kept(images.features * np.float32(1.01))
    values = [measure.against(sampling.reference, "fd")(each)["fd"] for each in (images, moved)]
    influences = [influence(measure, each, sampling.reference) for each in (images, moved)]
    paired = difference(*values, *influences, paired=True)
    apart = difference(*values, *influences, paired=False)
    assert paired.word == "lower"
    assert apart.word == "inconclusive"
    assert difference(*values[::-1], *influences[::-1], paired=True).word == "higher"
    assert (paired.low + paired.high) / 2 == pytest.approx(values[0] - values[1])
    with pytest.raises(ValueError, match="500 and 499 images cannot be paired"):
        difference(*values, influences[0], influences[1][1:], paired=True)


@pytest.mark.parametrize("text", ["fd", "precision"])
def test_sets_of_one_kind_are_seldom_told_apart(text: str) -> None:
    """Other seeds of the same network: no more often than in 5 of 100 repeats; and sets that differ, always."""
    sampling, measure = Sampling(), Measure.parse(text)
    compare = measure.against(sampling.reference, text)

    def scored(images: Moments) -> tuple[float, np.ndarray]:
        return next(iter(compare(images).values())), influence(measure, images, sampling.reference)

    def word(a: Moments, b: Moments) -> str:
        (value, of_a), (other, of_b) = scored(a), scored(b)
        return difference(value, other, of_a, of_b, paired=False).word

    words = [word(sampling.images(), sampling.images()) for _ in range(60)]
    assert np.mean([each != "inconclusive" for each in words]) < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 60)
    far = Sampling(apart=0.9)
    expected = "lower" if measure.better == "lower" else "higher"
    assert {word(sampling.images(), far.images()) for _ in range(5)} == {expected}


def test_means_and_differences_of_intervals() -> None:
    """Of two independent values alike, sqrt(2) and 1 / sqrt(2) of the width of one; each side by its own."""
    one, other = Interval(1.8, 2.4, 0.15), Interval(0.9, 1.1, 0.05)
    mean = mean_of([2.0, 2.0], [one, one])
    assert (mean.low, mean.high) == pytest.approx((2 - 0.2 / 2**0.5, 2 + 0.4 / 2**0.5))
    assert mean_of([2.0], [one]).high == pytest.approx(one.high)
    found = apart(2.0, 1.0, one, other)
    assert (found.low, found.high) == pytest.approx((1 - math.hypot(0.2, 0.1), 1 + math.hypot(0.4, 0.1)))
    assert found.error == pytest.approx(math.hypot(0.15, 0.05))


def test_unpaired_differences_are_welchs() -> None:
    draws = np.random.default_rng(2)
    a, b = draws.standard_normal(30), 3 * draws.standard_normal(12)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference(a.mean(), b.mean(), a, b, paired=False)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-6)


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 19, 100.5, 49_999])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_students_quantiles(freedom: float, level: float) -> None:
    assert student(freedom, level) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, freedom), rel=1e-6)


@pytest.mark.parametrize("hits", [0, 3, 50])
def test_shares_have_wilsons_interval(hits: int) -> None:
    """Also where all images are alike, and a standard error would be 0."""
    expected = scipy.stats.binomtest(hits, 50).proportion_ci(0.95, method="wilson")
    found = spread(hits / 50, np.arange(50) < hits)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_images_that_are_all_the_same_leave_no_spread_of_a_distance() -> None:
    """Their influences are 0, as those of a share may be, and the value is no share."""
    found = spread(113.98, np.zeros(60))
    assert (found.low, found.high, found.error) == (113.98, 113.98, 0)


def test_repeats_over_seed_blocks() -> None:
    """Three values of a paper's table, as any sample of three."""
    values = np.array([2.12, 2.05, 2.11])
    found = spread(values.mean(), values)
    expected = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-5)


def streamed(rows: np.ndarray, batch: int) -> Moments:
    """As a pass of Frechet distances alone leaves them."""
    running = RunningMoments(rows.shape[1])
    for part in torch.from_numpy(rows).split(batch):
        running.append(part)
    return running.moments()


def test_a_pass_that_keeps_no_features_has_the_same_intervals() -> None:
    """Of so few images the sample is all of them, whatever the batch."""
    sampling, measure = Sampling(), Measure.parse("fd")
    images = sampling.images()
    assert images.features is not None
    expected = interval(measure, 1.0, images, sampling.reference)
    found = interval(measure, 1.0, streamed(images.features, 70), sampling.reference)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_sample_has_the_spread_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard errors are those of all images, not of as many as the sample has; batches change nothing."""
    monkeypatch.setattr(running_module, "SAMPLE", 1000)
    sampling, measure = Sampling(6000), Measure.parse("fd")
    images = sampling.images()
    assert images.features is not None
    some, others = (streamed(images.features, batch) for batch in (64, 777))
    assert some.sample is not None
    assert others.sample is not None
    assert np.array_equal(some.sample, others.sample)
    errors = [interval(measure, 1.0, each, sampling.reference).error for each in (images, some)]
    assert errors[1] == pytest.approx(errors[0], rel=0.15)


def test_every_image_is_as_likely_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of 30 of 90, in 120 samples: each is there 40 times, give or take 5 standard deviations."""
    monkeypatch.setattr(running_module, "SAMPLE", 30)
    counts = np.zeros(90)
    for seed in range(120):
        monkeypatch.setattr(running_module, "SEED", seed)
        sample = streamed(np.arange(90.0)[:, None], 7).sample
        assert sample is not None
        counts[sample[:, 0].astype(int)] += 1
    assert counts.sum() == 120 * 30
    assert np.abs(counts - 40).max() < 5 * math.sqrt(120 * 2 / 9)


def test_what_cannot_be_told_is_said() -> None:
    sampling = Sampling(39)
    images, measure = sampling.images(), Measure.parse("fd")
    with pytest.raises(ValueError, match="fd: 39 images are too few for an interval: 40 do"):
        interval(measure, 1.0, images, sampling.reference)
    with pytest.raises(ValueError, match="needs the features of the images, not mean and covariance alone"):
        interval(measure, 1.0, Moments(images.mean, images.cov, 39), sampling.reference)


#: By measure that has limits: all images but one are copies of the reference's, or far from it, or the same.
ENDS = {
    "fd": "copies", "precision": "copies", "recall": "far", "density": "far", "coverage": "far",
    "clipped-density": "copies", "clipped-coverage": "copies", "is:parts=2": "same", "mind:directions=50": "copies",
    "vendi": "far", "authpct": "far", "realism": "far",
}  # fmt: skip


def test_every_measure_with_limits_has_an_end() -> None:
    limited = {kind for kind in catalog.kinds("measure") if np.isfinite(Measure.parse(kind).limits).any()}
    assert {text.partition(":")[0] for text in ENDS} == limited


@pytest.mark.parametrize("text", ENDS)
def test_no_interval_goes_beyond_what_values_can_be(text: str) -> None:
    """Near the end of the range, where a value and its standard error alone would."""
    images, reference = np.random.default_rng(0).standard_normal((2, 60, 4)).astype(np.float32)
    if ENDS[text] == "same":
        images[:] = 1
    elif ENDS[text] == "copies":
        images[:] = reference
    else:
        images += 50
    images[0] = (9, 0, 0, 0) if ENDS[text] != "far" else reference[0]
    measure, ours, theirs = Measure.parse(text), kept(images), kept(reference)
    value = next(iter(measure.against(theirs, "")(ours).values()))
    influences = influence(measure, ours, theirs)
    half = student(len(influences) - 1) * influences.std(ddof=1) / math.sqrt(len(influences))
    low, high = measure.limits
    assert value - half < low or value + half > high, "something is to be cut off"
    found = interval(measure, value, ours, theirs)
    assert low <= found.low <= value <= found.high <= high
    if text != "precision":  # a share has Wilson's interval, which ends before
        assert (found.low, found.high) == pytest.approx((max(value - half, low), min(value + half, high)))
