"""Whether an image file has a colour profile (ICC) that means other colours than sRGB. Torch-free."""

import struct
import zlib

from PIL import Image

#: So much of a profile is looked at: those of cameras and screens have a few KiB, and a PNG's unpacks to any size.
_MAX_BYTES = 1 << 16

_HEADER_BYTES, _ENTRY_BYTES = 128, 12
_MAX_TAGS = 100


def has_other_colours(image: Image.Image, data: bytes) -> bool:
    """Whether a profile is there whose description does not say sRGB.

    data: content of the file, of which `opened_image` leaves out what a PNG has for a profile.
    """
    profile = _in_png(data) if image.format == "PNG" else image.info.get("icc_profile")
    return isinstance(profile, bytes) and b"sRGB" not in _description(profile[:_MAX_BYTES])


def _in_png(data: bytes) -> bytes | None:
    """The start of the profile of a PNG, whose chunks were checked; None without."""
    position, kind = 8, b""
    while kind not in (b"IDAT", b"IEND"):  # a profile comes before the pixels
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"iCCP":
            return _unpacked(data[position + 8 : position + 8 + length])
        position += 12 + length
    return None


def _unpacked(packed: bytes) -> bytes:
    """The start of the profile in a chunk: a name, a zero, the method, then zlib's stream; b"" for a damaged one."""
    _, _, rest = packed.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(rest[1:], _MAX_BYTES)
    except zlib.error:
        return b""


def _description(profile: bytes) -> bytes:
    """The tag that describes a profile, ASCII or UTF-16, without its zeros: so ASCII in it is found in both."""
    count = int.from_bytes(profile[_HEADER_BYTES : _HEADER_BYTES + 4])
    for number in range(min(count, _MAX_TAGS)):
        entry = profile[_HEADER_BYTES + 4 + number * _ENTRY_BYTES :][:_ENTRY_BYTES]
        if entry[:4] == b"desc":
            start, size = int.from_bytes(entry[4:8]), int.from_bytes(entry[8:12])
            return profile[start : start + size].replace(b"\0", b"")
    return b""
