"""Operations of a network: against the papers, and against sums over its layers."""

import functools

import pytest
import torch

from edm2_guidance.papers.train_presets import all_train_presets, network_arguments
from training.flops import file_cost, network_cost
from training.network_io import load_network, save_network, save_safetensors
from training.networks_edm2 import MPConv, Precond

# Mparams and Gflops of arXiv 2312.02696, Tables 2 (ImageNet-512) and 3 (ImageNet-64).
PUBLISHED = {
    "edm2-img512-xs": (124.7, 45.5),
    "edm2-img512-s": (280.2, 102.2),
    "edm2-img512-m": (497.8, 180.8),
    "edm2-img512-l": (777.5, 282.2),
    "edm2-img512-xl": (1119.3, 405.9),
    "edm2-img512-xxl": (1523.2, 552.1),
    "edm2-img64-s": (280.2, 101.9),
    "edm2-img64-m": (497.8, 180.8),
    "edm2-img64-l": (777.5, 282.1),
    "edm2-img64-xl": (1119.3, 405.9),
}


@functools.cache
def counted(name):
    return network_cost(network_arguments(name))


def within_the_published(gflops, name):
    """Ours are lower by what the papers count of elementwise work."""
    return 0.985 * PUBLISHED[name][1] <= gflops <= PUBLISHED[name][1]


def some(sizes, of):
    """All of the sizes; others than these wait for make test-all."""
    return [pytest.param(size, marks=() if size in of else pytest.mark.slow) for size in sizes]


@pytest.mark.parametrize("size", some(["xs", "s", "m", "l", "xl", "xxl"], of=["xs", "xxl"]))
def test_sizes_for_latents(size):
    name = f"edm2-img512-{size}"
    assert counted(name).parameters / 1e6 == pytest.approx(PUBLISHED[name][0], abs=0.051)
    assert within_the_published(counted(name).gflops, name)


@pytest.mark.parametrize("size", some(["s", "m", "l", "xl"], of=[]))
def test_sizes_for_pixels(size):
    """One channel less than latents in the first and in the last convolution; counting takes seconds, so one is."""
    name, channels = f"edm2-img64-{size}", network_arguments(f"edm2-img64-{size}")["model_channels"]
    multiply_adds = counted(f"edm2-img512-{size}").multiply_adds - 2 * 9 * channels * 64**2
    if size == "s":
        assert counted(name).multiply_adds == multiply_adds
    assert within_the_published(multiply_adds / 1e9, name)


def test_sum_over_layers():
    """Every weight works once per pixel of its output; attention multiplies two matrices of pixels by channels."""
    arguments = {
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 5,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [8],
        "channels_per_head": 8,
    }
    net, per_layer = Precond(**arguments).eval(), []

    def layer(module, inputs, output):
        per_layer.append(module.weight.numel() * output[0, 0].numel())

    for module in net.modules():
        if isinstance(module, MPConv):
            module.register_forward_hook(layer)
    net(torch.zeros(1, 3, 8, 8), torch.ones([]))
    attention = 2 * (3 * 16 * 64**2 + 32 * 16**2)  # one block down, two up at 8x8, and the middle at 4x4
    cost = network_cost(arguments)
    assert cost.multiply_adds == sum(per_layer) + attention
    assert cost.by_kind["attention"] == attention
    assert cost.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert cost.input_shape == (1, 3, 8, 8)


def test_files_of_either_form(tiny_networks, tmp_path):
    file = load_network(tiny_networks["cond"])
    save_network(tmp_path / "net.pkl", file.net)
    save_safetensors(tmp_path / "net.safetensors", file.net)
    expected = network_cost(file.net.init_kwargs | {"img_resolution": 8, "img_channels": 3, "label_dim": 10})
    assert file_cost(tmp_path / "net.pkl") == file_cost(tmp_path / "net.safetensors") == expected
    assert file_cost(tiny_networks["uncond"]).parameters < expected.parameters


def test_preset_names_stand_for_networks():
    for name in all_train_presets():
        arguments = network_arguments(name)
        assert arguments["label_dim"] == (0 if "uncond" in name else 10 if "mnist" in name else 1000)
    assert network_arguments("edm2-img64-xs-uncond")["label_dim"] == 0
    assert network_arguments("mnist16")["channel_mult"] == [1, 2]
    with pytest.raises(ValueError, match="no training preset 'edm2-img512-y'"):
        network_arguments("edm2-img512-y")


def test_arguments_that_make_no_network():
    with pytest.raises(ValueError, match="no constructor argument 'width'"):
        network_cost({"width": 3})
    with pytest.raises(ValueError, match="class Other is not known"):
        network_cost({}, "Other")
