"""The network against golden outputs, published sizes, its precision rule and torch.compile."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training import networks_edm2
from training.networks_edm2 import (
    Precond,
    compute_dtype,
    effective_gain,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


def golden(name, dtype=torch.float16):
    data = np.load(DATA / f"precond_{name}.npz")
    net = Precond(**json.loads(str(data["init_kwargs"]))).to(dtype).eval().requires_grad_(False)
    state = {k.removeprefix("param:"): torch.from_numpy(data[k]) for k in data.files if k.startswith("param:")}
    net.load_state_dict(state, strict=True)
    return net, {k: torch.from_numpy(data[k]) for k in data.files if data[k].dtype == np.float32}


def tiny():
    torch.manual_seed(0)
    return Precond(8, 3, 0, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], channels_per_head=8)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", ["cond", "uncond", "weak", "latent"])
def test_golden_outputs(name):
    net, data = golden(name)
    x, sigma, labels = data["x"], data["sigma"], data["class_labels"]
    denoised, logvar = net(x, sigma, labels, return_logvar=True)
    assert relative(denoised, data["denoised"]) < 1e-5
    assert relative(logvar, data["logvar"]) < 1e-5
    assert relative(net(x, torch.tensor(1.5), labels), data["denoised_sigma_1_5"]) < 1e-5
    assert relative(net(x, sigma), data["denoised_null_label"]) < 1e-5


@pytest.mark.parametrize("name", ["cond", "uncond", "weak", "latent"])
def test_float32_parameters_have_no_gain_rounding(name):
    net, data = golden(name)
    wide = net.to(torch.float32)
    result = wide(data["x"], data["sigma"], data["class_labels"])
    assert relative(result, data["denoised_float32_parameters"]) < 1e-5
    assert relative(result, data["denoised"]) > 1.2e-5, "the two readings must differ for this test to mean anything"


def test_gain_is_rounded_in_its_own_precision():
    gain = torch.tensor(0.7319, dtype=torch.float16)
    assert effective_gain(gain, 3 * 9 * 16).dtype == torch.float16
    exact = float(gain) / (3 * 9 * 16) ** 0.5
    assert float(effective_gain(gain, 3 * 9 * 16)) == float(np.float16(exact)) != exact
    assert float(effective_gain(gain.float(), 432)) == pytest.approx(exact, rel=1e-6)
    assert effective_gain(1, 16) == 0.25


@pytest.mark.parametrize(
    ("channels", "resolution", "img_channels", "mparams"),
    [
        (128, 64, 4, 124.7), (192, 64, 4, 280.2), (256, 64, 4, 497.8),
        (320, 64, 4, 777.5), (384, 64, 4, 1119.3), (448, 64, 4, 1523.2),
        (192, 64, 3, 280.2), (256, 64, 3, 497.8), (320, 64, 3, 777.5), (384, 64, 3, 1119.3),
    ],
)  # fmt: skip
def test_published_parameter_counts(channels, resolution, img_channels, mparams):
    with torch.device("meta"):
        net = Precond(resolution, img_channels, label_dim=1000, model_channels=channels)
    count = sum(p.numel() for p in net.parameters())
    assert round(count / 1e6, 1) == mparams


def test_precision_rule():
    assert compute_dtype(True, False, "cuda") == torch.float16
    assert compute_dtype(True, True, "cuda") == torch.float32
    assert compute_dtype(False, False, "cuda") == torch.float32
    assert compute_dtype(True, False, "cpu") == torch.float32
    assert compute_dtype(True, False, "mps") == torch.float32


def test_float16_activations_keep_the_embedding_in_float32(monkeypatch):
    net, data = golden("cond")
    seen = {"emb": set(), "x": set()}

    def record(module, args):
        seen["x"].add(args[0].dtype)
        seen["emb"].add(args[1].dtype)

    for module in net.modules():
        if isinstance(module, networks_edm2.Block):
            module.register_forward_pre_hook(record)
    monkeypatch.setattr(networks_edm2, "compute_dtype", lambda use, force, device: torch.float16)
    denoised = net(data["x"], data["sigma"], data["class_labels"])
    assert seen == {"x": {torch.float16}, "emb": {torch.float32}}
    assert denoised.dtype == torch.float32
    assert 1e-6 < relative(denoised, data["denoised"]) < 5e-3


@pytest.mark.cuda
def test_cuda_float16_matches_golden_loosely():
    net, data = golden("cond")
    net = net.cuda()
    x, sigma, labels = (data[k].cuda() for k in ("x", "sigma", "class_labels"))
    assert relative(net(x, sigma, labels).cpu(), data["denoised"]) < 5e-3
    assert relative(net(x, sigma, labels, force_fp32=True).cpu(), data["denoised"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cond", "uncond"])
def test_compiles_to_one_graph(name):
    net, data = golden(name)
    torch._dynamo.reset()
    result = torch.compile(net, backend="eager", fullgraph=True)(data["x"], data["sigma"], data["class_labels"])
    assert relative(result, data["denoised"]) < 1e-5


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.slow
def test_compiles_with_inductor():
    """In a process of its own: inductor imports setuptools, which an earlier import of distutils would disturb."""
    code = "from tests.training import test_networks_edm2; test_networks_edm2.compile_with_inductor()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def compile_with_inductor():
    net = tiny().eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            parameter.fill_(0.7)  # they start at zero, which would hide the network
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 4.0])
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    assert relative(compiled(x, sigma), net(x, sigma)) < 1e-5


def test_batch_independence():
    net, data = golden("cond")
    whole = net(data["x"], data["sigma"], data["class_labels"])
    single = torch.cat([net(data["x"][i : i + 1], data["sigma"][i], data["class_labels"][i : i + 1]) for i in range(4)])
    assert relative(single, whole) < 1e-5


def test_magnitudes_are_preserved():
    torch.manual_seed(0)
    a, b = torch.randn(64, 48, 8, 8), torch.randn(64, 16, 8, 8)
    for out in (mp_silu(a), mp_sum(a, a.flip(0), 0.3), normalize(5 * a), mp_cat(a, b, 0.5)):
        assert out.square().mean().sqrt() == pytest.approx(1, abs=0.02)
    net = tiny().requires_grad_(False)
    x = net.unet.enc["8x8_block0"](torch.randn(64, 8, 8, 8), torch.randn(64, 8))
    assert x.square().mean().sqrt() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1], [1, 2]])
def test_resampling_against_a_slow_reference(taps):
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    f = np.outer(taps, taps) / np.sum(taps) ** 2
    pad = (len(taps) - 1) // 2
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), (pad, pad + 2), (pad, pad + 2)])
    down = np.zeros((2, 3, 3, 4))
    up = np.zeros((2, 3, 12 + 2 * len(taps), 16 + 2 * len(taps)))
    for i in range(len(taps)):
        for j in range(len(taps)):
            down += f[i, j] * padded[:, :, i : i + 6 : 2, j : j + 8 : 2]
            up[:, :, i : i + 12 : 2, j : j + 16 : 2] += 4 * f[i, j] * x.numpy()
    up = up[:, :, pad : pad + 12, pad : pad + 16]
    assert np.abs(resample(x, taps, "down").numpy() - down).max() < 1e-6
    assert np.abs(resample(x, taps, "up").numpy() - up).max() < 1e-6


def test_training_mode_projects_the_weights():
    net = tiny()
    conv = net.unet.enc["8x8_conv"]
    with torch.no_grad():
        conv.weight.mul_(7)
    net.eval()(torch.randn(1, 3, 8, 8), torch.ones(1))
    assert conv.weight.flatten(1).square().mean(1).sqrt().mean() > 5
    net.train()(torch.randn(1, 3, 8, 8), torch.ones(1)).sum().backward()
    assert (conv.weight.flatten(1).square().mean(1).sqrt() - 1).abs().max() < 1e-3
