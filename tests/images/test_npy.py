"""Arrays in numpy's form: what numpy writes is read exactly, all else is refused before it takes memory."""

import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edm2_guidance.images import npy

KINDS = [np.dtype(kind) for kind in ("u1", "<i8", ">i4", "<f2", "<f4", "<f8", ">f8", "<f16", "c16", "?", "<U3", ">U1")]


def file_of(header: str, elements: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header.encode("latin1") + elements


def described(descr: str = "'<f8'", fortran_order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n"


@given(kind=st.sampled_from(KINDS), shape=st.lists(st.integers(0, 4), max_size=4), order=st.sampled_from("CF"))
def test_what_numpy_writes_is_read_exactly(kind: Any, shape: list[int], order: Any) -> None:
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind), order=order)
    stream = io.BytesIO()
    np.save(stream, array)
    read = npy.from_bytes(stream.getvalue())
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()
    assert npy.from_bytes(npy.to_bytes(array)).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "header",
    [
        described(shape="(2L,)"),  # Python 2
        "{'shape': (2,), 'fortran_order': False, 'descr': '<f8'}",  # another order: readers must not mind
        '{"descr": "<f8", "fortran_order": False, "shape": (2,)}   \n',
        described(shape="(1,2)"),
    ],
)
def test_headers_of_other_programs(header: str) -> None:
    elements = np.array([1.5, -2.0]).tobytes()
    for version in (1, 2, 3):
        assert npy.from_bytes(file_of(header, elements, version)).ravel().tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no .npy file"),
        (b"\x93NUMPY\1", "no .npy file"),
        (file_of(described())[:6] + b"\4\0" + b"\0" * 50, "no .npy file"),
        (file_of(described(), b"\0" * 15), r"takes 16 bytes, 15 are there"),
        (file_of(described(), b"\0" * 17), r"takes 16 bytes, 17 are there"),
        (file_of(described(shape=f"({10**15},)"), b"\0" * 16), "takes 8000000000000000 bytes"),
        (file_of(described("'<U1000000'", shape="()"), b"\0" * 16), "takes 4000000 bytes"),
        (file_of(described(shape="(0, 999999999999999999, 999999999999999999)")), "shape .* is not possible"),
        (file_of(described(shape="(" + "1," * 100 + ")"), b"\0" * 8), "shape .* is not possible"),
        (file_of(described(shape="(-2,)"), b"\0" * 16), "its header"),
        (file_of(described(shape="(1.0,)"), b"\0" * 8), "its header"),
        (file_of(described(shape="2"), b"\0" * 16), "its header"),
        (file_of(described(fortran_order="None"), b"\0" * 16), "its header"),
        (file_of(described("'|O'"), b"\0" * 16), "its header"),
        (file_of(described("[('a', '<f8')]"), b"\0" * 16), "its header"),
        (file_of(described("'<f3'"), b"\0" * 6), "element type '<f3' is unknown"),
        (file_of("__import__('os').system('true')"), "its header"),
        (file_of("(" * 2000), "its header"),
        (file_of("{'descr': '<f8', 'descr': '<f8', 'shape': (2,)}", b"\0" * 16), "its header"),
        (file_of(described())[:20], "its header"),
        (file_of(" " * 20_000, version=2), "its header"),
    ],
)
def test_all_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        npy.from_bytes(data)


def test_nothing_is_compiled() -> None:
    """numpy parses headers as Python; ours never gets so far."""
    events: list[str] = []
    watching = True
    sys.addaudithook(lambda event, _: events.append(event) if watching and event == "compile" else None)
    npy.from_bytes(npy.to_bytes(np.zeros(3)))
    assert events == []
    np.load(io.BytesIO(npy.to_bytes(np.zeros(3))))
    watching = False
    assert events == ["compile"]
