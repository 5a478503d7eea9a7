"""The measures of other evaluators beside ours on the same features.

How far they may be apart:
* Frechet distances 1e-12 of the traces where both covariances are of full rank; where one is not, 1e-6, for roots and
  eigenvalues of a singular product lose half of the digits. Means of float32, as torch-fidelity's: 5e-8 more;
* kernel distances 1e-6, for torch-fidelity's kernels are float32;
* Inception Scores 1e-12 of them, as both are of float64;
* shares are counts of images: the same, but for one image where torch-fidelity's distances are rounded.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.reference import save_statistics
from edm2_guidance.metrics.running import RunningMoments

pytestmark = pytest.mark.peers

DIM = 64  # as many as our small network of digits has: readers tell by it what they have
DRAWS = {
    "correlated": (700, 600),
    "few": (50, 40),
    "rectified": (600, 700),
    "copies": (400, 300),
    "whole numbers": (500, 500),
    "constant": (300, 300),
}
FULL_RANK = ("correlated", "rectified", "whole numbers")


def drawn(kind, counts):
    """Features of images and of the reference, float32 [N, 64]."""
    draws = np.random.RandomState(len(kind))
    mixed = draws.standard_normal((DIM, DIM)) / 8
    a, b = (draws.standard_normal((count, DIM)) for count in counts)
    a, b = a @ mixed + 0.2, b @ mixed * 1.1
    if kind == "rectified":  # as the pooled features of a network are
        a, b = a.clip(0), b.clip(0)
    elif kind == "copies":  # within a set, five times and more, and of one set in the other
        a[100:110], a[110:120], b[50:57], b[60:80] = a[0], a[1:11], b[0], a[20:40]
    elif kind == "whole numbers":  # many distances are equal, and none is rounded
        a, b = a > 0.2, b > 0
    elif kind == "constant":  # features that say nothing
        a[:, :8], b[:, :8] = 0, 0
        a[:, 8:12], b[:, 8:12] = 1, 1
    return a.astype(np.float32), b.astype(np.float32)


@pytest.fixture(scope="module")
def found(tmp_path_factory, peer, score):
    """What all evaluators say of the same two sets, by kind: ours by metric, prdc, fidelity and pytorch_fid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("features"))
        ours = {kind: our_own(kind, counts, score) for kind, counts in DRAWS.items()}
        sets = {kind: {"do": "features", "a": f"{kind} a.npy", "b": f"{kind} b.npy"} for kind in DRAWS}
        logits = {kind: {"logits": f"{kind} logits.npy", "kid_subset_size": size_of(kind)} for kind in DRAWS}
        theirs = (
            peer("prdc", *({**each, "k": 5} for each in sets.values())),
            peer("torch_fidelity", *({**sets[kind], **logits[kind]} for kind in DRAWS)),
            peer("pytorch_fid", *sets.values()),
        )
        names = ("prdc", "fidelity", "pytorch_fid")
        return {
            kind: SimpleNamespace(ours=ours[kind], **dict(zip(names, answers, strict=True)))
            for kind, *answers in zip(DRAWS, *theirs, strict=True)
        }


@pytest.fixture(params=DRAWS)
def both(found, request):
    return found[request.param]


def our_own(kind, counts, score):
    """Our values by metric; leaves the features as .npy for the others."""
    a, b = drawn(kind, counts)
    logits = np.random.RandomState(1).standard_normal((len(a), 10)).astype(np.float32)
    logits += 3 * np.eye(10, dtype=np.float32)[np.arange(len(a)) * 10 // len(a)]  # sorted by class
    for name, rows in {"a": a, "b": b, "logits": logits}.items():
        np.save(f"{kind} {name}.npy", rows)
    save_statistics("a.npz", {"fd_mnist": kept(a), "fd_mnist_logits": kept(logits)})
    save_statistics("b.npz", {"fd_mnist": kept(b)})
    shares = [f"{share}{rule}/mnist" for share in ("precision", "recall") for rule in ("", ":prdc")]
    metrics = [f"kid:fidelity:size={size_of(kind)}/mnist", "fd_mnist", "is:fidelity/mnist", *shares]
    ours = score("a.npz", "b.npz", "--metrics=" + ",".join([*metrics, "density/mnist", "coverage/mnist"]))
    known = {"full rank": kind in FULL_RANK, "precision of": len(a), "recall of": len(b)}
    known["traces"] = float(a.var(axis=0).sum() + b.var(axis=0).sum())
    return {**known, **{name.split("/")[0].split(":size")[0]: value for name, value in ours.items()}}


def size_of(kind):
    """Of subsets, for kernel distances."""
    return min(DRAWS[kind]) // 2


def kept(rows):
    """Moments that hold the features themselves."""
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


def test_frechet_distance(both):
    ours, traces = both.ours["fd_mnist"], both.ours["traces"]
    within = traces * (1e-12 if both.ours["full rank"] else 1e-6)
    assert ours == pytest.approx(both.pytorch_fid, rel=0, abs=within)
    assert ours == pytest.approx(both.fidelity["fid_of_float64"], rel=0, abs=within)
    assert ours == pytest.approx(both.fidelity["fid"], rel=0, abs=within + 5e-8 * traces)


def test_kernel_distance(both):
    assert both.ours["kid_mnist"] == pytest.approx(both.fidelity["kernel_inception_distance_mean"], rel=0, abs=1e-6)


def test_inception_score(both):
    assert both.ours["is"] == pytest.approx(both.fidelity["inception_score_mean"], rel=1e-12)


@pytest.mark.parametrize("share", ["precision", "recall"])
def test_precision_and_recall(both, share):
    assert both.ours[share] == pytest.approx(both.fidelity[share], rel=0, abs=1.01 / both.ours[f"{share} of"])
    assert both.ours[f"{share}:prdc"] == pytest.approx(both.prdc[share], rel=1e-12)


@pytest.mark.parametrize("share", ["density", "coverage"])
def test_density_and_coverage(both, share):
    assert both.ours[share] == pytest.approx(both.prdc[share], rel=1e-12)


def test_where_a_peer_is_wrong(tmp_path, monkeypatch, peer, score):
    """Of images that are nearly alike, far from zero, torch-fidelity finds too many within reach: it takes distances
    through a matrix product in float32, where the squares cancel. Differences, prdc and ours agree."""
    monkeypatch.chdir(tmp_path)
    draws = np.random.RandomState(0)
    centres = np.repeat(4 * draws.standard_normal((60, DIM)), 5, axis=0) + 100
    a, b = (centres + spread * draws.standard_normal(centres.shape) for spread in (0.055, 0.05))
    a, b = a.astype(np.float32), b.astype(np.float32)
    np.save("a.npy", a), np.save("b.npy", b)
    ours = score("a.npy", "b.npy", "--metrics=precision/mnist,recall/mnist,precision:prdc/mnist")
    assert ours["precision/mnist"] == within_reach(a, b)
    assert ours["recall/mnist"] == within_reach(b, a)
    sets = {"do": "features", "a": "a.npy", "b": "b.npy"}
    (theirs,) = peer("prdc", {**sets, "k": 5})
    assert ours["precision:prdc/mnist"] == theirs["precision"]
    (theirs,) = peer("torch_fidelity", {**sets, "logits": "a.npy", "kid_subset_size": 2})
    assert theirs["precision"] > ours["precision/mnist"] + 0.1


def within_reach(x, y):
    """The share of x within the balls of y, by differences in float64."""
    between, own = (np.linalg.norm(each[:, None].astype(np.float64) - y, axis=2) for each in (x, y))
    return (between <= np.sort(own, axis=1)[:, 3]).any(axis=1).mean()
