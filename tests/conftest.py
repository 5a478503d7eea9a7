"""Shared by all tests: CUDA tests are skipped without a device, and no test touches the user's caches."""

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(config, items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Downloads and anything else cached go to a fresh folder."""
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("EDM2_MODEL_ROOT", raising=False)
