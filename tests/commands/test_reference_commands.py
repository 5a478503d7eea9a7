"""Every command line documented by the reference repositories, executed through the entry point that its user calls.

tests/small.py makes them small; the networks, statistics and snapshots are tiny ones under the published names. Lines
for torchrun run under it, with two workers.
"""

import importlib
import json
import pickle
import re
import shlex
import signal
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch.distributed.run
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.images.zips import read_recipe
from edm2_guidance.papers.figures import pictures
from edm2_guidance.toy import plots
from edm2_guidance.toy.network_io import load_model
from training.network_io import load_network

ROOT = Path(__file__).resolve().parents[2]
URL = "https://nvlabs-fi-cdn.nvidia.com/edm2/"
WORKERS = 2

# What angle brackets stand for; networks are files of the model server's folder.
PATHS = {
    "<path-to-cond-xxl-pickle>": "{published}/posthoc-reconstructions/edm2-img512-xxl-0939524-0.015.pkl",
    "<path-to-uncond-xs-pickle>": "{published}/posthoc-reconstructions/edm2-img512-xs-uncond-2147483-0.015.pkl",
    "<path-to-cond-pickle>": "{published}/posthoc-reconstructions/edm2-img512-s-2147483-0.130.pkl",
    "<path-to-uncond-pickle>": "{published}/posthoc-reconstructions/edm2-img512-xs-uncond-2147483-0.015.pkl",
    "<path-to-img512.pkl>": "{published}/dataset-refs/img512.pkl",
    "<dir-where-zip-is-saved>": "zips",
    "<path-to-gen-zip>": "generated.zip",
}


def documented():
    text = (ROOT / "tests" / "data" / "reference_commands.md").read_text()
    return [line for fence in re.findall(r"^```\n(.*?)^```", text, re.M | re.S) for line in fence.splitlines()]


LINES = documented()


def test_all_lines_are_here():
    assert len(LINES) == len(set(LINES)) == 33


# --- Running a line ----------------------------------------------------------------------------------------


@contextmanager
def at_most(seconds):
    """Workers that wait for each other forever fail the test, and end with it.

    torchrun leaves handlers behind, with which later tests' own processes would not end when they are told to.
    """

    def give_up(*_):
        raise TimeoutError(f"the workers did not end within {seconds} s")

    changed = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in changed}
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


class Line:
    """A documented line in a place: `words` from the script on; `value` of its options."""

    def __init__(self, text, place, published):
        for placeholder, path in PATHS.items():
            text = text.replace(placeholder, path.format(published=published))
        launcher, *words = shlex.split(text.replace("URL/", URL))
        self.torchrun = launcher == "torchrun"
        if self.torchrun:
            assert words[:2] == ["--standalone", "--nproc_per_node=8"]
            words = words[2:]
        self.words, self.place = words, place
        self.script = words[0].removesuffix(".py")
        self.subcommand = words[1] if len(words) > 1 and words[1].isalpha() else ""
        self.options = dict(word[2:].split("=", 1) for word in words[1:] if word.startswith("--") and "=" in word)

    def run(self):
        """Returns what it prints on stdout; under torchrun, nothing."""
        if self.torchrun:
            script = str(ROOT / "tests" / "small.py")
            with at_most(seconds=180):
                torch.distributed.run.main(["--standalone", f"--nproc_per_node={WORKERS}", script, *self.words])
            return ""
        result = CliRunner().invoke(
            importlib.import_module(f"edm2_guidance.commands.{self.script}").main, self.words[1:]
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    def files(self, folder, pattern="*"):
        found = (self.place.path / folder).rglob(pattern)
        return sorted(str(path.relative_to(self.place.path / folder)) for path in found if path.is_file())


def in_make_test(text):
    """All but forty-nine reconstructions, and of the lines for torchrun the first."""
    return "0.010,0.015,..." not in text and (not text.startswith("torchrun") or "edm2-img512-s-guid-fid" in text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=str(number), marks=() if in_make_test(text) else pytest.mark.slow)
        for number, text in enumerate(LINES, start=1)
    ],
)
def test_documented_line_runs(text, place, published, monkeypatch):
    monkeypatch.setattr(plots, "NUM_SAMPLES", 200)  # what no option sets
    monkeypatch.setattr(plots, "NUM_STARTS", 200)
    monkeypatch.setattr(plots, "_PIXELS", 100)
    line = Line(text, place, published)
    PREPARE.get((line.script, line.subcommand), lambda line: None)(line)
    output = line.run()
    CHECK[line.script, line.subcommand](line, output)


# --- What a line needs beforehand --------------------------------------------------------------------------


def prepare_metrics(line):
    if "images" in line.options:
        line.place.generated(line.options["images"])
    for option in ("gen_zip", "data"):
        if option in line.options:
            line.place.image_set(line.options[option])


def prepare_reconstruction(line):
    run = Path(line.options["indir"])
    trained_here = run.parts[0] == "training-runs"
    line.place.snapshots(run, "network-snapshot" if trained_here else run.name)


PREPARE = {
    ("calculate_metrics", ""): prepare_metrics,
    ("calculate_metrics", "calc"): prepare_metrics,
    ("calculate_metrics", "ref"): prepare_metrics,
    ("dataset_tool", "convert"): lambda line: line.place.photos(line.options["source"]),
    ("dataset_tool", "encode"): lambda line: line.place.image_set(line.options["source"]),
    ("train_edm2", ""): lambda line: line.place.latent_set(line.options["data"]),
    ("reconstruct_phema", ""): prepare_reconstruction,
}


# --- What it leaves ----------------------------------------------------------------------------------------


def check_images(line, output):
    if "figs" in line.options:
        names = line.options["figs"].split(",")
        assert line.files("results", "*.png") == sorted(picture.file_name for picture in pictures(names))
        return
    seeds = range(4) if "seeds" in line.options else range(16, 20)
    folder = "000000/" if "--subdirs" in line.words else ""
    assert line.files(line.options["outdir"], "*.png") == [f"{folder}{seed:06d}.png" for seed in seeds]
    size = 8 if "img64" in line.options.get("preset", "") else 64
    images = [np.asarray(Image.open(path)) for path in (line.place.path / line.options["outdir"]).rglob("*.png")]
    assert {image.shape for image in images} == {(size, size, 3)}
    assert len({image.tobytes() for image in images}) == 4


def check_zip(line, output):
    (name,) = line.files("zips")
    first, last = json.loads(line.options["guidance_interval"].replace("None", "[0, 31]"))
    kind = "cfg" if line.options["guidance_interval"] == "None" else "gi"
    weight = float(line.options["guidance_scale"])
    net = Path(line.options["cond_pkl"]).stem
    assert re.fullmatch(rf"{re.escape(net)}-s0-nimg4-g{weight:.2f}-{kind}-[0-9a-f]{{6}}\.zip", name)
    path = line.place.path / "zips" / name
    (guide,) = read_recipe(path)["recipe"]["guides"]
    assert (guide["weight"], guide.get("steps") or [0, 31]) == (f"constant:w={weight:g}", [first, last])
    with zipfile.ZipFile(path) as archive:
        assert [n for n in archive.namelist() if n.endswith(".png")] == [f"{seed:06d}.png" for seed in range(4)]


def check_ledger(line, output):
    metrics = [line.options.get("metric", "fid")] if line.subcommand == "" else ["fid", "fd_dinov2"]
    num = 6 if line.subcommand == "" else 4  # the form without a command scores all images of the ZIP
    records = [json.loads(row) for row in (line.place.path / "results" / "ledger.jsonl").read_text().splitlines()]
    assert [(record["metric"], record["num_images"]) for record in records] == [(metric, num) for metric in metrics]
    for record in records:
        assert record["detector"]["network"] == "TinyFeatures"
        assert record["reference"]["num_images"] == 1281167
        if not line.torchrun:
            assert f"{record['name']:<16}{record['value']:.4f}" in output
        if "seed" in line.options:
            first = int(line.options["seed"])
            assert record["images"]["seeds"] == f"{first}-{first + 3}"


def check_statistics(line, output):
    content = pickle.loads((line.place.path / line.options["dest"]).read_bytes())
    assert content["num_images"] == 6
    for name in ("fid", "fd_dinov2"):
        assert content[name]["mu"].dtype == np.float64
        assert content[name]["sigma"].shape == (32, 32)


def check_converted(line, output):
    size = int(line.options["resolution"].split("x")[0])
    with zipfile.ZipFile(line.place.path / line.options["dest"]) as archive:
        names = [f"00000/img{i:08d}.png" for i in range(3)]
        assert archive.namelist() == [*names, "dataset.json"]
        assert {Image.open(archive.open(name)).size for name in names} == {(size, size)}
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert labels == [[name, label] for name, label in zip(names, [0, 0, 1], strict=True)]


def check_encoded(line, output):
    with zipfile.ZipFile(line.place.path / line.options["dest"]) as archive:
        names = [f"00000/img-mean-std-{i:08d}.npy" for i in range(6)]
        assert archive.namelist() == [*names, "dataset.json"]
        assert {np.load(archive.open(name)).shape for name in names} == {(8, 8, 8)}


def check_trained(line, output):
    assert set(line.files(line.options["outdir"])) >= {
        "network-snapshot-0000001-0.050.pkl",
        "network-snapshot-0000001-0.100.pkl",
        "training-state-0000001.pt",
        "stats.jsonl",
        "log.txt",
    }


def check_reconstructed(line, output):
    lengths = [0.15] if line.options["outstd"] == "0.150" else [0.010 + 0.005 * i for i in range(49)]
    assert line.files(line.options["outdir"]) == [f"phema-0100663-{length:.3f}.pkl" for length in lengths]


def check_flops(line, output):
    net = load_network(URL + line.words[1].removeprefix(URL)).net
    assert f"parameters  {sum(p.numel() for p in net.parameters()):,}\n" in output
    assert re.search(r"^Gflops      0\.\d+$", output, re.M)


def check_toy_training(line, output):
    assert "iteration    2  loss" in output
    if "outdir" not in line.options:
        assert line.files(".") == []
        return
    assert line.files(line.options["outdir"]) == ["iter0002.pkl"]
    net = load_model(line.place.path / line.options["outdir"] / "iter0002.pkl")
    assert net.layers[0].weight.shape == (64, 4)


def check_toy_plot(line, output):
    with Image.open(line.place.path / line.options.get("save", "out/toy-sheet.png")) as picture:
        assert min(picture.size) > 300
        assert len(picture.reduce(4).getcolors(1 << 20)) > 100


CHECK = {
    ("generate_images", ""): check_images,
    ("generate_zip", ""): check_zip,
    ("calculate_metrics", ""): check_ledger,
    ("calculate_metrics", "calc"): check_ledger,
    ("calculate_metrics", "gen"): check_ledger,
    ("calculate_metrics", "ref"): check_statistics,
    ("dataset_tool", "convert"): check_converted,
    ("dataset_tool", "encode"): check_encoded,
    ("train_edm2", ""): check_trained,
    ("reconstruct_phema", ""): check_reconstructed,
    ("count_flops", ""): check_flops,
    ("toy_example", "train"): check_toy_training,
    ("toy_example", "plot"): check_toy_plot,
}
