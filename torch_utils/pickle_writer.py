"""Pickling objects that hold tensors, such that equal content gives equal bytes.

Torch names every storage in a pickle after its address in memory, so that the same network gives another file each
time. Here every storage, each a stream of its own in the old form of `torch.save`, is named "0". Readers cannot tell
the difference.
"""

import io
import pickle
from typing import IO, Any

import torch

#: What Python 3.8 to 3.13 write by themselves.
PROTOCOL = 4

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
_STREAM_PROTOCOL = 2
_SYSTEM = {"protocol_version": _STREAM_VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
_NAME = "0"
_STORAGE_CLASSES = {
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}


def dump(content: object, file: IO[bytes]) -> None:
    """Pickle `content` to `file`. Raises what pickling raises for objects that cannot be pickled."""
    _Pickler(file, PROTOCOL).dump(content)


class _Pickler(pickle.Pickler):
    """Python's pickler, apart from storages."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.TypedStorage):
            return torch.storage._load_from_bytes, (_storage_stream(obj),)
        return NotImplemented


def _storage_stream(storage: torch.TypedStorage) -> bytes:
    """A storage as `torch.save` in its old form writes it, under a fixed name."""
    elements = torch.empty(0, dtype=storage.dtype).set_(storage).cpu()
    stream = io.BytesIO()
    for header in (_STREAM_MAGIC, _STREAM_VERSION, _SYSTEM):
        pickle.dump(header, stream, protocol=_STREAM_PROTOCOL)
    reference = ("storage", _STORAGE_CLASSES[storage.dtype], _NAME, "cpu", len(elements), None)
    _ReferencePickler(reference, stream).dump(storage)
    pickle.dump([_NAME], stream, protocol=_STREAM_PROTOCOL)
    stream.write(len(elements).to_bytes(8, "little"))
    stream.write(elements.view(torch.uint8).numpy().tobytes())
    return stream.getvalue()


class _ReferencePickler(pickle.Pickler):
    """Writes a storage as the reference by which old streams name it: (kind, class, name, place, length, view)."""

    def __init__(self, reference: tuple[Any, ...], file: IO[bytes]) -> None:
        super().__init__(file, _STREAM_PROTOCOL)
        self._reference = reference

    def persistent_id(self, obj: Any) -> Any:
        return self._reference if isinstance(obj, torch.TypedStorage) else None
