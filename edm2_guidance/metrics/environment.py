"""What may move the last digits of a result: software versions, hardware and numerical settings."""

import os
import platform
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

PROJECT = "edm2-guidance"
ROOT = Path(__file__).resolve().parents[2]


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


def project_version(root: Path = ROOT) -> str | None:
    """Version of this project: of the checkout that runs, else as installed; None if neither says."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        project = {}
    if project.get("name") == PROJECT and "version" in project:
        return str(project["version"])
    return installed_version(PROJECT)


def installed_version(name: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def git_commit(root: Path = ROOT) -> str | None:
    """Commit of the checkout that runs, with "-dirty" if its files were changed; None outside one, or without git."""
    if not (root / ".git").exists():  # a folder above, with another project's history, is none of ours
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # set inside hooks
    try:
        done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
