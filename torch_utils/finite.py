"""Which values are not finite: asked before anything is written, gone on from or averaged."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def first_not_finite(state: Any) -> str | None:
    """Where in nested dictionaries and lists the first tensor stands that is not finite; None if all are."""
    for name, tensor in tensors_in(state):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested dictionaries and lists, each with its path: `name`, and keys and numbers after dots."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from tensors_in(item, f"{name}.{key}" if name else str(key))
