"""Precision, recall, density and coverage: the evaluators' numbers, exactly, and cases with answers that are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments

DATA = Path(__file__).resolve().parents[1] / "data"
KINDS = ("precision", "recall", "density", "coverage")


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


def value(text: str, images: Moments, reference: Moments) -> float:
    measure = Measure.parse(text)
    return measure.against(reference, text)(images)[measure.kind]


@pytest.fixture(scope="module", params=["metrics_ties", "metrics_gauss"])
def golden(request: pytest.FixtureRequest) -> tuple[Moments, Moments, dict[str, Any]]:
    with np.load(DATA / f"{request.param}.npz") as file:
        return kept(file["a"]), kept(file["b"]), json.loads(str(file["expected"]))


@pytest.mark.parametrize("k", [3, 5])
def test_golden_counts(golden: tuple[Moments, Moments, dict[str, Any]], k: int) -> None:
    """The formulas in float64, torch-fidelity, and prdc: of these sets no evaluator's rounding moves a count."""
    images, reference, expected = golden
    for surface, of in (("in", "le"), ("out", "lt")):
        for kind in ("precision", "recall"):
            text = f"{kind}:k={k}:{surface}"
            assert value(text, images, reference) == expected["formula_float64"][f"pr_k{k}_{of}"][kind]
    for kind in ("density", "coverage"):
        found = value(f"{kind}:k={k}", images, reference)
        assert found == pytest.approx(expected["formula_float64"][f"pr_k{k}_lt"][kind], rel=1e-15)
    for kind in KINDS:
        text = f"{kind}:k={k}:out" if kind in ("precision", "recall") else f"{kind}:k={k}"
        assert value(text, images, reference) == pytest.approx(expected["prdc"][f"k{k}"][kind], rel=1e-15)


def test_variants_are_the_evaluators(golden: tuple[Moments, Moments, dict[str, Any]]) -> None:
    images, reference, expected = golden
    for kind in ("precision", "recall"):
        fidelity = pytest.approx(expected["torch-fidelity"]["prc_k3"][kind], rel=1e-7)
        assert value(kind, images, reference) == fidelity
        assert value(f"{kind}:adm32", images, reference) == fidelity
        assert value(f"{kind}:prdc", images, reference) == expected["prdc"]["k5"][kind]
        # Half precision keeps integers, so that ties stay ties, and moves few of other numbers.
        half = value(f"{kind}:adm", images, reference)
        assert half == pytest.approx(fidelity.expected, abs=1e-7 if float(images.features.max()) % 1 == 0 else 0.01)


def test_swapped_sides_swap_precision_and_recall(golden: tuple[Moments, Moments, dict[str, Any]]) -> None:
    images, reference, _ = golden
    for variant in ("", ":prdc", ":adm"):
        there = value("precision" + variant, images, reference)
        assert there == value("recall" + variant, reference, images)


@pytest.mark.parametrize("kind", [*KINDS, "precision:adm"])
def test_the_order_of_either_set_is_nothing(golden: tuple[Moments, Moments, dict[str, Any]], kind: str) -> None:
    images, reference, _ = golden
    mixed = [kept(each.features[::-1].copy()) for each in (images, reference)]
    assert value(kind, *mixed) == value(kind, images, reference)


def test_the_same_set_and_far_sets() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    same, far = kept(rows), kept(rows + np.float32(100))
    for kind, expected in (("precision", 1), ("recall", 1), ("coverage", 1)):
        assert value(kind, same, kept(rows)) == expected
        assert value(kind, far, same) == 0
    # Each point is in its own ball, and in k others on average, on whose surface k of them are.
    assert value("density", same, kept(rows)) == pytest.approx(1, abs=1e-12)
    assert value("density", far, same) == 0


@pytest.mark.parametrize("text", ["precision", "recall", "precision:adm"])
def test_constant_features(text: str) -> None:
    """All points at one place: 1 where the surface counts, 0 where it does not (and density and coverage)."""
    images, reference = (kept(np.full((count, 4), 0.3, np.float32)) for count in (20, 30))
    assert value(text, images, reference) == 1
    assert value(f"{text.partition(':')[0]}:prdc", images, reference) == 0
    assert value("density", images, reference) == value("coverage", images, reference) == 0


def test_copies_of_the_reference_are_in_its_manifold() -> None:
    """Copies in threes: the radius to the third neighbour reaches elsewhere; in fours it is 0."""
    rows = np.random.default_rng(1).standard_normal((12, 6)).astype(np.float32) + np.float32(1e4)
    images = kept(rows)
    for copies in (3, 4):
        reference = kept(np.repeat(rows, copies, axis=0))
        assert value("precision", images, reference) == 1
        assert value("precision:k=3:out", images, reference) == (1 if copies == 3 else 0)


@pytest.mark.parametrize(
    ("text", "images", "reference", "message"),
    [
        ("precision", 20, 3, "x: 3 reference images are too few for the 3 nearest neighbours of each: give more, or"),
        ("recall", 3, 20, "x: 3 images are too few for the 3 nearest neighbours"),
        ("coverage", 20, 5, "x: 5 reference images are too few for the 5 nearest"),
        ("precision:interval", 20, 20, "x is of 50000 images of either set, and these are 20 reference images"),
        ("precision:count=20", 21, 20, "x is of 20 images of either set, and these are 21 images"),
    ],
)
def test_too_few_are_refused(text: str, images: int, reference: int, message: str) -> None:
    rows = np.random.default_rng(2).standard_normal((21, 4))
    measure = Measure.parse(text)
    with pytest.raises(ValueError, match=message):
        measure.against(kept(rows[:reference]), "x")(kept(rows[:images]))


def test_names_keep_variants() -> None:
    assert str(Measure.parse("precision:k=5:out")) == "precision:prdc"
    assert str(Measure.parse("recall:adm32")) == "recall"
    assert Measure.parse("recall:interval").changed() == {"count": 50_000}
