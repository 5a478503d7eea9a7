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
_PIECE_BYTES = 1 << 20
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


def read_array(stream: IO[bytes], num_bytes: int) -> NDArray[Any]:
    """The array of a `.npy` of so many bytes, read in pieces: it takes the memory of one copy.

    ValueError as for `from_bytes`; the stream is read to its end, so that a ZIP compares checksums.
    """
    header = read_header(stream)
    if header.num_bytes != num_bytes - stream.tell():
        there = num_bytes - stream.tell()
        raise ValueError(f"{header.dtype} {list(header.shape)} takes {header.num_bytes} bytes, {there} are there")
    flat = np.empty(math.prod(header.shape), header.dtype)
    view = flat.data.cast("B")
    for start in range(0, len(view), _PIECE_BYTES):
        piece = stream.read(min(_PIECE_BYTES, len(view) - start))
        view[start : start + len(piece)] = piece
        if len(piece) < min(_PIECE_BYTES, len(view) - start):
            raise ValueError("it ends before its last element")
    if stream.read(1) != b"":
        raise ValueError("it goes on after its last element")
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def pieces(array: NDArray[Any]) -> list[bytes | memoryview]:
    """The parts of the `.npy` file of an array of plain numbers or text, which is not copied if it lies in C order."""
    if array.ndim == 0 or array.size == 0 or not array.flags.c_contiguous or array.dtype.kind not in "iufb":
        return [to_bytes(array)]
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return [head.getvalue(), array.data.cast("B")]


def to_bytes(array: NDArray[Any]) -> bytes:
    """The `.npy` file of an array of plain numbers or text."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()
