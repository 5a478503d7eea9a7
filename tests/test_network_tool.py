"""network_tool.py: what it prints, what it writes, what it refuses, and how it ends."""

import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors
import torch
from click.testing import CliRunner

from dnnlib.regular import sha256_of
from edm2_guidance.commands import network_tool
from edm2_guidance.toy.network import ToyModel
from edm2_guidance.toy.network_io import save_model
from training.network_io import load_network, save_network

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tool():
    return network_tool


@pytest.fixture
def run(tool):
    def invoke(*arguments):
        return CliRunner().invoke(tool.main, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def copied(tiny_networks, tmp_path):
    """A network file in a folder of the test's own, as pickle."""
    file = load_network(tiny_networks["cond"])
    save_network(tmp_path / "net.pkl", file.net, encoder=file.encoder)
    return tmp_path / "net.pkl"


class Attack:
    def __reduce__(self):
        return os.system, ("echo >marker",)


@pytest.fixture
def attack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attack.pkl").write_bytes(pickle.dumps({"ema": Attack()}))
    yield tmp_path / "attack.pkl"
    assert not (tmp_path / "marker").exists()


def test_inspect_for_people(run, copied):
    result = run("inspect", copied)
    assert result.exit_code == 0
    assert sha256_of(copied) in result.stdout
    count = sum(parameter.numel() for parameter in load_network(copied).net.parameters())
    for part in (f"{count:,} parameters", "Precond(img_resolution=8", "StandardRGBEncoder()", "reading   yes"):
        assert part in result.stdout


def test_inspect_for_programs(run, copied):
    report = json.loads(run("inspect", copied, "--json").stdout)
    assert report["network"]["arguments"]["label_dim"] == 10
    assert report["refusal"] is None


def test_inspect_of_an_attack_says_why_and_executes_nothing(run, attack):
    result = run("inspect", attack)
    assert result.exit_code == 0
    assert "reading   refused: the file names" in result.stdout
    assert f"name      {os.name}.system" in result.stdout


def test_inspect_knows_networks_of_the_toy(run, tmp_path):
    path = ROOT / "edm2_guidance" / "pretrained" / "toy" / "weak.pkl"
    result = run("inspect", path)
    assert "network   ToyModel(in_dim=2, num_layers=4, hidden_dim=32, sigma_data=0.5)" in result.stdout
    assert "4,225 parameters" in result.stdout
    assert "reading   yes, by toy_example.py" in result.stdout
    assert "encoder" not in result.stdout
    assert json.loads(run("inspect", path, "--json").stdout)["refusal"] is None
    broken = ToyModel(num_layers=1, hidden_dim=4)
    broken.sigma_data = -1.0
    save_model(tmp_path / "net.pkl", broken)
    assert "reading   refused, by toy_example.py: " in run("inspect", tmp_path / "net.pkl").stdout


def test_conversion_keeps_the_loss(run, tmp_path):
    source = ROOT / "edm2_guidance" / "pretrained" / "mnist16-weak.pkl"
    assert run("convert", source, "--to=pkl", f"--out={tmp_path / 'net.pkl'}").exit_code == 0
    kept, expected = (vars(load_network(path).loss_fn) for path in (tmp_path / "net.pkl", source))
    assert [kept[name] for name in ("P_mean", "P_std", "sigma_data")] == [-0.8, 1.6, 0.5]
    assert kept == expected


@pytest.mark.parametrize("command", [["inspect"], ["convert", "--to=pkl"]])
def test_a_missing_file_is_one_line_and_code_2(run, tmp_path, command):
    result = run(*command, tmp_path / "missing.pt")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "missing.pt" in result.stderr


def test_convert_there_and_back(run, copied, tmp_path):
    result = run("convert", copied, "--to=safetensors")
    assert result.exit_code == 0
    assert Path(result.stdout.strip()) == tmp_path / "net.safetensors"
    assert (
        run("convert", tmp_path / "net.safetensors", "--to=pkl", f"--out={tmp_path / 'b' / 'net.pkl'}").exit_code == 0
    )
    first, second, third = (load_network(tmp_path / name) for name in ("net.pkl", "net.safetensors", "b/net.pkl"))
    for key, tensor in first.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[key])
        assert torch.equal(tensor, third.net.state_dict()[key])
    report = json.loads(run("inspect", tmp_path / "net.safetensors", "--json").stdout)
    assert report["source_sha256"] == first.sha256


def test_convert_replaces_nothing_unasked(run, copied, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"precious")
    result = run("convert", copied, "--to=safetensors")
    assert result.exit_code == 2
    assert "exists: take another --out, or --overwrite" in result.stderr
    assert (tmp_path / "net.safetensors").read_bytes() == b"precious"
    assert run("convert", copied, "--to=safetensors", "--force").exit_code == 0
    load_network(tmp_path / "net.safetensors")


@pytest.mark.parametrize("form", ["safetensors", "pkl"])
def test_convert_to_where_nothing_can_be_written(run, copied, form):
    result = run("convert", copied, f"--to={form}", f"--out={copied}/m.{form}")
    assert result.exit_code == 2
    assert "net.pkl is a file, so" in result.stderr
    assert result.stderr.count("\n") == 1


def test_convert_that_cannot_write_after_all(run, copied, tmp_path, monkeypatch):
    def full(*args):
        raise safetensors.SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    result = run("convert", copied, "--to=safetensors")
    assert result.exit_code == 1
    assert result.stderr.strip().endswith("net.safetensors cannot be written: I/O error: No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pkl"]


def test_convert_refuses_an_attack(run, attack, tmp_path):
    result = run("convert", attack, "--to=safetensors")
    assert result.exit_code == 2
    assert ".system" in result.stderr
    assert not (tmp_path / "attack.safetensors").exists()


@pytest.mark.parametrize("arguments", [["convert", "a.pkl"], ["convert", "a.pkl", "--to=onnx"], ["fetch"], ["explode"]])
def test_wrong_use_is_code_2(run, arguments):
    assert run(*arguments).exit_code == 2


@pytest.fixture
def server(tiny_networks, tmp_path):
    """URL of a folder with cond.pkl, a pickle in fact, as downloads of that name must be; and what was asked for."""
    asked, folder = [], tmp_path / "server"
    folder.mkdir()
    save_network(folder / "cond.pkl", load_network(tiny_networks["cond"]).net)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_fetch_brings_urls_into_the_cache_once(run, server, tiny_networks, tmp_path):
    url, asked = server
    result = run("fetch", f"{url}/cond.pkl", tiny_networks["weak"], f"{url}/cond.pkl")
    assert result.exit_code == 0
    cached, local = (Path(line) for line in result.stdout.splitlines())
    assert cached.read_bytes() == (tmp_path / "server" / "cond.pkl").read_bytes()
    assert str(cached).startswith(os.environ["DNNLIB_CACHE_DIR"])
    assert local == tiny_networks["weak"]
    first = len(asked)
    assert first >= 1
    assert run("fetch", f"{url}/cond.pkl", "--encoders").exit_code == 0
    assert run("inspect", f"{url}/cond.pkl", "--offline").exit_code == 0
    assert len(asked) == first


def test_fetch_offline_says_what_is_missing(run, server):
    url, asked = server
    result = run("fetch", f"{url}/cond.pkl", "--offline")
    assert result.exit_code == 1
    assert f"{url}/cond.pkl is not in the cache" in result.stderr
    assert asked == []


def test_fetch_of_a_preset_means_its_networks(run, tmp_path, monkeypatch):
    """All the files of a preset, here from a folder that stands for the model server."""
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(tmp_path))
    folder = tmp_path / "posthoc-reconstructions"
    folder.mkdir()
    from edm2_guidance.papers.lookup import find_preset

    sources = find_preset("edm2-img512-s-guid-dino").sources
    assert len(sources) == 2
    for number, source in enumerate(sources):
        (folder / source.rsplit("/", 1)[1]).write_bytes(bytes([number]))
    result = run("fetch", "edm2-img512-s-guid-dino")
    assert [Path(line).read_bytes() for line in result.stdout.splitlines()] == [b"\0", b"\1"]


@pytest.mark.parametrize(
    ("name", "hint"), [("edm2-img512-S-guid-dimo", "; near it: edm2-img512-s-guid-dino, "), ("?", " (all: ")]
)
def test_fetch_of_an_unknown_name_lists_near_ones_if_there_are_any(run, name, hint):
    result = run("fetch", name)
    assert result.exit_code == 2
    assert f"there is no preset '{name}'{hint}" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["convert", "--help"], ["fetch", "--help"]])
def test_help_needs_no_torch(arguments):
    code = (
        "import runpy, sys\n"
        "sys.modules['torch'] = sys.modules['numpy'] = None\n"
        f"sys.argv = ['network_tool.py', *{arguments!r}]\n"
        "runpy.run_path('network_tool.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: network_tool.py" in done.stdout
