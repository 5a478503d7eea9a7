"""What work needs is found or fetched before it: every file once, networks opened, other devices no obstacle."""

from pathlib import Path

import pytest

from dnnlib.places import EMBEDDED
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.reproduction.files import fetch_all


def recipe(networks, main, guide, **more):
    return Recipe(
        net=NetworkRef(str(networks[main])), guides=(Guide(NetworkRef(str(networks[guide])), constant(2.0)),), **more
    )


def test_everything_is_named_once(tiny_networks):
    recipes = [recipe(tiny_networks, "cond", guide, noise_device="cuda") for guide in ("weak", "uncond", "weak")]
    reference = str(EMBEDDED / "mnist16-refs.npz")
    found = fetch_all(recipes, [reference, reference], {"fd_mnist": {}}, offline=True)
    networks = [str(tiny_networks[name]) for name in ("cond", "weak", "uncond")]
    assert found == [*networks, reference, str(EMBEDDED / "mnist16-detector.safetensors")]


def test_weights_of_ones_own(tiny_networks, tmp_path):
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"")
    assert fetch_all([], [], {"fid": {"weights": str(weights)}}, offline=True) == [str(weights)]


@pytest.mark.parametrize(
    ("references", "detectors", "missing"),
    [(["https://example.org/refs/a.pkl"], {}, "a.pkl"), ([], {"fid": {}}, "inception"), (["no.npz"], {}, "no.npz")],
)
def test_what_is_not_here(tiny_networks, references, detectors, missing):
    with pytest.raises(FileNotFoundError, match=missing):
        fetch_all([recipe(tiny_networks, "cond", "weak")], references, detectors, offline=True)


def test_networks_that_do_not_fit(tiny_networks):
    with pytest.raises(ValueError, match="resolution"):
        fetch_all([recipe(tiny_networks, "cond", "larger")], offline=True)


def test_the_vae_of_a_network_is_asked_for(tiny_networks, tmp_path, monkeypatch):
    """A network of latents whose VAE is nowhere."""
    from training.encoders import StabilityVAEEncoder
    from training.network_io import load_network, save_network

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("EDM2_VAE", raising=False)
    path = tmp_path / "latent.pkl"
    save_network(path, load_network(tiny_networks["latent"]).net, encoder=StabilityVAEEncoder("nobody/nothing"))
    with pytest.raises((FileNotFoundError, RuntimeError), match="nobody/nothing"):
        fetch_all([Recipe(net=NetworkRef(str(path)))], offline=True)


def test_a_vae_that_is_here_is_named(tiny_networks, tmp_path, monkeypatch):
    from training import encoders
    from training.network_io import load_network, save_network

    path = tmp_path / "latent.pkl"
    save_network(path, load_network(tiny_networks["latent"]).net, encoder=encoders.StabilityVAEEncoder("nobody/vae"))

    def init(self, device, *, offline=False):
        self._vae_sha256 = {}

    monkeypatch.setattr(encoders.StabilityVAEEncoder, "init", init)
    assert fetch_all([Recipe(net=NetworkRef(str(path)))] * 2) == [str(path), "nobody/vae, the VAE"]
    assert Path(path).exists()
