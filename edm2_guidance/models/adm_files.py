"""Files of ADM networks (arXiv 2105.05233): the published ones, known by their tensors alone, and our own.

A published `.pt` is a state dict in float32. Ours are safetensors: the tensors, and as JSON in the metadata

    adm_network: {version: 1, architecture: the fields of `Architecture`, class_names}
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save

from dnnlib.atomic import atomic_path
from edm2_guidance.models.networks.adm import Classifier, UNet

CONFIG_KEY = "adm_network"
CONFIG_VERSION = 1


def save_adm(path: str | os.PathLike[str], net: UNet | Classifier, class_names: Sequence[str] | None = None) -> None:
    """Write a network as safetensors, atomically, tensors in float16."""
    config = {"version": CONFIG_VERSION, "architecture": asdict(net.arch), "class_names": class_names}
    tensors = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in net.state_dict().items()}
    with atomic_path(path) as temporary:
        # One entry of metadata only: safetensors writes several in random order.
        Path(temporary).write_bytes(save(tensors, {CONFIG_KEY: json.dumps(config)}))
