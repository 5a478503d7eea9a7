"""What results say of the software and machine that made them."""

import json
import tomllib
from pathlib import Path

import torch

from edm2_guidance.metrics.environment import environment

ROOT = Path(__file__).resolve().parents[2]


def test_environment_names_versions_and_hardware() -> None:
    found = environment("cpu")
    assert found["software"]["torch"] == torch.__version__
    assert found["hardware"]["device"] == "cpu"
    assert found["hardware"]["threads"] == torch.get_num_threads()
    json.dumps(found)


def test_version_is_that_of_the_checkout() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert environment()["software"]["edm2-guidance"] == project["version"]


def test_diffusers_counts_only_where_the_vae_was_used() -> None:
    import diffusers

    assert environment()["software"]["diffusers"] is None
    assert environment(vae=True)["software"]["diffusers"] == diffusers.__version__
