"""Network families, each as a denoiser D(x; sigma): `open_model` knows the family by the form of the source."""

import importlib
import os
from collections.abc import Mapping
from types import MappingProxyType

import torch

from edm2_guidance.models.base import Model

#: Kind -> "module:function" that opens such a network, imported on use; the arguments are those of `open_model`.
FAMILIES: Mapping[str, str] = MappingProxyType({"edm2": "edm2_guidance.models.edm2:open_edm2"})


def family_of(source: str) -> str:
    """The kind, of those in FAMILIES, of the network that a command line names so."""
    return "edm2"


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
    module, function = FAMILIES[family_of(name)].split(":")
    opener = getattr(importlib.import_module(module), function)
    model: Model = opener(name, torch.device(device), trust_pickle=trust_pickle, offline=offline)
    return model
