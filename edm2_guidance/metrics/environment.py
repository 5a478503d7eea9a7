"""What may move the last digits of a result: software versions, hardware and numerical settings."""

import os
import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from dnnlib.versions import PROJECT, git_commit, installed_version, project_version
from edm2_guidance.images.pool import usable_cores

if TYPE_CHECKING:
    import torch


def environment(device: "torch.device | str" = "cpu", *, vae: bool = False) -> dict[str, dict[str, Any]]:
    """Software and hardware as plain JSON data. vae: whether the VAE was used, and so diffusers' version counts.

    Where statistics alone were compared, torch is not there, and its settings are those that it begins with.
    """
    torch: Any = sys.modules.get("torch")
    kind = str(device).partition(":")[0]
    is_cuda = kind == "cuda"
    software = {
        PROJECT: project_version(),
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__ if torch else installed_version("torch"),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "diffusers": installed_version("diffusers") if vae else None,
        "cuda": torch.version.cuda if is_cuda else None,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
    }
    hardware = {
        "device": torch.cuda.get_device_name(device) if is_cuda else kind,
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads() if torch else _threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision() if torch else "highest",
        "cudnn_tf32": torch.backends.cudnn.allow_tf32 if is_cuda else None,
        "deterministic": torch.are_deterministic_algorithms_enabled() if torch else False,
    }
    return {"software": software, "hardware": hardware}


def _threads() -> int:
    """As many as torch would take, and as numpy does."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else usable_cores()
