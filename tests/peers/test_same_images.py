"""Other evaluators beside ours on the same PNGs, through Inception networks with the same random weights.

Features agree to 1e-5 of their norm: the networks are the same, and add up in another order. Of so few images all
covariances are singular, with 2000 eigenvalues that are nothing but rounding: the roots of these move the peers'
Frechet distances by 1e-6 of the traces, and not ours, which is what the features themselves give.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn import functional as F

from edm2_guidance.commands import calculate_metrics
from edm2_guidance.metrics.extractors.networks.inception import InceptionV3, resize_tf1
from tests.metrics.conftest import golden_state

pytestmark = pytest.mark.peers

COUNTS = {"ours": 16, "real": 14}
SIZE = 46  # of the 299 places in a row, every 13th is just at a pixel
KID_SIZE = 7


def save_images(name, count):
    """Coloured clouds, as PNGs."""
    draws = np.random.RandomState(count)
    Path(name).mkdir()
    for number in range(count):
        few = draws.randint(0, 256, (*draws.randint(2, 12, 2), 3), dtype=np.uint8)
        Image.fromarray(few).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(f"{name}/{number:03d}.png")


def pixels(name):
    """uint8 [N, 3, H, W], by Pillow alone."""
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(Path(name).iterdir())]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def network():
    net = InceptionV3()
    net.load_state_dict(golden_state("inception")[1])
    return net.eval()


@pytest.fixture(scope="module")
def found(tmp_path_factory, network, peer, score):
    """What all say; we are in the folder of the images, the weights, and all files of statistics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("images"))
        torch.save(network.state_dict(), "weights.pth")
        patch.setenv("EDM2_FID_WEIGHTS", os.path.abspath("weights.pth"))
        for name, count in COUNTS.items():
            save_images(name, count)
            ref(f"--data={name}", f"--dest=written/{name}", "--format=torch-fidelity", "--keep-features")
            ref(f"--data={name}", f"--dest=written/{name}.npz", "--format=pytorch-fid")
        shares = [f"{share}{rule}" for share in ("precision", "recall") for rule in ("", ":prdc")]
        measures = ["fid", "is:fidelity", f"kid:fidelity:size={KID_SIZE}", *shares, "density", "coverage"]
        ours = score("ours", "real", f"--metrics={','.join(measures)}")
        yield SimpleNamespace(ours=ours, fidelity=by_fidelity(peer), pytorch_fid=by_pytorch_fid(peer), score=score)


def ref(*arguments):
    result = CliRunner().invoke(calculate_metrics.main, ["ref", *arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"


def by_fidelity(peer):
    """torch-fidelity, by its own features, of which it leaves files in `theirs`, and by what we have `written`."""
    weights = {"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": "weights.pth"}
    names = {"input1_cache_name": "ours", "input2_cache_name": "real", "kid_subset_size": KID_SIZE}
    common, measures = {"do": "images", **weights, **names}, {"fid": True, "kid": True, "prc": True}
    of_images = {**common, "input1": "ours", "input2": "real", "cache_root": "theirs"}
    of_files = {**common, "input1": "none", "input2": "none", "cache_root": "written"}
    questions = [{**of_images, **measures, "isc": True}, {**of_files, **measures}, {**of_files, "fid": True}]
    found = peer("torch_fidelity", *questions)
    return dict(zip(("images", "features", "statistics"), found, strict=True))


def by_pytorch_fid(peer):
    """pytorch-fid, likewise; and the features of its network of images as ours enter."""

    def command(*arguments):
        return {"do": "command", "weights": "weights.pth", "arguments": arguments}

    np.save("shown.npy", shown := ((resize_tf1(pixels("ours")[:4].float(), 299) - 128) / 128).numpy())
    assert shown.shape == (4, 3, 299, 299)
    *_, images, statistics, _ = peer(
        "pytorch_fid",
        *(command("--save-stats", name, f"theirs/{name}.npz") for name in COUNTS),
        command("theirs/ours.npz", "theirs/real.npz"),
        command("written/ours.npz", "written/real.npz"),
        {"do": "network", "weights": "weights.pth", "images": "shown.npy", "features": "features.npy"},
    )
    return {"images": images, "statistics": statistics, "features": np.load("features.npy")}


def of_norm(actual, expected):
    """How far apart, as a share of the norm."""
    return float(np.linalg.norm(np.asarray(actual) - np.asarray(expected)) / np.linalg.norm(expected))


def traces(folder="written"):
    return sum(float(np.trace(np.load(f"{folder}/{name}.npz")["sigma"])) for name in COUNTS)


def test_ours_is_the_exact_distance(found):
    """tr (S1 S2)^(1/2) is the sum of the singular values of X1 X2^T, small as it is, of features without their mean."""
    files = (f"written/{name}-inception-v3-compat-features-2048.pt" for name in COUNTS)
    a, b = (torch.load(file, weights_only=True).double() for file in files)
    x, y = ((rows - rows.mean(dim=0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    exact = (a.mean(dim=0) - b.mean(dim=0)).square().sum() + x.square().sum() + y.square().sum()
    exact -= 2 * torch.linalg.svdvals(x @ y.T).sum()
    assert found.ours["fid"] == pytest.approx(float(exact), rel=0, abs=1e-9 * traces())


def test_features_of_torch_fidelity(found):
    for name in COUNTS:
        file = f"{name}-inception-v3-compat-features-2048.pt"
        ours, theirs = (torch.load(f"{folder}/{file}", weights_only=True) for folder in ("written", "theirs"))
        assert ours.dtype == theirs.dtype == torch.float32
        assert len(ours) == COUNTS[name]
        assert of_norm(ours, theirs) < 1e-5
        spread = theirs - theirs.mean(dim=0)
        assert of_norm(ours - theirs.mean(dim=0), spread) < 1e-4  # they differ from image to image


def test_measures_of_torch_fidelity(found):
    theirs = found.fidelity["images"]
    assert found.ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=0, abs=5e-6 * traces())
    assert found.ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert found.ours[f"kid:size={KID_SIZE}"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert found.ours["precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.ours["recall"] == pytest.approx(theirs["recall"], abs=1e-6)


def test_features_of_pytorch_fid(found, network):
    """Its network is ours."""
    with torch.no_grad():
        ours = network(pixels("ours")[:4])
    assert of_norm(ours, found.pytorch_fid["features"]) < 1e-5


def test_what_pytorch_fid_does_to_images(found, network):
    """Its own features are others: it resizes by pixel centres, and scales to [-1, 1], where the program that FID was
    defined by has corners, as ours has, and (x - 128) / 128. Given images that were treated so, ours are the same."""
    images = F.interpolate(pixels("ours") / 255, size=(299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        treated, plain = network(128 * (2 * images - 1) + 128), network(pixels("ours"))
    theirs = np.load("theirs/ours.npz")
    assert of_norm(treated.double().mean(dim=0), theirs["mu"]) < 1e-5
    assert of_norm(np.cov(treated.double(), rowvar=False), theirs["sigma"]) < 1e-4
    assert of_norm(plain.double().mean(dim=0), theirs["mu"]) > 1e-3


def test_torch_fidelity_reads_what_we_write(found):
    """From its cache, without images; features serve where it asks for more than a Frechet distance."""
    of_features, of_statistics = found.fidelity["features"], found.fidelity["statistics"]
    for theirs in (of_features, of_statistics):
        assert theirs["frechet_inception_distance"] == pytest.approx(found.ours["fid"], rel=0, abs=5e-6 * traces())
    ours = found.ours[f"kid:size={KID_SIZE}"]
    assert of_features["kernel_inception_distance_mean"] == pytest.approx(ours, rel=1e-4)
    assert of_features["precision"] == pytest.approx(found.ours["precision"], abs=1e-6)


def test_pytorch_fid_reads_what_we_write(found):
    assert found.pytorch_fid["statistics"] == pytest.approx(found.ours["fid"], rel=0, abs=5e-6 * traces())


def test_we_read_what_torch_fidelity_writes(found):
    statistics, features = (
        [f"theirs/{name}-inception-v3-compat-{what}-2048.pt" for name in COUNTS] for what in ("stat-fid", "features")
    )
    theirs = found.fidelity["images"]
    distance = pytest.approx(theirs["frechet_inception_distance"], rel=0, abs=5e-6 * traces())
    assert found.score(*statistics, "--metrics=fid") == {"fid": distance}
    ours = found.score(*features, f"--metrics=fid,kid:size={KID_SIZE},recall")
    kernel = pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    recall = pytest.approx(theirs["recall"], abs=1e-6)
    assert ours == {"fid": distance, f"kid:size={KID_SIZE}": kernel, "recall": recall}


def test_we_read_what_pytorch_fid_writes(found):
    ours = found.score("theirs/ours.npz", "theirs/real.npz", "--metrics=fid")
    assert ours == {"fid": pytest.approx(found.pytorch_fid["images"], rel=0, abs=5e-6 * traces("theirs"))}
