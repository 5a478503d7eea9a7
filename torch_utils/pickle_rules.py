"""What the names in a pickle mean: records, arrays and dictionaries of our own, or a refusal.

`evaluate` turns the nodes of `torch_utils.pickle_tree` into values by the table `RULES` at the end. No class or
function of the file's choosing is ever imported or called: a name that is not in the table is refused, and the
others stand for the functions of this module, which check every argument.
"""

import hashlib
import math
import reprlib
import struct
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from torch_utils.pickle_records import ELEMENT_BYTES, ModuleRecord, PersistentRecord, StoredTensor
from torch_utils.pickle_tree import (
    ENCODE,
    MAX_TEXT_BYTES,
    Budget,
    Call,
    GlobalName,
    LongText,
    UnsafePickleError,
    read_tree,
)

MAX_NESTING = 128  # a network's tensors lie some 50 levels deep
MAX_NODES = 2_000_000  # with every reference followed, also repeated ones
MAX_REPEATED_BYTES = 16 * 2**20  # of texts and arrays beyond the file's own size, counted per reference
MAX_DIMENSIONS = 32

PERSISTENT_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
STORAGE_BYTES = "torch.storage._load_from_bytes"

# ----------------------------------------------------------------------------
# Evaluation.


class Rule(NamedTuple):
    """What a name in a file may stand for.

    why: where it occurs. make: value of a call, None if the name is only mentioned. is_new: the file makes it as a
    new instance, not by a call. takes_state, takes_items: whether the file may set a state on it, or put items in.
    """

    why: str
    make: "Callable[[Evaluator, Made], Any] | None" = None
    is_new: bool = False
    takes_state: bool = False
    takes_items: bool = False


class Made(NamedTuple):
    """A call with everything in it evaluated. state is None if the file gives none."""

    name: str
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def expect(self, condition: bool, otherwise: str) -> None:
        """Refuse the call unless `condition`."""
        if not condition:
            raise UnsafePickleError(f"{self.name}: {otherwise}")


class _Value(NamedTuple):
    """An evaluated node, with its size as a tree: what whoever walks through it, or converts it, comes across.

    num_bytes: of texts and arrays.
    """

    value: Any
    nodes: int = 1
    height: int = 0
    num_bytes: int = 0

    def of(self, value: Any, num_bytes: int) -> "_Value":
        """This tree's size, for what was made of it."""
        return _Value(value, self.nodes, self.height, num_bytes)


_BRANCHES, _SIZED = (list, tuple, dict, Call), (str, memoryview)


class Evaluator:
    """Applies rules to the nodes of one file, to each node once.

    file_size: bytes of the file. budget: what reading it has left over, for the streams inside. rules: by name; the
    nodes name nothing else (see `only_names_in`). None: `RULES`.
    """

    def __init__(self, file_size: int, budget: Budget, rules: Mapping[str, Rule] | None = None) -> None:
        self.budget = budget
        self.rules = RULES if rules is None else rules
        self.bytes_left = file_size + 2**20  # for arrays and tensors: no byte of a file is needed twice
        self.max_repeated = file_size + MAX_REPEATED_BYTES
        self._done: dict[int, _Value] = {}
        self._open: set[int] = set()
        self._source_hashes: dict[str, str] = {}

    def evaluate(self, root: Any) -> Any:
        """Value of the root node; every node must stay alive meanwhile. Raises UnsafePickleError."""
        return self._visit(root, 1).value

    def _visit(self, node: Any, depth: int) -> _Value:
        if isinstance(node, LongText):
            raise UnsafePickleError(f"a text of {len(node)} bytes: at most {MAX_TEXT_BYTES} are read")
        if not isinstance(node, _BRANCHES):
            return _Value(node, 1, 0, len(node) if isinstance(node, _SIZED) else 0)
        if id(node) in self._done:
            return self._done[id(node)]
        if id(node) in self._open:
            raise UnsafePickleError("the data contains itself: files of this kind have no loops")
        if depth > MAX_NESTING:
            raise UnsafePickleError(f"data nested more than {MAX_NESTING} levels deep")
        self._open.add(id(node))
        result = self._done[id(node)] = self._enter(node, depth)
        self._open.remove(id(node))
        return result

    def _enter(self, node: Any, depth: int) -> _Value:
        if isinstance(node, Call):
            make = _maker_of(node, self.rules)
            values, inner = self._visit_all((node.args, node.state, node.items), depth)
            return _made(make(self, Made(str(node.function), *values)), inner)
        values, inner = self._visit_all(node.values() if isinstance(node, dict) else node, depth)
        if isinstance(node, dict):
            keys = sum(len(key) for key in node if isinstance(key, str))
            return inner.of(dict(zip(node, values, strict=True)), inner.num_bytes + keys)
        return inner.of(values if isinstance(node, list) else tuple(values), inner.num_bytes)

    def _visit_all(self, nodes: Iterable[Any], depth: int) -> tuple[list[Any], _Value]:
        """Values of some nodes, and the size of the tree that has them as its branches; refuses one that is too large.

        At once, not when it is complete: every one of many references would be worked on before.
        """
        values, total, height, num_bytes = [], 1, 1, 0
        for node in nodes:
            result = self._visit(node, depth + 1)
            values.append(result.value)
            total += result.nodes
            if result.height >= height:
                height = result.height + 1
            num_bytes += result.num_bytes
            if total > MAX_NODES or height > MAX_NESTING:
                raise UnsafePickleError(
                    f"data nested {height} levels deep, of {total} values with repetitions: "
                    f"at most {MAX_NESTING} and {MAX_NODES} are read"
                )
            if num_bytes > self.max_repeated:
                raise UnsafePickleError(
                    f"texts and arrays of {num_bytes} bytes with repetitions, more than the file has: a memory bomb"
                )
        return values, _Value(None, total, height, num_bytes)

    def spend_bytes(self, size: int) -> None:
        """Count memory that an array or tensor takes against the size of the file."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise UnsafePickleError("arrays and tensors that are together larger than the file: a memory bomb")

    def source_hash(self, source: str) -> str:
        """`sha256_of_text`, computed once per text."""
        if source not in self._source_hashes:
            self._source_hashes[source] = sha256_of_text(source)
        return self._source_hashes[source]


def _made(value: Any, parts: _Value) -> _Value:
    """What a call made of its parts, with its size: that of the parts, but for what nobody walks through.

    That are the bytes of tensors, and the source text of persistent objects, the same for hundreds of them.
    """
    num_bytes = parts.num_bytes
    if isinstance(value, (_Storage, StoredTensor)):
        num_bytes = 0
    elif isinstance(value, PersistentRecord):
        num_bytes -= len(value.module_src)
    return parts.of(value, num_bytes)


def _maker_of(call: Call, rules: Mapping[str, Rule]) -> "Callable[[Evaluator, Made], Any]":
    if not isinstance(call.function, GlobalName):
        raise UnsafePickleError("a call of what another call returned: no data needs that")
    rule = rules[str(call.function)]  # the tree was read with only_names_in(rules)
    if rule.make is None or rule.is_new is not call.is_new:
        raise UnsafePickleError(f"{call.function} is called in a way that no file of this kind uses")
    if call.given_state and not rule.takes_state:
        raise UnsafePickleError(f"a state is set on the result of {call.function}, which takes none")
    if call.items and not rule.takes_items:
        raise UnsafePickleError(f"items are put into the result of {call.function}, which takes none")
    return rule.make


def only_names_in(names: Container[str]) -> Callable[[GlobalName], None]:
    """The `on_global` of `read_tree` that refuses every other name."""

    def check(found: GlobalName) -> None:
        if "." in found.name or str(found) not in names:
            raise UnsafePickleError(f"the file names {found}, which is not among the names that data needs")

    return check


def sha256_of_text(source: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(source.encode("utf-8")).hexdigest()


def _same(value: Any, expected: Any) -> bool:
    """Equality that asks no object of the file for its opinion: same types all the way down."""
    if isinstance(expected, bytes):
        return isinstance(value, memoryview) and len(value) == len(expected) and bytes(value) == expected
    if type(value) is not type(expected):
        return False
    if isinstance(expected, tuple):
        return len(value) == len(expected) and all(map(_same, value, expected))
    return bool(value == expected)


def is_count(value: Any) -> bool:
    """Whether a value is an integer that can number elements: 0 or more, below 2^62."""
    return type(value) is int and 0 <= value < 2**62


def is_shape(value: Any) -> bool:
    """Whether a value is a tuple of counts, of no more dimensions than arrays have."""
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(is_count, value))


# ----------------------------------------------------------------------------
# Dictionaries, containers, persistent objects.


def _make_dict(evaluator: Evaluator, made: Made) -> dict[Any, Any]:
    made.expect(made.args == (), "constructor arguments are not expected")
    made.expect(made.state is None or _same(made.state, {}), "attributes beside the items are not expected")
    return made.items


def _make_set(evaluator: Evaluator, made: Made) -> set[str]:
    members = made.args[0] if len(made.args) == 1 else None
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise UnsafePickleError(f"{made.name}: a list of texts is expected")
    return set(members)


def _make_container(evaluator: Evaluator, made: Made) -> ModuleRecord:
    made.expect(made.args == (), "constructor arguments are not expected")
    return ModuleRecord(made.name.rpartition(".")[2], _checked_state(made, made.state))


def _make_persistent(evaluator: Evaluator, made: Made) -> PersistentRecord:
    meta = made.args[0] if len(made.args) == 1 else None
    if not isinstance(meta, dict) or set(meta) != {"type", "version", "module_src", "class_name", "state"}:
        raise UnsafePickleError(f"{made.name}: not the description of a persistent object")
    version, source, name = meta["version"], meta["module_src"], meta["class_name"]
    made.expect(_same(meta["type"], "class"), f"an object of type {reprlib.repr(meta['type'])}")
    made.expect(type(version) is int, f"version {reprlib.repr(version)}")
    made.expect(isinstance(source, str), "the source is not a text")
    made.expect(isinstance(name, str) and len(name) < 100 and name.isidentifier(), "no class name")
    return PersistentRecord(name, version, _checked_state(made, meta["state"]), source, evaluator.source_hash(source))


def _make_no_bytes(evaluator: Evaluator, made: Made) -> memoryview:
    made.expect(made.args == (), "constructor arguments are not expected")
    return memoryview(b"")


def _checked_state(made: Made, state: Any) -> dict[str, Any]:
    if not isinstance(state, dict) or not all(isinstance(key, str) and key.isprintable() for key in state):
        raise UnsafePickleError(f"{made.name}: the object's attributes are not a dictionary of names")
    return state


# ----------------------------------------------------------------------------
# numpy.

_NUMBER_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}


def _make_dtype(evaluator: Evaluator, made: Made) -> "np.dtype[Any]":
    code = made.args[0] if made.args else None
    plain = any(_same(made.args[1:], rest) for rest in [(), (0, 1), (False, True)])  # no alignment, a copy
    if not plain or not isinstance(code, str) or code not in _NUMBER_TYPES:
        raise UnsafePickleError(f"{made.name}: {reprlib.repr(made.args)} is no type of plain numbers")
    if made.state is None:
        return np.dtype(code)
    # version, byte order, then what only structured types have
    known = any(_same(made.state, (3, order, None, None, None, -1, -1, 0)) for order in "<>=|")
    made.expect(known, f"{reprlib.repr(made.state)} is no type of plain numbers")
    return np.dtype(f"{made.state[1]}{code}")


def _make_array(evaluator: Evaluator, made: Made) -> "np.ndarray[Any, Any]":
    """`_reconstruct(ndarray, (0,), b"b")`, then the state (version, shape, type, Fortran order, bytes)."""
    ndarray = GlobalName("numpy", "ndarray")
    made.expect(any(_same(made.args, (ndarray, (0,), code)) for code in (b"b", "b")), "only numpy.ndarray is known")
    made.expect(isinstance(made.state, tuple) and len(made.state) == 5, "an array without content")
    version, shape, dtype, fortran, data = made.state
    made.expect(_same(version, 1) and type(fortran) is bool, "a state of unknown layout")
    return _array(evaluator, made, data, dtype, shape, "F" if fortran else "C")


def _make_array_from_buffer(evaluator: Evaluator, made: Made) -> "np.ndarray[Any, Any]":
    """`_frombuffer(bytes, type, shape, order)`."""
    made.expect(len(made.args) == 4 and any(_same(made.args[3], order) for order in "CF"), "unknown arguments")
    return _array(evaluator, made, *made.args)


def _make_scalar(evaluator: Evaluator, made: Made) -> Any:
    """`scalar(type, bytes)`."""
    made.expect(len(made.args) == 2, "unknown arguments")
    return _array(evaluator, made, made.args[1], made.args[0], (), "C")[()]


def _array(evaluator: Evaluator, made: Made, data: Any, dtype: Any, shape: Any, order: Any) -> "np.ndarray[Any, Any]":
    if not isinstance(dtype, np.dtype) or not is_shape(shape):
        raise UnsafePickleError(f"{made.name}: no number type, or no shape")
    made.expect(isinstance(data, memoryview), "the content is not a byte string (an array of objects?)")
    needed = math.prod(shape) * dtype.itemsize
    made.expect(len(data) == needed, f"an array of {needed} bytes is announced, {len(data)} are there")
    evaluator.spend_bytes(needed)
    try:
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order="K")
    except (ValueError, OverflowError) as error:  # e.g. no elements, but dimensions beyond what numpy can count
        raise UnsafePickleError(f"{made.name}: {error}") from None


# ----------------------------------------------------------------------------
# torch. The bytes of a storage are a stream of torch.save in its old form: five pickles (magic number, version,
# system, root, list of keys), then for every key its number of elements (int64) and its elements.

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
_STORAGE_TYPES = {
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


class _Storage(NamedTuple):
    dtype: str
    numel: int
    data: memoryview


class _StorageHeader(NamedTuple):
    """What a stream says of its storage before the bytes come."""

    dtype: str
    key: str
    numel: int


def _make_storage(evaluator: Evaluator, made: Made) -> _Storage:
    data = made.args[0] if len(made.args) == 1 else None
    if not isinstance(data, memoryview):
        raise UnsafePickleError(f"{made.name}: a byte string is expected")
    try:
        return read_storage_stream(data, evaluator.budget, only_names_in(_STORAGE_TYPES))
    except UnsafePickleError as error:
        raise UnsafePickleError(f"in a stream of torch.save inside the file: {error}") from None


def read_storage_stream(data: memoryview, budget: Budget, on_global: Callable[[GlobalName], None]) -> _Storage:
    """The one storage in a stream of torch.save; on_global is told the names in it. Raises UnsafePickleError."""
    if bytes(data[:2]) == b"PK":
        raise UnsafePickleError("the new form (a zip archive) is not used inside pickles")
    parts: list[Any] = []
    position = 0
    for _ in range(5):
        node, position = read_tree(data, position, budget, on_global=on_global, on_persistent_id=_storage_header)
        parts.append(node)
    magic, version, system, root, keys = parts
    if not _same(magic, _STREAM_MAGIC) or not _same(version, _STREAM_VERSION):
        raise UnsafePickleError("not a stream of torch.save in the old form")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnsafePickleError("written on a big-endian machine: such files are not read")
    if not isinstance(root, _StorageHeader) or not isinstance(keys, list) or not _same(tuple(keys), (root.key,)):
        raise UnsafePickleError("it should hold one storage and nothing else")
    announced, content = bytes(data[position : position + 8]), data[position + 8 :]
    needed = root.numel * ELEMENT_BYTES[root.dtype]
    if announced != struct.pack("<q", root.numel) or len(content) != needed:
        raise UnsafePickleError(f"a storage of {needed} bytes is announced, {len(content)} are there")
    return _Storage(root.dtype, root.numel, content)


def _storage_header(reference: Any) -> _StorageHeader:
    """The stream's reference ("storage", type, key, device, number of elements, None)."""
    if not isinstance(reference, tuple) or len(reference) != 6 or not _same(reference[0], "storage"):
        raise UnsafePickleError("a reference to something else than a storage")
    _, kind, key, device, numel, view = reference
    dtype = _STORAGE_TYPES.get(str(kind)) if isinstance(kind, GlobalName) else None
    if dtype is None:
        raise UnsafePickleError(f"storage of unknown type {reprlib.repr(kind)}")
    if not isinstance(key, str) or not isinstance(device, str) or not is_count(numel) or view is not None:
        raise UnsafePickleError("a storage with an unknown description")
    return _StorageHeader(dtype, key, numel)


def _make_tensor(evaluator: Evaluator, made: Made) -> StoredTensor:
    """Arguments: storage, offset, shape, strides, whether it wants a gradient, hooks, and (lately) metadata."""
    made.expect(len(made.args) in (6, 7), "unknown arguments")
    storage, offset, shape, strides, wants_gradient, hooks = made.args[:6]
    made.expect(isinstance(storage, _Storage) and type(wants_gradient) is bool, "unknown arguments")
    made.expect(is_count(offset) and is_shape(shape) and is_shape(strides), "no shape, strides or offset")
    made.expect(len(shape) == len(strides), f"shape {shape} with strides {strides}")
    metadata = made.args[6] if len(made.args) == 7 else None
    plain = _same(hooks, {}) and (metadata is None or _same(metadata, {}))
    made.expect(plain, "hooks and metadata of tensors are refused")
    if 0 not in shape:
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        what = f"shape {shape} with strides {strides} and offset {offset}"
        made.expect(last < storage.numel, f"{what} leaves a storage of {storage.numel} elements")
        made.expect(not _overlaps(shape, strides), f"{what} uses elements twice")
    tensor = StoredTensor(storage.dtype, shape, strides, offset, storage.data)
    evaluator.spend_bytes(tensor.num_bytes)
    return tensor


def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements may share a place: some dimension's step is within the reach of the smaller ones."""
    reach = 0
    for step, count in sorted(zip(strides, shape, strict=True)):
        if count > 1 and step <= reach:
            return True
        reach += (count - 1) * step
    return False


def _make_parameter(evaluator: Evaluator, made: Made) -> StoredTensor:
    """Arguments: tensor, whether it wants a gradient, hooks."""
    tensor = made.args[0] if len(made.args) == 3 else None
    if not isinstance(tensor, StoredTensor) or type(made.args[1]) is not bool:
        raise UnsafePickleError(f"{made.name}: unknown arguments")
    made.expect(_same(made.args[2], {}), "hooks of parameters are refused")
    return tensor


# ----------------------------------------------------------------------------
# The names. Nothing outside this table gets past the reader.

_NUMPY_CORE = {
    "multiarray._reconstruct": Rule("arrays: encoders, statistics", _make_array, takes_state=True),
    "multiarray.scalar": Rule("numpy numbers among statistics and options", _make_scalar),
    "numeric._frombuffer": Rule("arrays in pickles of protocol 5", _make_array_from_buffer),
}
NUMPY_RULES: dict[str, Rule] = {
    "numpy.ndarray": Rule("mentioned by every array"),
    "numpy.dtype": Rule("types of arrays and numbers", _make_dtype, takes_state=True),
    **{f"numpy.core.{name}": rule for name, rule in _NUMPY_CORE.items()},  # numpy 1
    **{f"numpy._core.{name}": rule for name, rule in _NUMPY_CORE.items()},  # numpy 2
    str(ENCODE): Rule("byte strings in pickles of protocol 2, which `read_tree` makes"),
    "__builtin__.bytes": Rule("empty byte strings in pickles of protocol 2", _make_no_bytes),
}
_CONTAINER = Rule("layers of a network", _make_container, is_new=True, takes_state=True)
_SET = Rule("bookkeeping of torch modules in pickles of protocols 2 and 3", _make_set)

RULES: dict[str, Rule] = {
    PERSISTENT_OBJECT: Rule("every network, layer, encoder and loss", _make_persistent),
    STORAGE_BYTES: Rule("the bytes of every tensor", _make_storage),
    "torch._utils._rebuild_tensor_v2": Rule("every tensor", _make_tensor),
    "torch._utils._rebuild_parameter": Rule("every parameter", _make_parameter),
    "torch.nn.modules.container.ModuleDict": _CONTAINER,
    "torch.nn.modules.container.ModuleList": _CONTAINER,
    "torch.nn.modules.container.Sequential": _CONTAINER,
    "collections.OrderedDict": Rule("bookkeeping of torch modules", _make_dict, takes_items=True),
    "dnnlib.util.EasyDict": Rule(
        "the outermost dictionary, options", _make_dict, is_new=True, takes_state=True, takes_items=True
    ),
    **NUMPY_RULES,
    "builtins.set": _SET,
    "__builtin__.set": _SET,
}
