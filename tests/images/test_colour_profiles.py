"""Colour profiles that mean other colours than sRGB are noticed, whatever they unpack to."""

import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from PIL import Image

from edm2_guidance.images.colour_profiles import has_other_colours
from edm2_guidance.images.convert import Decoded, read_pixels
from edm2_guidance.images.decode import opened_image
from tests.pictures import encoded


def profile(description: bytes) -> bytes:
    """Two tags, the second of which describes it."""
    tags = [(b"cprt", 156, 8), (b"desc", 164, len(description))]
    table = b"".join(struct.pack(">4sII", *tag) for tag in tags)
    return bytes(128) + struct.pack(">I", len(tags)) + table + b"not sRGB" + description


def multilingual(text: str) -> bytes:
    head = struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(text), 28)
    return b"mluc" + bytes(4) + head + text.encode("utf-16-be")


def save(kind: str, **options: Any) -> bytes:
    return encoded(Image.new("RGB", (8, 8), (1, 2, 3)), kind, **options)


def noticed(data: bytes) -> bool:
    with opened_image(data, "x") as image:
        return has_other_colours(image, data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("description", "other"),
    [
        (multilingual("Display P3"), True),
        (b"desc\0\0\0\0\0\0\0\x11Adobe RGB (1998)\0", True),
        (multilingual("sRGB built-in"), False),
        (b"desc\0\0\0\0\0\0\0\x12sRGB IEC61966-2.1\0", False),
    ],
)
def test_the_description_tells_srgb(kind: str, description: bytes, other: bool) -> None:
    assert noticed(save(kind, icc_profile=profile(description))) is other
    assert noticed(save(kind)) is False


class OneFile:
    """Of an archive, what `read_pixels` needs."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, name: str) -> bytes:
        return self.data

    def where(self, name: str) -> str:
        return f"{name!r} in set"


def converted(data: bytes) -> Decoded:
    return read_pixels(OneFile(data), "0")  # type: ignore[arg-type]


def test_convert_says_it() -> None:
    losses = ("have a colour profile that is not applied: their numbers are taken for sRGB",)
    assert converted(save("JPEG", icc_profile=profile(multilingual("Display P3")))).losses == losses
    assert converted(save("JPEG", icc_profile=profile(multilingual("sRGB")))).losses == ()
    assert converted(save("JPEG", icc_profile=b"damaged")).losses == losses


@pytest.mark.parametrize("packed", [zlib.compress(bytes(1 << 26), 1), b"damaged", b""])
def test_a_profile_of_any_size_is_cheap(packed: bytes) -> None:
    png = save("PNG")
    body = b"iCCP" + b"name\0\0" + packed
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    tracemalloc.start()
    try:
        assert len(converted(png[:33] + chunk + png[33:]).losses) == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
