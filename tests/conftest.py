"""Shared by all tests: CUDA tests are skipped without a device, and no test touches the user's caches."""

import gc
import itertools
import os
import signal
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as commands set it, before torch reads it: see cli.settings
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import pytest
import torch
from hypothesis import settings

from edm2_guidance.work import complete

gc.disable()  # until all is imported: see pytest_collection
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The many processes that tests start compile each module once, not once each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# The same examples each time, however busy the machine.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
# All tests see what they write at once.
complete.APPEARS_SECONDS, complete._POLL_SECONDS, complete._TURN_SECONDS = 0.1, 0.02, 0.02
# Signals as a terminal has them, also where the tests run in the background or under nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# EDM2_TEST_ONEDNN=0 runs the tests with the kernels that processors without oneDNN's take.
torch.backends.mkldnn.enabled = os.environ.get("EDM2_TEST_ONEDNN", "1") != "0"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: no search for garbage need look at it, now or later."""
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One more than cores: many tests wait for processes that they started, and leave theirs idle."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: "first" not in item.keywords)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """Folders that are not there yet, one after the other: mktemp takes longer the more there are."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def private_cache(caches, monkeypatch):
    """Downloads and anything else cached go to a fresh folder."""
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(next(caches)))
    monkeypatch.delenv("EDM2_MODEL_ROOT", raising=False)


@pytest.fixture(scope="session")
def tiny_networks(tmp_path_factory):
    """Network files, 8x8 RGB: {'cond': path, 'uncond': path, 'weak': path} and misfits for errors.

    Safetensors in fact, which open eight times as fast: the content tells, and names in messages are as in use.
    """
    from training.encoders import StandardRGBEncoder
    from training.network_safetensors import save_safetensors
    from training.networks_edm2 import Precond

    folder = tmp_path_factory.mktemp("networks")
    common = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    shapes = {
        "cond": (8, 3, 10),
        "uncond": (8, 3, 0),
        "weak": (8, 3, 10),
        "fewer-classes": (8, 3, 4),
        "larger": (16, 3, 10),
        "latent": (8, 4, 10),
    }
    paths = {}
    for number, (name, shape) in enumerate(shapes.items()):
        torch.manual_seed(number)
        net = Precond(*shape, **common)
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                if key.endswith("gain"):
                    parameter.fill_(0.6)
        paths[name] = folder / f"{name}.pkl"
        save_safetensors(paths[name], net.half(), encoder=StandardRGBEncoder())
    return paths
