"""ADM's networks: golden outputs of the original code, every key and shape of the published files, float16 torsos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from edm2_guidance.models.networks.adm import Architecture, UNet, attend, timestep_embedding

DATA = Path(__file__).parents[1] / "data"
TINY = Architecture("denoiser", 16, 32, (1, 2), 1, 10, head_width=16, attention=(8,))


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "adm.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if not name.startswith("traj")}


@pytest.fixture(scope="module")
def inputs(golden):
    return {
        "x": golden["in/x"],
        "t": golden["in/t"],
        "y": one_hot(golden["in/y"], 10).float(),
        "low_res": golden["in/low_res"],
    }


def opened(arch, golden, name):
    net = arch.build().eval().requires_grad_(False)
    net.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in golden.items() if k.startswith(f"{name}/")})
    return net


def output(net, inputs, dtype, *names):
    """In float64 but for the embedding of the timestep, as far as rounding of the golden numbers allows."""
    made = net.to(dtype)(*(each.to(dtype) if each.is_floating_point() else each for each in map(inputs.get, names)))
    net.float()
    return made


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


CASES = [
    ("unet_legacy", "unet_legacy", "denoiser", ("x", "t", "y")),
    ("superres", "superres", "upsampler", ("x", "t", "y", "low_res")),
    ("classifier", "classifier_logits", "classifier", ("x", "t")),
]


@pytest.mark.parametrize(("name", "key", "role", "names"), CASES)
def test_outputs_are_those_of_the_original(golden, inputs, name, key, role, names):
    """1e-6 in float64; the float32 of another processor than theirs rounds as much again."""
    net = opened(replace(TINY, role=role), golden, name)
    expected = golden[f"out/{key}"]
    assert relative(output(net, inputs, torch.float64, *names), expected) < 1e-6
    assert relative(output(net, inputs, torch.float32, *names), expected) < 4e-6


def test_both_orders_of_attention(golden, inputs):
    """A new-order network whose channels are put there is the legacy one; read in the wrong order, neither is."""
    expected = golden["out/unet_legacy"]
    weights = dict(golden)
    for key in [key for key in golden if key.startswith("unet_legacy/") and ".qkv." in key]:
        heads = golden[key].unflatten(0, (64 // 16, 3, 16))  # head, part, channel
        weights[key] = heads.transpose(0, 1).flatten(0, 2)
    new = replace(TINY, order="new")
    names = ("x", "t", "y")
    assert relative(output(opened(new, weights, "unet_legacy"), inputs, torch.float64, *names), expected) < 1e-6
    assert relative(output(opened(new, golden, "unet_legacy"), inputs, torch.float64, *names), expected) > 0.1
    assert relative(output(opened(TINY, weights, "unet_legacy"), inputs, torch.float64, *names), expected) > 0.1


def test_a_fixed_number_of_heads_counts_instead_of_their_width(golden, inputs):
    """At 64 channels, 4 heads have 16 each: the golden numbers; 2 heads do not give them."""
    expected, names = golden["out/unet_legacy"], ("x", "t", "y")
    for heads, right in ((4, True), (2, False)):
        net = opened(replace(TINY, heads=heads, head_width=99), golden, "unet_legacy")
        assert (relative(output(net, inputs, torch.float64, *names), expected) < 1e-6) is right


def test_attention_is_a_softmax_over_tokens():
    qkv = torch.randn(2, 3 * 2 * 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for order, shape in (("legacy", (2, 3, 4)), ("new", (3, 2, 4))):
        parts = qkv.unflatten(1, shape)
        query, key, value = (parts[:, :, i] if order == "legacy" else parts[:, i] for i in range(3))
        shares = (torch.einsum("nhct,nhcs->nhts", query, key) / 2).softmax(dim=3)
        slow = torch.einsum("nhts,nhcs->nhct", shares, value).flatten(1, 2)
        assert torch.allclose(attend(qkv, 2, order), slow, rtol=1e-12, atol=1e-12)


def test_the_embedding_of_timesteps_whole_or_not(golden):
    assert torch.allclose(timestep_embedding(golden["in/t"], 32), golden["in/temb32"], atol=1e-6)
    between = timestep_embedding(torch.tensor([7.5, 612.25]), 32)
    assert torch.allclose(between, golden["in/temb32_float"], atol=1e-6)


def test_float16_is_for_convolutions_and_what_is_between_blocks(golden, inputs):
    """All else is float32, as published; what CUDA would compute is near, and not the same."""
    net = opened(TINY, golden, "unet_legacy")
    net.use_float16()
    seen = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda module, args, made, name=name: seen.update({name: made.dtype}))
    made = net(inputs["x"], inputs["t"], inputs["y"])
    halves = {name for name, weights in net.state_dict().items() if weights.dtype == torch.float16}
    convolutions = {name for name, weights in net.state_dict().items() if weights.ndim > 2}
    assert {name.rpartition(".")[0] for name in halves} == {n.rpartition(".")[0] for n in convolutions} - {"out.2"}
    assert {seen[f"{blocks}.1"] for blocks in ("input_blocks", "output_blocks")} == {torch.float16}
    assert seen["time_embed"] == seen["middle_block.0.emb_layers.1"] == seen["out.0"] == made.dtype == torch.float32
    assert 1e-5 < relative(made, golden["out/unet_legacy"]) < 1e-2


def test_before_training_nothing_is_predicted():
    net = UNet(TINY)
    net.zero_branches()
    assert net(torch.randn(1, 3, 16, 16), torch.tensor([5]), torch.eye(10)[:1]).abs().max() == 0
    assert net.middle_block[1].proj_out.weight.abs().max() == 0
    assert net.middle_block[1].qkv.weight.abs().max() > 0
