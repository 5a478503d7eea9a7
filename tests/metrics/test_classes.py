"""Classes: counts against rules, distances class by class, and what counts explain, of sets where it is known."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from click.testing import CliRunner

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics.classes import (
    Labelled,
    balance,
    chance_of,
    class_distances,
    explained_by_counts,
    histogram,
    principal_axes,
    reweighted,
)
from edm2_guidance.metrics.running import RunningMoments
from tests.pictures import encoded

DATA = Path(__file__).resolve().parents[1] / "data" / "mnist16-200.npz"
CENTRES = np.random.RandomState(7).standard_normal((4, 6)) * 3


def labelled(rows: np.ndarray, labels: np.ndarray) -> Labelled:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows.astype(np.float32)))
    return Labelled(running.moments(), labels)


def mixture(counts: list[int], seed: int, moved: dict[int, float] | None = None) -> Labelled:
    """Images of four classes about their centres; moved: some classes, by so much."""
    labels = np.repeat(np.arange(4), counts)
    rows = CENTRES[labels] + np.random.RandomState(seed).standard_normal((len(labels), 6))
    for label, by in (moved or {}).items():
        rows[labels == label] += by
    return labelled(rows, labels)


def test_balanced_counts_are_those_of_the_seeds() -> None:
    seeds = range(5, 28)
    right = histogram([seed % 4 for seed in seeds], 4)
    assert balance(right, "balanced", seeds).chance == 1
    wrong = right + np.array([1, 0, 0, -1])
    assert balance(wrong, "balanced", seeds).text == "1 images are of other classes than by the rule balanced"
    assert balance(np.array([6, 6, 6, 5]), "balanced", None).chance == 1
    assert balance(np.array([7, 5, 6, 5]), "balanced", None).chance == 0
    assert balance(np.array([0, 9, 0, 0]), 1, None).chance == 1
    assert balance(np.array([1, 8, 0, 0]), 1, None).chance == 0
    with pytest.raises(ValueError, match="class 4 is none of 4 classes"):
        histogram([0, 4], 4)


def test_random_counts_are_held_against_draws() -> None:
    """As Pearson's test where it holds; classes without a share are never drawn."""
    for counts in ([60, 45, 50, 45], [70, 40, 45, 45], [52, 49, 50, 49]):
        expected = scipy.stats.chisquare(counts).pvalue
        assert balance(np.array(counts), "random", None).chance == pytest.approx(expected, abs=0.06)
    assert chance_of(np.array([30, 70]), np.array([0.3, 0.7])) == 1
    assert chance_of(np.array([70, 30]), np.array([0.3, 0.7])) == 1 / 1000
    assert chance_of(np.array([5, 1, 4]), np.array([0.5, 0, 0.5])) == 0
    real = balance(np.array([30, 70]), None, None, np.array([0.3, 0.7]))
    assert real.expected.tolist() == pytest.approx([30, 70])


def test_a_uniform_rule_is_refused_as_often_as_it_says() -> None:
    """Few images of many classes, where chi-squared's own distribution is another."""
    draws = np.random.RandomState(1)
    chances = [chance_of(draws.multinomial(40, np.full(50, 1 / 50)), np.full(50, 1 / 50)) for _ in range(100)]
    assert 0.01 < np.mean(np.array(chances) <= 0.1) < 0.2


def test_the_class_that_was_moved_differs() -> None:
    found = class_distances(mixture([60, 60, 60, 60], 1, {2: 0.8}), mixture([300] * 4, 2))
    assert [one.label for one in found if one.differs] == [2]
    assert [(one.samples, one.reference) for one in found] == [(60, 300)] * 4
    moved = found[2]
    assert moved.distance is not None
    assert moved.floor is not None
    assert moved.distance - moved.floor == pytest.approx(6 * 0.8**2, rel=0.3)
    for one in found[:2]:
        assert one.distance == pytest.approx(one.floor, abs=0.25), "of those that are alike, the bias"


def test_small_classes_make_the_space_small_and_too_small_ones_are_left_out() -> None:
    samples, reference = mixture([50, 32, 5, 0], 1), mixture([300] * 4, 2)
    assert principal_axes(reference, samples).shape == (6, 3)
    found = class_distances(samples, reference)
    assert [one.distance is None for one in found] == [False, False, True, True]


def test_counts_explain_all_of_a_distance_that_is_of_counts() -> None:
    """Images of the same classes in other numbers: reweighting takes the distance to that of sets alike."""
    reference = mixture([500] * 4, 1)
    other = explained_by_counts(mixture([100, 300, 500, 700], 2), reference)
    assert other.whole > 20 * other.left
    assert other.counts_alone == pytest.approx(other.whole, rel=0.1)
    assert other.difference is not None
    assert 0 < other.difference.low < other.whole - other.left < other.difference.high
    moved = explained_by_counts(mixture([400] * 4, 3, {0: 1.0}), reference)
    assert moved.left == pytest.approx(moved.whole, rel=1e-9), "equal counts explain nothing"
    assert moved.counts_alone < 1e-9


def test_reweighting_is_repeating() -> None:
    """Each image as often as its class weighs: the mean is the same, and so is the covariance but for n - 1."""
    reference = mixture([10, 20, 30, 40], 4)
    counts = np.array([40, 40, 60, 0])
    found = reweighted(reference, counts)
    times = np.array([4, 2, 2, 0])[reference.labels]
    repeated = np.repeat(reference.rows.numpy().astype(np.float64), times, axis=0)
    assert found.mean == pytest.approx(repeated.mean(axis=0))
    share = times / times.sum()
    scale = 1 / (1 - (share**2).sum())
    assert found.cov == pytest.approx(np.cov(repeated.T, bias=True) * scale)
    assert reweighted(reference, histogram(reference.labels, 4)).cov == pytest.approx(reference.moments.cov)
    with pytest.raises(ValueError, match="the reference has no image of class 1, and the samples have 7"):
        reweighted(mixture([10, 0, 10, 10], 5), np.array([1, 7, 0, 0]))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits without most of their zeros against all of them: counts explain nearly all, and no class differs."""
    monkeypatch.chdir(tmp_path)
    with np.load(DATA) as file:
        pixels, labels = file["arr_0"], file["arr_1"]
    kept = np.flatnonzero((labels > 2) | (np.arange(200) < 40))
    for name, chosen in (("some.zip", kept), ("all.zip", np.arange(200))):
        names = [f"{i:06d}.png" for i in range(len(chosen))]
        listed = [[each, int(labels[i])] for each, i in zip(names, chosen, strict=True)]
        with zipfile.ZipFile(name, "w") as file:
            for each, i in zip(names, chosen, strict=True):
                file.writestr(each, encoded(pixels[i]))
            file.writestr("dataset.json", json.dumps({"labels": listed}))
    done = CliRunner().invoke(main, ["classes", "some.zip", "all.zip"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["class", "samples", "expected", "reference", "distance", "floor"]
    assert [int(row[1]) for row in rows[1:11]] == histogram(labels[kept], 10).tolist()
    assert [int(row[3]) for row in rows[1:11]] == histogram(labels, 10).tolist()
    assert not any(row[-1] == "differs" for row in rows[1:11])
    assert "farther off than draws are" in done.stdout
    share = next(line for line in done.stdout.splitlines() if line.startswith("explained by class counts"))
    assert float(share.split(",")[1].split()[0]) > 60
    np.savez("bare.npz", arr_0=pixels)
    refused = CliRunner().invoke(main, ["classes", "bare.npz", "all.zip"])
    assert refused.exit_code == 2
    assert "bare.npz has no classes" in refused.output
