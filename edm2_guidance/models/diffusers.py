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
    config = {name: value for name, value in files.config(network).items() if not name.startswith("_")}
    return {
        "format": files.pipeline,
        "file": source,
        "bytes": sum(path.stat().st_size for paths in files.files.values() for path in paths),
        "sha256": files.sha256(),
        "network": {"class": files.classes[network], "arguments": config},
        "dataset_kwargs": {},
        "scheduler": dict(files.scheduler),
        "components": dict(files.classes),
        "rebuilt_with": "classes of diffusers and transformers",
        "refusal": None,
    }


def cost(source: str, *, offline: bool = False) -> Cost:
    """What one evaluation costs, without text encoders."""
    return open_model(source, torch.device("cpu"), trust_pickle=False, offline=offline).cost()
