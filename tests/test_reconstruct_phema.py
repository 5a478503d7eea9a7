"""reconstruct_phema.py: folders and URLs, what is skipped, what is warned about, how it ends."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edm2_guidance.commands import reconstruct_phema
from tests.words import last_of_each
from training.network_io import load_network, save_network
from training.networks_edm2 import Precond

URL = "https://nvlabs-fi-cdn.nvidia.com/edm2/raw-snapshots/edm2-img512-xs"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model server's folder with the raw snapshots of one run at the first two published times."""
    root = tmp_path_factory.mktemp("server")
    for number, name in enumerate(("0033554-0.050", "0033554-0.100", "0067108-0.050", "0067108-0.100")):
        torch.manual_seed(number)
        net = Precond(4, 3, 2, model_channels=8, channel_mult=[1], num_blocks=0, channels_per_head=8)
        save_network(root / f"raw-snapshots/edm2-img512-xs/edm2-img512-xs-{name}.pkl", net)
    return root


@pytest.fixture
def run(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, indir=root / "raw-snapshots/edm2-img512-xs", outdir="out"):
        words = [f"--indir={indir}", f"--outdir={outdir}", *arguments]
        return CliRunner().invoke(reconstruct_phema.main, last_of_each(words))

    return invoke


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_documented_range(run):
    result = run("--outstd=0.045,0.050,...,0.100", "--batch=8")
    assert result.exit_code == 0, result.output
    names = [f"phema-0067108-{i / 1000:.3f}.pkl" for i in range(45, 101, 5)]
    assert result.stdout.split() == [f"out/{name}" for name in names]
    assert sorted(contents("out")) == names
    assert "to make: 12 of 12; passes over the snapshots: 2" in result.stderr
    assert load_network("out/phema-0067108-0.070.pkl").net.label_dim == 2


def test_batches_and_workers_change_nothing(run, monkeypatch):
    assert run("--outstd=0.05,0.06,0.08", outdir="all").exit_code == 0
    assert run("--outstd=0.05,0.06,0.08", "--batch=1", outdir="one").exit_code == 0
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        result = run("--outstd=0.05,0.06,0.08", outdir="shared")
        assert len(result.stdout.split()) == 2 - int(rank)
    assert contents("all") == contents("one") == contents("shared")


def test_skip_makes_what_is_missing(run):
    assert run("--outstd=0.05,0.06").exit_code == 0
    Path("out/phema-0067108-0.060.pkl").write_bytes(b"left alone")
    Path("out/phema-0067108-0.050.pkl").unlink()
    result = run("--outstd=0.05,0.06", "--skip")
    assert result.exit_code == 0
    assert "to make: 1 of 2" in result.stderr
    assert len(result.stdout.split()) == 2
    assert contents("out")["phema-0067108-0.060.pkl"] == b"left alone"
    assert run("--outstd=0.06").exit_code == 0
    assert load_network("out/phema-0067108-0.060.pkl").net.label_dim == 2


def test_options_choose_inputs_and_names(run):
    result = run("--outstd=0.1", "--instd=0.1", "--inprefix=edm2-img512-xs", "--outkimg=33554", "--outprefix=mine")
    assert result.exit_code == 0, result.output
    assert list(contents("out")) == ["mine-0033554-0.100.pkl"]
    assert "snapshots: 1 of lengths 0.100, " in result.stderr


def test_lengths_out_of_reach_are_warned_about(run):
    result = run("--outstd=0.2")
    assert result.exit_code == 0
    assert "warning: more than 5%, so phema-0067108-0.200.pkl is no good average" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outstd=0.3"], "EMA length 0.3: relative lengths lie between 0 and 0.289"),
        (["--outstd=0.0004"], "length 0.0004: file names have three decimals"),
        (["--outstd=0.1,0.1002"], "length 0.1002: file names have three decimals"),
        (["--outstd=0.1", "--outkimg=50000"], "the nearest is 33554"),
        (["--outstd=0.1", "--inprefix=none"], "prefixes there: edm2-img512-xs"),
        (["--outstd=0.1,0.2,...,0.25"], "do not lead to 0.25"),
        (["--outstd=0.1", "--indir=nowhere"], "there is no folder nowhere"),
        (["--outstd=0.1", f"--indir={URL}"], "--outkimg is needed with a URL"),
    ],
)
def test_bad_input_is_found_before_any_work(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("out").exists()


def test_snapshot_that_cannot_be_read(run):
    Path("in").mkdir()
    Path("in/a-0000001-0.100.pkl").write_bytes(b"nothing")
    result = run("--outstd=0.1", indir="in")
    assert result.exit_code == 1
    assert "a-0000001-0.100.pkl" in result.stderr
    assert not Path("out").exists()


def test_published_run_from_a_mirror(run, root, monkeypatch):
    """Names by rule, from a server in the place of the published one; then the same from the cache, offline."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("EDM2_MODEL_ROOT", f"http://127.0.0.1:{server.server_port}")
    try:
        result = run("--outstd=0.070", "--outkimg=67108", "--outprefix=edm2-img512-xs", indir=URL, outdir="networks")
    finally:
        server.shutdown()
        server.server_close()
    assert result.exit_code == 0, result.output
    assert len(asked) == 4
    again = run("--outstd=0.070", "--outkimg=67108", "--outprefix=edm2-img512-xs", "--offline", indir=URL)
    assert again.exit_code == 0, again.output
    assert run("--outstd=0.070", "--outprefix=edm2-img512-xs", outdir="folder").exit_code == 0
    assert list(contents("networks")) == ["edm2-img512-xs-0067108-0.070.pkl"]
    assert contents("networks") == contents("out") == contents("folder")


def test_published_snapshot_that_is_not_there(run, root, monkeypatch):
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(root))
    result = run("--outstd=0.070", "--outkimg=100663", indir=URL)
    assert result.exit_code == 1
    assert "edm2-img512-xs-0100663-0.050.pkl" in result.stderr
    assert not Path("out").exists()
