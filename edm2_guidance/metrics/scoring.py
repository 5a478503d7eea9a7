"""From reference statistics and the moments of images to results: values, names, warnings, ledger records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.detectors import find_spec
from edm2_guidance.metrics.frechet import FactoredMoments, factorize, frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.provenance import recipe_fields
from edm2_guidance.metrics.reference import Statistics, open_statistics

SELF_DISTANCE_TOLERANCE = 1e-9  # relative to the trace of the covariance
IDENTITY_KEYS = ("network", "weights_sha256", "resize", "dtype")


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference statistics that were found fit for the metrics asked for, with their covariances factored."""

    statistics: Statistics
    factored: Mapping[str, FactoredMoments]

    def dim(self, metric: str) -> int:
        """Number of features of a metric."""
        return self.statistics.moments[metric].dim


def open_reference(source: str | Path, metrics: Sequence[str], *, offline: bool = False) -> Reference:
    """Opens reference statistics and does everything with them that can fail, before any image is made or read.

    Errors as `open_statistics` and `prepare_reference`.
    """
    return prepare_reference(open_statistics(source, metrics, offline=offline), metrics)


def prepare_reference(statistics: Statistics, metrics: Sequence[str]) -> Reference:
    """Does everything with reference statistics that can fail.

    The distance of each metric's statistics to themselves is computed: it runs the code that the score will need,
    and is zero for sound statistics. Errors as `factorize`, and ValueError for a metric that is missing or of other
    dimensions than its detector.
    """
    moments = {metric: statistics.of(metric, find_spec(metric).feature_dim) for metric in metrics}
    factored = {}
    for metric, each in moments.items():
        try:
            factored[metric] = factorize(each)
        except ValueError as error:
            raise ValueError(f"{statistics.source}: {metric}: {error}") from error
        distance = frechet_distance(factored[metric], factored[metric])
        if not distance <= SELF_DISTANCE_TOLERANCE * (1 + factored[metric].trace):
            raise ValueError(
                f"{statistics.source}: {metric} is at distance {distance:.3g} from itself: damaged, or a faulty LAPACK"
            )
    return Reference(statistics, factored)


@dataclass(frozen=True)
class Score:
    """One result. name: as `ledger.result_name`. flags: what to mind when comparing it, a sentence each.

    moments_sha256: of the images' moments.
    """

    metric: str
    value: float
    num_images: int | None
    name: str
    flags: tuple[str, ...]
    moments_sha256: str


def score(
    reference: Reference,
    moments: Mapping[str, Moments],
    detectors: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> list[Score]:
    """Distances of a set of images to the reference, one per metric of `moments`.

    detectors: identity per metric of the detector that made `moments`, missing where unknown. images: what is known
    of the images (`metrics.provenance`). notes: further flags. RuntimeError if a distance is not a finite number.
    """
    scores = []
    image_flags = [*_size_flags(images, reference.statistics.images), *_swap_flags(images, reference.statistics)]
    for metric, each in moments.items():
        value = frechet_distance(each, reference.factored[metric])
        if not math.isfinite(value):
            raise RuntimeError(f"{metric} came out as {value}")
        flags = [
            *notes,
            *_count_flags(metric, each, "images"),
            *_count_flags(metric, reference.statistics.moments[metric], "reference images"),
            *_detector_flags(metric, detectors.get(metric), reference.statistics),
            *image_flags,
            *([images["recipe_problem"]] if "recipe_problem" in images else []),
        ]
        name = ledger.result_name(metric, each.num_images)
        scores.append(Score(metric, value, each.num_images, name, tuple(flags), each.sha256))
    return scores


def _count_flags(metric: str, moments: Moments, what: str) -> list[str]:
    if moments.num_images is None or moments.num_images > moments.dim:
        return []
    return [
        f"{moments.num_images} {what} for the {moments.dim} features of {metric}: the covariance is singular and the "
        "value far too high; compare it only with values at the same number"
    ]


def _detector_flags(metric: str, used: Mapping[str, Any] | None, reference: Statistics) -> list[str]:
    if used is None:
        return [f"it is not known which detector made the {metric} statistics of the images"]
    theirs = reference.detectors.get(metric)
    if theirs is not None:
        return [
            f"the detector's {key} is {used.get(key)} for the images, {theirs.get(key)} for the reference"
            for key in IDENTITY_KEYS
            if used.get(key) != theirs.get(key)
        ]
    if not reference.resize_known:
        return [
            "the reference does not say how its images were resized, and tools differ in it: compare the value only "
            "with others against this very file"
        ]
    if not used.get("published", False):
        return ["the detector's weights are not the published ones, and the reference does not name its own"]
    if used.get("resize") != find_spec(metric).resizes[0]:
        resize = used.get("resize")
        return [f"images were resized by the variant {resize!r}, and the reference does not name its own"]
    return []


def _size_flags(images: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    ours, theirs = images.get("size"), reference.get("size")
    if ours is None or theirs is None or list(ours) == list(theirs):
        return []
    return [f"the images are {ours[1]}x{ours[0]}, those of the reference {theirs[1]}x{theirs[0]}"]


def _swap_flags(images: Mapping[str, Any], reference: Statistics) -> list[str]:
    """A reference that was generated, and samples that were not: most likely the sides are swapped."""
    if not reference.images.get("generated") or images.get("recipe") is not None:
        return []
    return [
        f"the reference, {reference.source}, holds generated images (there is a recipe.json), the samples do not: "
        "are they swapped? The samples come first"
    ]


def fewer_than_published(num_images: int) -> str:
    """What to mind of a score of all images there are, if these are fewer than published scores are made of."""
    return (
        f"{num_images:,} images, where published scores have {ledger.STANDARD_NUM_IMAGES:,}: fewer give higher values, "
        "so compare only at the same number"
    )


def is_score_of(record: Mapping[str, Any], detector: Mapping[str, Any], reference: Reference, metric: str) -> bool:
    """Whether a ledger's line is a score by this detector (its identity) against this reference."""
    theirs = record.get("detector") or {}
    return (
        record.get("metric") == metric
        and all(theirs.get(key) == detector.get(key) for key in IDENTITY_KEYS)
        and (record.get("reference") or {}).get("sha256") == reference.statistics.sha256
    )


def is_of_images(record: Mapping[str, Any], recipe_hash: object, seeds: object) -> bool:
    """Whether a ledger's line is of the images of this recipe and these seeds (`format_seeds`), all of them."""
    images = record.get("images") or {}
    return (
        record.get("recipe_hash") == recipe_hash
        and images.get("seeds") == seeds
        and images.get("num_images") == images.get("total")
    )


def ledger_record(
    score: Score,
    reference: Reference,
    detector: Mapping[str, Any] | None,
    images: Mapping[str, Any],
    environment: Mapping[str, Any],
    *,
    batch: int | None = None,
    reduced: Mapping[str, int] | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """The ledger line of a score: the value and everything needed to repeat it and to see what compares with it.

    images: as `metrics.provenance` describes them. environment: as `metrics.environment`. batch: images at a time.
    reduced: how many at a time memory held of what it did not hold; then last bits may differ from another run's.
    note: the user's own words for the row.
    """
    metric, theirs = score.metric, reference.statistics
    return {
        "schema": ledger.SCHEMA,
        "time": ledger.now(),
        "name": score.name,
        "metric": metric,
        "value": score.value,
        "num_images": score.num_images,
        "moments_sha256": score.moments_sha256,
        "flags": list(score.flags),
        "note": note,
        "reference": {
            "source": theirs.source,
            "sha256": theirs.sha256,
            "num_images": theirs.moments[metric].num_images,
            "detector": dict(theirs.detectors[metric]) if metric in theirs.detectors else None,
            "images": dict(theirs.images) or None,
        },
        "detector": None if detector is None else dict(detector),
        **recipe_fields(images),
        "run": {"batch": batch, **({"reduced": dict(reduced)} if reduced else {})},
        **environment,
    }
