"""Weights of a component of a pipeline: which files they are in, and filling a network with them.

Files are `diffusion_pytorch_model.safetensors` of diffusers and `model.safetensors` of transformers, in one piece or in
shards that an index lists. Where there are none, files of `torch.save` (`.bin`) are taken, which
`torch_utils.tensor_file` reads without running them; where only the variant fp16 is there, that is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dnnlib.regular import read_regular
from dnnlib.stand_ins import refuse_stand_in
from dnnlib.terminal import counted, printable
from edm2_guidance.images.zips import parse_object
from torch_utils.tensor_file import read_tensors
from training.network_safetensors import opened

_MAX_INDEX = 16 << 20  # bytes
_MAX_SHARDS = 1000
_MAX_NAME = 200  # characters of a tensor's name that are shown
_SHARD = re.compile(r"[\w-][\w.-]{0,250}")

#: How files begin, of safetensors and of `torch.save`.
_STEMS = {"diffusers": ("diffusion_pytorch_model",) * 2, "transformers": ("model", "pytorch_model")}
#: Kinds of files that weights may be in, the best first: safetensors, of `torch.save`, safetensors of the variant fp16.
KINDS = 3


def weight_patterns(library: str, kind: int) -> tuple[str, ...]:
    """The files of one of `KINDS`: in one piece, the index of shards, and what these are called, as patterns."""
    safe, pickled = _STEMS[library]
    part = "-?????-of-?????"
    return (
        (f"{safe}.safetensors", f"{safe}.safetensors.index.json", f"{safe}{part}.safetensors"),
        (f"{pickled}.bin", f"{pickled}.bin.index.json", f"{pickled}{part}.bin"),
        (
            f"{safe}.fp16.safetensors",
            f"{safe}.safetensors.index.fp16.json",
            f"{safe}{part}.fp16.safetensors",
            f"{safe}.fp16{part}.safetensors",
        ),
    )[kind]


def weight_files(folder: Path, library: str) -> tuple[Path, ...]:
    """The files of the best kind that is there.

    Raises FileNotFoundError if there is none, or a shard is missing; ValueError for an odd index.
    """
    kinds = [weight_patterns(library, kind) for kind in range(KINDS)]
    for whole, index, *_ in kinds:
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return _shards(folder / index, Path(whole).suffix)
    raise FileNotFoundError(f"{folder} has no weights, neither {kinds[0][0]} nor {kinds[1][0]}: fetch it again")


def _shards(index: Path, ending: str) -> tuple[Path, ...]:
    listed = parse_object(read_regular(index, _MAX_INDEX), str(index)).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index} has no weight_map from tensors to names of files")
    names = sorted(set(listed.values()))
    odd = [name for name in names if not _SHARD.fullmatch(name) or not name.endswith(ending)]
    if odd or not 0 < len(names) <= _MAX_SHARDS:
        shown = repr(odd[0][:_MAX_NAME]) if odd else counted(len(names), "file")
        raise ValueError(f"{index} names {shown}: expected shards beside it, of names that end in {ending}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{index.parent} lacks {missing[0]}, a part of its weights: fetch it again")
    return tuple(index.parent / name for name in names)


class Stored(NamedTuple):
    """A tensor in a file."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@contextmanager
def stored_tensors(files: Sequence[Path]) -> Iterator[dict[str, Stored]]:
    """The tensors of files, by name. ValueError for damaged files, other content, or a name that occurs twice."""
    found: dict[str, Stored] = {}
    with ExitStack() as stack:
        for path in files:
            refuse_stand_in(path)
            tensors = _of_torch(path) if path.suffix == ".bin" else _of_safetensors(stack.enter_context(opened(path)))
            twice = found.keys() & tensors.keys()
            if twice:
                raise ValueError(f"tensor {_shown(min(twice))} is in two files, {path.name} one of them")
            found |= tensors
        yield found


def _of_safetensors(file: Any) -> dict[str, Stored]:
    return {
        name: Stored(tuple(file.get_slice(name).get_shape()), partial(file.get_tensor, name))
        for name in file.keys()  # noqa: SIM118
    }


def _of_torch(path: Path) -> dict[str, Stored]:
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no state dict: tensors by their names are expected, and nothing else")
    return {str(name): Stored(tuple(value.shape), partial(Tensor.detach, value)) for name, value in state.items()}


# ----------------------------------------------------------------------------
# Networks.


class Undrawn(TorchFunctionMode):
    """Inside, modules leave parameters that they would draw at random as they are: these are filled from files."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWING:  # of tensors and of `torch.nn.init`, also where others replace it
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_DRAWING = ("normal_", "uniform_", "kaiming_uniform_")


def fill(net: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Give a network the tensors of its files, in its own type, and leave it in evaluation mode, without gradients.

    ValueError unless the files have exactly the network's tensors, in their shapes, and all numbers are finite. What
    the network computes itself, as tables of positions, may be there and is not read.
    """
    wanted = net.state_dict(keep_vars=True)
    places = {name: place for name in wanted if (place := next(filter(stored.__contains__, _spellings(name)), None))}
    filled = {id(wanted[name]) for name in places}  # tensors that go by two names need be there by one
    computed = {place for name, _ in net.named_buffers() for place in _spellings(name)}
    unknown = stored.keys() - set(places.values()) - computed
    missing = [name for name, tensor in wanted.items() if id(tensor) not in filled]
    misfits = [name for name, place in places.items() if stored[place].shape != tuple(wanted[name].shape)]
    if unknown or missing or misfits:
        name = [*misfits, *missing, *sorted(unknown)][0]
        there = stored[places.get(name, name)].shape if name not in missing else "missing"
        here = tuple(wanted[name].shape) if name in wanted else "unknown"
        others = len(misfits) + len(missing) + len(unknown) - 1
        more = f", and {counted(others, 'other')} like it" if others else ""
        raise ValueError(f"tensor {_shown(name)} is {there} in the files, {here} in a {type(net).__name__} here{more}")
    for name, place in places.items():
        _copy(wanted[name], stored[place].read(), place)
    net.eval().requires_grad_(False)


@torch.no_grad()
def _copy(target: Tensor, tensor: Tensor, name: str) -> None:
    if tensor.is_floating_point() != target.is_floating_point():
        raise ValueError(f"tensor {_shown(name)} is of type {tensor.dtype}, which no network has")
    target.copy_(tensor)
    # NaN is both extremes of what holds one; to ask each number takes much longer.
    if target.numel() > 0 and not all(bool(extreme.isfinite()) for extreme in target.aminmax()):
        raise ValueError(f"tensor {_shown(name)} holds numbers that are not finite")


#: Parts of attention blocks, and what they were called in files of before 2023.
_FORMERLY = ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn."))


def _spellings(name: str) -> Iterator[str]:
    """What a tensor of a network may be called in files: those of CLIP's text encoder have one name more in front."""
    yield name
    yield f"text_model.{name}"
    yield from (name.replace(now, before) for now, before in _FORMERLY if now in name)


def _shown(name: str) -> str:
    return printable(name[:_MAX_NAME])
