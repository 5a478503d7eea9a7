"""Small networks and statistics under the published names, on a server of this machine."""

import functools
import http.server
import os
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.download import fetch
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.reproduction.verification.check import PRESETS, Place, preset_for
from tests.small import FEATURE_DIM, register_tiny_extractors
from training.encoders import StabilityVAEEncoder
from training.network_io import save_network, save_safetensors
from training.networks_edm2 import Precond

DOUBLES = Path(__file__).parents[2] / "commands" / "doubles"
SHAPE = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}


def save_tiny_network(path, pickled=False, **more):
    """Of the kind that its name says, 8x8 latents; safetensors open faster than pickles."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Precond(8, 4, 0 if "uncond" in path.name else 1000, **{**SHAPE, **more})
    torch.nn.init.ones_(net.unet.out_gain)
    save = save_network if pickled else save_safetensors
    save(path, net.half(), encoder=StabilityVAEEncoder())


def statistics(**more):
    """As img512.pkl has them; more: in their place."""
    parts = {name: {"mu": np.full(FEATURE_DIM, 0.25), "sigma": np.eye(FEATURE_DIM)} for name in ("fid", "fd_dinov2")}
    return {**parts, "num_images": 1281167, **more}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder laid out as the model server."""
    root = tmp_path_factory.mktemp("published")
    for source in dict.fromkeys(source for metric in PRESETS for source in preset_for(metric).sources):
        save_tiny_network(root / "posthoc-reconstructions" / source.rpartition("/")[2])
    (root / "dataset-refs").mkdir()
    (root / "dataset-refs" / "img512.pkl").write_bytes(pickle.dumps(statistics()))
    return root


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    """The folder behind HTTP, with pickles, as they are published; gives the folder behind it."""
    root = tmp_path / "served"
    for path in published.rglob("*.pkl"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, root / path.parent.name / path.name)
    for source in preset_for("fid").sources:
        path = root / "posthoc-reconstructions" / source.rpartition("/")[2]
        path.unlink()
        save_tiny_network(path, pickled=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("EDM2_MODEL_ROOT", f"http://127.0.0.1:{listening.server_port}")
        yield root
        listening.shutdown()


@pytest.fixture
def place(tmp_path, monkeypatch, published):
    """Where checks are made: the model server, extractors and VAE are tiny, and so is what is known of networks."""
    from edm2_guidance.reproduction.verification import check, files

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(published))
    weights, vae = tmp_path / "weights", tmp_path / "vae"
    weights.mkdir()
    vae.mkdir()
    register_tiny_extractors(monkeypatch.setattr, weights)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (vae / name).write_bytes(b"see doubles/diffusers")
    monkeypatch.setenv("EDM2_VAE", str(vae))
    monkeypatch.syspath_prepend(str(DOUBLES))
    monkeypatch.setenv("PYTHONPATH", str(DOUBLES))  # of commands
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    monkeypatch.setattr(files, "expected", known)
    monkeypatch.setattr(files, "VAE_BYTES", 4 * VAE_PARAMETERS)
    for name in PRESETS.values():
        monkeypatch.setitem(all_presets(), name, replace(all_presets()[name], num_steps=2))
    monkeypatch.setattr(check, "ABOUT", 0.05)  # of small files, what is beside numbers is more
    yield Place(tmp_path, "cpu", False, 60.0, {})
    sys.modules.pop("diffusers", None)


VAE_PARAMETERS = 1  # of the double


@functools.cache
def tiny(classes):
    return sum(each.numel() for each in Precond(8, 4, classes, **SHAPE).parameters())


def known(source):
    """In place of `files.expected`: the size is that of the file, which holds more than numbers."""
    from edm2_guidance.reproduction.verification.files import Expected

    classes = 0 if "uncond" in source else 1000
    arguments = {"img_resolution": 8, "img_channels": 4, "label_dim": classes, "sigma_data": 0.5, "use_fp16": True}
    path = Path(fetch(source, progress=False))
    return Expected(tiny(classes), path.stat().st_size, arguments)
