"""The prepared and compiled forms compute what the network computes."""

import collections
import contextlib
import copy
import weakref
from unittest import mock

import pytest
import torch

from tests.training.test_networks_edm2 import golden, relative
from training.inference_form import (
    _Graphs,
    cannot_compile,
    check_precision,
    filled_size,
    prepare,
    usual_precision,
)
from training.networks_edm2 import Precond

CPU = torch.device("cpu")


def small(**kwargs):
    """Every kind of block: unequal widths, attention in the encoder and decoder, two heads; float16 as in files."""
    torch.manual_seed(1)
    settings = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "channels_per_head": 16}
    net = Precond(8, 3, **{"label_dim": 5, "attn_resolutions": [4], **settings, **kwargs})
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.constant_(parameter, 0.7319)
    return net.half().eval().requires_grad_(False)


def inputs(net, count=3):
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(count, net.img_channels, net.img_resolution, net.img_resolution, generator=draws)
    labels = torch.eye(net.label_dim)[torch.arange(count) % net.label_dim] if net.label_dim else None
    return x, labels


@pytest.mark.parametrize("name", ["cond", "uncond", "weak", "latent"])
def test_golden_outputs(name):
    net, data = golden(name)
    x, sigma, labels = data["x"], data["sigma"], data["class_labels"]
    denoise = prepare(net, "prepared", "float32")
    assert relative(denoise(x, sigma, labels), data["denoised"]) < 1e-5
    assert relative(denoise(x, torch.tensor(1.5), labels), data["denoised_sigma_1_5"]) < 1e-5
    assert relative(denoise(x, sigma), data["denoised_null_label"]) < 1e-5


def test_gains_are_rounded_as_files_have_them():
    net, data = golden("cond")
    denoise = prepare(net.to(torch.float32), "prepared", "float32")
    result = denoise(data["x"], data["sigma"], data["class_labels"])
    assert relative(result, data["denoised_float32_parameters"]) < 1e-5
    assert relative(result, data["denoised"]) > 1.2e-5


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"label_dim": 0},
        {"concat_balance": 0.3, "label_balance": 0.2, "res_balance": 0.4, "attn_balance": 0.1},
        {"resample_filter": [1, 3, 3, 1], "clip_act": 1.5},
        {"clip_act": None, "attn_resolutions": [8, 4], "channel_mult": [2, 1]},
    ],
)
def test_is_the_network(kwargs):
    net = small(**kwargs)
    x, labels = inputs(net)
    expected = [net(x, torch.tensor(sigma), labels) for sigma in (0.01, 0.7, 80.0)]
    expected.append(net(x, torch.tensor([0.1, 1.0, 10.0]), labels))
    denoise = prepare(net, "prepared", "float32")
    made = [denoise(x, torch.tensor(sigma), labels) for sigma in (0.01, 0.7, 80.0)]
    made.append(denoise(x, torch.tensor([0.1, 1.0, 10.0]), labels))
    for ours, theirs in zip(made, expected, strict=True):
        assert relative(ours, theirs) < 1e-5
        assert ours.dtype == torch.float32


def test_images_do_not_see_each_other():
    net = small()
    x, labels = inputs(net, 4)
    denoise = prepare(net, "prepared", "float32")
    whole = denoise(x, torch.tensor(1.0), labels)
    for row in range(4):
        alone = denoise(x[row : row + 1], torch.tensor(1.0), labels[row : row + 1])
        assert relative(alone, whole[row : row + 1]) < 1e-5


def test_classes_are_embedded_anew_when_they_change():
    net = small()
    x, labels = inputs(net)
    other = labels.roll(1, dims=1)
    expected = {name: net(x, torch.tensor(1.0), each) for name, each in (("a", labels), ("b", other), ("none", None))}
    denoise = prepare(net, "prepared", "float32")
    for name, each in 2 * [("a", labels), ("none", None), ("b", other)]:
        assert relative(denoise(x, torch.tensor(1.0), each), expected[name]) < 1e-5
    labels.copy_(other)  # in place: the same tensor, other classes
    assert relative(denoise(x, torch.tensor(1.0), labels), expected["b"]) < 1e-5


def test_gradients_go_through():
    net = small()
    x, labels = inputs(net)
    gradients = []
    for denoise in (copy.deepcopy(net), prepare(net, "prepared", "float32")):
        leaf = x.clone().requires_grad_()
        denoise(leaf, torch.tensor(1.0), labels).square().sum().backward()
        gradients.append(leaf.grad)
    assert relative(gradients[1], gradients[0]) < 1e-5


def test_gradients_after_inference_mode():
    net = small()
    x, labels = inputs(net)
    with torch.inference_mode():
        denoise = prepare(net, "prepared", "float32")
        denoise(x, torch.tensor(1.0), labels)
    leaf = x.clone().requires_grad_()
    denoise(leaf, torch.tensor(1.0), labels).sum().backward()
    assert bool(leaf.grad.abs().sum() > 0)


def test_takes_the_weights_over():
    net = small()
    prepare(net, "prepared", "float32")
    left = [name for name, each in net.unet.named_parameters() if each.numel() > 1]
    assert left == []


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_bfloat16_is_near(form):
    net = small()
    x, labels = inputs(net)
    expected = net(x, torch.tensor(0.5), labels)
    made = prepare(net, form, "bfloat16")(x, torch.tensor(0.5), labels)
    assert made.dtype == torch.float32
    assert 1e-4 < relative(made, expected) < 3e-2


def test_plain_is_the_network_itself():
    net = small()
    x, labels = inputs(net)
    assert torch.equal(
        prepare(net, "plain", "float32")(x, torch.tensor(0.5), labels), net(x, torch.tensor(0.5), labels)
    )
    assert usual_precision(net, CPU) == "float32"
    assert usual_precision(net, torch.device("cuda")) == "float16"


@pytest.mark.parametrize(("form", "precision"), [("fast", "float32"), ("prepared", "int8"), ("prepared", "tf32")])
def test_what_is_refused(form, precision):
    with pytest.raises(ValueError, match=r"none of|does not compute"):
        prepare(small(), form, precision)


def test_float16_is_for_accelerators():
    with pytest.raises(ValueError, match="take float32 or bfloat16"):
        check_precision("float16", CPU)
    check_precision("float16", torch.device("cuda"))


@pytest.mark.parametrize(
    ("count", "batch", "size"),
    [(64, 64, 64), (63, 64, 64), (33, 64, 64), (32, 64, 32), (1, 64, 1), (10, 48, 12), (3, 7, 4), (65, 64, 128),
     (5, None, 8), (8, None, 8), (1, None, 1), (1, 1, 1)],
)  # fmt: skip
def test_batches_are_filled_up_by_their_number_alone(count, batch, size):
    assert filled_size(count, batch) == size


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cannot_compile(CPU) == "there is no compiler (no-such-compiler)"
    with pytest.raises(ValueError, match="take 'prepared'"):
        prepare(small(), "compiled", "float32")


class Allocator:
    """What torch's allocator makes of graphs' memory: a pool is gone with its last graph, and never comes back."""

    def __init__(self):
        self.made, self.users, self.gone = 0, collections.Counter(), set()

    def graph_pool_handle(self):
        self.made += 1
        return self.made

    @contextlib.contextmanager
    def graph(self, graph, pool, capture_error_mode):
        assert pool not in self.gone
        self.users[pool] += 1
        weakref.finalize(graph, self.release, pool)
        yield

    def release(self, pool):
        self.users[pool] -= 1
        if self.users[pool] == 0:
            self.gone.add(pool)


class Graph:
    def replay(self):
        pass


def test_graphs_share_memory_as_long_as_one_of_them_is_there(monkeypatch):
    allocator, stream = Allocator(), mock.Mock(cuda_stream=7, device="cuda:0")
    for name, value in {
        "graph_pool_handle": allocator.graph_pool_handle, "graph": allocator.graph, "CUDAGraph": Graph,
        "current_stream": lambda: stream, "Stream": mock.Mock, "stream": lambda stream: contextlib.nullcontext(),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    first, second = _Graphs(torch.sin), _Graphs(torch.cos)
    first(torch.zeros(2)), first(torch.zeros(3)), second(torch.zeros(2))
    assert (allocator.made, allocator.users[1]) == (1, 3), "one pool for all"
    del first
    assert second(torch.zeros(4)).tolist() == [1] * 4
    assert allocator.made == 1
    del second
    assert allocator.gone == {1}
    third = _Graphs(torch.sin)
    third(torch.zeros(2))
    assert (allocator.made, allocator.users[2]) == (2, 1)


@pytest.mark.slow
@pytest.mark.skipif(cannot_compile(CPU) is not None, reason=str(cannot_compile(CPU)))
def test_compiled_is_the_network():
    net = small()
    x, labels = inputs(net, 4)
    expected, alone = net(x, torch.tensor(0.5), labels), net(x[:3], torch.tensor(0.5), labels[:3])
    denoise = prepare(net, "compiled", "float32", batch=4)
    assert relative(denoise(x, torch.tensor(0.5), labels), expected) < 1e-5
    assert relative(denoise(x[:3], torch.tensor(0.5), labels[:3]), alone) < 1e-5
    torch.compiler.reset()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", ["prepared", "compiled"])
@pytest.mark.parametrize(
    ("precision", "near"), [("float32", 1e-5), ("tf32", 5e-3), ("bfloat16", 3e-2), ("float16", 5e-3)]
)
def test_on_cuda(form, precision, near):
    net = small().to("cuda")
    x, labels = (each.to("cuda") for each in inputs(net, 5))
    plain = prepare(copy.deepcopy(net), "plain", "float32")
    denoise = prepare(net, form, precision, batch=8)
    with torch.no_grad():
        for sigma in (0.02, 0.5, 40.0):
            at = torch.tensor(sigma, device="cuda")
            assert relative(denoise(x, at, labels), plain(x, at, labels)) < near
            assert relative(denoise(x, at), plain(x, at)) < near
        assert torch.equal(denoise(x, at, labels)[:2], denoise(x, at, labels)[:2])
    torch.compiler.reset()
