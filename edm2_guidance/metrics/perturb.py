"""Which measures notice what was done to images on purpose? Scores of a set beside those of the set changed.

A measure notices a change if the value of the changed images lies outside the interval of the value of the images
before, which is where values lie that nothing but chance tells apart. Of a change that leaves fewer images, "before" is
as many of the images, drawn at random (`images.changes.with_controls`), since numbers of images move values, too.

Changed pixels go through the detectors again; of a changed set the features of the images are there already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edm2_guidance.images.changes import Change, ChangedImages, PixelChange, rows_of
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics.catalog import value_text
from edm2_guidance.metrics.image_sets import ImageSet
from edm2_guidance.metrics.measures.base import features_of
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.uncertainty import interval_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Record = Mapping[str, Any]
PER_TABLE = 5  # metrics side by side: so many fit a page
_OF = ("path", "content_sha256", "total", "subset_seed", "seeds", "recipe_hash")  # of the images as they were


def changed_set(change: Change, images: ImageSet, moments: Mapping[str, Moments]) -> ImageSet:
    """A set of stored images under a change. moments: of the images, with their features.

    ValueError as `changes.rows_of`.
    """
    assert isinstance(images.source, StoredImages)
    if isinstance(change, PixelChange):
        source = ChangedImages(images.source, change)
        return replace(images, source=source, description=described(change, images, source.num_images))
    rows = rows_of(change, images.source)
    chosen = {name: moments_of(each, rows) for name, each in moments.items()}
    about = described(change, images, len(rows))
    return replace(images, source=None, moments=chosen, num_images=len(rows), description=about)


def moments_of(moments: Moments, rows: "NDArray[Any]") -> Moments:
    """Those of the images in these places, int64 [n], with their features, which `moments` has."""
    import torch

    from edm2_guidance.metrics.running import RunningMoments

    running = RunningMoments(moments.dim, keep=True)
    running.append(features_of(moments)[torch.from_numpy(rows)])
    return running.moments()


def described(change: Change, images: ImageSet, count: int) -> dict[str, Any]:
    """What the ledger says of changed images.

    What else it would find them by (path, content, seeds, recipe) stands under "of" alone, since it makes the images as
    they were: nobody who asks for scores of these gets those of a change.
    """
    of = {key: images.description[key] for key in _OF if images.description.get(key) is not None}
    known = {"path": None, "kind": "changed", "change": str(change), "of": of}
    return {**known, "num_images": count, "total": count, "subset_seed": None, "size": images.description["size"]}


@dataclass(frozen=True)
class Row:
    """Scores of a set. name: of the change. records: the ledger's lines. before: of what it is held against."""

    name: str
    records: Sequence[Record]
    before: Sequence[Record] | None = None

    @property
    def noticed(self) -> list[bool | None]:
        """Of each metric, whether its value lies outside the interval before; None if that is unknown."""
        return [] if self.before is None else list(map(_noticed, self.records, self.before))


def _noticed(record: Record, before: Record) -> bool | None:
    known = interval_of(before)
    return None if known is None else not known.low <= record["value"] <= known.high


def table(rows: Sequence[Row]) -> str:
    """Changes by metrics: value and difference from before, with * where the measure notices, ? where nobody knows."""
    metrics = [str(record["metric"]) for record in rows[0].records]
    pieces = [range(start, len(metrics))[:PER_TABLE] for start in range(0, len(metrics), PER_TABLE)]
    return "\n\n".join(_piece(rows, [metrics[index] for index in piece], piece) for piece in pieces)


def _piece(rows: Sequence[Row], metrics: Sequence[str], piece: Sequence[int]) -> str:
    lines = [["change", "images", *metrics]]
    lines += [[row.name, str(row.records[0]["num_images"]), *(_cell(row, index) for index in piece)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cell(row: Row, index: int) -> str:
    metric, value = row.records[index]["metric"], row.records[index]["value"]
    if row.before is None:
        return value_text(metric, value)
    moved = value_text(metric, value - row.before[index]["value"])
    mark = {True: " *", False: "", None: " ?"}[row.noticed[index]]
    return f"{value_text(metric, value)}  {moved if moved.startswith('-') else f'+{moved}'}{mark}"


def notes(changes: Sequence[Row]) -> list[str]:
    """What the marks mean, and what no measure notices, a sentence each. changes: the rows of those asked for."""
    found = [
        "+ and - are differences from the unchanged images, or, of a change that leaves fewer, from as many of them "
        "drawn at random; * is outside of the 95 % interval of these"
    ]
    if any(None in row.noticed for row in changes):
        found.append("? is where there is no interval: 40 images or more give one")
    blind = [row.name for row in changes if set(row.noticed) == {False}]
    return [*found, *([f"no metric here notices {', '.join(blind)}"] if blind else [])]
