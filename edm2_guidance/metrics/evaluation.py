"""Image sets in, moments out: opening what is to be scored, with every check that can be made beforehand."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edm2_guidance.images.batch import ImageSource, drain
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics.catalog import check_counts, find_metric
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.provenance import describe_stored
from edm2_guidance.work.plan import merged_reductions

if TYPE_CHECKING:
    from edm2_guidance.metrics.detectors import Detector


@dataclass(frozen=True)
class StoredSet:
    """Stored images ready to be scored: the source, names for error messages, and what a ledger says of them."""

    source: StoredImages
    names: Sequence[str] | None
    description: dict[str, Any]


def open_stored(
    path: str | Path | StoredImages,
    metrics: Sequence[str],
    *,
    num: int | None = None,
    most: int | None = None,
    seed: int = 0,
    batch: int = 64,
    scored: bool = True,
) -> StoredSet:
    """Opens a ZIP, folder or .npz of images for the metrics named. path: or the set that was opened there.

    scored: whether these are the samples of a score, of which there must be enough for each of the metrics.

    num: this many images, chosen by `seed` if there are more; None takes all, or `most`. batch: images at a time.
    OSError and ValueError as `StoredImages`; ValueError for fewer images than `num` (or 2), or of a size that a
    metric does not take.
    """
    everything = path if isinstance(path, StoredImages) else StoredImages(path)
    path, total = everything.path, everything.num_images
    wanted = min(total, total if most is None else most) if num is None else num
    if total < 2:
        raise ValueError(f"{path} holds {total} image: statistics need at least 2")
    if total < wanted:
        raise ValueError(
            f"{path} holds {total} images, fewer than the {wanted} to score: give --num-images={total}, or more images"
        )
    if wanted < 2:
        raise ValueError(f"{wanted} image to score: statistics need at least 2")
    source = everything.chosen(batch, wanted, seed)
    check_image_sizes(metrics, source.image_size)
    if scored:
        check_counts(metrics, wanted, f"images of {path}")
    return StoredSet(source, source.names, describe_stored(path, source, total, seed))


def check_image_sizes(metrics: Sequence[str], size: tuple[int, int]) -> None:
    """ValueError if the detector of one of the metrics does not take images of this (height, width)."""
    for metric in metrics:
        wanted = find_metric(metric).extractor.image_size
        if wanted is not None and size != (wanted, wanted):
            raise ValueError(
                f"{metric} is defined for images of {wanted}x{wanted}, these are {size[1]}x{size[0]}: "
                "take another metric, or prepare such images with dataset_tool.py"
            )


class Measured(NamedTuple):
    """Moments per metric, the (height, width) of the images, and what memory did not hold (`ImageBatch.reduced`)."""

    moments: dict[str, Moments]
    image_size: tuple[int, int]
    reduced: dict[str, int]


def measure(
    source: ImageSource,
    detectors: "Sequence[Detector]",
    names: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Moments per metric over one pass.

    names: of the images in order, for error messages. ValueError for images that cannot be scored, naming the first.
    """
    from edm2_guidance.metrics.running import MomentsSink

    sink = MomentsSink(detectors, names)
    drain(source, sink, progress=progress)
    moments = sink.moments()
    assert sink.image_size is not None  # there were two images at least
    return Measured(moments, sink.image_size, merged_reductions(detector.reduced for detector in detectors))


def identities_of(detectors: "Iterable[Detector]") -> dict[str, dict[str, Any]]:
    """The identities of all features that these detectors give, by name."""
    return {name: identity for detector in detectors for name, identity in detector.identities.items()}
