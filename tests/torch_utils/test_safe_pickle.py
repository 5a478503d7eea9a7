"""Reading data out of pickles: values of every allowed kind, from every protocol and both generations of numpy."""

import io
import os
import pickle
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch

from dnnlib.util import EasyDict
from torch_utils import safe_pickle
from torch_utils.safe_pickle import GlobalName, ModuleRecord, StoredTensor, UnsafePickleError, loads, scan

PLAIN = {
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, -(2**63), 0.1, float("inf"), True, False, None],
    "texts": ["", "a", "ü", "x" * 300, "y" * 70000],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "empty": [{}, [], set()],
    "set": {"a", "b", 3},
    7: {"nested": {"deeper": [1, [2, [3]]]}},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data(protocol):
    data = dict(PLAIN)
    if protocol < 4:
        data["set"] = {"a", "b"}  # by a call of set in these protocols
    assert loads(pickle.dumps(data, protocol)) == data


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_dictionaries_of_all_kinds_become_dict(protocol):
    stored = EasyDict(a=OrderedDict(b=1, c=EasyDict()), d={})
    read = loads(pickle.dumps(stored, protocol))
    assert type(read) is dict
    assert type(read["a"]) is dict
    assert read == {"a": {"b": 1, "c": {}}, "d": {}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("data", [b"", b"abc\x00\xff", bytes(range(256)) * 10_000])
def test_byte_strings_of_every_protocol(protocol, data):
    assert bytes(loads(pickle.dumps({"a": [data]}, protocol))["a"][0]) == data


def statistics():
    """Like EDM2's reference statistics, smaller."""
    random = np.random.RandomState(0)
    parts = {name: {"mu": random.randn(5), "sigma": random.randn(5, 5)} for name in ("fid", "fd_dinov2")}
    return {**parts, "num_images": 50000}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["_core", "core"])
def test_statistics_of_both_generations_of_numpy(protocol, core):
    data = pickle.dumps(statistics(), protocol)
    for generation in (b"numpy._core", b"numpy.core"):
        for ending in (b".multiarray", b".numeric"):
            new = b"numpy." + core.encode() + ending
            old = generation + ending
            if protocol > 3:  # texts with their length, in a frame
                old, new = (b"\x8c" + bytes([len(part)]) + part for part in (old, new))
            data = data.replace(old, new)
    data = _without_frames(data) if protocol > 3 else data
    assert b"numpy." + core.encode() in data
    read = loads(data)
    for name in ("fid", "fd_dinov2"):
        for key in ("mu", "sigma"):
            stored = statistics()[name][key]
            assert read[name][key].dtype == np.float64
            np.testing.assert_array_equal(read[name][key], stored)
    assert read["num_images"] == 50000


def _without_frames(data):
    """Drop the FRAME opcodes: renaming has changed the lengths that they announce."""
    assert data[2] == 0x95
    cut = data[:2] + data[11:]
    assert b"\x95" not in cut[:3]
    return cut


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i2"),
        np.array([True, False]),
        np.array(2.5),
        np.zeros((0, 3)),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2],
        np.array([1 + 2j]),
        np.array([0.5], dtype=np.float16),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays(protocol, array):
    read = loads(pickle.dumps(array, protocol))
    assert isinstance(read, np.ndarray)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    read += read  # writable, and memory of its own


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True), np.float64("nan")])
def test_numpy_numbers(value):
    read = loads(pickle.dumps(value, 4))
    assert type(read) is type(value)
    np.testing.assert_array_equal(read, value)


TENSORS = {
    "float16": torch.randn(3, 4).half(),
    "bfloat16": torch.randn(5).bfloat16(),
    "float32 scalar": torch.tensor(1.5),
    "float64": torch.randn(2, 2, dtype=torch.float64),
    "bool": torch.tensor([True, False]),
    "int64": torch.arange(4),
    "int32": torch.arange(4, dtype=torch.int32),
    "int16": torch.arange(4, dtype=torch.int16),
    "int8": torch.arange(4, dtype=torch.int8),
    "uint8": torch.arange(4, dtype=torch.uint8),
    "empty": torch.zeros(0, 3),
    "transposed": torch.randn(3, 4).t(),
    "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    "window": torch.randn(6, 6)[1:3, 2:5],
    "every other": torch.arange(10)[3::2],
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors(protocol, kind):
    tensor = TENSORS[kind]
    stored = loads(pickle.dumps(tensor, protocol))
    assert isinstance(stored, StoredTensor)
    assert stored.numel == tensor.numel()
    assert stored.num_bytes == tensor.numel() * tensor.element_size()
    read = stored.to_torch()
    assert read.dtype == tensor.dtype
    assert read.is_contiguous()
    assert torch.equal(read, tensor)
    assert torch.equal(torch.zeros_like(read).copy_(read), tensor)


def test_tensors_have_memory_of_their_own():
    data = bytearray(pickle.dumps(torch.nn.Parameter(torch.ones(3)), 4))
    read = loads(bytes(data)).to_torch()
    again = loads(bytes(data)).to_torch()
    read.zero_()
    assert again.tolist() == [1, 1, 1]


@pytest.mark.parametrize("container", [torch.nn.ModuleDict, torch.nn.ModuleList, torch.nn.Sequential])
def test_containers_become_records(container):
    record = loads(pickle.dumps(container(), 4))
    assert isinstance(record, ModuleRecord)
    assert record.class_name == container.__name__
    assert record.state["_modules"] == {}
    assert record.state["training"] is True


def test_byte_strings_are_views():
    read = loads(pickle.dumps([b"abc", b""], 4))
    assert [bytes(part) for part in read] == [b"abc", b""]
    assert all(part.readonly for part in read)


def test_shared_parts_stay_shared():
    part = [1, 2]
    first, second = loads(pickle.dumps([part, part], 4))
    assert first is second


def test_equal_texts_become_one_object():
    """So that dictionaries and comparisons of long texts take no time, however many of them a file has."""
    long = pickle.BINUNICODE + (10**6).to_bytes(4, "little") + b"a" * 10**6
    first, second = loads(b"\x80\x04(" + long * 2 + b"t.")
    assert first is second
    assert first == "a" * 10**6


def test_an_array_and_a_text_may_be_referred_to_more_than_once():
    shared = np.arange(1000.0)
    data = {"arrays": [shared] * 100, "texts": ["x" * 1000] * 1000}
    assert [len(part) for part in loads(pickle.dumps(data, 4)).values()] == [100, 1000]


def test_files_by_path_by_text_and_open(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert safe_pickle.load(path) == {"a": 1}
    assert safe_pickle.load(str(path)) == {"a": 1}
    assert safe_pickle.load(io.BytesIO(path.read_bytes())) == {"a": 1}
    with open(path, "rb") as file:
        assert safe_pickle.load(file) == {"a": 1}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        safe_pickle.load(tmp_path / "missing.pkl")
    with pytest.raises(OSError):
        safe_pickle.load(tmp_path)
    (tmp_path / "empty.pkl").touch()
    with pytest.raises(UnsafePickleError, match="empty"):
        safe_pickle.load(tmp_path / "empty.pkl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def attempt():
        with pytest.raises(UnsafePickleError, match="plain file"):
            safe_pickle.load(tmp_path / "pipe")
        done.set()

    threading.Thread(target=attempt, daemon=True).start()
    assert done.wait(10)


def test_a_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "huge.pkl", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnsafePickleError, match="1099511627776 bytes"):
        safe_pickle.load(tmp_path / "huge.pkl")


def test_scan_of_data():
    found = scan(io.BytesIO(pickle.dumps({"t": torch.zeros(2), "o": OrderedDict(a=1)}, 4)))
    assert found.refusal is None
    assert found.content["o"] == {"a": 1}
    assert found.classes == ()
    assert found.names == (
        "torch._utils._rebuild_tensor_v2",
        "torch.storage._load_from_bytes",
        "collections.OrderedDict",
        "torch.FloatStorage",
    )


class Reduces:
    def __reduce__(self):
        return os.system, ("true",)


def test_scan_goes_on_behind_what_is_refused():
    found = scan(io.BytesIO(pickle.dumps([Reduces(), OrderedDict()], 4)))
    assert "system, which" in found.refusal
    assert found.content is None
    assert found.names[1:] == ("collections.OrderedDict",)


def test_names_are_only_names():
    assert str(GlobalName("a.b", "c")) == "a.b.c"
    read = loads(b"\x80\x04cnumpy\nndarray\n.")
    assert read == GlobalName("numpy", "ndarray")
