"""Images to files and back: PNGs in a ZIP or a folder, and reading them."""

import io
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.side_by_side import Options, Result, Way, compare
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.sinks import PNGFolder
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.images.zips import ZipWriter
from edm2_guidance.work.zip_output import Pngs

BATCH = 32


def run(options: Options) -> Iterator[Result]:
    for size, num in ((16, 64),) if options.quick else ((16, 1024), (64, 256), (512, 16)):
        images = smooth(size, num)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            yield from written(images, folder, options)
            yield from read_back(images, folder, options)


def smooth(size: int, num: int) -> Tensor:
    """Images as smooth as photographs: uint8 [num, 3, size, size]."""
    draws = np.random.RandomState(0)
    made = []
    for _ in range(num):
        few = Image.fromarray(draws.randint(0, 256, (size // 4, size // 4, 3), dtype=np.uint8))
        made.append(np.asarray(few.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(made))


def batches(images: Tensor) -> Iterator[ImageBatch]:
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        yield ImageBatch(part, tuple(range(start, start + len(part))))


def plain_pngs(images: Tensor) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of each image, one after the other, as Pillow saves it."""
    for seed, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        yield f"{seed:06d}.png", buffer.getvalue()


def plain_zip(images: Tensor, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, png in plain_pngs(images):
            file.writestr(name, png)
    return path


def our_zip(images: Tensor, path: Path) -> Path:
    path.unlink(missing_ok=True)
    with ZipWriter(path) as file, Pngs().collect(tuple(range(len(images))), file.add) as collector:
        for batch in batches(images):
            collector.write(batch)
        collector.finish(None)
    return path


def plain_folder(images: Tensor, path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for name, png in plain_pngs(images):
        (path / name).write_bytes(png)
    return path


def our_folder(images: Tensor, path: Path) -> Path:
    with PNGFolder(path) as folder:
        for batch in batches(images):
            folder.write(batch)
    return path


def plain_read(path: Path) -> list[Tensor]:
    """All images of a ZIP or folder in the order of their names, by Pillow: batches uint8 [N, 3, H, W]."""
    file = None if path.is_dir() else zipfile.ZipFile(path)
    names = sorted(entry.name for entry in path.iterdir()) if file is None else sorted(file.namelist())
    made = []
    for start in range(0, len(names), BATCH):
        images = []
        for name in names[start : start + BATCH]:
            data = (path / name).read_bytes() if file is None else file.read(name)
            images.append(np.asarray(Image.open(io.BytesIO(data))))
        made.append(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous())
    return made


def our_read(path: Path) -> list[Tensor]:
    return [batch.images for batch in StoredImages(path, BATCH)]


def written(images: Tensor, folder: Path, options: Options) -> Iterator[Result]:
    """Writing; what is compared are pixels, read again."""
    for kind, plainly, ours in (("ZIP", plain_zip, our_zip), ("folder", plain_folder, our_folder)):
        yardstick = Way("PNG after PNG", partial(plainly, images, folder / f"plain-{kind}"))
        way = Way("encoded in threads", partial(ours, images, folder / f"ours-{kind}"))
        yield from compare("png", _case(images, kind), yardstick, [way], options, seen=plain_read)


def read_back(images: Tensor, folder: Path, options: Options) -> Iterator[Result]:
    """Reading what was written."""
    plain_zip(images, folder / "images.zip")
    plain_folder(images, folder / "images")
    for kind, path in (("ZIP", folder / "images.zip"), ("folder", folder / "images")):
        way = Way("StoredImages", partial(our_read, path))
        yield from compare("reading", _case(images, kind), Way("Pillow", partial(plain_read, path)), [way], options)


def _case(images: Tensor, kind: str) -> str:
    return f"{kind} of {len(images)} images {images.shape[3]}x{images.shape[2]}"
