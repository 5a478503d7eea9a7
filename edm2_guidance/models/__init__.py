"""Network families, each as a denoiser D(x; sigma): `open_model` knows the family by the form of the source."""

import importlib
import os
import re
from collections.abc import Mapping
from types import MappingProxyType

import torch

from edm2_guidance.models.base import Model

#: Form of a source -> "module:function" that opens such a network, with the arguments of `open_model`; imported on use.
#: The first form that fits counts.
FAMILIES: Mapping[str, str] = MappingProxyType({
    r"(?!.*://).+\.py:\w+": "edm2_guidance.models.python:open_python",
    r".*": "edm2_guidance.models.edm2:open_edm2",
})  # fmt: skip


def open_model(
    source: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
) -> Model:
    """The network that a command line names `source`, on a device, ready to denoise.

    trust_pickle: execute the code in a pickle. offline: ask no server. Raises ValueError for what is no such network,
    OSError if it cannot be had or read.
    """
    name = os.fspath(source)
    where = next(where for form, where in FAMILIES.items() if re.fullmatch(form, name, re.DOTALL))
    module, function = where.split(":")
    opener = getattr(importlib.import_module(module), function)
    model: Model = opener(name, torch.device(device), trust_pickle=trust_pickle, offline=offline)
    return model
