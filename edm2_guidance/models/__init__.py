"""Network families, each as a denoiser D(x; sigma), and classifiers."""

import os
from pathlib import Path
from typing import Any, Protocol

import torch

from dnnlib.download import fetch
from dnnlib.places import python_function
from edm2_guidance.models import adm, diffusers, edm, edm2, python
from edm2_guidance.models.base import Classifier, Model
from training.flops import Cost


class Family(Protocol):
    """What the module of a family has. All of it raises as `open_model`."""

    def recognises(self, source: str, *, offline: bool) -> bool:
        """Whether a source counts as a network of this family."""

    def open_model(self, source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> Model: ...

    def inspect(self, source: str, *, offline: bool = False) -> dict[str, Any]:
        """What is in a file, as `training.network_inspect.inspect_network`."""

    def cost(self, source: str, *, offline: bool = False) -> Cost:
        """What one evaluation of the network costs."""


class ClassifierFamily(Family, Protocol):
    """What the module of a family with classifiers has."""

    def open_classifier(
        self, source: str, device: torch.device, *, trust_pickle: bool, offline: bool
    ) -> Classifier: ...


#: The first that recognises a source has it: `edm2` takes the rest.
FAMILIES: tuple[Family, ...] = (python, diffusers, adm, edm, edm2)
#: The same of classifiers. The last takes the rest here too.
CLASSIFIERS: tuple[ClassifierFamily, ...] = (python, adm)


def family_of(source: str, *, offline: bool = False) -> Family:
    """The family that the network belongs to, which a command line names `source`."""
    return next(family for family in FAMILIES if family.recognises(source, offline=offline))


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
    family = family_of(name, offline=offline)
    model = family.open_model(name, torch.device(device), trust_pickle=trust_pickle, offline=offline)
    model.device = torch.device(device)
    return model


def fetch_network(source: str, *, offline: bool = False) -> Path:
    """Where a network or classifier is on this machine, fetched if it must be: a file, or the folder of a pipeline.

    Raises OSError if it cannot be had, ValueError for what is no pipeline that is known.
    """
    if diffusers.recognises(source, offline=offline):
        return diffusers.load(source, offline=offline).folder
    own = python_function(source)
    return fetch(source if own is None else str(own[0].absolute()), offline=offline)


def open_classifier(
    source: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
) -> Classifier:
    """The classifier that a command line names `source`; as `open_model`."""
    name = os.fspath(source)
    *others, last = CLASSIFIERS
    family = next((family for family in others if family.recognises(name, offline=offline)), last)
    classifier = family.open_classifier(name, torch.device(device), trust_pickle=trust_pickle, offline=offline)
    classifier.device = torch.device(device)
    return classifier
