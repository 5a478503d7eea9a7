"""Network families, each as a denoiser D(x; sigma), and classifiers; known by the form of the source."""

import importlib
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from edm2_guidance.models.base import Classifier, Model

#: Form of a source -> "module:function" that opens such a network, with the arguments of `open_model`; imported on use.
#: The first form that fits counts.
FAMILIES: Mapping[str, str] = MappingProxyType({
    r"(?!.*://).+\.py:\w+": "edm2_guidance.models.python:open_python",
    r"[\w/-]+|.+\.(pt|safetensors)(\?.*)?": "edm2_guidance.models.by_header:open_by_header",
    r".*": "edm2_guidance.models.edm2:open_edm2",
})  # fmt: skip
#: The same of classifiers.
CLASSIFIERS: Mapping[str, str] = MappingProxyType({
    r"(?!.*://).+\.py:\w+": "edm2_guidance.models.python:open_python_classifier",
    r".*": "edm2_guidance.models.adm:open_adm_classifier",
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
    model: Model = _open(FAMILIES, source, device, trust_pickle, offline)
    return model


def open_classifier(
    source: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
) -> Classifier:
    """The classifier that a command line names `source`; as `open_model`."""
    classifier: Classifier = _open(CLASSIFIERS, source, device, trust_pickle, offline)
    return classifier


def _open(
    openers: Mapping[str, str],
    source: str | os.PathLike[str],
    device: torch.device | str,
    trust_pickle: bool,
    offline: bool,
) -> Any:
    """What the first opener makes of a source whose form fits it."""
    name = os.fspath(source)
    where = next(where for form, where in openers.items() if re.fullmatch(form, name, re.DOTALL))
    module, function = where.split(":")
    opener = getattr(importlib.import_module(module), function)
    made = opener(name, torch.device(device), trust_pickle=trust_pickle, offline=offline)
    made.device = torch.device(device)
    return made
