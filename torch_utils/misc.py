"""Names that the source text inside EDM2 pickles imports from `torch_utils.misc`.

Nothing of this project calls them: they are here so that a file opened with `--trust-pickle` finds what
its embedded source asks for, without NVIDIA's package.
"""

from collections.abc import Sequence

import torch


def constant(
    value: object,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """Tensor of a number, list or array, broadcast to `shape`; needed as the explicit form of `const_like`.

    dtype None means torch's default float type, device None the CPU, memory_format None contiguous.
    """
    tensor = torch.as_tensor(value, dtype=dtype or torch.get_default_dtype(), device=device or "cpu")
    if shape is not None:
        tensor = tensor.expand(tuple(shape))
    return tensor.contiguous(memory_format=memory_format or torch.contiguous_format)


def const_like(
    ref: torch.Tensor,
    value: object,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """`constant` with the type and device of `ref`; needed by the networks' and encoders' sources."""
    return constant(value, shape, dtype or ref.dtype, device or ref.device, memory_format)
