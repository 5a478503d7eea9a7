"""Files that want to run code, exhaust memory or confuse the reader, all made here: each is refused, nothing happens.

The files marked `runs` are shown to be real attacks first: Python's own unpickler falls for every one of them.
"""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MARKER = "marker"  # what a file that runs leaves behind, in the current folder


class Hostile(NamedTuple):
    data: bytes
    runs: bool = False


# ----------------------------------------------------------------------------
# A small assembler for pickles.


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def binary(raw):
    return b"B" + struct.pack("<I", len(raw)) + raw


def number(value):
    return b"J" + struct.pack("<i", value) if abs(value) < 2**31 else b"\x8a\x08" + struct.pack("<q", value)


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def args(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(function, *parts):
    return function + args(*parts) + b"R"


def mapping(**parts):
    return b"}(" + b"".join(text(key) + value for key, value in parts.items()) + b"u"


def program(body, protocol=4):
    return b"\x80" + bytes([protocol]) + body + b"."


COMMAND = text(f"echo >{MARKER}")
CODE = text(f"open({MARKER!r}, 'w').close()")
SYSTEM = name("os", "system")
RUN = call(SYSTEM, COMMAND)
ARRAY_HEAD = call(
    name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), args(number(0)), binary(b"b")
)
ORDERED = call(name("collections", "OrderedDict"))
EASY = name("dnnlib.util", "EasyDict") + b")\x81"
PERSISTENT = name("torch_utils.persistence", "_reconstruct_persistent_obj")
F8 = call(name("numpy", "dtype"), text("f8"), b"\x89", b"\x88") + args(
    number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0)
) + b"b"  # fmt: skip


def persistent(state, class_name="Precond", source="", kind="class", version=6, **extra):
    meta = mapping(
        type=text(kind),
        version=number(version),
        module_src=text(source),
        class_name=text(class_name),
        state=state,
        **extra,
    )
    return call(PERSISTENT, meta)


def stream(root, keys=b"](X\x01\x00\x00\x000e", magic=0x1950A86A20F9469CFC6C, tail=b""):
    """A stream of torch.save in the old form around `root`."""
    system = mapping(protocol_version=number(1001), little_endian=b"\x88", type_sizes=b"}")
    header = program(b"\x8a\x0a" + magic.to_bytes(10, "little"), 2) + program(number(1001), 2) + program(system, 2)
    return header + program(root, 2) + program(keys, 2) + tail


def reference(numel=4, kind=("torch", "FloatStorage"), view=b"N", key="0"):
    return args(text("storage"), name(*kind), text(key), text("cpu"), number(numel), view) + b"Q"


def storage(numel=4, data=None, root=None):
    data = b"\0" * 4 * numel if data is None else data
    return stream(reference(numel) if root is None else root, tail=struct.pack("<q", numel) + data)


def loaded(stream_bytes):
    return call(name("torch.storage", "_load_from_bytes"), binary(stream_bytes))


def tensor(shape=(4,), strides=(1,), offset=0, hooks=ORDERED, source=None):
    sizes, steps = (args(*map(number, part)) for part in (shape, strides))
    source = loaded(storage()) if source is None else source
    return call(name("torch._utils", "_rebuild_tensor_v2"), source, number(offset), sizes, steps, b"\x89", hooks)


def array(shape=(2,), dtype=F8, data=None, version=1):
    data = binary(b"\0" * 16) if data is None else data
    return ARRAY_HEAD + args(number(version), args(*map(number, shape)), dtype, b"\x89", data) + b"b"


def dtype_of(code):
    return call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")


class Reduces:
    """Pickles as a call."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def network_state(**more):
    """State of a module, as far as a hostile file needs one."""
    return mapping(_parameters=b"}", _buffers=b"}", _modules=b"}", _init_args=b")", _init_kwargs=b"}", **more)


# ----------------------------------------------------------------------------
# The corpus.


def direct_attacks():
    yield "reduce os.system", Hostile(program(RUN), runs=True)
    yield "reduce posix.system", Hostile(program(call(name(os.name, "system"), COMMAND)), runs=True)
    yield "stack global os.system", Hostile(program(call(stack_name("os", "system"), COMMAND)), runs=True)
    yield "protocol 0 os.system", Hostile(b"cos\nsystem\n(S'echo >" + MARKER.encode() + b"'\ntR.", runs=True)
    yield "protocol 2 os.system", Hostile(program(RUN, 2), runs=True)
    yield "builtins.exec", Hostile(program(call(name("builtins", "exec"), CODE)), runs=True)
    yield "builtins.eval", Hostile(program(call(name("builtins", "eval"), CODE)), runs=True)
    yield "python 2 __builtin__.eval", Hostile(program(call(name("__builtin__", "eval"), CODE), 2), runs=True)
    imported = call(name("builtins", "__import__"), text("os"))
    system = call(name("builtins", "getattr"), imported, text("system"))
    yield "getattr chain", Hostile(program(call(system, COMMAND)), runs=True)
    yield (
        "dotted name",
        Hostile(program(call(stack_name("torch_utils.persistence", "inspect.os.system"), COMMAND)), runs=True),
    )
    yield (
        "our own exec helper",
        Hostile(program(call(name("torch_utils.persistence", "_execute_source"), CODE, text("x"))), runs=True),
    )
    yield "our own trust switch", Hostile(program(call(name("torch_utils.persistence", "trusting"))))
    touch = b"](" + text("touch") + text(MARKER) + b"e"
    popen = name("subprocess", "Popen")
    yield "NEWOBJ", Hostile(program(popen + args(touch) + b"\x81"))
    yield "NEWOBJ_EX", Hostile(program(popen + args(COMMAND) + mapping(shell=b"\x88") + b"\x92"))
    yield "copyreg.__newobj__", Hostile(program(call(name("copyreg", "__newobj__"), popen, touch)))
    yield "subprocess.Popen", Hostile(program(call(popen, touch)), runs=True)
    yield "INST", Hostile(b"\x80\x02(" + COMMAND + b"ios\nsystem\n.", runs=True)
    yield "OBJ", Hostile(b"\x80\x02(" + popen + touch + b"o.", runs=True)
    yield "EXT1", Hostile(b"\x80\x02\x82\x01)R.")
    yield "EXT2", Hostile(b"\x80\x02\x83\x01\x00)R.")
    yield "EXT4", Hostile(b"\x80\x02\x84\x01\x00\x00\x00)R.")
    yield "PERSID", Hostile(b"\x80\x02Pexternal\n.")
    yield "BINPERSID", Hostile(program(text("external") + b"Q"))
    yield "NEXT_BUFFER", Hostile(b"\x80\x05\x97.")


def through_libraries():
    imported = call(name("importlib", "import_module"), text("os"))
    partial = call(name("functools", "partial"), SYSTEM, COMMAND)
    method = call(name("operator", "methodcaller"), text("system"), COMMAND)
    inner = pickle.dumps(Reduces(exec, (f"open({MARKER!r}, 'w').close()",)))
    yield "functools.partial", Hostile(program(call(partial)), runs=True)
    yield "operator.methodcaller", Hostile(program(call(method, imported)), runs=True)
    yield (
        "copyreg._reconstructor",
        Hostile(
            program(call(name("copyreg", "_reconstructor"), name("socket", "socket"), name("builtins", "object"), b"N"))
        ),
    )
    yield "pickle.loads", Hostile(program(call(name("pickle", "loads"), binary(inner))), runs=True)
    yield "marshal.loads", Hostile(program(call(name("marshal", "loads"), binary(b"N"))))
    yield "types.CodeType", Hostile(program(call(name("types", "CodeType"))))
    yield "timeit", Hostile(program(call(name("timeit", "timeit"), text("pass"), CODE)), runs=True)
    yield "runpy", Hostile(program(call(name("runpy", "_run_code"), CODE, b"}")), runs=True)
    yield "cProfile.run", Hostile(program(call(name("cProfile", "run"), CODE)), runs=True)
    yield "webbrowser", Hostile(program(call(name("webbrowser", "open"), text("http://127.0.0.1:9/"))))
    yield "socket", Hostile(program(call(name("socket", "create_connection"), args(text("127.0.0.1"), number(9)))))
    yield "open for writing", Hostile(program(call(name("builtins", "open"), text(MARKER), text("w"))), runs=True)
    yield "numpy.load", Hostile(program(call(name("numpy", "load"), text(MARKER))))
    yield (
        "numpy.memmap",
        Hostile(
            program(call(name("numpy", "memmap"), text(MARKER), text("u1"), text("w+"), number(0), number(9))),
            runs=True,
        ),
    )
    runstring = name("numpy.testing._private.utils", "runstring")
    yield "numpy runstring", Hostile(program(call(runstring, CODE, b"}")), runs=True)
    yield "torch.load", Hostile(program(call(name("torch", "load"), text(MARKER))))
    yield "torch.hub.load", Hostile(program(call(name("torch.hub", "load"), text("evil/evil"), text("net"))))
    yield "torch.serialization", Hostile(program(call(name("torch.serialization", "load"), text(MARKER))))
    yield "torch unsafe rebuild", Hostile(program(call(name("torch._utils", "_rebuild_wrapper_subclass"))))
    yield "torch Linear", Hostile(program(name("torch.nn.modules.linear", "Linear") + b")\x81}b"))
    encode = name("_codecs", "encode")
    yield "encode by another codec", Hostile(program(call(encode, text("a"), text("rot13"))))
    yield "encode of a text that is not Latin-1", Hostile(program(call(encode, text("\u0100"), text("latin1"))))
    yield "encode of a number", Hostile(program(call(encode, number(1), text("latin1"))))
    yield "encode without arguments", Hostile(program(call(encode)))
    yield "encode as an instance", Hostile(program(encode + b")\x81"))
    yield "encode with a state", Hostile(program(call(encode, text("a"), text("latin1")) + b"}b"))
    once = text("a" * 2**21) + b"q\x00"
    again = call(encode, b"h\x00", text("latin1"))
    yield "a long text encoded again and again", Hostile(program(b"]" + b"(" + once + again * 10_000 + b"e", 2))


def hidden_attacks():
    nested = stream(call(SYSTEM, COMMAND))
    yield "root of the torch stream", Hostile(program(loaded(nested)), runs=True)
    yield "in the torch stream's magic number", Hostile(program(loaded(program(RUN, 2))), runs=True)
    in_system = program(b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little"), 2) + program(number(1001), 2)
    yield "in the torch stream's system part", Hostile(program(loaded(in_system + program(RUN, 2))), runs=True)
    yield "in the torch stream's keys", Hostile(program(loaded(stream(reference(), keys=RUN))), runs=True)
    yield "persistent id of the torch stream", Hostile(program(loaded(stream(args(text("storage"), RUN) + b"Q"))), True)
    yield "storage type of the torch stream", Hostile(program(loaded(stream(reference(kind=("os", "system"))))))
    yield (
        "torch stream behind a dotted name",
        Hostile(program(call(stack_name("torch", "storage._load_from_bytes"), binary(nested))), runs=True),
    )
    yield "outer names inside the torch stream", Hostile(program(loaded(stream(loaded(nested)))), runs=True)
    yield "a tensor's hooks", Hostile(program(tensor(hooks=RUN)), runs=True)
    yield (
        "a parameter's hooks",
        Hostile(program(call(name("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", mapping(hook=SYSTEM)))),
    )
    evil = f"open({MARKER!r}, 'w').close()\nclass Evil: pass\n"
    yield "source of an unknown class", Hostile(program(persistent(b"}", "Evil", evil)))
    yield "encoder", Hostile(program(EASY + b"(" + text("ema") + b"N" + text("encoder") + RUN + b"u"), runs=True)
    state = network_state(attribute=RUN)
    yield "module state", Hostile(program(mapping(ema=persistent(state))), runs=True)
    hooks = ORDERED + b"(" + number(0) + name("os", "system") + b"u"
    yield "hook of a module", Hostile(program(mapping(ema=persistent(network_state(_forward_hooks=hooks)))))
    yield "constructor arguments", Hostile(program(mapping(ema=persistent(mapping(_init_kwargs=mapping(a=RUN))))), True)
    yield "in a key", Hostile(program(b"}" + RUN + b"Ns"), runs=True)
    yield "second pickle behind the first", Hostile(program(b"}") + program(RUN))
    yield (
        "torch container's state",
        Hostile(
            program(name("torch.nn.modules.container", "ModuleDict") + b")\x81" + mapping(_modules=RUN) + b"b"),
            runs=True,
        ),
    )
    objects = np.array([Reduces(exec, (f"open({MARKER!r}, 'w').close()",))], dtype=object)
    yield "numpy object array", Hostile(pickle.dumps(objects), runs=True)
    yield "numpy object array, protocol 5", Hostile(pickle.dumps(objects, 5), runs=True)
    yield "numpy array of objects by bytes", Hostile(program(array(dtype=dtype_of("O"))))
    scalar = name("numpy.core.multiarray", "scalar")
    yield "numpy object scalar", Hostile(program(call(scalar, dtype_of("O"), binary(b"\x80\x04N."))))
    yield "unnamed function", Hostile(program(call(ORDERED, COMMAND)))


def state_tricks():
    slots = args(b"N", mapping(__setitem__=SYSTEM))
    yield "state of a class", Hostile(program(name("dnnlib.util", "EasyDict") + slots + b"b"))
    yield "state of a function", Hostile(program(PERSISTENT + mapping(__code__=b"N") + b"b"))
    yield "class change by state", Hostile(program(EASY + mapping(__class__=name("dnnlib.util", "EasyDict")) + b"b"))
    yield "__setstate__ in the state", Hostile(program(EASY + mapping(__setstate__=SYSTEM) + b"b" + COMMAND + b"b"))
    yield "dictionary state of OrderedDict", Hostile(program(ORDERED + mapping(__reduce__=text("x")) + b"b"))
    yield "state of a list", Hostile(program(b"]}b"))
    yield "state of a record", Hostile(program(persistent(b"}") + b"}b"))
    yield "state set twice", Hostile(program(array() + args(number(1)) + b"b"))
    yield "state of a tensor", Hostile(program(tensor() + b"}b"))
    yield "items of a record", Hostile(program(persistent(b"}") + text("state") + b"Ns"))
    yield "items of an array", Hostile(program(array() + number(0) + b"Ns"))
    yield "appending to a dictionary", Hostile(program(b"}Na"))
    yield "appending to an EasyDict", Hostile(program(EASY + b"Na"))
    yield "members of a list", Hostile(program(b"](N\x90"))
    yield "an odd number of items", Hostile(program(b"}(NNNu"))
    yield "OrderedDict of a generator", Hostile(program(call(name("collections", "OrderedDict"), b"](]e")))
    yield "EasyDict by call", Hostile(program(call(name("dnnlib.util", "EasyDict"), b"}")))
    yield "ndarray by call", Hostile(program(call(name("numpy", "ndarray"), args(number(2**31)))))
    yield "ndarray by NEWOBJ", Hostile(program(name("numpy", "ndarray") + args(args(number(2**31))) + b"\x81"))
    yield "persistent object of another type", Hostile(program(persistent(b"}", kind="function")))
    yield "persistent object with more", Hostile(program(persistent(b"}", more=b"N")))
    yield "persistent object named by a path", Hostile(program(persistent(b"}", class_name="os.system")))
    yield "persistent state with odd names", Hostile(program(persistent(b"}(" + text("\x1b[2J") + b"Nu")))
    yield "escape sequences in a name", Hostile(program(call(name("os\x1b[2J", "system"), COMMAND)))
    yield "a tuple as key", Hostile(program(b"})Ns"))
    yield "a float as key", Hostile(program(b"}G" + struct.pack(">d", 1.0) + b"Ns"))
    keys = (b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little") + b"N" for k in range(10_000))
    yield "colliding keys", Hostile(program(b"}(" + b"".join(keys) + b"u"))


def memory_bombs():
    huge = struct.pack("<Q", 2**60)
    yield "bytes of 2^60", Hostile(b"\x80\x04\x8e" + huge)
    yield "text of 2^60", Hostile(b"\x80\x04\x8d" + huge)
    yield "bytearray of 2^60", Hostile(b"\x80\x05\x96" + huge)
    yield "bytes of 2^63 + 1", Hostile(b"\x80\x04\x8e" + struct.pack("<Q", 2**63 + 1))
    yield "frame of 2^62", Hostile(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.")
    yield "text of 4 GiB", Hostile(b"\x80\x04X\xff\xff\xff\xff")
    yield "text of 17 MiB", Hostile(program(text("a" * 17 * 2**20)))
    yield "integer of 2^31 bytes", Hostile(b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1))
    yield "integer of 255 bytes", Hostile(program(b"\x8a\xff" + b"\x7f" * 255))
    yield "decimal integer", Hostile(program(b"L" + b"9" * 10**6 + b"L\n"))
    yield "far memo", Hostile(program(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"))
    yield "set flood", Hostile(program(b"\x8f" * 600_000))
    yield "mark flood", Hostile(program(b"(" * 600_000))
    yield "deep lists", Hostile(program(b"]" * 20_000 + b"a" * 19_999))
    yield "deep by reference", Hostile(_chain(20_000, copies=1))
    yield "billion laughs", Hostile(_chain(60, copies=2))
    yield "list in itself", Hostile(program(b"]q\x00h\x00a"))
    yield "dictionary in itself", Hostile(program(b"}q\x00" + text("a") + b"h\x00s"))
    yield "record in itself", Hostile(program(EASY + b"q\x00" + text("a") + b"h\x00s"))
    yield "array of 2^60", Hostile(program(array(shape=(2**60,))))
    yield "array of 2^62 x 0", Hostile(program(array(shape=(2**61, 0, 2**61), data=binary(b""))))
    yield "array of negative shape", Hostile(program(array(shape=(-2,))))
    yield "array of 40 dimensions", Hostile(program(array(shape=(1,) * 40)))
    yield "array of texts", Hostile(program(array(dtype=dtype_of("S1000000000"))))
    yield "array of voids", Hostile(program(array(dtype=dtype_of("V16"))))
    yield "array of records", Hostile(program(array(dtype=dtype_of("f8,O"))))
    yield "array of subarrays", Hostile(program(array(dtype=dtype_of("(1000000,)f8"))))
    yield "array of dates", Hostile(program(array(dtype=dtype_of("M8[ns]"))))
    yield "array of an unknown state", Hostile(program(array(version=2)))
    yield "array without content", Hostile(program(ARRAY_HEAD))
    arrays = array(shape=(2**17,), data=b"h\x00") * 3000
    yield "arrays larger than the file", Hostile(program(b"(" + binary(b"\0" * 2**20) + b"q\x00" + arrays + b"t"))


def _chain(length, copies):
    """Lists, each holding the one before it `copies` times, all in one tuple."""
    steps = b""
    for i in range(length):
        steps += b"](" + (b"j" + struct.pack("<I", i)) * copies + b"er" + struct.pack("<I", i + 1)
    return program(b"(]r\0\0\0\0" + steps + b"t")


def repetitions():
    """Small files that refer to one thing again and again: whoever walks through them comes across gigabytes."""
    again = b"h\x00"
    megabyte = text("a" * 2**20) + b"q\x00"
    yield "text repeated", Hostile(program(b"](" + megabyte + again * 1000 + b"e"))
    yield (
        "text repeated in options",
        Hostile(
            program(
                mapping(
                    ema=persistent(network_state()), dataset_kwargs=mapping(a=b"](" + megabyte + again * 1000 + b"e")
                )
            )
        ),
    )
    yield "list of texts repeated", Hostile(program(b"(](" + megabyte + again * 8 + b"eq\x01" + b"h\x01" * 1000 + b"t"))
    yield (
        "array repeated",
        Hostile(program(b"(" + array((2**18,), F8, binary(bytes(2**21))) + b"q\x00" + again * 100 + b"t")),
    )
    keys = b"}(" + b"".join(text(f"{i:01000d}") + b"N" for i in range(1000)) + b"u"
    yield "keys repeated", Hostile(program(b"(" + keys + b"q\x00" + again * 1000 + b"t"))
    yield "a long key", Hostile(program(b"}" + text("a" * 2000) + b"Ns"))
    yield "a long member", Hostile(program(b"\x8f(" + text("a" * 2000) + b"\x90"))
    yield "more texts than memory", Hostile(program(b"(" + text("a" * 2**20) * 70 + b"t"))
    state = mapping(**{f"a{i}": b"N" for i in range(20_000)})
    meta = mapping(type=text("class"), version=number(6), module_src=text(""), class_name=text("X"), state=state)
    objects = PERSISTENT + b"q\x01" + args(meta) + b"q\x00R" + b"h\x01h\x00R" * 2000
    yield "state repeated", Hostile(program(b"(" + objects + b"t"))
    long_name = text("os") + text("a" * 2**20) + b"\x93"
    yield "a long name", Hostile(program(long_name))
    slow = binary(program(b"(" + text("a" * 2**20) + b"t", 2) * 5) + b"q\x00"
    yield (
        "text in a stream",
        Hostile(program(b"(" + slow + call(name("torch.storage", "_load_from_bytes"), again) + b"t")),
    )


def tensor_bombs():
    short = storage(numel=4, data=b"\0" * 15)
    yield "storage shorter than announced", Hostile(program(loaded(short)))
    yield "storage longer than announced", Hostile(program(loaded(storage() + b"\0" * 4)))
    yield "storage of 2^60", Hostile(program(loaded(stream(reference(2**60), tail=struct.pack("<q", 2**60)))))
    yield "storage of negative size", Hostile(program(loaded(stream(reference(-1), tail=struct.pack("<q", -1)))))
    yield (
        "two sizes of one storage",
        Hostile(program(loaded(stream(reference(4), tail=struct.pack("<q", 3) + b"\0" * 16)))),
    )
    yield (
        "storage that is a view",
        Hostile(program(loaded(stream(reference(view=args(text("a"), number(0), number(4))))))),
    )
    yield "storage under another key", Hostile(program(loaded(stream(reference(key="1"), tail=b"\0" * 24))))
    yield "wrong magic number", Hostile(program(loaded(stream(reference(), magic=1))))
    yield "no storage in the stream", Hostile(program(loaded(stream(b"]"))))
    yield "no stream", Hostile(program(call(name("torch.storage", "_load_from_bytes"), text("a"))))
    modern = io.BytesIO()
    torch.save(torch.zeros(3), modern)
    yield "zip form in the stream", Hostile(program(loaded(modern.getvalue())))
    yield "tensor beyond its storage", Hostile(program(tensor(shape=(5,))))
    yield "tensor of 2^40", Hostile(program(tensor(shape=(2**40,))))
    yield "tensor by stride 0", Hostile(program(tensor(shape=(2**40,), strides=(0,))))
    yield "tensor by far stride", Hostile(program(tensor(shape=(2,), strides=(2**40,))))
    yield "tensor by negative stride", Hostile(program(tensor(strides=(-1,), offset=3)))
    yield "tensor of negative size", Hostile(program(tensor(shape=(-4,))))
    yield "tensor by far offset", Hostile(program(tensor(offset=1)))
    yield "tensor that overlaps", Hostile(program(tensor(shape=(2, 3), strides=(1, 1))))
    yield "tensor without strides", Hostile(program(tensor(strides=())))
    yield "tensor of a list", Hostile(program(tensor(source=b"]")))
    many = tensor(shape=(2**19,), source=b"h\x00")
    big = loaded(storage(2**19, b"\0" * 2**21))
    yield "tensors larger than the file", Hostile(program(b"(" + big + b"q\x00" + many * 1000 + b"t"))


def no_pickles():
    modern = io.BytesIO()
    torch.save({"ema": torch.zeros(3)}, modern)
    yield "torch.save file", Hostile(modern.getvalue())
    yield "gzip", Hostile(gzip.compress(program(b"}")))
    yield "empty file", Hostile(b"")
    yield "zeros", Hostile(b"\0" * 1000)
    yield "text", Hostile(b"hello, world\n")
    yield "web page", Hostile(b"<!DOCTYPE html><html>404</html>")
    yield "git lfs", Hostile(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    yield "random bytes", Hostile(np.random.RandomState(0).bytes(4096))
    yield "protocol alone", Hostile(b"\x80\x04")
    yield "protocol 9", Hostile(b"\x80\x09N.")
    yield "stop alone", Hostile(b"\x80\x04.")
    yield "two values", Hostile(b"\x80\x04NN.")
    yield "open mark", Hostile(b"\x80\x04(N.")
    yield "memo that is not there", Hostile(program(b"h\x07"))
    yield "tuple without mark", Hostile(program(b"t"))
    yield "call of a number", Hostile(program(b"K\x01)R"))
    yield "call with a list", Hostile(program(SYSTEM + b"]R"))
    yield "text that is not UTF-8", Hostile(program(b"X\x02\x00\x00\x00\xff\xff"))
    yield "name without end", Hostile(b"\x80\x04cos" + b"a" * 1000)
    yield "a number", Hostile(program(number(3)))
    yield "POP and DUP", Hostile(program(b"N20"))


CORPUS = dict(
    item
    for part in (
        direct_attacks, through_libraries, hidden_attacks, state_tricks, memory_bombs, repetitions, tensor_bombs,
        no_pickles
    )
    for item in part()
)  # fmt: skip
# Read as inert data by the pickle reader, so that only the reader of networks has something to refuse.
JUST_DATA = {"a number", "far memo", "source of an unknown class", "hook of a module"}


# ----------------------------------------------------------------------------
# The tests. Files are read in processes of their own, where an audit hook reports whatever the interpreter does.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The corpus as files, `runs.json` and `all.json` with their names, and a good file `good.pkl`."""
    folder = tmp_path_factory.mktemp("hostile")
    for number_, hostile in enumerate(CORPUS.values()):
        (folder / f"{number_:03d}.pkl").write_bytes(hostile.data)
    titles = {f"{number_:03d}.pkl": title for number_, title in enumerate(CORPUS)}
    (folder / "all.json").write_text(json.dumps(titles))
    runs = [file for file, title in titles.items() if CORPUS[title].runs]
    (folder / "runs.json").write_text(json.dumps(runs))
    from training.network_io import save_network
    from training.networks_edm2 import Precond

    net = Precond(8, 3, 2, model_channels=8, channel_mult=[1], num_blocks=1, channels_per_head=8)
    save_network(folder / "good.pkl", net, dataset_kwargs={"path": "x"})
    return folder


def in_subprocess(folder, code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


PLAIN_UNPICKLER = """
import contextlib, io, json, os, pickle, time, warnings
import torch, torch_utils.persistence
warnings.simplefilter("ignore")
tame = []
for file in json.load(open("runs.json")):
    try:
        with open(file, "rb") as opened, contextlib.redirect_stdout(io.StringIO()):
            pickle.load(opened)
    except Exception:
        pass
    deadline = time.time() + 60
    while not os.path.exists("marker") and time.time() < deadline:
        time.sleep(0.01)
    if os.path.exists("marker"):
        os.remove("marker")
    else:
        tame.append(file)
print(json.dumps(tame))
"""


def test_the_attacks_are_real(folder):
    """Python's unpickler runs each of the files said to run something: otherwise the next test shows nothing."""
    tame = in_subprocess(folder, PLAIN_UNPICKLER)
    titles = json.loads((folder / "all.json").read_text())
    assert [titles[file] for file in tame] == []
    assert sum(hostile.runs for hostile in CORPUS.values()) >= 30


OUR_READERS = """
import json, os, resource, sys, time
from torch_utils import safe_pickle
from training.network_io import inspect_network, load_network

def attempt(reader, file):
    try:
        reader(file)
        return "read"
    except ValueError as error:
        return type(error).__name__ + ": " + str(error)

readers = {"load": safe_pickle.load, "load_network": load_network, "inspect": inspect_network}
for file in ("good.pkl", "000.pkl"):  # whatever is imported late is imported now
    for reader in readers.values():
        attempt(reader, file)

events, watching = [], False
HARMLESS = {"mmap.__new__", "builtins.id", "sys._getframe"}

def hook(event, args):
    if not watching or event in HARMLESS:
        return
    if event == "open" and (args[1] in ("r", "rb") or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    events.append([event, repr(args)[:200]])

sys.addaudithook(hook)
with open("/proc/self/status") as status:
    virtual = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (virtual + 1500 * 2**20,) * 2)
outcome = {}
for file in json.load(open("all.json")):
    for name, reader in readers.items():
        events.clear()
        watching, start = True, time.process_time()
        result = attempt(reader, file)
        seconds, watching = time.process_time() - start, False
        outcome.setdefault(file, {})[name] = {"result": result, "events": list(events), "seconds": seconds}
outcome["marker"] = os.path.exists("marker")
print(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def outcome(folder):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux: the memory limit")
    raw = in_subprocess(folder, OUR_READERS)
    titles = json.loads((folder / "all.json").read_text())
    assert raw.pop("marker") is False
    return {titles[file]: result for file, result in raw.items()}


def test_every_file_is_refused_with_an_error_of_ours(outcome):
    for title, results in outcome.items():
        if title not in JUST_DATA:
            ours = ("UnsafePickleError: ", "DamagedPickleError: ", "OtherFormatError: ")
            assert results["load"]["result"].startswith(ours), title
        refused = ("UnsafePickleError: ", "DamagedPickleError: ", "OtherFormatError: ", "ValueError: ")
        assert results["load_network"]["result"].startswith(refused), title


def test_nothing_happens_while_reading(outcome):
    """No import, exec, compile, process, socket or open for writing; see the hook."""
    happened = {
        (title, name): result["events"]
        for title, results in outcome.items()
        for name, result in results.items()
        if result["events"]
    }
    assert happened == {}


def test_refusals_are_quick(outcome):
    slow = {
        (title, name): result["seconds"]
        for title, results in outcome.items()
        for name, result in results.items()
        if result["seconds"] > 10  # of processor time; the slowest take 1
    }
    assert slow == {}


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("reduce os.system", "os.system"),
        ("getattr chain", "builtins.getattr"),
        ("root of the torch stream", "os.system"),
        ("EXT1", "EXT1"),
        ("BINPERSID", "persistent id"),
        ("NEWOBJ", "subprocess.Popen"),
        ("numpy object array", "object|builtins.exec|number"),
        ("bytes of 2^60", "1152921504606846976 bytes"),
        ("billion laughs", "nested|values"),
        ("list in itself", "itself"),
        ("tensor by stride 0", "stride"),
        ("storage of 2^60", "storage"),
        ("source of an unknown class", "Evil|ema"),
        ("zip form in the stream", "zip"),
        ("gzip", "gzip"),
        ("web page", "HTML"),
        ("empty file", "empty"),
        ("arrays larger than the file", "bomb"),
        ("text repeated", "bomb"),
        ("text repeated in options", "bomb"),
        ("array repeated", "bomb"),
        ("keys repeated", "bomb"),
        ("a long key", "2000 characters"),
        ("state repeated", "with repetitions"),
        ("tensors larger than the file", "bomb"),
    ],
)
def test_refusals_say_what_is_wrong(outcome, title, words):
    message = outcome[title]["load_network"]["result"]
    assert any(word in message for word in words.split("|")), message
    of_another_kind = title in ("gzip", "web page")  # neither to be trusted nor damaged
    assert ("--trust-pickle" in message or "Fetch or copy it again" in message) != of_another_kind


def test_a_good_file_is_read_where_the_others_are_refused(folder):
    from training.network_io import load_network

    assert load_network(folder / "good.pkl").dataset_kwargs == {"path": "x"}


def test_truncated_anywhere(folder):
    """Every cut of a good file, at the first 1000 bytes and at a sample of later ones."""
    from torch_utils import safe_pickle
    from training.network_io import load_network

    whole = pickle.dumps({"ema": load_network(folder / "good.pkl").net}, protocol=3)  # 4 has frames, found out at once
    cuts = [*range(1000), *range(1000, len(whole), 997), len(whole) - 1]
    for cut in cuts:
        with pytest.raises(safe_pickle.UnsafePickleError):
            safe_pickle.loads(whole[:cut])


def test_altered_anywhere(folder):
    """A good file with one byte changed is read as data or refused by the reader's own error, nothing else."""
    from torch_utils import safe_pickle

    whole = bytearray((folder / "good.pkl").read_bytes())
    generator = np.random.RandomState(1)
    refused = 0
    for position in generator.randint(len(whole), size=60):
        altered = bytearray(whole)
        altered[position] ^= int(generator.randint(1, 256))
        try:
            safe_pickle.loads(bytes(altered))
        except safe_pickle.UnsafePickleError:
            refused += 1
    assert 0 < refused < 60
