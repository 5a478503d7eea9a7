"""Reading the files of `torch.save` (`.pt`, `.pth`, `.ckpt`) as data: tensors in plain containers.

Such a file is a ZIP whose member `data.pkl` is a pickle that refers to the members `data/0`, `data/1`, ... for the
bytes of the tensors. The pickle is read by the project's own interpreter, with the few names of `RULES` below: nothing
in a file is imported, looked up or called, and what it announces is checked against the bytes that are there. Members
are stored as they are, so the memory that a file takes is bounded by its size.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib.stand_ins import stand_in
from torch_utils.pickle_rules import NUMPY_RULES, Evaluator, Made, Rule, is_count, is_shape
from torch_utils.pickle_tree import Budget, DamagedPickleError, GlobalName, UnsafePickleError, read_tree
from torch_utils.safe_pickle import OtherFormatError, bytes_of

MAX_SHARING = 4  # bytes of all tensors per byte of the file: views of one storage may share it, but not without end
_HEAD = struct.Struct(
    "<4s22xHH"
)  # what precedes a member in a ZIP: signature, ..., lengths of its name and extra field
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the magic number that torch wrote before 1.6
_ZIP_DAMAGE = (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, ValueError, OverflowError, RuntimeError)


def read_tensors(path: str | os.PathLike[str], *, arrays: bool = False) -> Any:
    """Content of a file that `torch.save` wrote (of torch 1.6 or later), without running anything.

    Returns dict (for every kind of dictionary), list, tuple (also for `torch.Size`), str, int, float, bool, None and
    tensors: on the CPU, in the types of the file, without gradient; parameters are tensors too. Tensors that share
    memory in the file share it here. Keys of dictionaries are texts and integers.

    arrays: take numpy's arrays and numbers too, as they are; torch-fidelity keeps statistics in them.

    Raises UnsafePickleError (a ValueError) for anything else, and DamagedPickleError, a kind of it, for files that are
    incomplete or altered; both name the file and say what it is instead. OSError if it cannot be read.
    """
    try:
        view = bytes_of(path).toreadonly()
        _refuse_other_files(view)
        archive = _Archive(path, view)
        budget, rules = Budget(), RULES | NUMPY_RULES if arrays else RULES
        pickle = archive.member("data.pkl")
        root, end = read_tree(pickle, 0, budget, on_global=_only(rules), on_persistent_id=archive.storage)
        if end != len(pickle):
            raise UnsafePickleError(f"{len(pickle) - end} bytes follow the end of its pickle")
        content = Evaluator(MAX_SHARING * len(view), budget, rules).evaluate(root)
        _check_plain(content, np.ndarray | np.generic if arrays else None)
    except UnsafePickleError as error:
        raise type(error)(f"{path}: {error}") from error
    return content


def _refuse_other_files(view: memoryview) -> None:
    start = bytes(view[: len(_LEGACY)])
    if start.startswith(b"PK\3\4"):
        return
    advice = "where you trust it, open it with torch.load(..., weights_only=True) and write it with torch.save again"
    if start == _LEGACY:
        raise UnsafePickleError(f"written in the form that torch.save had before torch 1.6: {advice}")
    if bytes(view[257:262]) == b"ustar":
        raise UnsafePickleError(f"written in the form that torch.save had before torch 0.1.10 (tar): {advice}")
    if start.startswith(b"\x80"):
        raise UnsafePickleError("a plain pickle, not a file of torch.save")
    if start[8:9] == b"{":
        raise UnsafePickleError("a safetensors file under another name: give it the ending .safetensors")
    what = stand_in(bytes(view[:512]))
    if what is not None:
        raise OtherFormatError(f"it is {what}")
    raise DamagedPickleError("not a file of torch.save, or a damaged one: it does not begin as a ZIP does")


# ----------------------------------------------------------------------------
# The ZIP.


class _Storage:
    """The bytes that tensors are views of. elements: [numel] in the storage's type."""

    def __init__(self, elements: torch.Tensor) -> None:
        self.elements = elements


class _Archive:
    """The members of a file of torch.save, as windows on its bytes."""

    def __init__(self, path: str | os.PathLike[str], view: memoryview) -> None:
        self._view = view
        self._bytes: dict[str, torch.Tensor] = {}  # storages that were read, by key
        try:
            with zipfile.ZipFile(path) as file:
                infos, self._end = file.infolist(), file.start_dir
        except OSError as error:
            if error.filename is not None:
                raise
            raise _damaged_zip(error) from error  # of a position that only damage can ask for
        except _ZIP_DAMAGE as error:
            raise _damaged_zip(error) from error
        self._members = {info.filename: info for info in infos}
        if len(self._members) != len(infos) or sum(info.compress_size for info in infos) > len(view):
            raise DamagedPickleError("a damaged or hostile ZIP: members overlap, or share a name")
        self._top = _top_folder(self._members)
        if "byteorder" in self and bytes(self.member("byteorder")) != b"little":
            raise UnsafePickleError("written on a big-endian machine: such files are not read")

    def __contains__(self, name: str) -> bool:
        return self._top + name in self._members

    def member(self, name: str) -> memoryview:
        """The bytes of a member, which must be stored as they are and have the checksum that the ZIP gives them."""
        info = self._members.get(self._top + name)
        if info is None:
            raise DamagedPickleError(f"its member {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise UnsafePickleError(f"its member {name} is compressed or encrypted, which torch.save never does")
        head = bytes(self._view[info.header_offset : info.header_offset + _HEAD.size])
        signature, name_length, extra_length = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0)
        start = info.header_offset + _HEAD.size + name_length + extra_length
        if signature != b"PK\3\4" or start + info.file_size > self._end:
            raise DamagedPickleError(f"its member {name} is damaged or cut off")
        data = self._view[start : start + info.file_size]
        if zlib.crc32(data) != info.CRC:
            raise DamagedPickleError(f"its member {name} is damaged: it does not have its checksum")
        return data

    def storage(self, reference: Any) -> _Storage:
        """What the pickle's reference ("storage", type, key, device, number of elements) stands for."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise UnsafePickleError("a reference to something else than a storage")
        _, kind, key, device, numel = reference
        dtype = _STORAGES.get(str(kind)) if isinstance(kind, GlobalName) else None
        if dtype is None or not _is_key(key) or not isinstance(device, str) or not is_count(numel):
            raise UnsafePickleError("a storage with an unknown description")
        if key not in self._bytes:
            data = self.member(f"data/{key}")
            self._bytes[key] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        found = len(self._bytes[key])
        if found != numel * dtype.itemsize:
            raise UnsafePickleError(f"a storage of {numel * dtype.itemsize} bytes is announced, {found} are there")
        return _Storage(_seen_as(dtype, self._bytes[key]))


def _seen_as(dtype: torch.dtype, data: torch.Tensor) -> torch.Tensor:
    """Bytes as elements of a type, in the same memory."""
    return data.view(dtype) if len(data) > 0 else torch.empty(0, dtype=dtype)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and value.isdecimal() and len(value) < 25


def _damaged_zip(error: Exception) -> DamagedPickleError:
    return DamagedPickleError(f"a damaged or truncated ZIP ({str(error)[:200]}): copy or make the file again")


def _top_folder(names: Iterable[str]) -> str:
    """The folder that everything in a file of torch.save lies in, with its slash."""
    names = list(names)
    tops = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tops) != 1:
        known = {".npy": "a numpy .npz", ".png": "a ZIP of images"}
        what = next((what for ending, what in known.items() if any(name.endswith(ending) for name in names)), "a ZIP")
        raise UnsafePickleError(f"{what} without data.pkl, so not a file of torch.save")
    if any(name.startswith((f"{tops[0]}code/", f"{tops[0]}constants.pkl")) for name in names):
        raise UnsafePickleError("a TorchScript program, which is code: only tensors are read; give a state dict")
    return tops[0]


_KINDS = {memoryview: "a byte string", _Storage: "a storage without a tensor"}


def _check_plain(root: Any, more: Any) -> None:
    """UnsafePickleError for what a pickle may hold but a file of tensors and plain data does not. more: other types."""
    waiting, seen = [root], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            if id(value) not in seen:
                seen.add(id(value))
                waiting.extend(value.values() if isinstance(value, dict) else value)
        elif not isinstance(value, torch.Tensor | str | int | float | None | more):
            found = f"the name {value}" if isinstance(value, GlobalName) else _KINDS.get(type(value), "a set")
            raise UnsafePickleError(f"it holds {found}: only tensors, numbers, texts and containers of them are read")


# ----------------------------------------------------------------------------
# The names.


class _Layout(NamedTuple):
    """How a tensor lies in its storage; strides and offset in elements."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _make_tensor(evaluator: Evaluator, made: Made) -> torch.Tensor:
    """Arguments: storage, offset, shape, strides, whether it wants a gradient, hooks, and (lately) metadata."""
    made.expect(len(made.args) in (6, 7), "unknown arguments")
    storage, metadata = made.args[0], made.args[6:]
    made.expect(isinstance(storage, _Storage), "a storage is expected")
    return _view(evaluator, made, storage.elements, _Layout(*made.args[1:4]), (*made.args[5:6], *metadata))


def _make_typed_tensor(evaluator: Evaluator, made: Made) -> torch.Tensor:
    """As `_make_tensor`, with the type between hooks and metadata: of bytes, for types that have no storage class."""
    made.expect(len(made.args) in (7, 8), "unknown arguments")
    storage, name = made.args[0], made.args[6]
    dtype = _DTYPES.get(str(name)) if isinstance(name, GlobalName) else None
    if not isinstance(storage, _Storage) or dtype is None:
        raise UnsafePickleError(f"{made.name}: a storage and a known type are expected")
    elements = storage.elements
    whole = elements.dtype == torch.uint8 and len(elements) % dtype.itemsize == 0
    made.expect(whole, f"a storage of {elements.dtype} does not hold {dtype}")
    return _view(evaluator, made, _seen_as(dtype, elements), _Layout(*made.args[1:4]), (made.args[5], *made.args[7:]))


def _view(
    evaluator: Evaluator, made: Made, elements: torch.Tensor, layout: _Layout, extras: tuple[Any, ...]
) -> torch.Tensor:
    """A view of a storage's elements, made only where all of it lies inside. extras: hooks and metadata, both empty."""
    offset, shape, strides = layout
    made.expect(is_count(offset) and is_shape(shape) and is_shape(strides), "no shape, strides or offset")
    made.expect(len(shape) == len(strides), f"shape {shape} with strides {strides}")
    made.expect(all(extra is None or _is_empty(extra) for extra in extras), "hooks and metadata of tensors are refused")
    size = 1
    for count in shape:
        size *= count
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if size > 0 else -1
    what = f"shape {shape} with strides {strides} and offset {offset}"
    made.expect(last < len(elements), f"{what} leaves a storage of {len(elements)} elements")
    evaluator.spend_bytes(size * elements.itemsize)
    try:
        return elements.as_strided(shape, strides, offset) if size > 0 else elements.new_empty(shape)
    except (RuntimeError, OverflowError) as error:  # no elements, but dimensions beyond what torch can count
        raise UnsafePickleError(f"{what} is beyond what torch can count") from error


def _only(rules: Mapping[str, Rule]) -> Callable[[GlobalName], None]:
    def check(found: GlobalName) -> None:
        if str(found) not in rules:
            raise UnsafePickleError(f"it names {found}, which is neither a tensor nor plain data: give a state dict")

    return check


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict) and not value


def _make_parameter(evaluator: Evaluator, made: Made) -> torch.Tensor:
    """Arguments: tensor, whether it wants a gradient, hooks."""
    tensor = made.args[0] if len(made.args) == 3 else None
    if not isinstance(tensor, torch.Tensor) or not _is_empty(made.args[2]):
        raise UnsafePickleError(f"{made.name}: a tensor without hooks is expected")
    return tensor


def _make_dict(evaluator: Evaluator, made: Made) -> dict[Any, Any]:
    """Attributes of a dictionary, such as the versions that a state dict has in `_metadata`, are left out."""
    made.expect(made.args == (), "constructor arguments are not expected")
    return made.items


def _make_size(evaluator: Evaluator, made: Made) -> tuple[int, ...]:
    made.expect(len(made.args) == 1 and is_shape(made.args[0]), "a tuple of sizes is expected")
    shape: tuple[int, ...] = made.args[0]
    return shape


_STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
_DTYPES = {
    str(dtype): dtype for dtype in (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)
}

RULES: dict[str, Rule] = {
    "torch._utils._rebuild_tensor_v2": Rule("every tensor", _make_tensor),
    "torch._utils._rebuild_tensor_v3": Rule("tensors of the newer types", _make_typed_tensor),
    "torch._utils._rebuild_parameter": Rule("every parameter", _make_parameter),
    "collections.OrderedDict": Rule(
        "state dicts, and the hooks of every tensor", _make_dict, takes_state=True, takes_items=True
    ),
    "torch.Size": Rule("shapes among the data", _make_size),
    **dict.fromkeys((*_STORAGES, *_DTYPES), Rule("mentioned by tensors")),
}
