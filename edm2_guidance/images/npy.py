"""Arrays in numpy's `.npy` form, from files that anybody may have made. Torch-free.

numpy evaluates the header as Python literals, which fails in many ways, and takes the memory that it announces before
it looks whether the bytes are there. Here the header must be the dictionary that the format describes, of plain
numbers or text, and the bytes are counted first.
"""

import io
import math
import re
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
MAX_HEADER = 1 << 14  # bytes; the headers of plain arrays have some 100 bytes
_ITEM = r"""['"](descr|fortran_order|shape)['"]\s*:\s*(['"][<>|=][biufcU]\d{1,9}['"]|True|False|\([\dL,\s]*\))"""
_HEADER = re.compile(rf"\{{\s*{_ITEM}\s*,\s*{_ITEM}\s*,\s*{_ITEM}\s*,?\s*\}}\s*", re.ASCII)
_SHAPE = re.compile(r"\(\s*(?:\d{1,18}L?\s*,\s*)*(?:\d{1,18}L?\s*)?\)", re.ASCII)  # L: Python 2


class Header(NamedTuple):
    """What an array says of itself before its bytes come."""

    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    fortran_order: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """Read up to the first element. ValueError if it is no `.npy`, or not of plain numbers or text."""
    start = stream.read(8)
    size = {1: 2, 2: 4, 3: 4}.get(start[6] if len(start) == 8 and start.startswith(_MAGIC) else 0)
    if size is None:
        raise ValueError("it is no .npy file")
    length = int.from_bytes(stream.read(size), "little")
    text = stream.read(min(length, MAX_HEADER)).decode("latin1")
    found = _HEADER.fullmatch(text)
    entries = {} if found is None else dict(zip(found.groups()[::2], found.groups()[1::2], strict=True))
    shape = _SHAPE.fullmatch(entries.get("shape", ""))
    descr, order = entries.get("descr", ""), entries.get("fortran_order")
    if len(text) != length or shape is None or descr[:1] not in ("'", '"') or order not in ("True", "False"):
        raise ValueError(f"its header is not that of an array of numbers or text: {text[:80].strip()!r}")
    try:
        dtype = np.dtype(descr[1:-1])
    except TypeError as error:
        raise ValueError(f"its element type {descr} is unknown") from error
    return Header(dtype, tuple(map(int, re.findall(r"\d+", shape[0]))), order == "True")


def from_bytes(data: bytes) -> NDArray[Any]:
    """The array of a whole `.npy` file. ValueError as for `read_header`, or if its elements are not all there."""
    stream = io.BytesIO(data)
    header = read_header(stream)
    elements = memoryview(data)[stream.tell() :]
    if len(elements) != header.num_bytes:
        raise ValueError(
            f"{header.dtype} {list(header.shape)} takes {header.num_bytes} bytes, {len(elements)} are there"
        )
    try:
        return np.ndarray(header.shape, header.dtype, elements, order="F" if header.fortran_order else "C").copy(
            order="K"
        )
    except (ValueError, OverflowError, TypeError) as error:  # no elements, but dimensions beyond what numpy can count
        raise ValueError(f"its shape {list(header.shape)} is not possible") from error


def to_bytes(array: NDArray[Any]) -> bytes:
    """The `.npy` file of an array of plain numbers or text."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()
