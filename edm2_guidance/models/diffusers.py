"""Pipelines of diffusers, a folder or hf://ORG/REPO[@REVISION]: DiT, Stable Diffusion, SD-XL, DeepFloyd IF and others.

The extra [diffusers] has what is needed. No code of a pipeline ever runs.
"""

from typing import Any

import torch

from edm2_guidance.models.diffusers_files import load, recognises
from edm2_guidance.models.enlarging import NOISING, EnlargingModel
from edm2_guidance.models.pipelines import DiffusersModel, network_of
from training.flops import Cost

__all__ = ["cost", "inspect", "load", "open_model", "recognises"]


def open_model(source: str, device: torch.device, *, trust_pickle: bool, offline: bool) -> DiffusersModel:
    """A pipeline's network; as `models.open_model`. trust_pickle: does nothing here."""
    files = load(source, offline=offline)
    return (EnlargingModel if files.pipeline in NOISING else DiffusersModel)(files, device)


def inspect(source: str, *, offline: bool = False) -> dict[str, Any]:
    """What is in a pipeline, as `training.network_inspect.inspect_network`."""
    files = load(source, offline=offline)
    network = network_of(files)
    return {
        "source": source,
        "sha256": files.sha256(network),
        "network": {"class": files.config(network)["_class_name"], "pipeline": files.pipeline},
        "scheduler": dict(files.scheduler),
        "refusal": None,
    }


def cost(source: str, *, offline: bool = False) -> Cost:
    """What one evaluation costs, without text encoders."""
    return open_model(source, torch.device("cpu"), trust_pickle=False, offline=offline).cost()
