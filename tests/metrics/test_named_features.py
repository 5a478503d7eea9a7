"""Several features of one pass: guided-diffusion's evaluator by one command, and the names of what it reports."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import METRICS, SETS, all_of, dims, find_metric, names_of
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.recipe.catalog import kinds
from tests.small import TinyFeatures, register_tiny_extractors

DIGITS = Path(__file__).resolve().parents[1] / "data" / "mnist16-200.npz"
NUM, NUM_SHOWN, NUM_ALL = 5100, 400, 900


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, f"exit {result.exit_code}: {result.output}\n{result.exception!r}"
    return result


def pictures(count: int, seed: int, high: int = 140) -> np.ndarray:
    """Pictures of 4 x 4 pixels, uint8 [N, 4, 4, 3], as large as the tiny extractor looks at them; all much alike, so
    that half precision moves their distances by a tenth."""
    return np.random.RandomState(seed).randint(100, high, [count, 4, 4, 3], dtype=np.uint8)


def tiny(images: np.ndarray, projection: np.ndarray) -> dict[str, np.ndarray]:
    """The features of `tests.small.TinyFeatures.named`, float32 [N, D]."""
    rows = (images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float32) / 255) @ projection
    return {"pool": rows, "spatial": rows**2, "logits": 4 * rows}


# guided-diffusion's evaluator, slowly: what it prints, by its own rules


def inception_score(logits: np.ndarray) -> float:
    scores = []
    for start in range(0, len(logits), 5000):
        part = logits[start : start + 5000]
        each = np.exp(part - part.max(axis=1, keepdims=True))
        each /= each.sum(axis=1, keepdims=True)
        scores.append(np.exp(np.mean(np.sum(each * (np.log(each) - np.log(each.mean(axis=0))), axis=1))))
    return float(np.mean(scores))


def frechet(rows: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    rows = rows.astype(np.float64)
    cov = np.cov(rows, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov @ sigma).astype(complex)).real.sum()
    return float(np.sum((rows.mean(axis=0) - mu) ** 2) + np.trace(cov) + np.trace(sigma) - 2 * roots)


def half(x: np.ndarray) -> np.ndarray:
    """Rounded to half precision; as float32, in which one step at a time is exact before it is rounded."""
    return torch.from_numpy(x).half().float().numpy()


def half_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x|^2 - 2 x y + |y|^2, every step rounded to half precision, not below 0."""
    x, y = half(x), half(y)
    norms = [half(half(each**2).sum(axis=1)) for each in (x, y)]
    return np.maximum(half(half(norms[0][:, None] - 2 * half(x @ y.T)) + norms[1][None]), 0)


def radii(squared: np.ndarray) -> np.ndarray:
    """Of a set's own distances: to the third neighbour, the point itself not counted; of index 3 in the sorted row."""
    return np.partition(squared, 3, axis=1)[:, 3]


def guided_diffusions_evaluator(samples: dict[str, np.ndarray], shown: np.ndarray, stored: Any) -> list[float]:
    """IS, FID, sFID, precision, recall. shown: features "pool" of the reference's images."""
    between = half_distances(shown, samples["pool"]).T
    return [
        inception_score(samples["logits"]),
        frechet(samples["pool"], stored["mu"], stored["sigma"]),
        frechet(samples["spatial"], stored["mu_s"], stored["sigma_s"]),
        float((between <= radii(half_distances(shown, shown))[None]).any(axis=1).mean()),
        float((between <= radii(half_distances(samples["pool"], samples["pool"]))[:, None]).any(axis=0).mean()),
    ]


@pytest.fixture
def adm_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[float]]:
    """SAMPLES.npz and REF.npz as guided-diffusion has them, and what its evaluator says of the two."""
    register_tiny_extractors(monkeypatch.setattr, tmp_path)
    net = TinyFeatures()
    net.load_state_dict(load_file(tmp_path / "tiny.safetensors"))
    projection = net.projection.numpy()
    samples, shown, everything = pictures(NUM, 1, 138), pictures(NUM_SHOWN, 2), pictures(NUM_ALL, 3)
    whole = {name: rows.astype(np.float64) for name, rows in tiny(everything, projection).items()}
    stored = {
        f"{what}{suffix}": of(whole[name])
        for name, suffix in (("pool", ""), ("spatial", "_s"))
        for what, of in (("mu", lambda rows: rows.mean(axis=0)), ("sigma", lambda rows: np.cov(rows, rowvar=False)))
    }
    np.savez("SAMPLES.npz", arr_0=samples, arr_1=np.zeros(NUM, dtype=np.int64))
    np.savez("REF.npz", arr_0=shown, **stored)
    ours, theirs = tiny(samples, projection), tiny(shown, projection)["pool"]
    return lambda: guided_diffusions_evaluator(ours, theirs, stored)


def test_guided_diffusions_evaluator_by_one_command(
    adm_files: Callable[[], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its five numbers, each image through the network once: samples for all five, the reference's for two."""
    seen: list[tuple[int, set[str]]] = []
    original = Detector._features

    def features(self: Detector, images: torch.Tensor) -> Any:
        seen.append((len(images), set(self.dims)))
        return original(self, images)

    monkeypatch.setattr(Detector, "_features", features)
    result = run("calc", "SAMPLES.npz", "REF.npz", "--metrics=adm")
    counts = {names: sum(count for count, of in seen if of == set(names)) for names in (("fid",), tuple(dims())[:3])}
    assert [*counts.values()] == [NUM_SHOWN, NUM]
    assert sum(count for count, _ in seen) == NUM + NUM_SHOWN
    records = ledger.read("results/ledger.jsonl")
    assert [record["metric"] for record in records] == ["is:adm", "fid", "sfid", "precision:adm", "recall:adm"]
    values, expected = [record["value"] for record in records], adm_files()
    assert values[:3] == pytest.approx(expected[:3], rel=1e-5)
    assert values[3:] == pytest.approx(expected[3:], abs=2e-3)  # distances in float32 make it 0.05 less
    assert [record["reference"]["num_images"] for record in records[1:]] == [None, None, NUM_SHOWN, NUM_SHOWN]
    assert {record["num_images"] for record in records} == {NUM}
    assert f"with features of {NUM_SHOWN} of them" in result.stderr


def test_a_reference_without_the_spatial_moments_is_refused(adm_files: object) -> None:
    with np.load("REF.npz") as file:
        np.savez("older.npz", **{name: file[name] for name in ("arr_0", "mu", "sigma")})
    result = run("calc", "SAMPLES.npz", "older.npz", "--metrics=adm", code=2)
    assert "older.npz has no statistics for sfid, only for fid" in result.stderr
    assert not Path("results").exists()


def test_a_reference_of_ours_has_what_guided_diffusion_reads(adm_files: object) -> None:
    """The moments under its names; and precision and recall of features instead of images."""
    run("ref", "--data=SAMPLES.npz", "--dest=ours.npz", "--metrics=adm", "--num=500")
    with np.load("ours.npz") as file:
        assert {"mu", "sigma", "mu_s", "sigma_s", "fid.features", "fid_logits.features"} <= set(file.files)
        spatial = file["mu_s"]
    known = open_statistics("ours.npz", keep=["fid"])
    assert known.moments["fid"].features is not None
    assert np.array_equal(known.moments["sfid"].mean, spatial)
    assert known.detectors["sfid"] == {**known.detectors["fid"], "metric": "sfid"}
    run("calc", "SAMPLES.npz", "ours.npz", "--metrics=adm", "--num=500")
    records = {record["metric"]: record for record in ledger.read("results/ledger.jsonl")}
    assert [abs(records[name]["value"]) < 1e-6 for name in ("fid", "sfid")] == [True, True]
    assert [records[f"{name}:adm"]["value"] for name in ("precision", "recall")] == [1, 1]


def test_all_is_what_both_sides_allow() -> None:
    """Of moments alone, of features, of images; what is left out is said once, with the reason."""
    with np.load(DIGITS) as file:
        for name, part in (("images.npz", slice(0, 120)), ("others.npz", slice(120, 200))):
            np.savez(name, arr_0=file["arr_0"][part])
    run("ref", "--data=others.npz", "--dest=alone.npz", "--metrics=fd_mnist")
    run("ref", "--data=others.npz", "--dest=kept.npz", "--metrics=all/mnist")
    every = set(all_of("mnist")) - {"kid_mnist"}
    of_moments = {"fd_mnist", "is/mnist", "fd-inf/mnist", "vendi/mnist"}
    both = every | {name for name in all_of("mnist-ae") if not name.startswith("kid")}
    cases = [
        ("alone.npz", of_moments, "kid_mnist, precision/mnist, recall/mnist, realism/mnist, density/mnist"),
        ("kept.npz", every, "kid_mnist: 80 reference images are too few for subsets of 1000"),
        ("others.npz", both, "kid_mnist: 80 reference images"),
    ]
    for number, (ref, expected, says) in enumerate(cases):
        result = run("calc", "images.npz", ref, "--metrics=all", f"--ledger={number}.jsonl")
        assert {record["metric"] for record in ledger.read(f"{number}.jsonl")} == expected
        first = next(line for line in result.stderr.splitlines() if line.startswith("note: left out: "))
        assert first.removeprefix("note: left out: ").startswith(says)
    result = run("calc", "images.npz", "alone.npz", "--metrics=all/mnist-ae,fd_mnist", "--ledger=last.jsonl")
    assert [record["metric"] for record in ledger.read("last.jsonl")] == ["vendi/mnist-ae", "fd_mnist"]
    assert "alone.npz has no statistics for fd_mnist_ae" in result.stderr
    assert "fd_mnist_ae: those that ship are mnist16-ae-refs" in result.stderr


# Names


def test_every_kind_of_measure_has_a_short_name_or_needs_one_of_its_features() -> None:
    for kind in kinds("measure"):
        assert find_metric(f"{kind}/inception").name in METRICS
    assert find_metric("fd/inception.spatial").name == "sfid"
    assert find_metric("fd/inception.pool").name == "fid"
    assert (find_metric("is/mnist").stored_as, find_metric("fd/mnist.logits").name) == (
        "fd_mnist_logits",
        "fd/mnist.logits",
    )


def test_names_of_a_file_are_of_one_feature_each() -> None:
    assert list(dims().items())[:3] == [("fid", 2048), ("sfid", 2023), ("fid_logits", 1008)]
    assert len({(metric.extractor.kind, metric.features) for metric in map(find_metric, METRICS)}) == 6


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("precision:interval", "precision:interval"),
        ("precision:interval/dinov2", "precision:interval"),
        ("precision:interval/inception", "precision:interval/inception"),
        ("precision:k=3:count=50000", "precision:interval/inception"),
        ("recall:interval:k=5", "recall:k=5:count=50000/dinov2"),
        ("precision:adm", "precision:adm"),
        ("precision:adm32", "precision"),
        ("precision:adm/dinov2", "precision:adm/dinov2"),
        ("is:fidelity", "is"),
        ("is:adm", "is:adm"),
        ("clipped-density:k=7", "clipped_density:k=7"),
    ],
)
def test_a_name_says_variant_and_features(text: str, name: str) -> None:
    """Equal names are equal metrics, and a name leads back to its metric."""
    assert find_metric(text).name == name
    assert find_metric(name) == find_metric(text)


def test_different_metrics_have_different_names() -> None:
    variants = ("", ":adm", ":prdc", ":interval", ":k=4", ":k=5:count=50000")
    texts = [f"precision{variant}{of}" for variant, of in itertools.product(variants, ("", "/dinov2", "/inception"))]
    found = {(metric.measure, metric.extractor, metric.features): metric.name for metric in map(find_metric, texts)}
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fd/inception.foo", "'fd' is of foo, which inception does not give, only pool, spatial, logits"),
        ("is/inception.pool", "'is' is of logits, not of pool"),
        ("all/foo", "there is no extractor 'foo'"),
        ("sfid/mnist", "there is no measure 'sfid'"),
    ],
)
def test_what_is_no_name(text: str, words: str) -> None:
    result = run("calc", "a.npz", "b.npz", f"--metrics={text}", code=2)
    assert words in result.stderr.splitlines()[-1]


def test_sets_are_listed_and_stand_for_their_metrics() -> None:
    listed = run("calc", "--metrics=list").stdout
    for name, metrics in SETS.items():
        assert names_of(name) == list(metrics)
        assert f"{name}: the set {', '.join(metrics)}" in listed
    assert "all: every measure of the features at hand" in listed
    assert "precision: prdc  for k=5:out" in listed
    assert (
        "of any features (inception, dinov2, mnist, mnist-ae); is of inception and mnist alone, which give logits"
        in listed
    )
