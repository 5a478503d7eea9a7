from collections.abc import Iterator
from types import TracebackType

import numpy as np
import pytest
import torch

from edm2_guidance.images.batch import ImageBatch, drain


def batch(*seeds: int) -> ImageBatch:
    pixels = torch.tensor(seeds, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageBatch(pixels, seeds=tuple(seeds))


class Source:
    """Gives the batches, notes when its pass is closed, and promises `num_images`."""

    def __init__(self, batches: list[ImageBatch], num_images: int, log: list[str]) -> None:
        self.batches, self.num_images, self.log = batches, num_images, log

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ImageBatch]:
        try:
            yield from self.batches
        finally:
            self.log.append("source closed")


class Recorder:
    """A sink that notes what happens to it and fails at a given seed."""

    def __init__(self, name: str, log: list[str], fail_at: int | None = None) -> None:
        self.name, self.log, self.fail_at = name, log, fail_at

    def __enter__(self) -> "Recorder":
        self.log.append(f"{self.name} entered")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.append(f"{self.name} {'finished' if error is None else f'discarded: {error}'}")

    def write(self, images: ImageBatch) -> None:
        if images.seeds is not None and self.fail_at in images.seeds:
            raise OSError("disk full")
        self.log.append(f"{self.name} {images.seeds}")


def test_one_pass_feeds_every_sink_in_order() -> None:
    log: list[str] = []
    seen: list[int] = []
    source = Source([batch(0, 1), batch(2)], 3, log)
    assert drain(source, Recorder("a", log), Recorder("b", log), progress=seen.append) == 3
    expected = ["a entered", "b entered", "a (0, 1)", "b (0, 1)", "a (2,)", "b (2,)"]
    assert log == [*expected, "source closed", "b finished", "a finished"]
    assert seen == [2, 1]


def test_a_failing_sink_makes_all_sinks_discard() -> None:
    log: list[str] = []
    source = Source([batch(0), batch(1), batch(2)], 3, log)
    with pytest.raises(OSError, match="disk full"):
        drain(source, Recorder("a", log), Recorder("b", log, fail_at=1))
    assert log[2:] == [
        "a (0,)",
        "b (0,)",
        "a (1,)",
        "source closed",
        "b discarded: disk full",
        "a discarded: disk full",
    ]


@pytest.mark.parametrize("promised", [2, 4])
def test_a_source_that_breaks_its_word_is_an_error_that_the_sinks_see(promised: int) -> None:
    log: list[str] = []
    source = Source([batch(0), batch(1), batch(2)], promised, log)
    with pytest.raises(RuntimeError, match=f"3 images after promising {promised}"):
        drain(source, Recorder("a", log))
    assert log[-1].startswith("a discarded")


def test_rows_are_integers_of_any_kind() -> None:
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).repeat(1, 3, 2, 2)
    batch = ImageBatch(images, seeds=(5, 6, 7))
    for rows in ([2, 0], np.array([2, 0]), torch.tensor([-1, 0])):
        assert batch.select(rows).seeds == (7, 5)
        assert batch.select(rows).images[:, 0, 0, 0].tolist() == [2, 0]
    for wrong in ([3], 1, np.array([True, False, True])):
        with pytest.raises(ValueError, match="rows are integers, of 3 images from 0 on"):
            batch.select(wrong)  # type: ignore[arg-type]


def test_a_batch_is_checked() -> None:
    images = torch.zeros([2, 3, 4, 4], dtype=torch.uint8)
    assert len(ImageBatch(images, seeds=(0, 1), labels=(0, 0))) == 2
    for wrong in (images.float(), images[0], images[:, :1], images.permute(0, 2, 3, 1)):
        with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\]"):
            ImageBatch(wrong)
    with pytest.raises(ValueError, match="1 seeds for a batch of 2"):
        ImageBatch(images, seeds=(0,))
    with pytest.raises(ValueError, match="0 labels for a batch of 2"):
        ImageBatch(images, labels=())
    with pytest.raises(ValueError, match="not on meta"):
        ImageBatch(images.to("meta"))
