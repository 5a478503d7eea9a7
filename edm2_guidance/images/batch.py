"""Images on their way from a source to sinks: `drain` makes one pass and may feed several sinks at once."""

import io
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from edm2_guidance.images.diagnostics import Diagnostics


@dataclass(frozen=True)
class ImageBatch:
    """Some images, in order, with what is known about each.

    Attributes:
        images: uint8 [N, 3, H, W] on the CPU, range 0..255.
        seeds: The seed that each image was made from, or None for images that have none.
        labels: The class index of each image, or None for images without classes.
        reduced: How many images at a time memory held of the work ("sampling", "decoding") that was to be done on
            more at a time; empty if all was done as asked. Where it is not, last bits may differ.
        diagnostics: What guidance did to each image, if that was taken down.

    Raises ValueError for another dtype, shape or device, or if the numbers of images, seeds and labels differ.
    """

    images: "Tensor" = field(repr=False)
    seeds: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    reduced: Mapping[str, int] = field(default_factory=dict)
    diagnostics: "Diagnostics | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        import torch

        images = self.images
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"an image batch is uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")
        if images.device.type != "cpu":
            raise ValueError(f"an image batch lies on the CPU, not on {images.device}: move it with .cpu()")
        for name, values in (("seeds", self.seeds), ("labels", self.labels)):
            if values is not None and len(values) != len(images):
                raise ValueError(f"{len(values)} {name} for a batch of {len(images)} images")

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def joined(cls, parts: "Sequence[ImageBatch]") -> "ImageBatch":
        """Batches of one size as one, in their order; seeds, classes and diagnostics stay where all have them."""
        import torch

        from edm2_guidance.images.diagnostics import Diagnostics

        seeds, labels = (
            None if any(each is None for each in values) else tuple(one for each in values for one in each or ())
            for values in ([part.seeds for part in parts], [part.labels for part in parts])
        )
        reduced = {work: limit for part in parts for work, limit in part.reduced.items()}
        taken_down = [part.diagnostics for part in parts if part.diagnostics is not None]
        diagnostics = Diagnostics.joined(taken_down) if len(taken_down) == len(parts) else None
        return cls(torch.cat([part.images for part in parts]), seeds, labels, reduced, diagnostics)

    def pil(self) -> "list[Image]":
        """As pictures of Pillow."""
        from PIL import Image

        return [Image.fromarray(image) for image in self.images.permute(0, 2, 3, 1).numpy()]

    def grid(self, columns: int | None = None, tile_size: int | None = None) -> "Image":
        """All in one picture, row by row. columns: None for about a square. tile_size: as of `compose_grid`.

        ValueError for none.
        """
        from edm2_guidance.images.grid import compose_grid

        if not len(self):
            raise ValueError("a grid of no images")
        columns = columns or math.ceil(math.sqrt(len(self)))
        tiles = self.pil()
        blank = tiles[0].copy()
        blank.paste("white", (0, 0, *blank.size))
        tiles += [blank] * (-len(tiles) % columns)
        return compose_grid(
            [tiles[start : start + columns] for start in range(0, len(tiles), columns)], tile_size=tile_size
        )

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        buffer = io.BytesIO()
        self.grid().save(buffer, format="PNG")
        return buffer.getvalue()

    def select(self, rows: Sequence[int]) -> "ImageBatch":
        """The images of these rows, counted from 0, with what is known of each. ValueError for what are none."""
        try:
            rows = [range(len(self))[row] for row in rows]
        except (TypeError, IndexError) as error:
            raise ValueError(f"rows are integers, of {len(self)} images from 0 on: {error}") from None
        seeds, labels = (values and tuple(values[row] for row in rows) for values in (self.seeds, self.labels))
        diagnostics = None if self.diagnostics is None else self.diagnostics.select(rows)
        return ImageBatch(self.images[rows], seeds, labels, self.reduced, diagnostics)


class ImageSource(Protocol):
    """Where images come from: an iterable of batches that knows beforehand how much it will give."""

    @property
    def num_images(self) -> int:
        """How many images one pass gives."""

    def __iter__(self) -> Iterator[ImageBatch]:
        """Start a pass."""


#: A batch that is begun: the call does the rest, in the thread that makes it, and may wait for a device.
Begun = Callable[[], ImageBatch]


@runtime_checkable
class BegunSource(Protocol):
    """A source that can begin the next batch while another thread finishes the one before."""

    def begun(self) -> Generator[Begun]:
        """Start a pass, as `__iter__` does. The batches are to be finished in order."""


def begun(source: ImageSource) -> Generator[Begun]:
    """A pass over any source."""
    if isinstance(source, BegunSource):
        yield from source.begun()
    else:
        yield from (partial(_same, batch) for batch in source)


def _same(batch: ImageBatch) -> ImageBatch:
    return batch


class Finished:
    """A pass over a source whose batches another thread begins."""

    def __init__(self, num_images: int, batches: Iterable[Begun]) -> None:
        self.num_images, self._batches = num_images, batches

    def __iter__(self) -> Iterator[ImageBatch]:
        return (finish() for finish in self._batches)


class Writer(Protocol):
    """What takes batches."""

    def write(self, batch: ImageBatch) -> None:
        """Take a batch; it may keep the tensors, which nobody changes afterwards."""


#: Where images go: a context manager that gives what takes the batches, and finishes or discards its work at the end.
#: After an exception it leaves nothing half-made under a final name, and never swallows it.
Sink = AbstractContextManager[Writer]


def drain(source: ImageSource, *sinks: Sink, progress: Callable[[int], None] | None = None) -> int:
    """Send every image of `source` to all `sinks`, in one pass.

    Sinks are entered in the order given and left in reverse, also on errors and interrupts, which they see and
    which then go on to the caller.

    Args:
        source: What to read; one pass is made.
        sinks: What to feed with every batch; none at all is allowed.
        progress: Called after each batch with the number of images in it.

    Returns:
        The number of images.

    Raises RuntimeError, which the sinks see too, if the source gives more or fewer images than it said.
    """
    num_images = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(sink) for sink in sinks]
        batches = iter(source)
        if isinstance(batches, Generator):
            stack.callback(batches.close)  # before the sinks are left: it may hold threads and files
        for batch in batches:
            for writer in writers:
                writer.write(batch)
            num_images += len(batch)
            if progress is not None:
                progress(len(batch))
        if num_images != source.num_images:
            raise RuntimeError(f"the source gave {num_images} images after promising {source.num_images}")
    return num_images
