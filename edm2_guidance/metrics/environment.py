"""What may move the last digits of a result: software versions, hardware and numerical settings."""

import platform
from typing import Any

import numpy as np
import PIL
import torch

from dnnlib.versions import PROJECT, git_commit, installed_version, project_version


def environment(device: torch.device | str = "cpu", *, vae: bool = False) -> dict[str, dict[str, Any]]:
    """Software and hardware as plain JSON data. vae: whether the VAE was used, and so diffusers' version counts."""
    device = torch.device(device)
    is_cuda = device.type == "cuda"
    software = {
        PROJECT: project_version(),
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "diffusers": installed_version("diffusers") if vae else None,
        "cuda": torch.version.cuda if is_cuda else None,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
    }
    hardware = {
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32 if is_cuda else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return {"software": software, "hardware": hardware}
