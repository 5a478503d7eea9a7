"""The one door through which image files come in: which formats are read, and how large a picture may be. Torch-free.

Formats are a list of what needs no other program and no other file: PIL also knows some that start an interpreter
(EPS) or follow names inside the file.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dnnlib.regular import open_regular

#: PIL's names of the formats that are read, whatever a file's ending says.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_FORMATS_TEXT = "PNG, JPEG, WebP, BMP, GIF or TIFF"

#: An image with more pixels than this (8192 x 8192) is refused before it is decoded.
MAX_PIXELS = 1 << 26

#: Images of no more pixels than this cost more to open than to decode.
SMALL_PIXELS = 1 << 14

#: PNG chunks of which nothing is used, and which unpack to any size: texts and colour profiles.
_UNUSED_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")

_STRIP_PIXELS = 1 << 20

# Tags of TIFF; sample format 1 is unsigned, 4 undefined.
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339
_UNSIGNED = frozenset({1, 4})

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN_HEADER = _PNG_SIGNATURE + b"\0\0\0\x0dIHDR"
_RGB8 = bytes([8, 2, 0, 0, 0])  # bits, colours, and that nothing is out of the ordinary

#: How files begin that are of a listed format, though PIL may not make an image of them.
_SIGNATURES = (_PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")


class ImageRefused(Exception):
    """A readable file that holds no usable image; the text continues "NAME ..."."""


@contextmanager
def opened_image(data: bytes, where: str) -> Iterator[Image.Image]:
    """An image file, its header read; pixels are decoded when they are asked for.

    Args:
        data: Content of a PNG, JPEG, WebP, BMP, GIF or TIFF file.
        where: Name of the file for error messages.

    Raises ValueError, here and for whatever PIL raises inside the block: it is no such file, is truncated or damaged,
    has more than `MAX_PIXELS` pixels, or an `ImageRefused` was raised inside. Every chunk of a PNG is compared with its
    CRC, which PIL skips for pixels.
    """
    try:
        with Image.open(io.BytesIO(_checked_png(data)), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageRefused(
                    f"has {image.width}x{image.height} pixels, more than the {MAX_PIXELS} allowed; make it smaller"
                )
            yield image
    except ImageRefused as error:
        raise ValueError(f"{where} {error}") from None
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES):
            text = "is truncated, damaged or of a variety of its format that is not read; convert it or copy it again"
            raise ValueError(f"{where} {text}") from error
        raise ValueError(f"{where} is not a {_FORMATS_TEXT} image; convert or replace it, or move it away") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where} has more than the {MAX_PIXELS} pixels allowed; make it smaller") from error
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes PIL raises nearly anything
        raise ValueError(f"{where} is truncated or damaged ({error}); copy or make it again") from error


def plain_png(data: bytes) -> NDArray[np.uint8] | None:
    """uint8 [H, W, 3] of a small PNG of 8-bit RGB with nothing but pixels in it; None for all else.

    None of a damaged one, too: `opened_image` says what is wrong with it. Image sets are made of such files, and PIL's
    decoder of pixels alone takes half the time that PIL takes to open and read them.
    """
    if not data.startswith(_PLAIN_HEADER) or data[24:29] != _RGB8:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < width * height <= SMALL_PIXELS:
        return None
    try:
        chunks = list(_png_chunks(data))
    except ImageRefused:
        return None
    kinds = [kind for kind, _, _ in chunks]
    if kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]:
        return None
    packed = b"".join(data[start + 8 : end - 4] for _, start, end in chunks[1:-1])
    try:
        pixels = Image.frombytes("RGB", (width, height), packed, "zip", "RGB", 0).tobytes()
    except ValueError:
        return None
    return np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)


def text_in_png(path: str | os.PathLike[str], key: str) -> str | None:
    """A text that a PNG file carries under `key`; None without it, or if it is no readable PNG."""
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG",)) as picture:
            found = picture.info.get(key)
    except (UnidentifiedImageError, OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def to_array(image: Image.Image, mode: str) -> NDArray[Any]:
    """The pixels in a mode of PIL's, as numpy has them, perhaps not to be written to: [H, W] or [H, W, channels].

    In strips, as PIL makes two more copies of what it hands to numpy, and one of what it converts.
    """
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return np.asarray(image if image.mode == mode else image.convert(mode))
    strips = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in range(0, image.height, rows))
    first = np.asarray(next(strips).convert(mode))
    pixels = np.empty([image.height, *first.shape[1:]], dtype=first.dtype)
    pixels[:rows] = first
    for number, strip in enumerate(strips, start=1):
        pixels[number * rows : (number + 1) * rows] = np.asarray(strip.convert(mode))
    return pixels


def decoded_bytes(image: Image.Image) -> int:
    """About what PIL takes for the pixels of an image once decoded."""
    return 4 * image.width * image.height


def has_more_frames(image: Image.Image) -> bool:
    """Whether the file holds more pictures than the one that is read: an animation, pages, or a camera's second."""
    return bool(getattr(image, "is_animated", False))


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a file has 16 bits per channel, of which PIL keeps the upper 8 of colours without a word.

    Raises ImageRefused for a TIFF of another depth beyond 8, or of numbers with a sign or a fraction: which of them are
    black and white, no file says. PIL must not have loaded the pixels yet.
    """
    if data.startswith(_PNG_SIGNATURE):
        return data[24] == 16
    if image.format != "TIFF":
        return False
    tags = image.tag_v2  # type: ignore[attr-defined]
    depth = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    signed = not _UNSIGNED.issuperset(tags.get(_SAMPLE_FORMAT, (1,)))
    if signed or (depth > 8 and depth != 16):
        numbers = f"{depth} bits per channel" + (", with a sign or a fraction" if signed else "")
        raise ImageRefused(f"has {numbers}: only 8 and 16 bits without a sign can be read; scale it to these first")
    return bool(depth == 16)


def _checked_png(data: bytes) -> bytes:
    """A PNG without its texts and profiles, every chunk compared with its CRC; other data as they are."""
    if not data.startswith(_PNG_SIGNATURE):
        return data
    chunks = list(_png_chunks(data))
    used = [data[start:end] for kind, start, end in chunks if kind not in _UNUSED_CHUNKS]
    return data if len(used) == len(chunks) else b"".join([_PNG_SIGNATURE, *used])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Of each chunk of a PNG, its kind, and where it begins and ends. ImageRefused where its CRC is wrong."""
    kind, position = b"", len(_PNG_SIGNATURE)
    while kind != b"IEND":
        if position + 12 > len(data):
            raise ImageRefused("is truncated: it ends before the image does; copy or make it again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if data[end : end + 4] != zlib.crc32(memoryview(data)[position + 4 : end]).to_bytes(4):
            cut = end + 4 > len(data)
            raise ImageRefused(f"is {'truncated' if cut else 'damaged (CRC of a PNG chunk)'}; copy or make it again")
        yield kind, position, end + 4
        position = end + 4
