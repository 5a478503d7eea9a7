"""IS, FD_infinity, MIND and Vendi: the evaluators' numbers, slow references, and extremes."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.measures import inception_score
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import Statistics
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.scoring import moments_for

DATA = Path(__file__).resolve().parents[1] / "data"


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


def values(text: str, images: np.ndarray, reference: np.ndarray | None = None) -> dict[str, float]:
    measure = Measure.parse(text)
    return dict(measure.against(kept(images if reference is None else reference), text)(kept(images)))


def golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(DATA / f"metrics_{name}.npz") as file:
        return dict(file), json.loads(str(file["expected"]))


# Inception Score


@pytest.mark.parametrize(
    ("text", "seed", "expected"),
    [
        ("is", 2020, "splits10_seed2020"),
        ("is:fidelity", 2020, "splits10_seed2020"),
        ("is:given", 2020, "splits10_no_shuffle"),
        ("is:parts=1", 2020, "splits1"),
        ("is:parts=7", 0, "splits7_seed0"),
    ],
)
def test_torch_fidelitys_inception_score(text: str, seed: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, evaluators = golden("logits")
    monkeypatch.setattr(inception_score, "SEED", seed)
    found, theirs = values(text, arrays["a"]), evaluators["torch-fidelity"][expected]
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert found["std"] == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("text", "size"), [("is:adm", 5000), ("is:given:size=500", 500)])
def test_guided_diffusions_inception_score(text: str, size: int) -> None:
    """In chunks as the images come; of 1003 images by 500 the last holds 3. Its numbers are float32."""
    arrays, evaluators = golden("logits")
    expected = evaluators["guided-diffusion (formula, float32)"][f"split_size{size}"]
    assert values(text, arrays["a"])["is"] == pytest.approx(expected, rel=1e-6)


def test_inception_scores_that_are_known() -> None:
    sure = np.eye(7)[np.arange(70) % 7] * 2000  # beyond what softmax can tell from 0
    assert values("is:parts=1", sure)["is"] == pytest.approx(7, rel=1e-12)
    assert values("is:given:size=1", sure)["is"] == pytest.approx(1, rel=1e-12)
    assert values("is", np.ones((20, 9)))["is"] == pytest.approx(1, rel=1e-12)


def test_too_few_images_for_the_parts() -> None:
    with pytest.raises(ValueError, match="is: 9 images are too few for 10 parts: give more, or fewer parts"):
        values("is", np.ones((9, 4)))


# FD_infinity


@pytest.mark.parametrize("name", ["gauss", "ties"])
def test_dgm_evals_fd_infinity(name: str) -> None:
    arrays, evaluators = golden(name)
    expected = evaluators["dgm-eval@git-74c79f7"]["fd_infinity_default_rng0"]
    assert values("fd-inf", arrays["a"], arrays["b"])["fd-inf"] == pytest.approx(expected, rel=1e-7)


def test_the_bias_of_few_images_is_extrapolated_away() -> None:
    """Two samples of one Gaussian: the distance is near what the line says of so few, and its end near 0."""
    rng = np.random.default_rng(0)
    images, reference = rng.standard_normal((2000, 8)), rng.standard_normal((100_000, 8))
    found = values("fd-inf", images, reference)
    distance = values("fd", images, reference)["fd"]
    assert found["fd-inf"] + found["slope"] / 2000 == pytest.approx(distance, rel=0.2)
    assert abs(found["fd-inf"]) < 0.25 * distance


def test_fd_infinity_needs_images_enough() -> None:
    with pytest.raises(ValueError, match="fd-inf: 29 images are too few for 15 subsets of different sizes"):
        values("fd-inf", np.random.default_rng(0).standard_normal((29, 2)))
    measure = Measure.parse("fd-inf")
    (note,) = measure.notes(kept(np.random.default_rng(0).standard_normal((200, 30))), "images", "fd-inf")
    assert "sets of 20 images and more" in note
    assert not measure.notes(kept(np.ones((400, 30))), "images", "fd-inf")


# MIND


@pytest.mark.parametrize("name", ["gauss", "ties"])
@pytest.mark.parametrize(("directions", "seed"), [(1000, 2020), (100, 0)])
def test_torch_fidelitys_mind(name: str, directions: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side of either set is larger, and cut. Their projections are float32."""
    arrays, evaluators = golden(name)
    monkeypatch.setattr("edm2_guidance.metrics.measures.mind.SEED", seed)
    expected = evaluators["torch-fidelity@git-5e211a9"][f"mind_seed{seed}_M{directions}"]
    found = values(f"mind:directions={directions}", arrays["a"], arrays["b"])["mind"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_mind_of_a_shift() -> None:
    """Of x and x + m, 3 D |m . u|^2 in the mean over directions: 3 |m|^2."""
    rows = np.random.default_rng(1).standard_normal((400, 6))
    assert values("mind", rows + 0.5, rows)["mind"] == pytest.approx(3 * 6 * 0.25, rel=0.1)
    assert values("mind", rows[::-1].copy(), rows)["mind"] == pytest.approx(0, abs=1e-12)


# Vendi


@pytest.mark.parametrize("name", ["gauss", "ties"])
def test_dgm_evals_vendi(name: str) -> None:
    arrays, evaluators = golden(name)
    expected = evaluators["dgm-eval@git-74c79f7"]["vendi_of_a"]
    assert values("vendi", arrays["a"])["vendi"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [5, 40])
def test_vendi_by_all_pairs(count: int) -> None:
    """Also of fewer images than features."""
    rows = np.random.default_rng(2).standard_normal((count, 9))
    kernel = [[a @ b / math.sqrt((a @ a) * (b @ b)) / count for a in rows] for b in rows]
    spectrum = [each for each in np.linalg.eigvalsh(kernel) if each > 1e-14]
    expected = math.exp(-sum(each * math.log(each) for each in spectrum))
    assert values("vendi", rows)["vendi"] == pytest.approx(expected, rel=1e-10)


def test_vendi_counts_different_images() -> None:
    assert values("vendi", np.repeat(np.eye(6), 4, axis=0))["vendi"] == pytest.approx(6, rel=1e-12)
    assert values("vendi", np.full((30, 5), 0.2))["vendi"] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("text", ["is:parts=1", "mind", "vendi"])
def test_the_order_of_images_is_nothing(text: str) -> None:
    rows = np.random.default_rng(3).standard_normal((50, 6))
    reference, kind = np.random.default_rng(4).standard_normal((50, 6)), text.partition(":")[0]
    mixed = values(text, rows[::-1].copy(), reference)[kind]
    assert mixed == pytest.approx(values(text, rows, reference)[kind], rel=1e-12)


def test_a_measure_of_features_that_an_extractor_lacks() -> None:
    with pytest.raises(ValueError, match="is/mnist-ae: 'is' is of logits, which mnist-ae does not give"):
        find_metric("is/mnist-ae")


def test_what_needs_nothing_of_a_reference_takes_one_of_moments_alone() -> None:
    """What the features lack on the other side is still said."""
    rows = kept(np.random.default_rng(5).standard_normal((60, 64)))
    alone = Statistics({"fd_mnist": replace(rows, features=None)}, source="a.npz", sha256="")
    for metric in ("fd-inf/mnist", "vendi/mnist"):
        assert moments_for(metric, alone, reference=True).features is None
        with pytest.raises(ValueError, match=r"a\.npz holds mean and covariance alone"):
            moments_for(metric, alone)
    with pytest.raises(ValueError, match="precision/mnist needs the features themselves"):
        moments_for("precision/mnist", alone, reference=True)
