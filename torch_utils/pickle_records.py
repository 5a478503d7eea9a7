"""What the safe reader turns objects in a pickle into: data that does nothing by itself."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

# Bytes per element of the types that a tensor in a file may have, by their names in torch.
ELEMENT_BYTES = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as it lies in the file.

    dtype: a key of `ELEMENT_BYTES`. shape, strides, offset: in elements of the storage; every element lies inside it
    and no two share a place. storage: all bytes of the storage, little-endian, usually a window on the file itself.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: memoryview = field(repr=False)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes that `to_torch` takes."""
        return self.numel * ELEMENT_BYTES[self.dtype]

    def to_torch(self) -> "torch.Tensor":
        """The tensor in memory of its own: contiguous, on the CPU, in the type of the file."""
        import torch  # here, because reading and inspecting files needs none

        dtype = getattr(torch, self.dtype)
        if self.numel == 0:
            return torch.empty(self.shape, dtype=dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        size = ELEMENT_BYTES[self.dtype]
        window = np.frombuffer(self.storage[self.offset * size : (last + 1) * size], np.uint8).copy()
        return torch.from_numpy(window).view(dtype).as_strided(self.shape, self.strides).contiguous()


@dataclass(frozen=True, eq=False)
class PersistentRecord:
    """A persistent object: what its file says about it. Nothing of it has been executed.

    class_name: name in the module whose source text is `module_src`. state: the object's attributes. version: of the
    persistence format.
    """

    class_name: str
    version: int
    state: dict[str, Any] = field(repr=False)
    module_src: str = field(repr=False)
    source_sha256: str


@dataclass(frozen=True, eq=False)
class ModuleRecord:
    """A torch container (`class_name`: ModuleDict, ModuleList or Sequential) with its attributes."""

    class_name: str
    state: dict[str, Any] = field(repr=False)
