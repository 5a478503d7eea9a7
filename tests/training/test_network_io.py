"""Writing network files and what becomes of them: here, in the EDM2 code base, as safetensors, and with trust."""

import ast
import copy
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dnnlib.regular import sha256_of
from dnnlib.util import EasyDict
from torch_utils import persistence
from torch_utils.safe_pickle import DamagedPickleError, OtherFormatError, PersistentRecord, load
from training import encoders, loss, networks_edm2
from training.dataset import MAX_CLASSES
from training.encoders import StabilityVAEEncoder, StandardRGBEncoder
from training.loss import EDM2Loss
from training.network_inspect import report_lines
from training.network_io import inspect_network, load_network, save_network, save_safetensors
from training.network_records import checked_arguments, plain_copy
from training.network_safetensors import DamagedFileError
from training.networks_edm2 import Precond

DATA = Path(__file__).resolve().parents[1] / "data"
SMALL = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8}


def network(*shape, seed=0, **kwargs):
    torch.manual_seed(seed)
    net = Precond(*(shape or (8, 3, 4)), **{**SMALL, **kwargs})
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    return net


def inputs(net):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, net.img_channels, net.img_resolution, net.img_resolution, generator=generator)
    return x, torch.tensor([0.3, 3.0]), torch.eye(net.label_dim)[:2] if net.label_dim > 0 else None


def golden_network(kind):
    golden = np.load(DATA / f"precond_{kind}.npz")
    net = Precond(**json.loads(str(golden["init_kwargs"])))
    net.load_state_dict({key[6:]: torch.from_numpy(golden[key]) for key in golden if key.startswith("param:")})
    return net, golden


def same_tensors(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


# ----------------------------------------------------------------------------
# Writing and reading here.


def test_round_trip(tmp_path):
    net = network()
    kwargs = {"path": "a.zip", "use_labels": True, "list": [1, None, "ü"]}
    save_network(tmp_path / "net.pkl", net, encoder=StabilityVAEEncoder(), dataset_kwargs=kwargs, loss_fn=EDM2Loss())
    file = load_network(tmp_path / "net.pkl")
    assert same_tensors(file.net, copy.deepcopy(net).half())
    assert torch.equal(file.net(*inputs(net)), copy.deepcopy(net).half().eval()(*inputs(net)))
    assert (file.net.init_args, file.net.init_kwargs["num_blocks"]) == ((), 1)
    assert type(file.encoder) is StabilityVAEEncoder
    assert file.dataset_kwargs == kwargs
    assert file.sha256 == sha256_of(tmp_path / "net.pkl")


@pytest.mark.parametrize("kind", ["cond", "uncond", "weak", "latent"])
def test_golden_numbers_survive_both_forms(tmp_path, kind):
    net, golden = golden_network(kind)
    save_network(tmp_path / "net.pkl", net)
    save_safetensors(tmp_path / "net.safetensors", load_network(tmp_path / "net.pkl").net)
    arguments = [torch.from_numpy(golden[name]) for name in ("x", "sigma", "class_labels")]
    expected = torch.from_numpy(golden["denoised"])
    for name in ("net.pkl", "net.safetensors"):
        denoised = load_network(tmp_path / name).net(*arguments)
        assert (denoised - expected).norm() / expected.norm() < 1e-5


def test_class_zero_and_no_class_are_different_networks(tmp_path):
    """label_dim 0 and 1, seed 0: nothing is lost to truthiness."""
    for label_dim in (0, 1):
        net = network(8, 3, label_dim)
        save_network(tmp_path / "net.pkl", net)
        assert load_network(tmp_path / "net.pkl").net.label_dim == label_dim


def test_writing_leaves_the_network_as_it_is(tmp_path):
    net = network().train()
    before = copy.deepcopy(net)
    save_network(tmp_path / "net.pkl", net)
    assert same_tensors(net, before)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_layout_of_a_written_file(tmp_path):
    save_network(tmp_path / "net.pkl", network(), encoder=StandardRGBEncoder(), dataset_kwargs={}, loss_fn=EDM2Loss())
    content = load(tmp_path / "net.pkl")
    assert list(content) == ["ema", "encoder", "dataset_kwargs", "loss_fn"]
    assert [content[key].class_name for key in ("ema", "encoder", "loss_fn")] == [
        "Precond", "StandardRGBEncoder", "EDM2Loss"
    ]  # fmt: skip
    assert all(content[key].version == 6 for key in ("ema", "encoder", "loss_fn"))
    assert content["ema"].module_src == Path(networks_edm2.__file__).read_text()
    assert content["ema"].state["_init_args"] == (8, 3, 4)
    unet = content["ema"].state["_modules"]["unet"]
    assert unet.state["_parameters"]["out_gain"].dtype == "float16"
    assert isinstance(unet.state["_modules"]["emb_fourier"].state["_buffers"]["freqs"].to_torch(), torch.HalfTensor)
    assert b"dnnlib.util" in (tmp_path / "net.pkl").read_bytes()[:100]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.pkl"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="net: class Linear is not persistent"):
        save_network(path, torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="loss_fn: class int"):
        save_network(path, network(), loss_fn=3)
    with pytest.raises(ValueError, match="dataset_kwargs is not plain data"):
        save_network(path, network(), dataset_kwargs={"a": object()})
    with pytest.raises(ValueError, match="dataset_kwargs is not plain data"):
        save_safetensors(path, network(), dataset_kwargs={"a": float("nan")})
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["net.pkl"]


def test_a_network_that_could_not_be_read_back_is_not_written(tmp_path):
    changed = network()
    changed.unet.enc["8x8_block0"].res_balance = 0.5
    hooked = network()
    hooked.unet.register_forward_hook(lambda *_: None)
    larger = network()
    larger.extra = torch.nn.Identity()
    for net, message in [
        (changed, "net.unet.enc.8x8_block0: attribute res_balance is 0.5"),
        (hooked, "net.unet: _forward_hooks is not empty"),
        (larger, "net: layers were added or removed: net.extra"),
    ]:
        for save in (save_network, save_safetensors):
            with pytest.raises(ValueError, match=message):
                save(tmp_path / "net", net)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_network_is_damaged_not_evil(tmp_path):
    save_network(tmp_path / "net.pkl", network())
    (tmp_path / "half.pkl").write_bytes((tmp_path / "net.pkl").read_bytes()[:9999])
    with pytest.raises(DamagedPickleError, match="Fetch or copy it again") as caught:
        load_network(tmp_path / "half.pkl")
    assert "trust" not in str(caught.value)


# ----------------------------------------------------------------------------
# In the EDM2 code base. Its part is played by a few lines of our own that do what the format says a reader does, in a
# process where nothing of this project can be imported.

READER = {
    "dnnlib/__init__.py": "from .util import EasyDict, make_cache_dir_path\n",
    "dnnlib/util.py": """
class EasyDict(dict):
    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]

def make_cache_dir_path(*parts):
    return "/nonexistent/" + "/".join(parts)
""",
    "torch_utils/__init__.py": "",
    "torch_utils/misc.py": "def const_like(ref, value, **kwargs): raise NotImplementedError\n",
    "torch_utils/persistence.py": """
import sys, types

executed = {}

def persistent_class(cls):
    class Recording(cls):  # a subclass, unlike this project's decorator
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._args, self._kwargs = args, kwargs

        def __reduce__(self):
            source = executed[cls.__module__]
            meta = dict(type="class", version=6, module_src=source, class_name=cls.__name__, state=self.__dict__)
            return _reconstruct_persistent_obj, (meta,)

    Recording.__name__ = cls.__name__
    return Recording

def _reconstruct_persistent_obj(meta):
    assert meta["type"] == "class" and meta["version"] == 6
    name = "embedded_%d" % len(executed)
    for known, source in executed.items():
        if source == meta["module_src"]:
            name = known
    if name not in executed:
        module = sys.modules[name] = types.ModuleType(name)
        executed[name] = meta["module_src"]
        exec(meta["module_src"], module.__dict__)
    cls = getattr(sys.modules[name], meta["class_name"])
    obj = cls.__new__(cls)
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(meta["state"])
    else:
        obj.__dict__.update(meta["state"])
    return obj
""",
    "read.py": """
import copy, importlib.util, pickle, sys
import numpy as np
import torch

for name in ("training", "images", "cli", "sampling"):
    assert importlib.util.find_spec(name) is None, name
with open("net.pkl", "rb") as file:
    data = pickle.load(file)
assert type(data).__module__ == "dnnlib.util"
net = data.ema
assert not net.training and type(net).__mro__[1].__module__.startswith("embedded_")
assert next(net.parameters()).dtype == torch.float16
assert (net._init_args, net._init_kwargs["model_channels"]) == ((8, 3, 4), 8)
net.use_fp16 = True
inputs = np.load("inputs.npz")
x, sigma, labels = (torch.from_numpy(inputs[name]) for name in ("x", "sigma", "labels"))
with torch.no_grad():
    outputs = {"denoised": net(x, sigma, labels), "copied": copy.deepcopy(net)(x, sigma, labels)}
    outputs["one_sigma"] = net(x, torch.as_tensor(1.5), labels)
    _, outputs["logvar"] = net(x, sigma, labels, return_logvar=True)
    outputs["again"] = pickle.loads(pickle.dumps(net))(x, sigma, labels)
    data.encoder.init(torch.device("cpu"))
    outputs["decoded"] = data.encoder.decode(outputs["denoised"])
    outputs["encoded"] = data.encoder.encode_latents(data.encoder.encode_pixels(outputs["decoded"]))
    outputs["loss"] = data.loss_fn(net=net, images=x, labels=labels).float()
assert data.dataset_kwargs.path == "x.zip"
np.savez("outputs.npz", **{key: value.numpy() for key, value in outputs.items()})
""",
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A written network, and what a foreign reader makes of it: (network, {name: array})."""
    folder = tmp_path_factory.mktemp("edm2")
    for name, text in READER.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    net = network()
    save_network(
        folder / "net.pkl", net, encoder=StandardRGBEncoder(), dataset_kwargs={"path": "x.zip"}, loss_fn=EDM2Loss()
    )
    x, sigma, labels = inputs(net)
    np.savez(folder / "inputs.npz", x=x, sigma=sigma, labels=labels)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([sys.executable, "read.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_network(folder / "net.pkl").net, dict(np.load(folder / "outputs.npz"))


def test_our_files_give_the_same_outputs_in_the_edm2_code_base(elsewhere):
    net, outputs = elsewhere
    x, sigma, labels = inputs(net)
    denoised, logvar = net(x, sigma, labels, return_logvar=True)
    for name in ("denoised", "copied", "again"):
        np.testing.assert_allclose(outputs[name], denoised, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["one_sigma"], net(x, torch.tensor(1.5), labels), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["logvar"], logvar, rtol=1e-5)


def test_our_encoder_and_loss_work_in_the_edm2_code_base(elsewhere):
    _, outputs = elsewhere
    denoised = torch.from_numpy(outputs["denoised"])
    np.testing.assert_array_equal(outputs["decoded"], StandardRGBEncoder().decode(denoised))
    np.testing.assert_allclose(outputs["encoded"], outputs["decoded"] / 127.5 - 1, atol=1e-6)
    assert outputs["loss"].shape == denoised.shape
    assert np.isfinite(outputs["loss"]).all()


@pytest.mark.parametrize("module", [networks_edm2, encoders, loss])
def test_embedded_sources_import_what_the_edm2_code_base_has(module):
    """torch, numpy, the standard library and torch_utils; diffusers and dnnlib only inside functions."""
    tree = ast.parse(Path(module.__file__).read_text())
    allowed = {"torch", "numpy", "torch_utils", *sys.stdlib_module_names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        lazily = node not in tree.body
        for name in names:
            top = name.split(".")[0]
            assert top in allowed or (lazily and top in {"diffusers", "dnnlib", "huggingface_hub"}), name
            if top == "torch_utils":
                assert isinstance(node, ast.ImportFrom)
                assert {alias.name for alias in node.names} <= {"persistence", "misc"}


# ----------------------------------------------------------------------------
# safetensors.


def test_safetensors_round_trip_is_bit_identical(tmp_path):
    save_network(tmp_path / "net.pkl", network(), encoder=StabilityVAEEncoder(batch_size=4), dataset_kwargs={"a": [1]})
    first = load_network(tmp_path / "net.pkl")
    path = tmp_path / "net.safetensors"
    save_safetensors(
        path, first.net, encoder=first.encoder, dataset_kwargs=first.dataset_kwargs, source_sha256=first.sha256
    )
    second = load_network(path)
    assert same_tensors(first.net, second.net)
    assert {tensor.dtype for tensor in second.net.state_dict().values()} == {torch.float16}
    assert torch.equal(first.net(*inputs(first.net)), second.net(*inputs(first.net)))
    assert second.dataset_kwargs == {"a": [1]}
    assert type(second.encoder) is StabilityVAEEncoder
    assert second.encoder.batch_size == 4
    np.testing.assert_array_equal(first.encoder.scale, second.encoder.scale)
    assert not second.net.training
    assert second.sha256 == sha256_of(path)
    save_network(tmp_path / "again.pkl", second.net, encoder=second.encoder)
    assert same_tensors(load_network(tmp_path / "again.pkl").net, first.net)


def config_of(path):
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["edm2_network"])


def test_metadata_says_what_is_in_a_safetensors_file(tmp_path):
    save_safetensors(tmp_path / "a", network(8, 3, 0), encoder=StandardRGBEncoder(), source_sha256="ab" * 32)
    assert config_of(tmp_path / "a") == {
        "version": 1,
        "network": {"class": "Precond", "arguments": {"img_resolution": 8, "img_channels": 3, "label_dim": 0, **SMALL}},
        "encoder": {"class": "StandardRGBEncoder", "arguments": {}},
        "dataset_kwargs": {},
        "source_sha256": "ab" * 32,
    }


def rewritten(path, change_tensors=lambda t: None, change_config=lambda c: None, key="edm2_network"):
    tensors, config = safetensors.torch.load_file(path), config_of(path)
    change_tensors(tensors)
    change_config(config)
    safetensors.torch.save_file(tensors, path, {key: json.dumps(config)})


NAME = "unet.out_conv.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change_tensors": lambda t: t.pop(NAME)}, "tensor unet.out_conv.weight is missing in the file"),
        ({"change_tensors": lambda t: t.update(bias=torch.ones(1))}, "tensor bias is .1,. in the file, unknown"),
        (
            {"change_tensors": lambda t: t.update({NAME: torch.ones(2)})},
            r"weight is \(2,\) in the file, \(3, 8, 3, 3\)",
        ),
        ({"change_tensors": lambda t: t.update({NAME: t[NAME].long()})}, "is of type I64"),
        ({"change_config": lambda c: c["network"].update({"class": "Other"})}, "class 'Other' is not known"),
        ({"change_config": lambda c: c["network"]["arguments"].update(flavor="enc")}, "no constructor argument"),
        ({"change_config": lambda c: c["network"]["arguments"].update(model_channels=10**9)}, "not possible"),
        (
            {"change_config": lambda c: c["network"]["arguments"].update(num_blocks=2)},
            "in the network of these arguments",
        ),
        ({"change_config": lambda c: c.update(network=None)}, "does not name a class"),
        ({"change_config": lambda c: c.update(encoder={"class": "Other", "arguments": {}})}, "class 'Other'"),
        ({"change_config": lambda c: c.update(version=2)}, "not of version 1"),
        ({"change_config": lambda c: c.pop("encoder")}, "not of version 1"),
        ({"change_config": lambda c: c.update(dataset_kwargs=[])}, "dataset_kwargs"),
        ({"change_config": lambda c: c.update(dataset_kwargs={"a": float("nan")})}, "not valid JSON"),
        ({"change_config": lambda c: c.update(source_sha256=[])}, "source_sha256"),
        ({"change_config": lambda c: c["network"].pop("class")}, "does not name a class"),
        ({"change_config": lambda c: c["network"].update(arguments=3)}, "is not known|does not name"),
        ({"change_config": lambda c: c["network"].update({"class": "x" * 9999})}, "class 'xxxx.{1,30}' is not known"),
        ({"change_config": lambda c: c.update(encoder=3)}, "encoder: the metadata does not name a class"),
        ({"key": "format"}, "no EDM2 network of this project"),
    ],
)
def test_safetensors_are_read_strictly(tmp_path, changes, message):
    path = tmp_path / "net.safetensors"
    save_safetensors(path, network())
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_network(path)
    assert "trust" not in str(caught.value)
    report = inspect_network(path)
    assert report["refusal"] in str(caught.value)
    assert f"reading   refused: {report['refusal']}" in report_lines(report)


def test_metadata_nested_without_end(tmp_path):
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file({}, path, {"edm2_network": "[" * 100_000 + "]" * 100_000})
    with pytest.raises(ValueError, match="edm2_network is not valid JSON"):
        load_network(path)


def test_what_is_shown_of_a_file_holds_no_escape_sequences(tmp_path):
    for path, save in ((tmp_path / "net.safetensors", save_safetensors), (tmp_path / "net.pkl", save_network)):
        save(path, network(), dataset_kwargs={"\x1b[2J": "\x1b[2J"})
        lines = report_lines(inspect_network(path))
        assert r"dataset   \x1b[2J='\x1b[2J'" in lines
        assert all(line.isprintable() for line in lines)


def test_damaged_safetensors(tmp_path):
    save_safetensors(tmp_path / "net.safetensors", network())
    whole = (tmp_path / "net.safetensors").read_bytes()
    endless = json.dumps({"x" * 100_000: 3}).encode()
    (tmp_path / "endless.safetensors").write_bytes(len(endless).to_bytes(8, "little") + endless)
    with pytest.raises(DamagedFileError) as caught:
        load_network(tmp_path / "endless.safetensors")
    assert len(str(caught.value)) < 1000
    for cut in (100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError, match="Fetch or copy it again"):
            load_network(tmp_path / "cut.safetensors")


def test_safetensors_under_another_name(tmp_path):
    """The content tells: caches and users rename files."""
    save_safetensors(tmp_path / "net", network())
    assert type(load_network(tmp_path / "net").net) is Precond


def test_only_known_classes_become_safetensors(tmp_path):
    with pytest.raises(ValueError, match="only Precond with StandardRGBEncoder, StabilityVAEEncoder"):
        save_safetensors(tmp_path / "a", torch.nn.Linear(1, 1))


# ----------------------------------------------------------------------------
# Trust.

FOREIGN = """
import torch
from torch_utils import persistence, misc
import dnnlib

open({marker!r}, "w").close()

class Doubler(torch.nn.Module):
    def __init__(self, img_resolution, img_channels, label_dim):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.factor = torch.nn.Parameter(torch.full([], 2.0))

    def forward(self, x, sigma, class_labels=None):
        return misc.const_like(x, 1) * x * self.factor
"""
LOSS = "import torch_utils.training_stats\nclass Loss: pass\n"


class Written:
    def __init__(self, source, class_name, state):
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}

    def __reduce__(self):
        return persistence._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture
def foreign(tmp_path):
    """A file with a class that is not known here; its source leaves `marker` when it runs."""
    source = FOREIGN.format(marker=str(tmp_path / "marker"))
    state = dict(torch.nn.Linear(1, 1).__dict__)
    state |= {"_parameters": {"factor": torch.nn.Parameter(torch.full([], 2.0))}}
    state |= {"img_resolution": 4, "img_channels": 3, "label_dim": 0}
    content = EasyDict(
        ema=Written(source, "Doubler", state), loss_fn=Written(LOSS, "Loss", {}), dataset_kwargs={"n": 1}
    )
    path = tmp_path / "foreign.pkl"
    path.write_bytes(pickle.dumps(content))
    yield path
    for name in [name for name in sys.modules if name.startswith("_trusted_source_")]:
        del sys.modules[name]
    persistence._trusted_modules.clear()


def test_an_unknown_class_needs_trust(foreign, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"class Doubler is not known here .*--trust-pickle"):
        load_network(foreign)
    assert not (tmp_path / "marker").exists()
    assert capsys.readouterr().err == ""


def test_trust_executes_and_says_so_first(foreign, tmp_path, capsys):
    file = load_network(foreign, trust_pickle=True)
    assert (tmp_path / "marker").exists()
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(file.net(x, torch.ones([])), x * 2)
    assert not file.net.training
    assert not any(parameter.requires_grad for parameter in file.net.parameters())
    assert type(file.encoder) is StandardRGBEncoder
    assert file.dataset_kwargs == {"n": 1}
    record = load(foreign)["ema"]
    assert isinstance(record, PersistentRecord)
    said = capsys.readouterr().err
    for part in (str(foreign), file.sha256, "dnnlib.util.EasyDict", "torch.FloatStorage", "Doubler"):
        assert part in said
    assert f"{len(record.module_src)} characters, sha256 {record.source_sha256}" in said
    assert "left out an object of class Loss: No module named 'torch_utils.training_stats'" in said


def test_what_is_announced_is_announced_before_it_runs(tmp_path):
    """A file that ends the process at once: the announcement is out by then."""
    body = b"\x80\x04cos\n_exit\n(K\x07tR."
    (tmp_path / "exit.pkl").write_bytes(body)
    code = "from training.network_io import load_network; load_network('exit.pkl', trust_pickle=True)"
    root = Path(networks_edm2.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 7
    assert "imports os._exit" in done.stderr


def test_trust_gives_our_own_classes_for_our_own_source(tmp_path, capsys):
    net = network()
    save_network(tmp_path / "net.pkl", net, encoder=StandardRGBEncoder(), loss_fn=EDM2Loss())
    file = load_network(tmp_path / "net.pkl", trust_pickle=True)
    assert type(file.net) is Precond
    assert torch.equal(file.net(*inputs(net)), load_network(tmp_path / "net.pkl").net(*inputs(net)))
    assert "Precond" in capsys.readouterr().err


def test_trust_does_not_outlast_the_call(foreign):
    load_network(foreign, trust_pickle=True)
    with pytest.raises(ValueError, match="refused to execute"):
        persistence._reconstruct_persistent_obj(Written("x = 1", "x", {}).meta)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ema": 3}, "'ema' is no denoising network"),
        ({"ema": torch.nn.Linear(1, 1)}, "without img_resolution, img_channels, label_dim"),
        ({"fid": 3}, "'ema' is not among its entries"),
        ({"ema": Written("1 / 0", "A", {})}, "executing the pickle failed: ZeroDivisionError"),
    ],
)
def test_trusted_files_of_something_else(tmp_path, content, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        load_network(tmp_path / "a.pkl", trust_pickle=True)
    assert "--trust-pickle" not in str(caught.value)


# ----------------------------------------------------------------------------
# Inspection.


def test_inspection_of_a_pickle(tmp_path):
    path = tmp_path / "net.pkl"
    net = network()
    save_network(path, net, encoder=StandardRGBEncoder(), dataset_kwargs={"path": "x"}, loss_fn=EDM2Loss(P_mean=-0.8))
    report = inspect_network(path)
    assert json.loads(json.dumps(report)) == report
    assert (report["file"], report["bytes"], report["format"]) == (str(path), path.stat().st_size, "pickle")
    assert report["sha256"] == sha256_of(path)
    assert report["refusal"] is None
    shown = report["network"]
    assert shown["class"] == "Precond"
    assert shown["arguments"] == {"img_resolution": 8, "img_channels": 3, "label_dim": 4, **SMALL}
    assert shown["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert shown["tensors"] == {"float16": len(net.state_dict())}
    assert report["encoder"]["class"] == "StandardRGBEncoder"
    assert report["loss_fn"]["arguments"] == {"P_mean": -0.8}
    assert report["dataset_kwargs"] == {"path": "x"}
    counts = {found["class_name"]: found["count"] for found in report["classes"]}
    assert (counts["Precond"], counts["UNet"], counts["MPFourier"], counts["EDM2Loss"]) == (1, 1, 2, 1)
    source = Path(networks_edm2.__file__).read_text()
    assert report["classes"][0]["source_characters"] == len(source)
    assert "torch.HalfStorage" in report["names"]


def test_inspection_of_a_file_with_an_unknown_class(foreign, tmp_path):
    report = inspect_network(foreign)
    assert "class Doubler is not known" in report["refusal"]
    assert report["network"]["class"] == "Doubler"
    assert report["network"]["parameters"] == 1
    assert [found["class_name"] for found in report["classes"]] == ["Doubler", "Loss"]
    assert not (tmp_path / "marker").exists()


class Attack:
    def __reduce__(self):
        return os.system, ("true",)


def test_inspection_of_an_attack(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"ema": Attack(), "encoder": StandardRGBEncoder()}))
    report = inspect_network(tmp_path / "a.pkl")
    assert "system, which is not among the names that data needs" in report["refusal"]
    assert any(name.endswith(".system") for name in report["names"])
    assert [found["class_name"] for found in report["classes"]] == ["StandardRGBEncoder"]
    assert report["network"] is None


# ----------------------------------------------------------------------------
# Files of other kinds.


def saved_state(path, **options):
    torch.save({"net": {"weight": torch.ones(3)}, "optimizer_state": {}}, path, **options)


def zipped(path, name="000000.png"):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"x")


@pytest.mark.parametrize(
    ("name", "make", "named"),
    [
        ("training-state-0000128.pt", saved_state, "training state.*network-snapshot-KIMG-LENGTH.pkl"),
        ("old.pkl", lambda path: saved_state(path, _use_new_zipfile_serialization=False), "training state"),
        ("stats.npz", lambda path: np.savez(path, mu=np.ones(3)), "an .npz of arrays: .*, which calculate_metrics.py"),
        ("b.zip", zipped, "b.zip is no network file: it is a ZIP of images, which calculate_metrics.py scores"),
        ("c.zip", lambda path: zipped(path, "notes.txt"), "c.zip is no network file: it is a ZIP archive$"),
    ],
)
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_files_of_other_kinds_are_named_without_false_hopes(tmp_path, name, make, named, trust_pickle, capsys):
    make(tmp_path / name)
    with pytest.raises(OtherFormatError, match=named) as caught:
        load_network(tmp_path / name, trust_pickle=trust_pickle)
    assert "trust" not in str(caught.value)
    assert "again" not in str(caught.value)
    assert capsys.readouterr().err == "", "nothing was executed"
    report = inspect_network(tmp_path / name)
    assert re.search(named.replace(f"{name} is ", ""), report["refusal"])
    assert not any("pickle" in line.replace(str(tmp_path), "") for line in report_lines(report))


def test_a_pickled_training_state_is_told(tmp_path):
    (tmp_path / "state.pkl").write_bytes(pickle.dumps({"net": {}, "optimizer_state": {}}))
    with pytest.raises(ValueError, match=r"'net', 'optimizer_state'\); for a training state give the network file"):
        load_network(tmp_path / "state.pkl")


UNFORESEEN = [
    RecursionError("deep"), OverflowError("far"), MemoryError(), KeyError("key"), struct.error("short"), IndexError(3),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"), AttributeError("none"), ZeroDivisionError(), TypeError("kind"),
]  # fmt: skip


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_whatever_a_reader_raises_is_an_error_of_ours_that_names_the_file(tmp_path, monkeypatch, error):
    """What nobody thought of, in either form: no traceback, and a file that can be inspected all the same."""

    def fails(*args, **kwargs):
        raise error

    net = Precond(4, 3, 0, model_channels=4, channel_mult=[1], num_blocks=0, channels_per_head=4, logvar_channels=4)
    save_network(tmp_path / "net.pkl", net)
    save_safetensors(tmp_path / "net.safetensors", net)
    monkeypatch.setattr("training.network_io.network_parts", fails)
    monkeypatch.setattr("training.network_inspect.network_parts", fails)
    monkeypatch.setattr("training.network_safetensors._checked_header", fails)
    for file in ("net.pkl", "net.safetensors"):
        with pytest.raises(ValueError, match=rf"{re.escape(file)}: "):
            load_network(tmp_path / file)
        assert inspect_network(tmp_path / file)["refusal"]


def test_a_label_count_that_would_need_absurd_memory_is_refused():
    with pytest.raises(ValueError, match="label_dim"):
        checked_arguments("Precond", {"label_dim": MAX_CLASSES + 1}, "ema")
    assert checked_arguments("Precond", {"label_dim": 21_841}, "ema") == {"label_dim": 21_841}


def test_arrays_are_looked_at_before_they_become_lists():
    huge = np.zeros(10**7, np.uint8)
    tracemalloc.start()
    with pytest.raises(ValueError, match="10000000 numbers"):
        checked_arguments("Precond", {"channel_mult": huge}, "ema")
    with pytest.raises(ValueError, match="10000000 numbers"):
        plain_copy({"a": [{"b": huge}]}, "dataset_kwargs")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_report_for_people_is_no_longer_than_they_read():
    report = {"file": "x", "format": "pickle", "bytes": 1, "sha256": "ab", "refusal": None, "encoder": None}
    options = {f"{i:0900d}": "\x1b" * 10**6 for i in range(1000)}
    lines = report_lines(report | {"network": {"class": "X", "arguments": options}, "dataset_kwargs": options})
    assert len("".join(lines)) < 100_000
    assert all(line.isprintable() for line in lines)
    assert "960 more" in lines[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
def test_a_network_that_float16_cannot_hold_is_not_written(tmp_path, value):
    torch.manual_seed(0)
    net = Precond(4, 3, 2, model_channels=8, channel_mult=[1], num_blocks=0, channels_per_head=8)
    net.unet.out_gain.data.fill_(value)
    with pytest.raises(ValueError, match=r"net\.pkl is not written: .* unet\.out_gain is not finite, or not in"):
        save_network(tmp_path / "net.pkl", net)
    assert not list(tmp_path.iterdir())
