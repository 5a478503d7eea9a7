"""Mutants of files: a pure function of the original bytes and of a seeded generator.

Blind mutations change bytes without looking. Structured ones know the format: they change what is inside a ZIP member,
a PNG chunk or a pickle and then set lengths and checksums right, so that mutants get past the first check of a reader.
"""

import io
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

Mutation = Callable[[bytes, random.Random], bytes]


class Mutant(NamedTuple):
    """data: the bytes. sealed: no checksum was set right, so one that covers a changed byte must tell."""

    data: bytes
    sealed: bool
    how: str


def mutate(data: bytes, kind: str, rng: random.Random) -> Mutant:
    """One mutant of a file of a `kind` in `STRUCTURED`, or of any bytes: one to three mutations after each other."""
    structured = STRUCTURED.get(kind, ())
    sealed, names = True, []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        deep = bool(structured) and rng.random() < 0.6
        mutation = rng.choice(structured if deep else BLIND)
        try:
            data = mutation(data, rng)
        except Exception:  # what came before left nothing of the structure
            data = flip_bits(data, rng)
        sealed = sealed and mutation not in RESEALING
        names.append(mutation.__name__)
    return Mutant(data, sealed, " + ".join(names))


NUMBERS = (0, 1, 2, 3, 4, 7, 8, 100, 127, 128, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**60,
2**63 - 1,
           2**64 - 1)  # fmt: skip


def number(rng: random.Random, size: int) -> int:
    """An unsigned number of `size` bytes: at the edges of types, or any."""
    value = rng.choice(NUMBERS) if rng.random() < 0.7 else rng.getrandbits(8 * size)
    return value % (1 << 8 * size)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """A random short range of bytes, rarely a long one."""
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 30, 200, len(data))))


# ----------------------------------------------------------------------------
# Blind.


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 2, 4))):
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((rng.randbytes(rng.randrange(1, 40)), b"\0" * rng.randrange(1, 4000))) + data[at:]


def delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def copy_block(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    at = rng.randrange(len(data) + 1)
    kept = at if rng.random() < 0.5 else at + end - start  # inserted, or written over what was there
    return data[:at] + data[start:end] + data[kept:]


def swap_blocks(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def edit_number(data: bytes, rng: random.Random) -> bytes:
    """Some bytes become a number of that size, of either byte order."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data) - size))
    return data[:at] + number(rng, size).to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


BLIND: tuple[Mutation, ...] = (flip_bits, set_bytes, truncate, insert, delete, copy_block, swap_blocks, edit_number)

# ----------------------------------------------------------------------------
# ZIP.

BAD_NAMES = (
    "../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png", "\\\\host\\evil.png", "", ".", "..",
    "evil\n.png", "\x1b[2J.png", "evil\0.png", "x" * 60_000 + ".png", "dataset.json", "recipe.json", "shard.json",
    "a.png/", "000000.png", "000000.PNG", "arr_0.npy", "mu.npy", "\udcff.png", "é.png", ".hidden.png", "nul.png/.",
)  # fmt: skip


class Member(NamedTuple):
    name: str
    data: bytes


def zip_members(data: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [Member(info.filename, file.read(info)) for info in file.infolist()]


def build_zip(members: list[Member], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Any names, also the same twice."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as file:
        warnings.simplefilter("ignore")
        for member in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = member.name.encode("utf-8", "replace").decode(), compression
            file.writestr(info, member.data)
    return buffer.getvalue()


def zip_content(data: bytes, rng: random.Random) -> bytes:
    """A member with other content, under its right CRC."""
    members = zip_members(data)
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = {"png": "png", "npy": "npy", "json": "json", "pkl": "pickle"}.get(name.rpartition(".")[2], "")
    return build_zip([*members[:at], Member(name, mutate(content, kind, rng).data), *members[at + 1 :]])


def zip_name(data: bytes, rng: random.Random) -> bytes:
    members = zip_members(data)
    at = rng.randrange(len(members))
    return build_zip([*members[:at], Member(rng.choice(BAD_NAMES), members[at].data), *members[at + 1 :]])


def zip_layout(data: bytes, rng: random.Random) -> bytes:
    """Members left out, doubled, in another order, one more, or compressed in some way."""
    members = zip_members(data)
    what = rng.randrange(5)
    if what == 0:
        del members[rng.randrange(len(members))]
    elif what == 1:
        members.append(rng.choice(members))
    elif what == 2:
        rng.shuffle(members)
    elif what == 3:
        members.append(Member(rng.choice(BAD_NAMES), rng.randbytes(20)))
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return build_zip(members, rng.choice(methods) if what == 4 else zipfile.ZIP_STORED)


# Offset and size of the numbers in the three kinds of ZIP record, by PKWARE's APPNOTE 4.3.
_ZIP_FIELDS = {
    b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": (
        (4, 2),
        (6, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (38, 4),
        (42, 4),
    ),
    b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}


def zip_field(data: bytes, rng: random.Random) -> bytes:
    """A number in a record of the ZIP: sizes, offsets, flags, counts, CRCs."""
    signature = rng.choice(list(_ZIP_FIELDS))
    at = rng.choice([found.start() for found in re.finditer(re.escape(signature), data)])
    offset, size = rng.choice(_ZIP_FIELDS[signature])
    old = int.from_bytes(data[at + offset : at + offset + size], "little")
    new = rng.choice(
        (number(rng, size), (old + rng.choice((-1, 1, 100))) % (1 << 8 * size), old ^ (1 << rng.randrange(8)))
    )
    return data[: at + offset] + new.to_bytes(size, "little") + data[at + offset + size :]


# ----------------------------------------------------------------------------
# Tar.

_TAR_FIELDS = ((0, 100), (100, 8), (124, 12), (124, 12), (148, 8), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155))
_TAR_TEXTS = (
    b"../x.png",
    b"/x.png",
    b"7777777777",
    b"-1",
    b"\x80" + b"\xff" * 11,
    b"",
    *(b"%c" % kind for kind in b"05xLS2"),
)


def tar_field(data: bytes, rng: random.Random) -> bytes:
    """A field of a header: names, sizes, kinds; with the checksum of the header, mostly."""
    at = rng.choice([found.start() - 257 for found in re.finditer(b"ustar", data) if found.start() % 512 == 257])
    offset, size = rng.choice(_TAR_FIELDS)
    text = rng.choice((rng.choice(_TAR_TEXTS), rng.randbytes(size), b"%o" % number(rng, 6)))
    header = bytearray(data[at : at + 512])
    header[offset : offset + size] = text[:size].ljust(size, b"\0")
    if rng.random() < 0.9:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + header + data[at + 512 :]


# ----------------------------------------------------------------------------
# PNG.

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, content) of every chunk."""
    chunks, at = [], len(_PNG_SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def build_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    pieces = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return _PNG_SIGNATURE + b"".join(pieces)


def png_header(data: bytes, rng: random.Random) -> bytes:
    """Width, height, depth, colour type or interlacing."""
    chunks = png_chunks(data)
    header = bytearray(chunks[0][1])
    at, size = rng.choice(((0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)))
    header[at : at + size] = rng.choice((number(rng, size), rng.randrange(20))).to_bytes(size, "big")
    return build_png([(chunks[0][0], bytes(header)), *chunks[1:]])


def png_content(data: bytes, rng: random.Random) -> bytes:
    """A chunk with other bytes, sometimes below the compression, under its right CRC."""
    chunks = png_chunks(data)
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    if kind == b"IDAT" and rng.random() < 0.5:
        content = zlib.compress(rng.choice(BLIND)(zlib.decompress(content), rng))
    else:
        content = rng.choice(BLIND)(content, rng)
    return build_png([*chunks[:at], (kind, content), *chunks[at + 1 :]])


_BOMB = zlib.compress(b"\0" * 50_000_000, 9)  # 50 kB
_EXTRA_CHUNKS = (
    (b"zTXt", b"a\0\0" + _BOMB), (b"iTXt", b"a\0\1\0\0\0" + _BOMB), (b"iCCP", b"a\0\0" + _BOMB), (b"tEXt",
    b"a" * 100_000),
    (b"tRNS", b"\0" * 6), (b"PLTE", b"\0" * 768), (b"acTL", struct.pack(">II", 2**31, 0)), (b"eXIf",
    b"II*\0" + b"\xff" * 60),
    (b"IDAT", _BOMB), (b"IDAT", b""), (b"IEND", b""), (b"IHDR", b"\0" * 13), (b"gAMA", b""), (b"\x1b[2J", b"x"),
    (b"fdAT", b"\0" * 4), (b"fcTL", b"\0" * 26), (b"pHYs", b"\1"), (b"cHRM", b"\0"), (b"sRGB", b""),
)  # fmt: skip


def png_layout(data: bytes, rng: random.Random) -> bytes:
    """Chunks left out, doubled, in another order, or one more."""
    chunks = png_chunks(data)
    what = rng.randrange(4)
    if what == 0:
        del chunks[rng.randrange(len(chunks))]
    elif what == 1:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    elif what == 2:
        rng.shuffle(chunks)
    else:
        chunks.insert(rng.randrange(len(chunks) + 1), rng.choice(_EXTRA_CHUNKS))
    return build_png(chunks)


# ----------------------------------------------------------------------------
# NPY.

_DESCRIPTIONS = ("<f8", "<f4", "<f2", ">f8", "|O", "|S5", "<U3", "|V8", "<M8[ns]", "|b1", "|u1", "<i8", "<c16",
"f8,O", "",
                 "<f16", "|u9", "\x1b[2J")  # fmt: skip
_SHAPES = (
    "()", "(2,)", "(0,)", "(-1,)", "(3, 3)", "(1000000000000,)", "(2147483648, 2147483648)", "(1.5,)", "5", "None",
    "(2, 0, 9223372036854775807)", "(2", "(" * 300, "(10L,)", "(1,) + (2,)", "(True,)",
    "('x',)", "(99999999999999999999,)",
    "(1," * 40 + ")" * 40,
)  # fmt: skip


def npy_header(data: bytes, rng: random.Random) -> bytes:
    """Another element type, shape or order, or another text altogether, at its right length."""
    size = int.from_bytes(data[8:10], "little")
    text, rest = data[10 : 10 + size].decode("latin1").rstrip(), data[10 + size :]
    what = rng.randrange(6)
    if what == 0:
        text = re.sub(r"'descr': '[^']*'", lambda _: f"'descr': '{rng.choice(_DESCRIPTIONS)}'", text)
    elif what == 1:
        text = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {rng.choice(_SHAPES)}", text)
    elif what == 2:
        text = text.replace("False", rng.choice(("True", "1", "None", "'x'", "false")))
    elif what == 3:
        text = rng.choice(
            ("", "{}", "[", "__import__('os')", "'" * 3, "{" * 500, "\\x", "lambda: 0", "{'descr': 1}", text + text)
        )
    elif what == 4:
        rest = rng.choice(BLIND)(rest, rng)
    else:
        text = rng.choice(BLIND)(text.encode("latin1"), rng).decode("latin1")
    version = rng.choice((1, 1, 1, 2, 3, 0, 9))
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return data[:6] + bytes((version, 0)) + length + text.encode("latin1") + b"\n" + rest


# ----------------------------------------------------------------------------
# Pickles.

_SPLICES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\ndtype\n", b"cdnnlib.util\nEasyDict\n", b"R", b"b", b"(", b"t",
    b"0", b"2",
    b"\x94", b"N", b"]", b"}", b")", b"h\0", b"h\1", b"j\xff\xff\xff\xff", b"Q", b"\x8f", b"\x90", b"\x81", b"\x92",
    b"\x93", b"s",
    b"u", b"e", b"a", b"\x85", b"\x86", b"\x87", b"\x8a\xff", b"\x8a\x08" + b"\x7f" * 8, b"\x8e" + struct.pack("<Q",
    2**60),
    b"B\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"X\4\0\0\0\x1b[2J", b"J\xff\xff\xff\xff", b"G\x7f\xf8\0\0\0\0\0\0",
    b"G\x7f\xf0\0\0\0\0\0\0", b"\x88", b"\x89", b".", b"\x95" + b"\xff" * 8, b"cos\nsystem\nX\4\0\0\0true\x85R",
    b"(" * 300,
    b"]" * 300, b"\x8a\x10" + b"\x7f" * 16,
)  # fmt: skip


class Op(NamedTuple):
    name: str
    raw: bytes


@lru_cache(maxsize=200)
def pickle_ops(data: bytes) -> tuple[Op, ...]:
    """The opcodes up to the STOP, without frames (whose lengths would give every change away), and what follows it."""
    found = list(pickletools.genops(data))
    ends = [position for _, _, position in found[1:] if position is not None] + [
        data.index(b".", found[-1][2] or 0) + 1
    ]
    ops = [Op(code.name, data[start or 0 : end]) for (code, _, start), end in zip(found, ends, strict=True)]
    return (*(op for op in ops if op.name != "FRAME"), Op("", data[ends[-1] :]))


def pickle_layout(data: bytes, rng: random.Random) -> bytes:
    """Opcodes left out, doubled, swapped, or one more."""
    raw = [op.raw for op in pickle_ops(data)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(raw))
        what = rng.randrange(4)
        if what == 0:
            raw[at] = b""
        elif what == 1:
            raw.insert(rng.randrange(len(raw)), raw[at])
        elif what == 2:
            other = rng.randrange(len(raw))
            raw[at], raw[other] = raw[other], raw[at]
        else:
            raw.insert(at, rng.choice(_SPLICES))
    return b"".join(raw)


_TEXT_LENGTHS = {"SHORT_BINUNICODE": "<B", "BINUNICODE": "<I", "BINUNICODE8": "<Q"}
_BYTES_LENGTHS = {"SHORT_BINBYTES": "<B", "BINBYTES": "<I", "BINBYTES8": "<Q", "BYTEARRAY8": "<Q"}
_INTS = {
    "BININT": 4,
    "BININT1": 1,
    "BININT2": 2,
    "BINGET": 1,
    "BINPUT": 1,
    "LONG_BINGET": 4,
    "LONG_BINPUT": 4,
    "PROTO": 1,
}


def pickle_argument(data: bytes, rng: random.Random) -> bytes:
    """The argument of an opcode: a number, a text, a name, or what is inside a byte string."""
    ops = list(pickle_ops(data))
    usable = {*_TEXT_LENGTHS, *_BYTES_LENGTHS, *_INTS, "BINFLOAT", "GLOBAL"}
    at = rng.choice([i for i, op in enumerate(ops) if op.name in usable])
    name, raw = ops[at]
    if name in _INTS:
        raw = raw[:1] + number(rng, _INTS[name]).to_bytes(_INTS[name], "little")
    elif name == "BINFLOAT":
        raw = raw[:1] + struct.pack(">d", rng.choice((0.0, -1.0, 1e308, float("nan"), float("inf"), rng.random())))
    elif name == "GLOBAL":
        raw = rng.choice(
            [op.raw for op in ops if op.name == "GLOBAL"] + [b"cos\nsystem\n", b"cnumpy\nndarray.tofile\n"]
        )
    elif name in _TEXT_LENGTHS:
        layout = _TEXT_LENGTHS[name]
        others = [op.raw[1 + struct.calcsize(layout) :] for op in ops if op.name == name]
        content = rng.choice((rng.choice(others), b"", b"os", b"\x1b[2J", b"f8", b"O", b"__class__", b"\xff", b"|V8"))
        raw = raw[:1] + struct.pack(layout, len(content)) + content
    else:
        layout = _BYTES_LENGTHS[name]
        content = raw[1 + struct.calcsize(layout) :]
        inner = (pickle_layout, pickle_argument) if content.startswith(b"\x80") else BLIND
        content = _storage_stream(content, rng) if content.startswith(b"\x80") else rng.choice(inner)(content, rng)
        raw = raw[:1] + struct.pack(layout, len(content)) + content
    ops[at] = Op(name, raw)
    return b"".join(op.raw for op in ops)


def _storage_stream(stream: bytes, rng: random.Random) -> bytes:
    """A stream of torch.save inside the pickle, one of its five pickles mutated."""
    parts = []
    for _ in range(5):
        ops = pickle_ops(stream)
        parts.append(b"".join(op.raw for op in ops[:-1]))
        stream = ops[-1].raw
    at = rng.randrange(6)
    if at == 5:
        stream = rng.choice(BLIND)(stream, rng)
    else:
        parts[at] = rng.choice((pickle_layout, pickle_argument, *BLIND))(parts[at], rng)
    return b"".join(parts) + stream


# ----------------------------------------------------------------------------
# JSON.

_DEEP = "@deep@"  # stands for nesting that json.dumps could not write
_JSON_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, -(2**70), 10**400, 1e308, float("nan"), float("inf"), "",
    "x", "../x",
    "\x1b[2J\n", "\ud800", "x" * 100_000, [], {}, [[]], [None], {"": None}, ["x", "x"], [[["x"]]], {"labels": 1},
    _DEEP, "inf", "0-3",
)  # fmt: skip


def json_tree(data: bytes, rng: random.Random) -> bytes:
    """Some node of the tree replaced, left out or doubled."""
    root = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        parents = _containers(root)
        if not parents:
            root = rng.choice(_JSON_VALUES)
            continue
        parent = rng.choice(parents)
        keys = list(range(len(parent))) if isinstance(parent, list) else list(parent)
        key = rng.choice(keys)
        what = rng.random()
        if what < 0.15:
            del parent[key]
        elif what < 0.3 and isinstance(parent, list):
            parent.append(parent[key])
        elif what < 0.3:
            parent[rng.choice(("", "x", "\x1b[2J", "labels", "recipe", "weight", "\ud800"))] = parent.pop(key)
        elif what < 0.5:
            other = rng.choice(parents)
            parent[key] = json.loads(json.dumps(other))
        else:
            parent[key] = rng.choice(_JSON_VALUES)
    text = json.dumps(root).replace(f'"{_DEEP}"', "[" * 100_000 + "]" * 100_000)
    return text.encode("ascii") + (b"\n" if data.endswith(b"\n") else b"")


def _containers(node: Any) -> list[Any]:
    """All lists and dictionaries with something in them."""
    if not isinstance(node, list | dict) or not node:
        return []
    values = node if isinstance(node, list) else node.values()
    return [node, *(found for value in values for found in _containers(value))]


def json_line(data: bytes, rng: random.Random) -> bytes:
    """As `json_tree`, for one line of a file that has one JSON value per line."""
    lines = data.split(b"\n")
    at = rng.choice([i for i, line in enumerate(lines) if line.strip()])
    lines[at] = json_tree(lines[at], rng)
    return b"\n".join(lines)


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """The JSON at its head, or the JSON inside its metadata, at its right length."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    metadata = header.get("__metadata__", {})
    if metadata and rng.random() < 0.7:
        key = rng.choice(list(metadata))
        metadata[key] = json_tree(metadata[key].encode(), rng).decode()
        text = json.dumps(header).encode()
    else:
        text = json_tree(json.dumps(header).encode(), rng)
    return len(text).to_bytes(8, "little") + text + rest


STRUCTURED: dict[str, tuple[Mutation, ...]] = {
    "zip": (zip_content, zip_content, zip_name, zip_layout, zip_field, zip_field),
    "tar": (tar_field,),
    "png": (png_header, png_content, png_layout),
    "npy": (npy_header,),
    "pickle": (pickle_layout, pickle_argument),
    "json": (json_tree,),
    "jsonl": (json_line,),
    "safetensors": (safetensors_header,),
}
RESEALING = {tar_field, zip_content, zip_name, zip_layout, png_header, png_content, png_layout}
