"""Pickle opcodes to a tree of plain nodes: nothing is imported, called or looked up.

`read_tree` is an interpreter of its own for the part of the pickle language that stored data needs.
Where Python's unpickler would import a name it makes a `GlobalName`, where it would call one a `Call`;
meaning is given to them, or refused, by `torch_utils.safe_pickle`. So there is no hook to slip past: no
`__setstate__`, `__reduce__`, `__setitem__` or constructor of any class runs while a file is read.

What a hostile file could make large is bounded: a declared length must lie inside the file, the number
of opcodes and the length of texts and integers have limits, and dictionary keys are short texts and small
integers only (other types allow collisions by design). Equal texts become one object, so that comparing
them costs nothing, however long they are.
"""

import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_OPCODES = 500_000  # published networks need 40,000, whatever their width, the streams of their tensors included
MAX_TEXT_BYTES = 2**20  # source texts have some 20 to 50 kB
MAX_ALL_TEXTS_BYTES = 64 * 2**20  # some 500 layers, each with the source text once more, have half of that
MAX_KEY_CHARACTERS = 1024
MAX_NAME_BYTES = 512
MAX_INT_BYTES = 16


class UnsafePickleError(ValueError):
    """A pickle that is damaged, or that holds something else than the data this project reads."""


class DamagedPickleError(UnsafePickleError):
    """Bytes that are no complete pickle: nobody wrote such a file on purpose, so it was cut or altered on its way."""


@dataclass(frozen=True)
class GlobalName:
    """A name that the file refers to, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """An object that the file asks to be made: by calling `function`, or as a new instance of it.

    args: tuple of nodes. state: node that the file wants set on the object; `given_state` says whether it
    does. items: key and value nodes that it wants put into the object.
    """

    __slots__ = ("args", "function", "given_state", "is_new", "items", "state")

    def __init__(self, function: Any, args: tuple[Any, ...], is_new: bool) -> None:
        self.function = function
        self.args = args
        self.is_new = is_new
        self.given_state = False
        self.state: Any = None
        self.items: dict[Any, Any] = {}


@dataclass(frozen=True, eq=False)
class LongText:
    """A text of more than MAX_TEXT_BYTES, not decoded: how protocol 2 stores byte strings. raw: in UTF-8."""

    raw: memoryview = field(repr=False)

    def __len__(self) -> int:
        return len(self.raw)


ENCODE = GlobalName("_codecs", "encode")


class Budget:
    """What may still be spent on one file, over all the pickle streams inside it."""

    def __init__(self) -> None:
        self.opcodes = MAX_OPCODES
        self.text_bytes = MAX_ALL_TEXTS_BYTES

    def spend_opcode(self) -> None:
        self.opcodes -= 1
        if self.opcodes < 0:
            raise UnsafePickleError(f"more than {MAX_OPCODES} pickle opcodes: no file of this kind needs that many")

    def spend_text(self, size: int) -> None:
        self.text_bytes -= size
        if self.text_bytes < 0:
            raise UnsafePickleError(
                f"more than {MAX_ALL_TEXTS_BYTES} bytes of texts: no file of this kind has that many"
            )


def read_tree(
    data: memoryview,
    start: int,
    budget: Budget,
    *,
    on_global: Callable[[GlobalName], None],
    on_persistent_id: Callable[[Any], Any] | None = None,
    on_call: Callable[[Call], None] | None = None,
) -> tuple[Any, int]:
    """Reads one pickle stream; returns its root node and the offset just behind its last byte.

    data: bytes of the file (format B). on_global is told every name as it is met and may raise to refuse
    it. on_persistent_id turns the stream's own references into nodes; None refuses them. on_call is told
    every call once its arguments are known (items and state may still follow).

    Nodes are None, bool, int, float, str, LongText, memoryview (byte strings, views of `data`), list, tuple,
    dict with str or int keys, set of str or int, GlobalName and Call. Raises UnsafePickleError.
    """
    reader = _TreeReader(data, start, budget)
    reader.on_global, reader.on_persistent_id, reader.on_call = on_global, on_persistent_id, on_call
    return reader.run()


class _TreeReader:
    on_global: Callable[[GlobalName], None]
    on_persistent_id: Callable[[Any], Any] | None
    on_call: Callable[[Call], None] | None

    def __init__(self, data: memoryview, start: int, budget: Budget) -> None:
        self.data = data
        self.position = start
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.texts: dict[str, str] = {}
        self.bytes_of_text: dict[str | LongText, memoryview] = {}

    def run(self) -> tuple[Any, int]:
        while True:
            at = self.advance(1)
            code = self.data[at]
            self.budget.spend_opcode()
            if code == _STOP:
                break
            handler = _HANDLERS.get(code)
            if handler is None:
                raise self.unknown(code, at)
            handler(self)
        if len(self.stack) != 1 or self.marks:
            raise self.damaged(f"{len(self.stack)} values are left at its end")
        return self.stack[0], self.position

    # Reading bytes. Every length is checked against what the file has before anything is allocated.

    def advance(self, count: int) -> int:
        """Steps over the next bytes; returns where they begin."""
        at = self.position
        if count > len(self.data) - at:
            raise self.damaged(f"{count} bytes are announced, {len(self.data) - at} are there")
        self.position = at + count
        return at

    def take(self, count: int) -> memoryview:
        at = self.advance(count)
        return self.data[at : at + count]

    def number(self, layout: struct.Struct) -> Any:
        return layout.unpack_from(self.data, self.advance(layout.size))[0]

    def line(self) -> str:
        window = bytes(self.data[self.position : self.position + MAX_NAME_BYTES])
        length = window.find(b"\n")
        if length < 0:
            raise self.damaged("a name does not end")
        self.position += length + 1
        return self.decoded(window[:length])

    def decoded(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a text that is not UTF-8") from None

    # The stack.

    def push(self, node: Any) -> None:
        self.stack.append(node)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.damaged("an opcode lacks its operand")
        return self.stack.pop()

    def top(self) -> Any:
        node = self.pop()
        self.stack.append(node)
        return node

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.damaged("a MARK is missing")
        start = self.marks.pop()
        nodes = self.stack[start:]
        del self.stack[start:]
        return nodes

    def refuse(self, what: str) -> UnsafePickleError:
        return UnsafePickleError(f"{what} (just before byte {self.position})")

    def damaged(self, what: str) -> DamagedPickleError:
        return DamagedPickleError(f"damaged or incomplete pickle: {what} (at byte {self.position})")

    def unknown(self, code: int, at: int) -> UnsafePickleError:
        names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
        if chr(code) not in names:
            return DamagedPickleError(f"not a pickle, or a damaged one: byte 0x{code:02x} at {at} is no opcode")
        return UnsafePickleError(f"pickle opcode {names[chr(code)]} at byte {at}: no file of this kind needs it")

    # Opcodes. Those that only push a value are in the table below.

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise self.refuse(f"pickle protocol {version}: protocols up to 5 are known")

    def frame(self) -> None:
        length = self.number(_UINT64)
        if length > len(self.data) - self.position:
            raise self.damaged(f"a frame of {length} bytes exceeds the file")

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def long_int(self) -> None:
        size = self.take(1)[0]
        if size > MAX_INT_BYTES:
            raise self.refuse(f"an integer of {size} bytes: at most {MAX_INT_BYTES} are read")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def text(self, length_layout: struct.Struct) -> None:
        length = self.number(length_layout)
        raw = self.take(length)
        if length > MAX_TEXT_BYTES:
            self.push(LongText(raw))
            return
        self.budget.spend_text(length)
        text = self.decoded(bytes(raw))
        self.push(self.texts.setdefault(text, text))

    def byte_string(self, length_layout: struct.Struct) -> None:
        self.push(self.take(self.number(length_layout)))

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.damaged(f"nothing is stored under number {index}")
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        nodes = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(nodes)))

    def append(self, nodes: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.refuse(f"appending to {_kind(target)}: only to lists")
        target.extend(nodes)

    def add(self, nodes: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, set):
            raise self.refuse(f"adding members to {_kind(target)}: only to sets")
        for node in nodes:
            self.check_key(node)
        target.update(nodes)

    def set_items(self, nodes: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Call):
            target = target.items
        if not isinstance(target, dict) or len(nodes) % 2 != 0:
            raise self.refuse(f"setting items of {_kind(target)}: only of dictionaries, in pairs")
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            self.check_key(key)
            target[key] = value

    def check_key(self, key: Any) -> None:
        if not isinstance(key, str) and not (type(key) is int and abs(key) < 2**63):
            raise self.refuse(f"{_kind(key)} as dictionary key or set member: only texts and 64-bit integers are")
        if isinstance(key, str) and len(key) > MAX_KEY_CHARACTERS:
            raise self.refuse(f"a dictionary key or set member of {len(key)} characters: at most {MAX_KEY_CHARACTERS}")

    def refer(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.damaged("a name that is not a text")
        if len(module) + len(name) > MAX_NAME_BYTES or not _NAME.fullmatch(f"{module}.{name}"):
            raise self.refuse(f"the odd name {module[:60]!r} . {name[:60]!r}")
        found = GlobalName(module, name)
        self.on_global(found)
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.refer(module, name)

    def call(self, is_new: bool) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(args, tuple) or not isinstance(function, GlobalName | Call):
            raise self.damaged(f"a call of {_kind(function)} with {_kind(args)}")
        made = Call(function, args, is_new)
        if self.on_call is not None:
            self.on_call(made)
        self.push(self.encoded(args) if function == ENCODE else made)

    def encoded(self, args: tuple[Any, ...]) -> memoryview:
        """The byte string that protocol 2 stores as `encode(text, "latin1")`; one per text, however often it comes."""
        text, encoding = args if len(args) == 2 else (None, None)
        if not isinstance(text, str | LongText) or encoding != "latin1":
            raise self.refuse(f"{ENCODE} of something else than a text in Latin-1")
        if text not in self.bytes_of_text:
            plain = text if isinstance(text, str) else self.decoded(bytes(text.raw))
            try:
                self.bytes_of_text[text] = memoryview(plain.encode("latin-1"))
            except UnicodeEncodeError:
                raise self.refuse(f"{ENCODE} of a text with other characters than those of Latin-1") from None
        return self.bytes_of_text[text]

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, Call) or target.given_state:
            raise self.refuse(f"setting the state of {_kind(target)}, which takes none")
        target.given_state, target.state = True, state

    def persistent_id(self) -> None:
        if self.on_persistent_id is None:
            raise self.refuse("a reference to something outside the file (persistent id)")
        self.push(self.on_persistent_id(self.pop()))


_UINT8, _UINT16, _UINT32, _UINT64 = (struct.Struct(f"<{code}") for code in "BHIQ")
_INT32, _FLOAT64 = struct.Struct("<i"), struct.Struct(">d")

_STOP = ord(".")
_NAME = re.compile(r"[\w.]+", re.ASCII)  # no escape sequences in messages

_HANDLERS: dict[int, Callable[[_TreeReader], None]] = {
    0x80: _TreeReader.protocol,
    0x95: _TreeReader.frame,
    ord("("): _TreeReader.mark,
    ord("N"): lambda r: r.push(None),
    0x88: lambda r: r.push(True),
    0x89: lambda r: r.push(False),
    ord("J"): lambda r: r.push(r.number(_INT32)),
    ord("K"): lambda r: r.push(r.number(_UINT8)),
    ord("M"): lambda r: r.push(r.number(_UINT16)),
    0x8A: _TreeReader.long_int,
    ord("G"): lambda r: r.push(r.number(_FLOAT64)),
    0x8C: lambda r: r.text(_UINT8),
    ord("X"): lambda r: r.text(_UINT32),
    0x8D: lambda r: r.text(_UINT64),
    ord("C"): lambda r: r.byte_string(_UINT8),
    ord("B"): lambda r: r.byte_string(_UINT32),
    0x8E: lambda r: r.byte_string(_UINT64),
    0x96: lambda r: r.byte_string(_UINT64),  # BYTEARRAY8: how protocol 5 stores writable arrays
    ord("]"): lambda r: r.push([]),
    ord("a"): lambda r: r.append([r.pop()]),
    ord("e"): lambda r: r.append(r.pop_to_mark()),
    ord(")"): lambda r: r.push(()),
    ord("t"): lambda r: r.push(tuple(r.pop_to_mark())),
    0x85: lambda r: r.tuple_of(1),
    0x86: lambda r: r.tuple_of(2),
    0x87: lambda r: r.tuple_of(3),
    ord("}"): lambda r: r.push({}),
    ord("s"): lambda r: r.set_items([r.pop(), r.pop()][::-1]),
    ord("u"): lambda r: r.set_items(r.pop_to_mark()),
    0x8F: lambda r: r.push(set()),
    0x90: lambda r: r.add(r.pop_to_mark()),
    ord("h"): lambda r: r.get(r.number(_UINT8)),
    ord("j"): lambda r: r.get(r.number(_UINT32)),
    ord("q"): lambda r: r.put(r.number(_UINT8)),
    ord("r"): lambda r: r.put(r.number(_UINT32)),
    0x94: lambda r: r.put(len(r.memo)),
    ord("c"): lambda r: r.refer(r.line(), r.line()),
    0x93: _TreeReader.stack_global,
    ord("R"): lambda r: r.call(is_new=False),
    0x81: lambda r: r.call(is_new=True),
    ord("b"): _TreeReader.build,
    ord("Q"): _TreeReader.persistent_id,
}


def _kind(node: Any) -> str:
    """How to name a node in a message."""
    if isinstance(node, GlobalName):
        return f"the name {node}"
    if isinstance(node, Call):
        return f"what {node.function} makes" if isinstance(node.function, GlobalName) else "the result of a call"
    return "a byte string" if isinstance(node, memoryview) else f"a value of type {type(node).__name__}"
