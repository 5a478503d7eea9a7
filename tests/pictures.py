"""Images and image sets, for tests of any room."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from edm2_guidance.images.zips import ZipWriter, json_bytes


def picture(number: int, size: int = 8, mode: str = "RGB") -> Image.Image:
    """A picture that differs from number to number."""
    pixels = np.random.RandomState(number).randint(0, 256, [size, size, 3], dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG", **options) -> bytes:
    """An image, or uint8 [H,W] or [H,W,3], as the bytes of a file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_set(path, items, labels=None):
    """A ZIP as dataset_tool.py writes it: uint8 images as PNG, all else as latents; with labels."""
    names, latents = [], items[0].dtype != np.uint8
    with ZipWriter(path) as archive:
        for index, item in enumerate(items):
            names.append(f"00000/img-mean-std-{index:08d}.npy" if latents else f"00000/img{index:08d}.png")
            archive.add(names[-1], npy(item) if latents else encoded(item))
        pairs = None if labels is None else [list(pair) for pair in zip(names, labels, strict=True)]
        archive.add("dataset.json", json_bytes({"labels": pairs}))
    return path
