"""What a report's page shows of stored images: their classes, some by chance, the best and the worst."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from dnnlib.terminal import counted
from dnnlib.web_page import element, picture
from edm2_guidance.images.archive import Archive, open_archive, select_subset
from edm2_guidance.images.convert import labels_of, read_pixels
from edm2_guidance.images.grid import scaled
from edm2_guidance.images.labels import count_classes
from edm2_guidance.images.sinks import png_bytes
from edm2_guidance.images.sources import content_sha256, seeds_of
from edm2_guidance.papers.charts import bars
from edm2_guidance.papers.curves import Record
from edm2_guidance.papers.overview import recipe_of
from edm2_guidance.recipe.class_names import class_text

NUM, SETS = 24, 6  # images of each of so many sets
MAX_BARS = 1000
_LONGEST = 128  # pixels of an image's longer side; smaller ones stay as they are
_COLUMNS = ("rank", "name", "seed", "label")  # of a ranking, before the score


@dataclass(frozen=True)
class Order:
    """Names of all images with their scores, the best first. by: what scores."""

    by: str
    scores: dict[str, float]

    @classmethod
    def read(cls, path: str) -> "Order":
        """What `calculate_metrics.py rank --format=csv` printed. ValueError for anything else."""
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            try:
                by = next(name for name in lines.fieldnames or () if name not in _COLUMNS)
                return cls(by, {line["name"]: float(line[by]) for line in lines})
            except (KeyError, StopIteration, TypeError, ValueError, csv.Error):
                made = "python calculate_metrics.py rank IMAGES REFERENCE --format=csv"
                raise ValueError(f"{path} is no ranking of images, as {made} prints it") from None


def pictures(
    records: Sequence[Record], samples: str | None, ranking: str | None
) -> tuple[list[Element], list[Element]]:
    """The sections of classes and samples: of a set, or else of those that the ledger scored.

    Of these, only ZIPs that still hold what was scored: a ledger of others names no file of ours to be shown. ranking:
    the file with the order of the set. ValueError and OSError for a set that cannot be read, or another one's ranking.
    """
    if ranking is not None and samples is None:
        raise ValueError(f"--ranking={ranking} orders the images of a set: name it by --samples")
    found, notes = _scored(records)
    if samples is not None:
        same = (record for path, record in found.items() if os.path.realpath(path) == os.path.realpath(samples))
        found, notes = {samples: next(same, None)}, []
    order = None if ranking is None else Order.read(ranking)
    classes: list[Element | None] = []
    shown: list[Element] = []
    for path, record in [*found.items()][:SETS]:
        with open_archive(path) as archive:
            classes.append(_histogram(archive, record))
            shown += _tiles(archive, order)
    if len(found) > SETS:
        notes.append(f"{counted(len(found) - SETS, 'more set')} of images: --samples=ZIP shows one")
    if shown and order is None:
        notes.append(
            "Best and worst samples: python calculate_metrics.py rank IMAGES REFERENCE --format=csv > ranked.csv, then "
            "python reproduce.py report --html=FILE --samples=IMAGES --ranking=ranked.csv"
        )
    charts = [element("div", *classes, class_="charts")] if any(each is not None for each in classes) else []
    return charts, [*shown, *(element("p", note, class_="faint") for note in notes)]


def _scored(records: Sequence[Record]) -> tuple[dict[str, Record | None], list[str]]:
    """The ZIPs that lines name and that hold what was scored, with such a line; and a note on each that does not."""
    found: dict[str, Record | None] = {}
    others: dict[str, None] = {}
    for record in records:
        images = record.get("images") or {}
        path, content = images.get("path"), images.get("content_sha256")
        if isinstance(path, str) and isinstance(content, str) and path not in found and _is_here(path):
            try:
                same = content_sha256(path) == content
            except (OSError, ValueError):
                same = False
            found |= {path: record} if same else {}
            others |= {} if same else {path: None}
    changed = [path for path in others if path not in found]
    return found, [f"{path} does not hold the images that were scored: left out" for path in changed]


def _is_here(path: str) -> bool:
    """Whether it is a ZIP of this machine."""
    return path.lower().endswith(".zip") and not path.startswith(("//", "\\\\")) and os.path.isfile(path)


def _histogram(archive: Archive, record: Record | None) -> Element | None:
    """Images per class, beside what the label rule gives; None without classes."""
    labels, names, _ = labels_of(archive)
    classes = count_classes((labels or {}).values())
    if labels is None or classes == 0:
        return None
    counter = Counter(label for label in labels.values() if isinstance(label, int))
    title = f"{archive.path.name}: {counted(len(labels), 'image', ',')} of {counted(classes, 'class', ',')}"
    if classes > MAX_BARS:
        least, most = min(counter.values()), max(counter.values())
        return element("p", f"{title}, {len(counter):,} of them with images, from {least} to {most} each")
    counts = [counter[label] for label in range(classes)]
    recipe = None if record is None else recipe_of(record)
    if recipe is not None:
        from edm2_guidance.metrics.classes import balance  # with torch

        title += f"; {balance(np.array(counts), recipe.labels, seeds_of(archive.names)).text}"
    texts = [class_text(label, names) for label in range(classes)]
    return bars(title, counts, "class", texts, len(labels) / classes)


def _tiles(archive: Archive, order: Order | None) -> Iterator[Element]:
    """Some images by chance, and the best and the worst of an order. ValueError for arrays, and for another's order."""
    names = [name for name in archive.names if not name.lower().endswith(".npy")]
    if not names:
        return
    chosen = [names[at] for at in select_subset(len(names), NUM, 0)]
    groups = {f"{counted(len(chosen), 'image')} of {archive.path.name} by chance": chosen}
    if order is not None:
        ranked = [*order.scores]
        if missing := [name for name in ranked if name not in archive]:
            raise ValueError(f"the ranking is of other images than {archive.path} holds, such as {missing[0]!r}")
        groups |= {f"Best by {order.by}": ranked[:NUM], f"Worst by {order.by}": ranked[::-1][:NUM]}
    for title, group in groups.items():
        scores = order.scores if order is not None and group is not chosen else {}
        yield element("h3", title)
        yield element("div", *(_tile(archive, name, scores.get(name)) for name in group), class_="tiles")


def _tile(archive: Archive, name: str, score: float | None) -> Element:
    image = Image.fromarray(read_pixels(archive, name).pixels)
    small = max(image.size) < _LONGEST
    image = image.convert("RGB") if small else scaled(image, _LONGEST)
    shown = picture(png_bytes(np.asarray(image)), Path(name).name, title=name, class_="pixels" if small else "photo")
    return element("figure", shown, None if score is None else element("figcaption", f"{score:.3f}"))
