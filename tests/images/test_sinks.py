import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.sinks import PNGFolder, png_bytes
from edm2_guidance.images.sources import StoredImages


def batch(*seeds: int, size: int = 8) -> ImageBatch:
    """Each image depends on its seed alone."""
    pixels = [np.random.RandomState(seed).randint(0, 256, [3, size, size], dtype=np.uint8) for seed in seeds]
    return ImageBatch(torch.from_numpy(np.stack(pixels)), seeds=tuple(seeds))


def test_png_bytes_hold_the_pixels_and_are_repeatable() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, [5, 7, 3], dtype=np.uint8)
    data = png_bytes(pixels)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert np.array_equal(np.array(image), pixels)
    turned = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)  # the same, laid out otherwise
    assert png_bytes(pixels) == data == png_bytes(turned)
    for wrong in (pixels.astype(np.float32), pixels[:, :, 0], np.zeros([4, 4, 4], dtype=np.uint8)):
        with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
            png_bytes(wrong)


@pytest.mark.parametrize("subdirs", [False, True])
def test_folder_round_trip(tmp_path: Path, subdirs: bool) -> None:
    out = tmp_path / "deep" / "out"
    with PNGFolder(out, subdirs=subdirs) as folder:
        folder.write(batch(0, 999, 1000))
        folder.write(batch(12_345_678))
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    if subdirs:
        assert names == ["000000/000000.png", "000000/000999.png", "001000/001000.png", "12345000/12345678.png"]
    else:
        assert names == ["000000.png", "000999.png", "001000.png", "12345678.png"]
    read = next(iter(StoredImages(out)))
    assert read.seeds == (0, 999, 1000, 12_345_678)
    assert torch.equal(read.images, batch(0, 999, 1000, 12_345_678).images)
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(out.rglob("*.png"))


def test_existing_names_files_before_the_work(tmp_path: Path) -> None:
    folder = PNGFolder(tmp_path / "out")
    assert folder.existing([0, 1, 2]) == []
    assert not (tmp_path / "out").exists()
    with folder:
        folder.write(batch(1, 0))
    assert folder.existing([2, 1, 0]) == [folder.path(1), folder.path(0)]
    before = folder.path(1).read_bytes()
    with folder:  # a sink may be entered again, and replaces
        folder.write(batch(1))
    assert folder.path(1).read_bytes() == before


@pytest.mark.parametrize("left", [0, 20, -1])
def test_a_file_without_its_end_is_no_image(tmp_path: Path, left: int) -> None:
    """As interrupted copies leave it."""
    folder = PNGFolder(tmp_path)
    with folder:
        folder.write(batch(0, 1))
    folder.path(1).write_bytes(folder.path(1).read_bytes()[:left])
    assert [folder.has(seed) for seed in range(3)] == [True, False, False]


def test_errors_of_writing_threads_reach_the_caller(tmp_path: Path) -> None:
    (tmp_path / "000003.png").mkdir()  # cannot be replaced by a file
    threads = threading.active_count()

    def work(*batches: ImageBatch) -> None:
        with PNGFolder(tmp_path) as folder:
            for images in batches:
                folder.write(images)

    with pytest.raises(IsADirectoryError, match=r"000003\.png"):
        work(batch(2, 3))
    with pytest.raises(IsADirectoryError):
        work(batch(2, 3), batch(4, 5), batch(6, 7))
    assert threading.active_count() == threads
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_taken_is_written_whatever_ends_the_work(tmp_path: Path) -> None:
    folder = PNGFolder(tmp_path / "out")

    def work() -> None:
        with folder:
            folder.write(batch(*range(200)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    whole = [np.array(Image.open(path)).shape for path in (tmp_path / "out").iterdir()]
    assert whole == [(8, 8, 3)] * 200


def test_what_cannot_be_written(tmp_path: Path) -> None:
    unnamed = ImageBatch(batch(0).images)
    with PNGFolder(tmp_path) as folder, pytest.raises(ValueError, match="without seeds"):
        folder.write(unnamed)
    with pytest.raises(RuntimeError, match="with block"):
        PNGFolder(tmp_path).write(batch(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        PNGFolder(tmp_path / "file").__enter__()


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than about two batches wait to be encoded, however slow the disk."""
    gate = threading.Semaphore(0)
    waiting: list[int] = []
    original: Any = Path.write_bytes

    def slow(path: Path, data: bytes) -> int:
        gate.acquire()
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", slow)
    with PNGFolder(tmp_path) as folder:
        for start in range(0, 40, 4):
            gate.release(4)  # as if the disk had finished one batch
            folder.write(batch(*range(start, start + 4)))
            assert folder._pool is not None
            waiting.append(len(folder._pool))
        gate.release(4)
    assert max(waiting) <= 4
    assert len(list(tmp_path.glob("*.png"))) == 40
