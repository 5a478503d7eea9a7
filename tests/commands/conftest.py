"""Stand-ins for everything that the documented commands find on the user's disk and on the model server."""

import functools
import http.server
import io
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edm2_guidance.images.set_writer import image_set, latents_name, pixels_name
from edm2_guidance.images.sinks import png_bytes
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.network_io import save_model
from tests.small import make_small
from training.encoders import StabilityVAEEncoder, StandardRGBEncoder
from training.network_io import save_network
from training.networks_edm2 import Precond

DOUBLES = Path(__file__).with_name("doubles")

#: Published files that the documented commands and their presets ask for.
NETWORKS = [
    "edm2-img512-xs-uncond-2147483-0.015.pkl",
    "edm2-img512-xs-uncond-2147483-0.025.pkl",
    "edm2-img512-xs-uncond-2147483-0.085.pkl",
    "edm2-img512-s-2147483-0.025.pkl",
    "edm2-img512-s-2147483-0.085.pkl",
    "edm2-img512-s-2147483-0.130.pkl",
    "edm2-img512-xxl-0939524-0.015.pkl",
    "edm2-img64-s-1073741-0.075.pkl",
]
TOY_NETWORKS = {
    "clsA-layers04-dim64/iter4096.pkl": 64,
    "clsA-layers04-dim32/iter0512.pkl": 32,
    "clsAB-layers04-dim32/iter0512.pkl": 32,
}
SNAPSHOTS = [(kimg, sigma_rel) for kimg in (33554, 67108, 100663) for sigma_rel in (0.05, 0.10)]


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder laid out as the model server, tiny."""
    root = tmp_path_factory.mktemp("published")
    for name in NETWORKS:
        save_tiny_network(root / "posthoc-reconstructions" / name)
    for name, width in TOY_NETWORKS.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = ToyModel(hidden_dim=width)
        torch.nn.init.ones_(net.gain)
        save_model(root / "toy-example" / name, net)
    refs = {name: {"mu": np.zeros(32), "sigma": np.eye(32)} for name in ("fid", "fd_dinov2")}
    (root / "dataset-refs").mkdir()
    (root / "dataset-refs" / "img512.pkl").write_bytes(pickle.dumps({**refs, "num_images": 1281167}))
    return root


def save_tiny_network(path, seed=0):
    """A network file of the kind that its name says: classes, latents and VAE, or pixels."""
    latents = "img64" not in path.name
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Precond(
            8, 4 if latents else 3, 0 if "uncond" in path.name else 1000,
            model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], channels_per_head=8,
        )  # fmt: skip
        torch.nn.init.ones_(net.unet.out_gain)
    save_network(path, net, encoder=StabilityVAEEncoder() if latents else StandardRGBEncoder())


@pytest.fixture(scope="session")
def server(published):
    """The folder behind HTTP; gives the URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / name).write_bytes(b"see doubles/diffusers")
    return folder


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture
def place(tmp_path, tmp_path_factory, monkeypatch, server, vae, downloads):
    """An empty working folder of a user, with the model server, the VAE, and all commands made small."""
    monkeypatch.chdir(tmp_path)
    make_small(monkeypatch.setattr, tmp_path_factory.mktemp("tiny"))
    monkeypatch.setenv("EDM2_MODEL_ROOT", server)
    monkeypatch.setenv("EDM2_VAE", str(vae))
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(downloads))
    monkeypatch.setenv("PYTHONPATH", str(DOUBLES))  # of the workers
    monkeypatch.syspath_prepend(str(DOUBLES))
    real = sys.modules.pop("diffusers", None)
    yield Place(tmp_path)
    sys.modules.pop("diffusers", None)
    if real is not None:
        sys.modules["diffusers"] = real


class Place:
    """A user's working folder, and what it may hold beforehand. Names are relative to it."""

    def __init__(self, path):
        self.path = path

    def photos(self, folder):
        """ImageNet's layout: a folder of JPEGs per class."""
        rng = np.random.default_rng(0)
        for name, size in {"n01/n01_9": (530, 560), "n01/n01_10": (600, 520), "n02/n02_1": (1030, 1024)}.items():
            blocks = Image.fromarray(rng.integers(0, 256, [8, 8, 3], dtype=np.uint8))
            blocks.resize(size).save(self._new(f"{folder}/{name}.JPEG"))

    def image_set(self, name):
        with image_set(self._new(name), pixels_name, LABELS) as add:
            for pixels in noise():
                add(png_bytes(pixels))

    def latent_set(self, name):
        with image_set(self._new(name), latents_name, LABELS) as add:
            for seed in range(len(LABELS)):
                buffer = io.BytesIO()
                np.save(buffer, np.random.default_rng(seed).normal(size=[8, 8, 8]).astype(np.float32))
                add(buffer.getvalue())

    def generated(self, folder):
        for seed, pixels in enumerate(noise()):
            Image.fromarray(pixels).save(self._new(f"{folder}/{seed:06d}.png"))

    def snapshots(self, folder, prefix):
        for number, (kimg, sigma_rel) in enumerate(SNAPSHOTS):
            save_tiny_network(self._new(f"{folder}/{prefix}-{kimg:07d}-{sigma_rel:.3f}.pkl"), seed=number)

    def _new(self, name):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


LABELS = [0, 1, 2, 0, 1, 2]


def noise():
    return np.random.default_rng(0).integers(0, 256, [len(LABELS), 64, 64, 3], dtype=np.uint8)
