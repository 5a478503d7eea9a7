"""Files of torch.save read as data: equal to what torch itself reads; nothing else in them is looked up or believed."""

import io
import os
import pickle
import resource
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_utils.safe_pickle import DamagedPickleError, OtherFormatError, UnsafePickleError
from torch_utils.tensor_file import read_tensors


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def members_of(path):
    with zipfile.ZipFile(path) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def refusal(path, kind=UnsafePickleError):
    with pytest.raises(kind) as caught:
        read_tensors(path)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def assert_equal(found, expected):
    """Equal values of equal types, dictionaries of all kinds being dict, parameters tensors."""
    if isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected.detach())
    elif isinstance(expected, dict):
        assert type(found) is dict
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is (list if isinstance(expected, list) else tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


def trained(optimizer_class, **options):
    """A network, and an optimizer after a step."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = optimizer_class(net.parameters(), lr=0.1, **options)
    net(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    return net, optimizer


DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_everything_that_is_read(tmp_path, protocol):
    net, optimizer = trained(torch.optim.Adam, betas=(0.9, 0.99))
    content = OrderedDict(
        net=net.state_dict(),
        parameters=list(net.parameters()),
        optimizer=optimizer.state_dict(),
        rng=torch.get_rng_state(),
        types={str(dtype): torch.arange(5).to(dtype) for dtype in DTYPES},
        shapes=(torch.tensor(5), torch.empty(0, 3), torch.zeros(2, 0), torch.zeros(1, 1, 1), torch.Size([3, 4])),
        plain={"a": [1, -1, 2**40, 0.5, float("inf"), True, None, "ü", ()], 7: {-1: {}}},
    )
    assert_equal(read_tensors(save(tmp_path / "x.pt", content, pickle_protocol=protocol)), content)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_states_of_optimizers_are_what_torch_reads(tmp_path, optimizer_class):
    path = save(tmp_path / "x.pt", trained(optimizer_class)[1].state_dict())
    found = read_tensors(path)
    assert_equal(found, torch.load(path, weights_only=True))
    trained(optimizer_class)[1].load_state_dict(found)


def test_float8(tmp_path):
    stored = torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn)
    found = read_tensors(save(tmp_path / "x.pt", stored))
    assert found.dtype == stored.dtype
    assert found.float().tolist() == [0.5, -2.0]


def test_views_have_their_values_and_share_memory(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = [
        base,
        base.t(),
        base[1:3, ::2],
        base[:, 5],
        base[2, 3],
        base[0].expand(5, 6),
        base.as_strided((3, 3), (1, 1)),
    ]
    found = read_tensors(save(tmp_path / "x.pt", views))
    assert_equal(found, views)
    assert [each.stride() for each in found] == [each.stride() for each in views]
    found[0][2, 3] = -1
    assert found[4].item() == -1


def test_the_same_tensor_twice_stays_one(tmp_path):
    tensor = torch.zeros(3)
    found = read_tensors(save(tmp_path / "x.pt", {"a": tensor, "b": tensor}))
    assert found["a"] is found["b"]


def test_what_is_read_is_independent_of_the_file(tmp_path):
    path = save(tmp_path / "x.pt", torch.ones(1000))
    found = read_tensors(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert found.sum() == 1000


def test_members_that_newer_or_older_versions_of_torch_write(tmp_path):
    members = members_of(save(tmp_path / "x.pt", torch.ones(2)))
    old = {name: data for name, data in members.items() if name.endswith(("data.pkl", "data/0", "version"))}
    renamed = {name.replace("x/", "archive/"): data for name, data in old.items()}
    for content in (old, renamed, members | {"x/.data/anything": b"1"}):
        assert read_tensors(write_zip(tmp_path / "y.pt", content)).tolist() == [1, 1]


# ----------------------------------------------------------------------------
# What is refused.


class Subclass(torch.Tensor):
    pass


NOT_PLAIN = {
    "network": (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    "subclass": (torch.zeros(2).as_subclass(Subclass), "_rebuild_from_type_v2"),
    "sparse": (torch.zeros(2, 2).to_sparse(), "_rebuild_sparse_tensor"),
    "meta": (torch.zeros(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
    "conjugate": (torch.zeros(2, dtype=torch.complex64).conj(), "metadata"),
    "storage": ([torch.zeros(3).untyped_storage()], "a storage without a tensor"),
    "device": (torch.device("cpu"), "torch.device"),
    "dtype": ({"a": torch.float32}, "torch.float32"),
    "listed dtype": ({"a": torch.uint16}, "torch.uint16"),
    "array": (np.zeros(3), "numpy"),
    "scalar": (np.float64(3), "numpy"),
    "set": ({1}, "set"),
    "path": (Path("x"), "pathlib"),
    "function": (print, "print"),
    "defaultdict": (defaultdict(list), "defaultdict"),
    "key": ({0.5: 1}, "dictionary key"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_things_are_refused_by_name(tmp_path, name):
    content, words = NOT_PLAIN[name]
    assert words in refusal(save(tmp_path / "x.pt", content))


@pytest.mark.parametrize("protocol", [2, 4])
def test_byte_strings(tmp_path, protocol):
    refusal(save(tmp_path / "x.pt", {"a": b"abc"}, pickle_protocol=protocol))


class Attack:
    def __reduce__(self):
        return os.mkdir, ("made",)


def test_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "x.pt", {"a": Attack()})
    assert "posix.mkdir" in refusal(path) or "nt.mkdir" in refusal(path)
    assert not Path("made").exists()
    torch.load(path, weights_only=False)  # a real attack
    assert Path("made").exists()


def other_files(folder):
    """(file, words of the refusal, kind of error)."""
    legacy, tar, script = folder / "legacy.pt", folder / "tar.pt", folder / "script.pt"
    save(legacy, torch.zeros(1), _use_new_zipfile_serialization=False)
    with tarfile.open(tar, "w") as file:
        for name in ("sys_info", "pickle"):
            file.addfile(tarfile.TarInfo(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), script)
    (folder / "plain.pt").write_bytes(pickle.dumps({}))
    np.savez(folder / "stats.npz", mu=np.zeros(2))
    (folder / "empty.pt").write_bytes(b"")
    (folder / "page.pt").write_bytes(b"<!doctype html>")
    (folder / "lfs.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (folder / "safetensors.pt").write_bytes(struct.pack("<Q", 2) + b"{}")
    (folder / "noise.pt").write_bytes(b"\1" * 1000)
    write_zip(folder / "images.pt", {"0.png": b""})
    return [
        ("legacy.pt", "before torch 1.6", UnsafePickleError), ("tar.pt", "(tar)", UnsafePickleError),
        ("script.pt", "TorchScript", UnsafePickleError), ("plain.pt", "a plain pickle", UnsafePickleError),
        ("stats.npz", "a numpy .npz", UnsafePickleError), ("images.pt", "a ZIP of images", UnsafePickleError),
        ("empty.pt", "empty", DamagedPickleError), ("page.pt", "page", OtherFormatError),
        ("lfs.pt", "git lfs pull", OtherFormatError), ("safetensors.pt", "safetensors", UnsafePickleError),
        ("noise.pt", "not a file of torch.save", DamagedPickleError),
    ]  # fmt: skip


def test_other_files_are_called_what_they_are(tmp_path):
    for name, words, kind in other_files(tmp_path):
        assert words in refusal(tmp_path / name, kind)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    assert "not a plain file" in refusal(tmp_path / "x.pt")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "x.pt")


def test_damage(tmp_path):
    path = save(tmp_path / "x.pt", {"a": torch.arange(1000.0)})
    data = path.read_bytes()
    at = data.index(torch.arange(1000.0).numpy().tobytes()) + 2000
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    assert "data/0 is damaged" in refusal(path, DamagedPickleError)
    for end in range(1, len(data), 97):
        path.write_bytes(data[:end])
        refusal(path, DamagedPickleError)


def test_members_missing_compressed_twice_or_of_another_machine(tmp_path):
    members = members_of(save(tmp_path / "x.pt", torch.zeros(1000)))
    path = tmp_path / "y.pt"
    without = {name: data for name, data in members.items() if not name.endswith("/data/0")}
    assert "data/0 is missing" in refusal(write_zip(path, without), DamagedPickleError)
    assert "compressed" in refusal(write_zip(path, members, zipfile.ZIP_DEFLATED))
    assert "announced" in refusal(write_zip(path, members | {"x/data/0": b"\0" * 3996}))
    assert "big-endian" in refusal(write_zip(path, members | {"x/byteorder": b"big"}))
    assert "without data.pkl" in refusal(write_zip(path, members | {"z/data.pkl": b""}))


def test_members_that_overlap(tmp_path):
    """Many names for the same bytes are no more bytes."""
    count = 30
    data = torch.zeros(2**14)
    members = members_of(save(tmp_path / "x.pt", [data.clone() for _ in range(count)]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            if not name.startswith("x/data/"):
                file.writestr(name, content)
        file.writestr("x/data/0", data.numpy().tobytes())
        first = file.getinfo("x/data/0")
        for number in range(1, count):
            other = zipfile.ZipInfo(f"x/data/{number}")
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, field, getattr(first, field))
            file.filelist.append(other)
    (tmp_path / "y.pt").write_bytes(buffer.getvalue())
    assert "overlap" in refusal(tmp_path / "y.pt", DamagedPickleError)


def with_pickle(path, edit):
    """A file whose pickle is edited: bytes to bytes."""
    members = members_of(path)
    name = next(name for name in members if name.endswith("data.pkl"))
    return write_zip(path, members | {name: edit(members[name])})


def test_expansions_need_no_memory(tmp_path):
    """A storage of 4 bytes seen as 2^40 elements: a view in torch, a bomb for whoever copies it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = save(tmp_path / "x.pt", torch.zeros(1).expand(2**20, 2**20))
    assert "memory bomb" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_many_views_of_one_storage_are_counted(tmp_path):
    base = torch.zeros(2**19)
    assert len(read_tensors(save(tmp_path / "x.pt", [base, *base.split(1000)]))) == 526
    assert "memory bomb" in refusal(save(tmp_path / "x.pt", [base[: 2**19 - i] for i in range(50)]))


def test_sizes_strides_and_offsets_beyond_the_storage(tmp_path):
    size = b"K\x05\x85q"  # (5,), of a tensor of 5 elements
    for new in (b"K\x06\x85q", b"J\xff\xff\xff\xff\x85q", b"G" + struct.pack(">d", 5) + b"\x85q", b"\x88\x85q"):
        path = save(tmp_path / "x.pt", torch.zeros(5))
        refusal(with_pickle(path, lambda data, new=new: data.replace(size, new, 1)))
    path = save(tmp_path / "x.pt", torch.zeros(5))
    assert "announced" in refusal(with_pickle(path, lambda data: data.replace(b"K\x05tq", b"K\x06tq")))
    assert "unknown description" in refusal(with_pickle(path, lambda data: data.replace(b"K\x06tq", b"Ntq")))


def test_dimensions_beyond_what_torch_can_count(tmp_path):
    path = save(tmp_path / "x.pt", torch.empty(0, 2, 3))
    large = b"\x8a\x08" + struct.pack("<q", 2**61)
    refusal(with_pickle(path, lambda data: data.replace(b"K\x02K\x03\x87", large + large + b"\x87")))


def test_keys_are_numbers_of_members(tmp_path):
    """No climbing to other members, and no texts of the file's choosing in messages."""
    for key in (b"/", b"a", b"\x1b"):
        path = save(tmp_path / "x.pt", torch.zeros(5))
        edited = with_pickle(path, lambda data, key=key: data.replace(b"X\1\0\0\0000", b"X\1\0\0\0" + key))
        assert "unknown description" in refusal(edited)
