"""From reference statistics and the moments of images to results: values, names, warnings, ledger records."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import Metric, feature_names, find_metric, kept_features, score_text
from edm2_guidance.metrics.measures.base import Comparison
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.provenance import recipe_fields
from edm2_guidance.metrics.reference import Statistics, open_statistics
from edm2_guidance.metrics.uncertainty import Interval, interval_if_known, interval_of
from edm2_guidance.work.plan import images_key

_NOTHING = Moments(np.zeros(1), np.zeros((1, 1)))
IDENTITY_KEYS = ("network", "weights_sha256", "resize", "dtype")


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference statistics that were found fit for the metrics asked for.

    comparisons: by metric, what compares a set of images with them. moments: by metric, what that is.
    """

    statistics: Statistics
    comparisons: Mapping[str, Comparison]
    moments: Mapping[str, Moments]


def open_reference(source: str | Path, metrics: Sequence[str], *, offline: bool = False) -> Reference:
    """Opens reference statistics and does everything with them that can fail, before any image is made or read.

    Errors as `open_statistics` and `prepare_reference`.
    """
    names, keep = feature_names(metrics, reference=True), kept_features(metrics, reference=True)
    return prepare_reference(open_statistics(source, names, keep=keep, offline=offline), metrics)


def prepare_reference(statistics: Statistics, metrics: Sequence[str]) -> Reference:
    """Does everything with reference statistics that can fail.

    Errors as `moments_for` and `Measure.against`.
    """
    moments = {metric: moments_for(metric, statistics, reference=True) for metric in metrics}
    compared = {
        metric: find_metric(metric).measure.against(each, f"{statistics.source}: {metric}")
        for metric, each in moments.items()
    }
    return Reference(statistics, compared, moments)


def moments_for(
    metric: str, statistics: Statistics, num_images: int | None = None, *, reference: bool = False
) -> Moments:
    """What a metric compares, out of statistics of images, or of a reference.

    ValueError if they lack it, or are of other dimensions, or of another number of images than `num_images`.
    """
    found = find_metric(metric)
    needs = found.needs(reference=reference)
    if needs == "nothing":
        return _NOTHING
    if needs == "features" and found.stored_as in statistics.shown:
        return statistics.shown[found.stored_as]
    moments = statistics.of(found.stored_as, found.dim, num_images)
    if needs == "features" and moments.features is None:
        raise ValueError(
            f"{statistics.source} holds mean and covariance alone, and {metric} needs the features themselves: give "
            f"the images in its place, or make a file with them by calculate_metrics.py ref --images=IMAGES "
            f"--out=NAME.npz --metrics={metric}"
        )
    return moments


@dataclass(frozen=True)
class Score:
    """One result. name: as `ledger.result_name`. flags: what to mind when comparing it, a sentence each.

    moments_sha256: of the images' moments. also: further numbers of the measure, by name. interval: of the value, if
    there were features of enough images to tell.
    """

    metric: str
    value: float
    num_images: int | None
    name: str
    flags: tuple[str, ...]
    moments_sha256: str
    also: Mapping[str, float] = field(default_factory=dict)
    interval: Interval | None = None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "Score":
        """That of a ledger's line."""
        return cls(
            line["metric"], line["value"], line["num_images"], line["name"], tuple(line["flags"]),
            line["moments_sha256"], line.get("also") or {}, interval_of(line),
        )  # fmt: skip

    def __str__(self) -> str:
        """Name, value and interval."""
        interval = None if self.interval is None else asdict(self.interval)
        return f"{self.name} {score_text({'metric': self.metric, 'value': self.value, 'interval': interval})}"


def score(
    reference: Reference,
    moments: Mapping[str, Moments],
    detectors: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, Any],
    fewer: int | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Score]:
    """Scores of a set of images against the reference, one per metric (None: all that the reference is opened for).

    moments: of the images, by the name of the features in files (`Extractor.stored`). detectors: likewise, identity of
    the detector that made them, missing where unknown. images: what is known of the images (`metrics.provenance`).
    fewer: their number, where that is worth a flag (`fewer_than_published`). RuntimeError if a value is not a finite
    number.
    """
    scores = []
    image_flags = [*_size_flags(images, reference.statistics.images), *_swap_flags(images, reference.statistics)]
    for metric in reference.comparisons if metrics is None else metrics:
        found = find_metric(metric)
        each, theirs = moments[found.stored_as], reference.moments[metric]
        (_, value), *also = reference.comparisons[metric](each).items()
        if not math.isfinite(value):
            raise RuntimeError(f"{metric} came out as {value}")
        flags = [
            *([fewer_than_published(fewer, found.measure.few)] if fewer is not None and found.measure.few else ()),
            *found.measure.notes(each, "images", metric),
            *found.measure.notes(theirs, "reference images", metric),
            *_detector_flags(found, detectors.get(found.stored_as), reference.statistics),
            *image_flags,
            *([images["recipe_problem"]] if "recipe_problem" in images else []),
            *([f"the images were changed on purpose ({images['change']})"] if "change" in images else []),
            *([f"the images were chosen by {images['chosen_by']}"] if "chosen_by" in images else []),
        ]
        name = ledger.result_name(metric, each.num_images)
        known = interval_if_known(found.measure, value, each, theirs)
        scores.append(Score(metric, value, each.num_images, name, tuple(flags), each.sha256, dict(also), known))
    return scores


def _detector_flags(metric: Metric, used: Mapping[str, Any] | None, reference: Statistics) -> list[str]:
    needs = metric.needs(reference=True)
    if used is None:
        return [f"it is not known which detector made the {metric.stored_as} statistics of the images"]
    if needs == "nothing" or (needs == "features" and metric.stored_as in reference.shown):
        return []  # there is no other, or it is the same
    theirs = reference.detectors.get(metric.stored_as)
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
    if used.get("resize") != metric.extractor.resized:
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


def fewer_than_published(num_images: int, values: str) -> str:
    """What to mind of a score of all images there are, if these are fewer than published scores are made of.

    values: as `Measure.few`.
    """
    return (
        f"{num_images:,} images, where published scores have {ledger.STANDARD_NUM_IMAGES:,}: "
        f"fewer give {values} values, so compare only at the same number"
    )


def score_key(metric: str, detector: Mapping[str, Any], reference: Reference, *images: object) -> str:
    """What a score is a function of: measure, detector, reference, and images, in their precision.

    images: `work.plan.images_key` of all of them; or, of those that somebody else made, their `content_sha256` and how
    many of them; or, where nothing but statistics are there, the SHA-256 of these. Batch, form and threads touch last
    bits only: they are recorded beside it.
    """
    return _key(metric, detector, reference.statistics.sha256, images)


def keys_of(record: Mapping[str, Any]) -> list[str]:
    """The `score_key`s of a ledger's line: none if it is of images that a seed chose, or of unknown ones."""
    images, detector = record.get("images") or {}, record.get("detector") or {}
    reference = (record.get("reference") or {}).get("sha256")
    found: list[Sequence[object]] = []
    if record.get("recipe_hash") and images.get("seeds") and images.get("num_images") == images.get("total"):
        found.append(images_key(record["recipe_hash"], images["seeds"], images.get("precision")))
    if images.get("sha256"):
        found.append((images["sha256"],))
    if images.get("content_sha256") and not images.get("subset_seed"):
        found.append((images["content_sha256"], images.get("num_images")))
    return [_key(record["metric"], detector, reference, which) for which in found]


def _key(metric: object, detector: Mapping[str, Any], reference: object, images: Sequence[object]) -> str:
    return json.dumps([metric, [detector.get(key) for key in IDENTITY_KEYS], reference, *images])


def score_lines(
    reference: Reference,
    moments: Mapping[str, Moments],
    detectors: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, Any],
    environment: Mapping[str, Any],
    fewer: int | None = None,
    metrics: Sequence[str] | None = None,
    tags: Mapping[str, Any] = MappingProxyType({}),
    **run: Any,
) -> list[dict[str, Any]]:
    """The ledger's lines of a set of images: arguments as `score` and `ledger_record`. tags: further keys of them."""
    return [
        {
            **ledger_record(
                each, reference, detectors.get(find_metric(each.metric).stored_as), images, environment, **run
            ),
            **tags,
        }
        for each in score(reference, moments, detectors, images, fewer, metrics)
    ]


def write_scores(path: str | Path, *what: Any, **how: Any) -> list[dict[str, Any]]:
    """The lines of `score_lines`, whose arguments follow, appended to the ledger at `path`."""
    lines = score_lines(*what, **how)
    for line in lines:
        ledger.append(path, line)
    return lines


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
    stored_as = find_metric(metric).stored_as
    return {
        "schema": ledger.SCHEMA,
        "time": ledger.now(),
        "name": score.name,
        "metric": metric,
        "value": score.value,
        **({"also": dict(score.also)} if score.also else {}),
        **({"interval": asdict(score.interval)} if score.interval is not None else {}),
        "num_images": score.num_images,
        "moments_sha256": score.moments_sha256,
        "flags": list(score.flags),
        "note": note,
        "reference": {
            "source": theirs.source,
            "sha256": theirs.sha256,
            "num_images": reference.moments[metric].num_images,
            "detector": dict(theirs.detectors[stored_as]) if stored_as in theirs.detectors else None,
            "images": dict(theirs.images) or None,
        },
        "detector": None if detector is None else dict(detector),
        **recipe_fields(images),
        "run": {"batch": batch, **({"reduced": dict(reduced)} if reduced else {})},
        **environment,
    }
