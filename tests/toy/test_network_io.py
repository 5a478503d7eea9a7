"""Toy network files: written and read back, published ones with another source, and everything that is refused."""

import copy
import pickle
from pathlib import Path

import pytest
import torch

from dnnlib.regular import sha256_of
from edm2_guidance.toy import network
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.network_io import load_model, save_model
from torch_utils import persistence, safe_pickle

PRETRAINED = Path(__file__).parents[2] / "edm2_guidance" / "pretrained" / "toy"


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = ToyModel(num_layers=2, hidden_dim=8).eval()
    with torch.no_grad():
        net.gain.fill_(0.3)
    return net


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pkl"


def test_what_is_read_is_what_was_written(net, path):
    save_model(path, net)
    read = load_model(path)
    x = torch.randn(5, 2)
    assert torch.equal(read(x, 0.3), net(x, 0.3))
    assert not read.training
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_equal_networks_make_equal_files(net, path, tmp_path):
    save_model(path, net)
    save_model(tmp_path / "again.pkl", copy.deepcopy(net))
    assert sha256_of(path) == sha256_of(tmp_path / "again.pkl")


def test_other_readers_of_the_format_get_a_network(net, path):
    """Python's own unpickler, as in the EDM2 code base."""
    save_model(path, net)
    with open(path, "rb") as file:
        read = pickle.load(file)
    assert torch.equal(read.score(torch.ones(1, 2), 0.3), net.score(torch.ones(1, 2), 0.3))


def test_shipped_files_bring_the_text_of_today():
    """So that they work where only their text is looked at."""
    for name in ("main", "weak", "unconditional"):
        scan = safe_pickle.scan(PRETRAINED / f"{name}.pkl")
        assert {each.source_sha256 for each in scan.classes} == {sha256_of(network.__file__)}


def test_a_file_with_another_source_is_read_by_our_class(net, path, monkeypatch):
    """A published file brings a text of its own, which is not looked at; float16 parameters are widened."""
    monkeypatch.setitem(persistence._source_of_module, "edm2_guidance.toy.network", "raise SystemExit('executed')")
    save_model(path, net.half())
    assert torch.equal(load_model(path).layers[0].weight, net.layers[0].weight.float())


def test_arguments_by_position_do_not_matter(path):
    save_model(path, ToyModel(2, 3, 16, 0.5))
    read = load_model(path)
    assert (len(read.layers), read.layers[0].weight.shape) == (7, (16, 4))


def refused(path, net, message):
    save_model(path, net)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_unknown_attributes_are_refused(net, path):
    net.temperature = 2.0
    refused(path, net, "attribute temperature is unknown to our ToyModel")


def test_hooks_are_refused(net, path):
    net.layers[0]._forward_hooks[0] = "code"
    refused(path, net, "attribute _forward_hooks is unknown to our MPLinear")


def test_further_tensors_are_refused(net, path):
    net.register_parameter("bias", torch.nn.Parameter(torch.zeros(2)))
    refused(path, net, r"_parameters should be \['gain'\]")


def test_layers_in_another_order_are_refused(net, path):
    net.layers[0], net.layers[1] = net.layers[1], net.layers[0]
    refused(path, net, "layers.0: MPLinear of a toy network expected, found MPSiLU")


def test_widths_that_do_not_fit_are_refused(net, path):
    net.layers[2].weight = torch.nn.Parameter(torch.zeros(8, 9))
    refused(path, net, "do not follow one another")


def test_a_file_that_contradicts_its_tensors_is_refused(net, path):
    net.__dict__["_init_kwargs"]["hidden_dim"] = 64
    refused(path, net, "hidden_dim is 64 in the file, but its tensors make it 8")


def test_an_impossible_sigma_data_is_refused(net, path):
    net.sigma_data = -1.0
    refused(path, net, "sigma_data = -1.0 is not possible")


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="ToyModel of a toy network expected, found dict"):
        load_model(PRETRAINED.parent / "mnist16-weak.pkl")


def test_a_network_that_diverged_is_not_written(tmp_path, net):
    net.layers[2].weight.data[1, 2] = torch.inf
    with pytest.raises(ValueError, match=r"net\.pkl is not written: the network's layers\.2\.weight is not finite"):
        save_model(tmp_path / "net.pkl", net)
    assert not list(tmp_path.iterdir())
