"""Files as the EDM2 code base writes them, put together here by hand from the golden networks, and files that differ.

The writer below knows the format, not our classes: it makes every layer's record from the names and shapes in the
golden file, with another source text, other ways to pass the same arguments, and the bookkeeping of several torches.
"""

import functools
import io
import json
import pickle
import re
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.regular import sha256_of
from dnnlib.util import EasyDict
from torch_utils import persistence
from training.encoders import StabilityVAEEncoder, StandardRGBEncoder
from training.loss import EDM2Loss
from training.network_io import inspect_network, load_network
from training.network_records import plain_value
from training.networks_edm2 import Precond

DATA = Path(__file__).resolve().parents[1] / "data"
KINDS = ("cond", "uncond", "weak", "latent")
FOREIGN_SOURCE = "raise RuntimeError('the source text in a file must not be executed')\nclass Precond: pass\n"

HOOKS = {  # by age of the torch that wrote the file
    "1.13": "_backward_hooks _forward_hooks _forward_pre_hooks _state_dict_hooks _load_state_dict_pre_hooks "
    "_load_state_dict_post_hooks",
    "2.1": "_backward_pre_hooks _backward_hooks _forward_hooks _forward_hooks_with_kwargs _forward_pre_hooks "
    "_forward_hooks_always_called _forward_pre_hooks_with_kwargs _state_dict_hooks _state_dict_pre_hooks "
    "_load_state_dict_pre_hooks _load_state_dict_post_hooks",
}


class Stored:
    """A persistent object to be: pickles as the format says."""

    def __init__(self, class_name, state, source=FOREIGN_SOURCE, version=6):
        self.class_name, self.state, self.source, self.version = class_name, state, source, version

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": self.version,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.state,
        }
        return persistence._reconstruct_persistent_obj, (meta,)


@functools.cache
def golden_file(kind):
    return dict(np.load(DATA / f"precond_{kind}.npz"))


class Writer:
    """Makes the records of one golden network."""

    def __init__(self, kind, torch_age="2.1", dtype=torch.float16):
        self.golden = golden_file(kind)
        self.kwargs = json.loads(str(self.golden["init_kwargs"]))
        self.age = torch_age
        self.params = {
            key.removeprefix("param:"): torch.from_numpy(value).to(dtype, copy=True)
            for key, value in self.golden.items()
            if key.startswith("param:")
        }

    def module(self, class_name, args, kwargs, attributes, parameters=(), buffers=(), children=(), prefix=""):
        state = {"_init_args": args, "_init_kwargs": kwargs, "training": False}
        dictionary = OrderedDict if self.age == "1.13" else dict
        state["_parameters"] = dictionary(
            (name, torch.nn.Parameter(self.params[prefix + name], requires_grad=False)) for name in parameters
        )
        state["_buffers"] = dictionary((name, self.params[prefix + name]) for name in buffers)
        state["_non_persistent_buffers_set"] = set()
        state["_is_full_backward_hook"] = None
        state |= {name: OrderedDict() for name in HOOKS[self.age].split()}
        state["_modules"] = dictionary(children)
        return Stored(class_name, state | attributes)

    def conv(self, prefix, kernel):
        shape = self.params[prefix + "weight"].shape
        args = (shape[1], shape[0])
        return self.module("MPConv", args, {"kernel": kernel}, {"out_channels": shape[0]}, ["weight"], prefix=prefix)

    def fourier(self, prefix):
        width = len(self.params[prefix + "freqs"])
        return self.module("MPFourier", (width,), {}, {}, buffers=["freqs", "phases"], prefix=prefix)

    def block(self, prefix, name):
        flavor = prefix.split(".")[1]
        mode = "down" if name.endswith("down") else "up" if name.endswith("up") else "keep"
        out_channels, _, _, _ = self.params[prefix + "conv_res1.weight"].shape
        in_channels = self.params[prefix + "conv_res0.weight"].shape[1]
        emb_channels = self.params[prefix + "emb_linear.weight"].shape[1]
        children = {
            "conv_res0": self.conv(prefix + "conv_res0.", [3, 3]),
            "emb_linear": self.conv(prefix + "emb_linear.", []),
            "conv_res1": self.conv(prefix + "conv_res1.", [3, 3]),
        }
        absent = {}
        for child in ("conv_skip", "attn_qkv", "attn_proj"):
            if prefix + child + ".weight" in self.params:
                children[child] = self.conv(f"{prefix}{child}.", [1, 1])
                if child == "conv_skip":
                    in_channels = self.params[f"{prefix}{child}.weight"].shape[1]
            else:
                absent[child] = None
        attention = "attn_qkv" in children
        kwargs = {"flavor": flavor, "channels_per_head": self.kwargs["channels_per_head"]}
        if mode != "keep":
            kwargs["resample_mode"] = mode
        if attention:
            kwargs["attention"] = True
        attributes = {
            "out_channels": out_channels,
            "flavor": flavor,
            "resample_filter": [1, 1],
            "resample_mode": mode,
            "num_heads": out_channels // self.kwargs["channels_per_head"] if attention else 0,
            "dropout": 0,
            "res_balance": 0.3,
            "attn_balance": 0.3,
            "clip_act": 256,
        }
        args = (in_channels, out_channels, emb_channels)
        return self.module("Block", args, kwargs, attributes | absent, ["emb_gain"], children=children, prefix=prefix)

    def container(self, side):
        names = dict.fromkeys(key.split(".")[2] for key in self.params if key.startswith(f"unet.{side}."))
        container = torch.nn.ModuleDict()
        state = self.module("", (), {}, {}).state
        for key in ("_init_args", "_init_kwargs"):
            del state[key]
        state["_modules"] = OrderedDict()
        for name in names:
            prefix = f"unet.{side}.{name}."
            state["_modules"][name] = self.conv(prefix, [3, 3]) if name.endswith("conv") else self.block(prefix, name)
        container.__dict__.clear()
        container.__dict__.update(state)
        return container

    def unet(self):
        kwargs = {k: v for k, v in self.kwargs.items() if k not in ("use_fp16", "sigma_data", "logvar_channels")}
        children = {"emb_fourier": self.fourier("unet.emb_fourier.")}
        children["emb_noise"] = self.conv("unet.emb_noise.", [])
        attributes = {"label_balance": 0.5, "concat_balance": 0.5}
        if self.kwargs["label_dim"] > 0:
            children["emb_label"] = self.conv("unet.emb_label.", [])
        else:
            attributes["emb_label"] = None
        children |= {"enc": self.container("enc"), "dec": self.container("dec")}
        children["out_conv"] = self.conv("unet.out_conv.", [3, 3])
        return self.module("UNet", (), kwargs, attributes, ["out_gain"], children=children, prefix="unet.")

    def precond(self):
        names = ("img_resolution", "img_channels", "label_dim")
        attributes = {**{name: self.kwargs[name] for name in names}, "use_fp16": True, "sigma_data": 0.5}
        children = {
            "unet": self.unet(),
            "logvar_fourier": self.fourier("logvar_fourier."),
            "logvar_linear": self.conv("logvar_linear.", []),
        }
        return self.module("Precond", (), dict(self.kwargs), attributes, children=children)

    def content(self):
        loss = Stored("EDM2Loss", {"P_mean": -0.8, "P_std": 1.6, "sigma_data": 0.5})
        return EasyDict(
            ema=self.precond(),
            encoder=rgb_encoder() if self.kwargs["img_channels"] == 3 else vae_encoder(),
            dataset_kwargs=EasyDict(class_name="training.dataset.ImageFolderDataset", path="x.zip", use_labels=True),
            loss_fn=loss,
        )


def rgb_encoder():
    return Stored("StandardRGBEncoder", {"_init_args": (), "_init_kwargs": {}})


def vae_encoder(**changes):
    raw_mean, raw_std = [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]
    scale = np.float32(0.5) / np.float32(raw_std)
    state = {
        "vae_name": "stabilityai/sd-vae-ft-mse",
        "scale": scale,
        "bias": np.float32(0) - np.float32(raw_mean) * scale,
        "batch_size": 8,
        "_vae": None,
        "_init_args": (),
        "_init_kwargs": {"vae_name": "stabilityai/sd-vae-ft-mse"},
    }
    return Stored("StabilityVAEEncoder", state | changes)


def write(content, path, protocol=4, old_numpy=False):
    data = pickle.dumps(content, protocol)
    if old_numpy:
        assert protocol == 3  # names are lines there, so that they can be replaced
        data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        assert b"_core" not in data
    path.write_bytes(data)
    return path


def relative(found, expected):
    expected = torch.from_numpy(expected)
    return float((found - expected).norm() / expected.norm())


def assert_golden(net, golden):
    inputs = {name: torch.from_numpy(golden[name]) for name in ("x", "sigma", "class_labels")}
    labels = inputs["class_labels"] if net.label_dim > 0 else None
    denoised, logvar = net(inputs["x"], inputs["sigma"], labels, return_logvar=True)
    assert relative(denoised, golden["denoised"]) < 1e-5
    assert relative(logvar, golden["logvar"]) < 1e-5


# ----------------------------------------------------------------------------
# Files that must load.


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_edm2_code_base_load_and_give_its_numbers(tmp_path, kind):
    writer = Writer(kind)
    path = write(writer.content(), tmp_path / "net.pkl")
    file = load_network(path)
    assert type(file.net) is Precond
    assert not file.net.training
    assert {tensor.dtype for tensor in file.net.state_dict().values()} == {torch.float16}
    assert not any(parameter.requires_grad for parameter in file.net.parameters())
    for key, value in file.net.state_dict().items():
        assert torch.equal(value, writer.params[key])
    assert_golden(file.net, writer.golden)
    assert type(file.encoder) is (StabilityVAEEncoder if kind == "latent" else StandardRGBEncoder)
    assert file.dataset_kwargs["path"] == "x.zip"
    assert (file.source, file.sha256) == (str(path), sha256_of(path))


@pytest.mark.parametrize(
    ("age", "protocol", "old_numpy"), [("1.13", 3, True), ("1.13", 4, False), ("2.1", 3, False), ("2.1", 5, False)]
)
def test_files_of_all_ages_load(tmp_path, age, protocol, old_numpy):
    content = Writer("latent", age).content()
    file = load_network(write(content, tmp_path / "net.pkl", protocol, old_numpy))
    np.testing.assert_allclose(file.encoder.scale, np.float32(0.5) / np.float32([4.17, 4.62, 3.71, 3.28]))
    assert file.encoder.scale.dtype == np.float32
    assert_golden(file.net, np.load(DATA / "precond_latent.npz"))


def test_a_bare_network_loads_with_the_rgb_encoder(tmp_path):
    file = load_network(write(Writer("uncond").precond(), tmp_path / "net.pkl"))
    assert type(file.encoder) is StandardRGBEncoder
    assert file.dataset_kwargs == {}
    assert_golden(file.net, np.load(DATA / "precond_uncond.npz"))


def test_a_file_without_encoder_is_rgb(tmp_path):
    for content in ({"ema": Writer("uncond").precond()}, EasyDict(ema=Writer("uncond").precond(), encoder=None)):
        assert type(load_network(write(content, tmp_path / "net.pkl")).encoder) is StandardRGBEncoder


def test_float32_files_stay_float32(tmp_path):
    file = load_network(write({"ema": Writer("uncond", dtype=torch.float32).precond()}, tmp_path / "net.pkl"))
    assert {tensor.dtype for tensor in file.net.state_dict().values()} == {torch.float32}
    golden = np.load(DATA / "precond_uncond.npz")
    denoised = file.net(torch.from_numpy(golden["x"]), torch.from_numpy(golden["sigma"]))
    assert relative(denoised, golden["denoised_float32_parameters"]) < 1e-5


def test_positional_arguments_are_understood(tmp_path):
    content = Writer("uncond").content()
    kwargs = content.ema.state["_init_kwargs"]
    content.ema.state["_init_args"] = tuple(kwargs.pop(k) for k in ("img_resolution", "img_channels", "label_dim"))
    unet = content.ema.state["_modules"]["unet"]
    unet.state["_init_args"] = tuple(unet.state["_init_kwargs"].pop(k) for k in ("img_resolution", "img_channels"))
    conv = unet.state["_modules"]["emb_noise"]
    conv.state["_init_args"] += (conv.state["_init_kwargs"].pop("kernel"),)
    assert_golden(load_network(write(content, tmp_path / "net.pkl")).net, np.load(DATA / "precond_uncond.npz"))


def test_pickles_of_protocol_2_load(tmp_path):
    """Their byte strings are texts, of arrays and of tensors."""
    for kind in ("latent", "uncond"):
        file = load_network(write(Writer(kind).content(), tmp_path / "net.pkl", protocol=2))
        assert_golden(file.net, np.load(DATA / f"precond_{kind}.npz"))


def test_arguments_may_be_arrays(tmp_path):
    content = Writer("uncond").content()
    for record in (content.ema, content.ema.state["_modules"]["unet"]):
        kwargs = record.state["_init_kwargs"]
        kwargs["channel_mult"] = np.array(kwargs["channel_mult"])
        kwargs["attn_resolutions"] = np.array(kwargs["attn_resolutions"], dtype=np.int32)
        kwargs["resample_filter"] = np.array([1.0, 1.0], dtype=np.float32)
        kwargs["label_balance"] = np.float64(0.5)
    file = load_network(write(content, tmp_path / "net.pkl"))
    assert_golden(file.net, np.load(DATA / "precond_uncond.npz"))
    assert type(file.net.init_kwargs["channel_mult"]) is list


@pytest.mark.parametrize("as_argument", [False, True])
@pytest.mark.parametrize("infinity", [float("inf"), np.float32("inf")])
def test_limits_of_noise_levels_that_are_none_are_left_out(tmp_path, as_argument, infinity):
    """What older preconditioning classes had."""
    content = Writer("uncond").content()
    limits = {"sigma_min": 0, "sigma_max": infinity}
    content.ema.state |= limits
    if as_argument:
        content.ema.state["_init_kwargs"] |= limits
    net = load_network(write(content, tmp_path / "net.pkl")).net
    assert_golden(net, np.load(DATA / "precond_uncond.npz"))
    assert not hasattr(net, "sigma_min")
    assert "sigma_min" not in net.init_kwargs


@pytest.mark.parametrize("as_argument", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigma_min", 0.002),
        ("sigma_max", 80),
        ("sigma_min", False),
        ("sigma_max", "inf"),
        ("sigma_max", np.array([np.inf])),
    ],
)
def test_limits_of_noise_levels_that_are_some_are_refused(tmp_path, as_argument, name, value):
    content = Writer("uncond").content()
    (content.ema.state["_init_kwargs"] if as_argument else content.ema.state)[name] = value
    with pytest.raises(ValueError, match=f"{name} = .*: this network is for some noise levels only"):
        load_network(write(content, tmp_path / "net.pkl"))


def test_a_layer_has_no_limits(tmp_path):
    content = Writer("uncond").content()
    content.ema.state["_modules"]["unet"].state["sigma_min"] = 0
    with pytest.raises(ValueError, match="attribute sigma_min = 0 is unknown to our UNet"):
        load_network(write(content, tmp_path / "net.pkl"))


def test_the_loss_is_kept_if_it_is_one_of_ours(tmp_path):
    content = Writer("uncond").content()
    loss = load_network(write(content, tmp_path / "net.pkl")).loss_fn
    assert type(loss) is EDM2Loss
    assert vars(loss).items() >= {"P_mean": -0.8, "P_std": 1.6, "sigma_data": 0.5}.items()
    others = [
        Stored("Loss", {}),
        Stored("EDM2Loss", {"P_mean": -0.8, "P_std": 1.6}),
        Stored("EDM2Loss", {"P_mean": -0.8, "P_std": 1.6, "sigma_data": 0.5, "extra": 1}),
        Stored("EDM2Loss", {"P_mean": -0.8, "P_std": -1.6, "sigma_data": 0.5}),
        "a text",
    ]
    for other in others:
        content.loss_fn = other
        assert load_network(write(content, tmp_path / "net.pkl")).loss_fn is None


def test_a_tensor_in_a_larger_storage_loads(tmp_path):
    """Parameters that are views, as some exporters leave them."""
    writer = Writer("uncond")
    for key, value in writer.params.items():
        writer.params[key] = torch.cat([value.flatten(), torch.full([7], 9.0).half()])[: value.numel()].view(
            value.shape
        )
    assert_golden(load_network(write({"ema": writer.precond()}, tmp_path / "net.pkl")).net, writer.golden)


def test_a_child_registered_as_none_is_no_child(tmp_path):
    writer = Writer("uncond")
    content = writer.content()
    unet = content.ema.state["_modules"]["unet"]
    del unet.state["emb_label"]
    unet.state["_modules"]["emb_label"] = None
    assert_golden(load_network(write(content, tmp_path / "net.pkl")).net, writer.golden)


def test_the_file_may_go_once_it_is_loaded(tmp_path):
    """Tensors are copied: a file that changes later does not change the network."""
    path = write(Writer("uncond").content(), tmp_path / "net.pkl")
    net = load_network(path).net
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    path.unlink()
    assert_golden(net, np.load(DATA / "precond_uncond.npz"))


def test_the_source_in_a_file_is_never_executed(tmp_path):
    """Everything fits, only the source is evil: the network loads, and the source has not run."""
    marker = tmp_path / "marker"
    content = Writer("uncond").content()
    content.ema.source = f"open({str(marker)!r}, 'w').close()\n" + FOREIGN_SOURCE
    content.loss_fn.source = content.ema.source
    path = write(content, tmp_path / "net.pkl")
    assert_golden(load_network(path).net, np.load(DATA / "precond_uncond.npz"))
    report = inspect_network(path)
    assert report["refusal"] is None
    assert not marker.exists()


# ----------------------------------------------------------------------------
# Files that say something our classes do not reproduce.


def unet_of(content):
    return content.ema.state["_modules"]["unet"].state


def block_of(content, side="enc", name="8x8_block0"):
    return unet_of(content)["_modules"][side].__dict__["_modules"][name].state


TAMPERED = {
    "num_heads": (lambda c: block_of(c).update(num_heads=1), "8x8_block0: attribute num_heads is 1"),
    "res_balance": (lambda c: block_of(c).update(res_balance=0.4), "attribute res_balance is 0.4"),
    "attn_balance": (lambda c: block_of(c).update(attn_balance=0.31), "attribute attn_balance"),
    "clip_act": (lambda c: block_of(c).update(clip_act=None), "attribute clip_act is None"),
    "dropout": (lambda c: block_of(c).update(dropout=0.1), "attribute dropout"),
    "flavor": (lambda c: block_of(c).update(flavor="dec"), "attribute flavor"),
    "resample_mode": (lambda c: block_of(c).update(resample_mode="up"), "attribute resample_mode"),
    "resample_filter": (lambda c: block_of(c).update(resample_filter=[1, 3, 3, 1]), "attribute resample_filter"),
    "out_channels": (lambda c: block_of(c).update(out_channels=31), "attribute out_channels"),
    "label_balance": (lambda c: unet_of(c).update(label_balance=0.6), "ema.unet: attribute label_balance"),
    "concat_balance": (lambda c: unet_of(c).update(concat_balance=0.6), "attribute concat_balance"),
    "sigma_data": (lambda c: c.ema.state.update(sigma_data=0.4), "ema: attribute sigma_data is 0.4"),
    "use_fp16": (lambda c: c.ema.state.update(use_fp16=1), "attribute use_fp16"),
    "img_resolution": (lambda c: c.ema.state.update(img_resolution=32), "attribute img_resolution"),
    "unknown attribute": (lambda c: block_of(c).update(temperature=2), "attribute temperature = 2 is unknown"),
    "attribute over a method": (lambda c: c.ema.state.update(forward=3), "attribute forward is 3"),
    "attribute over a parameter": (lambda c: unet_of(c).update(out_gain=3), "attribute out_gain is 3, but a tensor as"),
    "array as attribute": (lambda c: c.ema.state.update(sigma_data=np.ones(2)), "attribute sigma_data"),
    "tensor as attribute": (lambda c: c.ema.state.update(sigma_data=torch.ones(2)), "attribute sigma_data"),
    "object as attribute": (lambda c: c.ema.state.update(sigma_data=rgb_encoder()), "attribute sigma_data"),
    "hooks": (lambda c: block_of(c)["_forward_hooks"].update({0: 1}), "_forward_hooks is not empty"),
    "hooks of a container": (
        lambda c: unet_of(c)["_modules"]["enc"].__dict__["_forward_pre_hooks"].update({0: 1}),
        "enc: _forward_pre_hooks is not empty",
    ),
    "new kind of hooks": (lambda c: block_of(c).update(_future_hooks={1: 2}), "_future_hooks is not empty"),
    "non-persistent buffers": (lambda c: block_of(c)["_non_persistent_buffers_set"].add("a"), "_non_persistent"),
    "compiled": (lambda c: c.ema.state.update(_compiled_call_impl=1), "_compiled_call_impl"),
    "missing layer": (lambda c: unet_of(c)["_modules"].pop("out_conv"), "lacks the layers out_conv"),
    "surplus layer": (
        lambda c: c.ema.state["_modules"].update(extra=c.ema.state["_modules"]["logvar_linear"]),
        "layers that its constructor arguments do not make: 'extra'",
    ),
    "missing parameter": (lambda c: block_of(c)["_parameters"].clear(), "lacks the tensors emb_gain"),
    "parameter None": (lambda c: block_of(c)["_parameters"].update(emb_gain=None), "lacks the tensors emb_gain"),
    "surplus parameter": (lambda c: block_of(c)["_parameters"].update(bias=torch.ones(1)), "tensors that .*'bias'"),
    "surplus buffer": (lambda c: block_of(c)["_buffers"].update(bias=torch.ones(1)), "tensors that .*'bias'"),
    "wrong shape": (lambda c: block_of(c)["_parameters"].update(emb_gain=torch.ones(2)), r"emb_gain: shape \(2,\)"),
    "integer tensor": (
        lambda c: block_of(c)["_parameters"].update(emb_gain=torch.tensor(1)),
        "emb_gain: not a floating-point tensor",
    ),
    "number for a tensor": (lambda c: block_of(c)["_parameters"].update(emb_gain=1.0), "not a floating-point tensor"),
    "one tensor twice": (
        lambda c: (block_of(c)["_parameters"].update(emb_gain=unet_of(c)["_parameters"]["out_gain"]),),
        "share one tensor",
    ),
    "no parameters": (lambda c: block_of(c).pop("_parameters"), "_parameters is missing"),
    "list of layers": (lambda c: unet_of(c).update(_modules=[]), "_modules is missing or no dictionary"),
    "another class inside": (
        lambda c: setattr(unet_of(c)["_modules"]["enc"].__dict__["_modules"]["8x8_block0"], "class_name", "MyBlock"),
        "8x8_block0: an object of class MyBlock where Block is expected",
    ),
    "no layer inside": (lambda c: unet_of(c)["_modules"].update(out_conv=3), "out_conv: a value of type int"),
    "container for a layer": (
        lambda c: unet_of(c)["_modules"].update(enc=torch.nn.Sequential()),
        "enc: an object of class Sequential where ModuleDict is expected",
    ),
    "persistent ModuleDict": (
        lambda c: unet_of(c)["_modules"].update(enc=Stored("ModuleDict", {})),
        "where ModuleDict is expected",
    ),
    "kernel of a child": (
        lambda c: unet_of(c)["_modules"]["out_conv"].state["_init_kwargs"].update(kernel=[1, 1]),
        r"out_conv: constructor argument kernel is \[1, 1\] in the file, \[3, 3\]",
    ),
    "argument of a block": (
        lambda c: block_of(c)["_init_kwargs"].update(res_balance=0.5),
        "constructor argument res_balance is 0.5 in the file, 0.3 as built here",
    ),
    "unknown argument of a block": (
        lambda c: block_of(c)["_init_kwargs"].update(norm="layer"),
        "Block cannot be constructed so: .*norm",
    ),
    "argument of the unet": (
        lambda c: unet_of(c)["_init_kwargs"].update(concat_balance=0.6),
        "constructor argument concat_balance",
    ),
    "arguments of a child unknown": (lambda c: block_of(c).pop("_init_args"), "does not say what Block was"),
    "unknown class": (lambda c: setattr(c.ema, "class_name", "EDMPrecond"), "class EDMPrecond is not known"),
    "version 5": (lambda c: setattr(c.ema, "version", 5), "persistence format 5"),
    "no arguments": (lambda c: c.ema.state.pop("_init_kwargs"), "does not say what Precond was constructed with"),
    "too many arguments": (lambda c: c.ema.state.update(_init_args=(1,) * 9), "cannot be constructed so"),
    "arguments twice": (lambda c: c.ema.state.update(_init_args=(16,)), "multiple values"),
    "unknown argument": (lambda c: c.ema.state["_init_kwargs"].update(temperature=1), "no constructor argument 'temp"),
    "argument of a block at the top": (
        lambda c: c.ema.state["_init_kwargs"].update(flavor="enc"),
        "no constructor argument 'flavor'",
    ),
    "other arguments": (lambda c: c.ema.state["_init_kwargs"].update(model_channels=32), "constructor argument"),
    "text as number": (lambda c: c.ema.state["_init_kwargs"].update(img_channels="3"), "img_channels = '3' is not"),
    "negative": (lambda c: c.ema.state["_init_kwargs"].update(label_dim=-1), "label_dim = -1 is not possible"),
    "not a number": (lambda c: c.ema.state["_init_kwargs"].update(sigma_data=float("nan")), "sigma_data = nan"),
    "no levels": (lambda c: c.ema.state["_init_kwargs"].update(channel_mult=[]), "cannot be constructed so"),
    "no ema": (lambda c: c.update(ema=None), "'ema' is not among its entries"),
    "ema of another type": (lambda c: c.update(ema=[1]), "ema: not a network but a value of type list"),
    "dataset_kwargs": (lambda c: c.update(dataset_kwargs=[1]), "dataset_kwargs is a value of type list"),
    "unknown encoder": (lambda c: setattr(c.encoder, "class_name", "MyEncoder"), "encoder: class MyEncoder is not"),
    "encoder of another type": (lambda c: c.update(encoder=3), "encoder: not an encoder but a value of type int"),
    "argument of the encoder": (lambda c: c.encoder.state.update(_init_kwargs={"a": 1}), "argument 'a'"),
    "positional argument of the encoder": (lambda c: c.encoder.state.update(_init_args=(1,)), "positional arguments"),
    "attribute of the encoder": (lambda c: c.encoder.state.update(gamma=2.2), "encoder: attribute gamma = 2.2"),
    "scale of the VAE": (lambda c: c.update(encoder=vae_encoder(scale=np.ones(4, np.float32))), "attribute scale"),
    "shape of the bias": (lambda c: c.update(encoder=vae_encoder(bias=np.zeros(3))), "attribute bias"),
    "a VAE in the file": (lambda c: c.update(encoder=vae_encoder(_vae=Stored("AutoencoderKL", {}))), "attribute _vae"),
    "mean of the VAE": (
        lambda c: c.update(encoder=vae_encoder(_init_kwargs={"raw_mean": [0, 0, 0, 0]})),
        "attribute bias",
    ),
    "batch size of the VAE": (lambda c: c.update(encoder=vae_encoder(batch_size=0)), "attribute batch_size"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_our_classes_do_not_reproduce_is_an_error(tmp_path, what):
    tamper, message = TAMPERED[what]
    content = Writer("uncond").content()
    tamper(content)
    path = write(content, tmp_path / "net.pkl")
    with pytest.raises(ValueError, match=message) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    assert "--trust-pickle" in str(caught.value)


def test_inspection_says_the_same(tmp_path):
    for what in ("num_heads", "unknown class", "scale of the VAE", "no arguments", "ema of another type"):
        tamper, message = TAMPERED[what]
        content = Writer("uncond").content()
        tamper(content)
        report = inspect_network(write(content, tmp_path / "net.pkl"))
        assert re.search(message, report["refusal"])
        assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_channels": 10**9},
        {"model_channels": 2**16, "channel_mult": [1024] * 10},
        {"num_blocks": 10**6},
        {"num_blocks": 32, "channel_mult": [1] * 10},
        {"label_dim": 10**12},
        {"label_dim": 2**24},
        {"logvar_channels": 10**12},
        {"img_resolution": 10**12},
        {"channel_mult": [1] * 10**5},
        {"channel_mult": [10**6, 10**6]},
        {"resample_filter": [1] * 10**5},
        {"attn_resolutions": list(range(10**5))},
        {"channel_mult_emb": 1e300},
        {"channel_mult_noise": float("inf")},
        {"channels_per_head": 0},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_arguments_that_would_take_the_machine_are_refused(tmp_path, arguments):
    """Before they take minutes and all memory."""
    content = Writer("uncond").content()
    content.ema.state["_init_kwargs"].update(arguments)
    path = write(content, tmp_path / "net.pkl")
    with pytest.raises(ValueError, match=r"not possible|cannot be constructed|the arguments make|constructor arg"):
        load_network(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a value of type list, not a dictionary"),
        ({}, "'ema' is not among its entries .none."),
        ({"fid": {"mu": np.zeros(3)}, "num_images": 3}, "'ema' is not among its entries .'fid', 'num_images'"),
        (rgb_encoder(), "class StandardRGBEncoder is not known"),
    ],
)
def test_pickles_of_something_else(tmp_path, content, message):
    path = write(content, tmp_path / "net.pkl")
    with pytest.raises(ValueError, match=message):
        load_network(path)
    assert inspect_network(path)["refusal"] is not None


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_network(tmp_path / "missing.pkl")
    with pytest.raises(OSError):
        load_network(tmp_path)


def test_python_agrees_with_the_writer(tmp_path):
    """The hand-made files are what Python's own unpickler reads, given classes: else they would test nothing."""

    class Objects(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "_reconstruct_persistent_obj":
                return lambda meta: (meta["class_name"], meta["state"])
            return super().find_class(module, name)

    data = pickle.dumps(Writer("uncond").content(), 4)
    class_name, state = Objects(io.BytesIO(data)).load()["ema"]
    assert class_name == "Precond"
    assert state["_modules"]["logvar_linear"][1]["_parameters"]["weight"].shape == (1, 128)


def test_plain_values_of_tuples_with_names():
    """Such as what stands for a tensor's storage in a file that is only looked at."""
    point = namedtuple("Point", "x y")(np.float32(1.5), [np.int64(2)])
    assert plain_value(point) == (1.5, [2])
    assert type(plain_value(point)) is tuple
