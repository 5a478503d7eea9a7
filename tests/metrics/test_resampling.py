"""Resampling: gradients against a slow version by other means, and what is drawn of digits."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.measures.gaussians import factorize, frechet_distance
from edm2_guidance.metrics.resampling import (
    Classes,
    class_indicators,
    distance_and_gradient,
    drawn,
    matched,
    moments_of,
    shares,
    that_vary,
    weighted_moments,
)

STEP = 1e-5


def rows(count: int, dim: int, seed: int, moved: float = 0.0) -> np.ndarray:
    draws = np.random.RandomState(seed)
    return draws.standard_normal((count, dim)) @ (np.eye(dim) + 0.3 * draws.standard_normal((dim, dim))) + moved


def slow_distance(features: np.ndarray, log_weights: np.ndarray, reference: np.ndarray) -> float:
    """Image by image, with a matrix square root."""
    weights = [np.exp(each) for each in log_weights]
    total = sum(weights)
    mean = sum(weight * row for weight, row in zip(weights, features, strict=True)) / total
    cov = sum(weight * np.outer(row - mean, row - mean) for weight, row in zip(weights, features, strict=True))
    cov, other = cov / (total - 1), np.cov(reference.T)
    root = scipy.linalg.sqrtm(cov @ other).real
    return float(((mean - reference.mean(axis=0)) ** 2).sum() + np.trace(cov + other - 2 * root))


def slow_gradient(features: np.ndarray, log_weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
    found = []
    for step in STEP * np.eye(len(features)):
        above, below = (slow_distance(features, log_weights + by, reference) for by in (step, -step))
        found.append((above - below) / (2 * STEP))
    return np.array(found)


def test_distance_and_gradient_are_those_of_the_definition() -> None:
    features, reference = rows(14, 3, 0), rows(30, 3, 1, 0.5)
    log_weights = np.random.RandomState(2).standard_normal(14)
    distance, gradient = distance_and_gradient(
        torch.from_numpy(features), torch.from_numpy(log_weights), factorize(moments_of(reference))
    )
    assert distance == pytest.approx(slow_distance(features, log_weights, reference), rel=1e-8)
    assert gradient.numpy() == pytest.approx(slow_gradient(features, log_weights, reference), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("count", "others"), [(5, 40), (40, 5), (5, 4)])
def test_gradient_where_covariances_are_singular(count: int, others: int) -> None:
    features, reference = torch.from_numpy(rows(count, 8, 0)), factorize(moments_of(rows(others, 8, 1, 0.3)))
    log_weights = torch.from_numpy(np.random.RandomState(2).standard_normal(count))
    _, gradient = distance_and_gradient(features, log_weights, reference)
    for number in range(count):
        step = torch.zeros(count, dtype=torch.float64)
        step[number] = STEP
        weighted = (weighted_moments(features, log_weights + by) for by in (step, -step))
        above, below = (frechet_distance(each, reference) for each in weighted)
        assert float(gradient[number]) == pytest.approx((above - below) / (2 * STEP), rel=1e-5, abs=1e-7)


def test_equal_weights_are_the_plain_moments() -> None:
    features = rows(20, 4, 0)
    found = weighted_moments(torch.from_numpy(features), torch.zeros(20, dtype=torch.float64))
    assert found.mean == pytest.approx(features.mean(axis=0))
    assert found.cov == pytest.approx(np.cov(features.T))


def test_descent_takes_the_plain_steps() -> None:
    features, reference, log_weights = rows(9, 2, 0), rows(30, 2, 1, 0.5), np.zeros(9)
    for _ in range(4):
        log_weights -= 0.5 * slow_gradient(features, log_weights, reference)
    told: list[int] = []
    found = matched(
        torch.from_numpy(features), factorize(moments_of(reference)), lr=0.5, iterations=4, progress=told.append
    )
    assert found.numpy() == pytest.approx(log_weights, abs=1e-6)
    assert told == [1] * 4


def test_candidates_as_the_reference_get_the_weight() -> None:
    features = np.concatenate([rows(100, 3, 0), rows(100, 3, 1, 4.0)])
    reference = factorize(moments_of(rows(400, 3, 0)))
    chances = shares(matched(torch.from_numpy(features), reference, lr=10, iterations=60))
    assert chances.sum() == pytest.approx(1)
    assert chances[:100].sum() > 0.98
    chosen = drawn(chances, 50, features, reference, seed=0)
    assert (chosen == np.sort(chosen)).all()
    assert (chosen == drawn(chances, 50, features, reference, seed=0)).all()
    assert (chosen != drawn(chances, 50, features, reference, seed=1)).any()
    draws = np.random.RandomState(0)
    tries = [draws.choice(200, 50, p=chances) for _ in range(3)]
    distances = [frechet_distance(moments_of(features[each]), reference) for each in tries]
    assert frechet_distance(moments_of(features[chosen]), reference) == pytest.approx(min(distances))


def test_a_step_that_is_too_long_is_refused() -> None:
    features, reference = torch.from_numpy(rows(30, 3, 0)), factorize(moments_of(rows(50, 3, 1, 0.5)))
    with pytest.raises(ValueError, match=r"lr=1e\+06 is too large: the weights .*lower it"):
        matched(features, reference, lr=1e6, iterations=10)
    with pytest.raises(ValueError, match=r"lr=60 is too large: the distance rose .*lower it"):
        matched(features, reference, lr=60, iterations=200)


def test_classes_are_counted_and_compared_with_the_last() -> None:
    sets = {"candidates": np.array([0, 0, 1, 1]), "chosen": np.array([0, 2]), "reference": np.array([0, 0, 0, 2])}
    assert Classes.of(sets).cells() == [
        ["class", "candidates", "chosen", "reference"],
        ["0", "50.0 %", "50.0 %", "75.0 %"],
        ["1", "50.0 %", "0.0 %", "0.0 %"],
        ["2", "0.0 %", "50.0 %", "25.0 %"],
        ["from reference", "50.0 %", "25.0 %", "0.0 %"],
    ]


def test_class_indicators_are_of_the_likeliest_or_those_in_the_middle() -> None:
    logits = np.array([[5.0, 1, 3, 2, 4], [1, 2, 3, 4, 5]])
    assert class_indicators(logits, 2).tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert class_indicators(logits, 1, middle=True).tolist() == [[0, 0, 1, 0, 0]] * 2
    assert class_indicators(logits, 3, middle=True).tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 1, 0]]
    ours, theirs = that_vary(np.array([[1.0, 0, 0], [1, 0, 1]]), np.array([[1.0, 1, 0]]))
    assert (ours.tolist(), theirs.tolist()) == ([[0, 0], [0, 1]], [[1, 0]])


def run(*words: str, command: str = "resample") -> Any:
    return CliRunner().invoke(main, [command, *words])


@pytest.fixture
def digits(make_digit_zip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return make_digit_zip(200).name


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def test_the_distance_of_digits_falls_and_images_are_copied(digits: str, make_digit_zip: Callable[..., Path]) -> None:
    words = (
        digits, make_digit_zip(80, "reference.zip").name, "--metrics=fd_mnist", "--control=fd_mnist_ae,recall/mnist",
        "--num-images=60", "--iterations=60",
    )  # fmt: skip
    done = run(*words, "--out=chosen.zip")
    assert done.exit_code == 0, done.output
    table = {line.split()[0]: line.split()[2:4] for line in done.stdout.splitlines()[2:5]}
    assert list(table) == ["fd_mnist", "fd_mnist_ae", "recall/mnist"]
    assert float(table["fd_mnist"][1]) < float(table["fd_mnist"][0])
    assert "note: 60 images for the 64 features of fd_mnist: the covariance is singular" in done.stderr
    assert "class           candidates  chosen  reference" in done.stdout
    with zipfile.ZipFile(digits) as source, zipfile.ZipFile("chosen.zip") as chosen:
        labels = dict(json.loads(source.read("dataset.json"))["labels"])
        known = {pixels(source.read(name)): label for name, label in labels.items()}
        listed = json.loads(chosen.read("dataset.json"))["labels"]
        assert len(listed) == len(chosen.namelist()) - 2 == 60
        assert json.loads(chosen.read("recipe.json")) == {"chosen_by": "fd_mnist against reference.zip"}
        assert all(known[pixels(chosen.read(name))] == label for name, label in listed)
    written = run(*words, "--out=weights.csv")
    assert written.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    with open("weights.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["image"] for line in lines] == sorted(labels)
    assert sum(float(line["weight"]) for line in lines) == pytest.approx(1)
    assert sum(int(line["drawn"]) for line in lines) == 60
    scored = run("chosen.zip", "mnist16", "--metrics=fd_mnist", command="calc")
    assert scored.exit_code == 0, scored.output
    (line,) = ledger.read("results/ledger.jsonl")
    assert "the images were chosen by fd_mnist against reference.zip" in line["flags"]


def test_classes_alone_are_matched(digits: str) -> None:
    """Candidates of all classes equally often; a reference of seven 0 for each 1."""
    with zipfile.ZipFile(digits) as source, zipfile.ZipFile("zeros.zip", "w") as target:
        labels = json.loads(source.read("dataset.json"))["labels"]
        for label, most in ((0, 14), (1, 2)):
            for name in [name for name, its in labels if its == label][:most]:
                target.writestr(name, source.read(name))
    done = run(
        digits,
        "zeros.zip",
        "--metrics=fd_mnist",
        "--top=1",
        "--num-images=100",
        "--out=a.zip",
        "--lr=99",
        "--iterations=99",
    )
    assert done.exit_code == 0, done.output
    chosen = {line.split()[0]: line.split()[3] for line in done.stdout.splitlines() if line[:1].isdigit()}
    assert float(chosen["0"]) == pytest.approx(87.5, abs=12)
    assert sum(float(chosen[label]) for label in "23456789") < 5


def test_what_cannot_be_chosen_is_refused_before_work(digits: str) -> None:
    Path("there.csv").write_text("mine")
    for words, message in (
        (("--metrics=kid_mnist", "--out=a.zip"), "kid_mnist is no Frechet distance"),
        (("--metrics=fd_mnist", "--out=there.csv"), "there.csv exists; give another --out"),
        (("--metrics=fd_mnist", "--out=a.zip", "--num-images=201"), "201 images cannot be chosen among 200 candidates"),
        (("--metrics=fd_mnist", "--out=a.zip", "--control=recall/mnist"), "mean and covariance alone"),
        (("--metrics=fd_mnist", "--out=a.zip", "--top=1"), "need the images of the reference"),
        (("--metrics=fd_mnist", "--out=a.zip", "--top=10"), "10 of 10 classes say nothing"),
        (("--metrics=fd_mnist", "--out=a.zip", "--top=1", "--middle=2"), "--top and --middle match different classes"),
        (("--metrics=fd_mnist", "--out=a.zip", "--lr=0"), "--lr=0: give a number above 0"),
    ):
        refused = run(digits, "mnist16", *words)
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output
    assert Path("there.csv").read_text() == "mine"
    assert not Path("a.zip").exists()
