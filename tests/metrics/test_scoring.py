"""Scores: reference checked beforehand, names with counts, warnings, and what a ledger record says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.metrics import ledger, scoring
from edm2_guidance.metrics.environment import environment
from edm2_guidance.metrics.evaluation import measure, open_stored
from edm2_guidance.metrics.ledger_table import format_table, rows_of
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.provenance import (
    content_sha256,
    describe_generated,
    describe_statistics,
    describe_stored,
    quantiser,
    vae_ran,
)
from edm2_guidance.metrics.reference import open_statistics, save_statistics
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.scoring import open_reference, score
from edm2_guidance.metrics.sides import ReferenceImages, open_reference_side, open_side
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from training.encoders import StandardRGBEncoder

MNIST = {"network": "DigitClassifier", "weights_sha256": "aa", "resize": "none", "dtype": "float32", "published": True}


def moments(count: int = 200, dim: int = 64, seed: int = 0) -> Moments:
    running = RunningMoments(dim)
    running.append(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * (1 + seed))
    return running.moments()


@pytest.fixture
def reference_file(tmp_path: Path) -> Path:
    path = tmp_path / "ref.npz"
    save_statistics(path, {"fd_mnist": moments()}, detectors={"fd_mnist": MNIST}, images={"size": [16, 16]})
    return path


def test_score_is_the_distance(reference_file: Path) -> None:
    reference = open_reference(reference_file, ["fd_mnist"])
    ours = moments(count=150, seed=1)
    (result,) = score(reference, {"fd_mnist": ours}, {"fd_mnist": MNIST}, {"size": [16, 16]})
    assert result.value == pytest.approx(frechet_distance(ours, moments()), rel=1e-12)
    assert (result.name, result.num_images, result.flags) == ("fd_mnist@150", 150, ())


def test_reference_is_refused_beforehand(tmp_path: Path, reference_file: Path) -> None:
    with pytest.raises(ValueError, match="no statistics for fid, only for fd_mnist"):
        open_reference(reference_file, ["fd_mnist", "fid"])
    np.savez(tmp_path / "small.npz", mu=np.zeros(65), sigma=np.eye(65))
    with pytest.raises(ValueError, match="fid has 65 features, its detector 2048"):
        open_reference(tmp_path / "small.npz", ["fid"])
    sigma = np.eye(64)
    sigma[0, 1] = sigma[1, 0] = 5  # symmetric, positive variances, but no covariance
    np.savez(tmp_path / "bad.npz", **{"fd_mnist.mu": np.zeros(64), "fd_mnist.sigma": sigma})
    with pytest.raises(ValueError, match=r"bad\.npz: fd_mnist: the covariance has a negative eigenvalue"):
        open_reference(tmp_path / "bad.npz", ["fd_mnist"])


def test_a_faulty_linear_algebra_is_noticed_beforehand(reference_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cholesky = np.linalg.cholesky
    monkeypatch.setattr(np.linalg, "cholesky", lambda cov: 1.01 * cholesky(cov))
    with pytest.raises(ValueError, match=r"ref\.npz: fd_mnist: the factors of its covariance are off by .*LAPACK"):
        open_reference(reference_file, ["fd_mnist"])


@pytest.mark.parametrize(
    ("used", "images", "count", "expected"),
    [
        (MNIST, {}, 65, []),
        (MNIST, {}, 64, ["64 images for the 64 features of fd_mnist: the covariance is singular"]),
        ({**MNIST, "weights_sha256": "bb"}, {}, 100, ["weights_sha256 is bb for the images, aa for the reference"]),
        ({**MNIST, "resize": "pil"}, {}, 100, ["resize is pil for the images, none for the reference"]),
        (None, {}, 100, ["not known which detector made the fd_mnist statistics"]),
        (MNIST, {"size": [32, 48]}, 100, ["the images are 48x32, those of the reference 16x16"]),
    ],
)
def test_comparisons_that_mix_things_are_flagged(
    used: dict[str, Any] | None, images: dict[str, Any], count: int, expected: list[str], reference_file: Path
) -> None:
    reference = open_reference(reference_file, ["fd_mnist"])
    identities = {} if used is None else {"fd_mnist": used}
    (result,) = score(reference, {"fd_mnist": moments(count)}, identities, images)
    assert len(result.flags) == len(expected)
    for flag, words in zip(result.flags, expected, strict=True):
        assert words in flag


@pytest.mark.parametrize(
    ("changes", "words"),
    [({}, None), ({"published": False}, "not the published ones"), ({"resize": "pil"}, "resized by the variant 'pil'")],
)
def test_a_reference_that_names_no_detector(changes: dict[str, Any], words: str | None, tmp_path: Path) -> None:
    """As all published references: nothing to compare with, but what is unusual here is said."""
    save_statistics(tmp_path / "ref.pkl", {"fd_mnist": moments()})
    reference = open_reference(tmp_path / "ref.pkl", ["fd_mnist"])
    (result,) = score(reference, {"fd_mnist": moments(100)}, {"fd_mnist": {**MNIST, **changes}}, {})
    assert len(result.flags) == (words is not None)
    assert words is None or words in result.flags[0]


def test_reference_of_few_images_is_flagged(tmp_path: Path) -> None:
    save_statistics(tmp_path / "ref.npz", {"fd_mnist": moments(40)}, detectors={"fd_mnist": MNIST})
    reference = open_reference(tmp_path / "ref.npz", ["fd_mnist"])
    (result,) = score(reference, {"fd_mnist": moments(100)}, {"fd_mnist": MNIST}, {})
    assert "40 reference images for the 64 features" in result.flags[0]


def test_record_says_everything(reference_file: Path, make_digit_zip: Callable[..., Path]) -> None:
    recipe = Recipe(
        net=NetworkRef("a.pkl", "1" * 64),
        guides=(Guide(NetworkRef("b.pkl", "2" * 64), constant(1.5)),),
        labels="balanced",
        encoder=StandardRGBEncoder().identity(),
    )
    stored = {"format": 2, "recipe": recipe.to_json(), "recipe_hash": recipe.hash, "seeds": "0-19"}
    path = make_digit_zip(20, extra={"recipe.json": json.dumps(stored).encode()})
    images = open_stored(path, ["fd_mnist"], num=10, seed=3, batch=4)
    reference = open_reference(reference_file, ["fd_mnist"])
    (result,) = score(reference, {"fd_mnist": moments(100)}, {"fd_mnist": MNIST}, images.description)
    made = scoring.ledger_record(result, reference, MNIST, images.description, environment(), batch=4, note="a test")
    assert json.loads(json.dumps(made)) == made
    assert (made["name"], made["metric"], made["value"]) == ("fd_mnist@100", "fd_mnist", result.value)
    assert made["moments_sha256"] == moments(100).sha256
    assert made["recipe"] == recipe.to_json()
    assert made["recipe_hash"] == recipe.hash
    assert made["labels"] == "balanced"
    assert made["quantiser"] == "x * 127.5 + 128, clipped to [0, 255], truncated"
    assert made["reference"]["num_images"] == 200
    assert made["reference"]["detector"] == made["detector"] == MNIST
    expected = {"path": str(path), "num_images": 10, "total": 20, "subset_seed": 3, "size": [16, 16], "seeds": "0-19"}
    assert expected.items() <= made["images"].items()
    assert made["schema"] == 2
    assert made["note"] == "a test"
    assert {"software", "hardware", "time", "run", "flags"} <= made.keys()


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (b"no json", "it is not valid JSON"),
        ([1], "it holds a list; expected a JSON object"),
        (None, "it holds null; expected"),
        (True, "it holds true or false; expected"),
        ({"recipe": 3}, "it has a recipe that is no object"),
        ({"recipe": []}, "it has a recipe that is no object"),
        ({"recipe": {"net": {"source": "x"}}, "recipe_hash": 5}, "it has 5 for 'recipe_hash', not a text"),
        ({"recipe": {"a": "x" * 300_000}}, "it is longer than a ledger takes"),
        ({"recipe": {"labels": ["x" * 150_000]}}, "it is longer than a ledger takes"),
        ({"recipe": {"a": list(range(300_000))}}, "longer than a ledger takes|more than the"),
    ],
)
def test_an_odd_recipe_is_said_and_poisons_no_ledger(
    sidecar: Any, reason: str, reference_file: Path, tmp_path: Path, make_digit_zip: Callable[..., Path]
) -> None:
    data = sidecar if isinstance(sidecar, bytes) else json.dumps(sidecar).encode()
    path = make_digit_zip(4, extra={"recipe.json": data})
    images = open_stored(path, ["fd_mnist"]).description
    reference = open_reference(reference_file, ["fd_mnist"])
    (result,) = score(reference, {"fd_mnist": moments(150, seed=1)}, {"fd_mnist": MNIST}, images)
    assert re.search(rf"recipe\.json of .* is not recorded: .*({reason})", "; ".join(result.flags))
    ledger.append(tmp_path / "l.jsonl", scoring.ledger_record(result, reference, MNIST, images, {}))
    (line,) = ledger.read(tmp_path / "l.jsonl")
    assert (line["value"], line["recipe"]) == (result.value, None)
    assert format_table(rows_of([line]))
    assert isinstance(open_reference_side(open_side(str(path)), ["fd_mnist"]), ReferenceImages)


@pytest.mark.parametrize("claimed", [{"recipe": "x"}, {"recipe": [1]}, {"recipe_hash": {}}, {"recipe": {"encoder": 3}}])
def test_statistics_that_claim_an_odd_recipe_are_scored(
    claimed: dict[str, Any], reference_file: Path, tmp_path: Path
) -> None:
    save_statistics(tmp_path / "odd.npz", {"fd_mnist": moments(seed=1)}, images=claimed)
    statistics = open_statistics(tmp_path / "odd.npz")
    images = describe_statistics(statistics)
    assert vae_ran(images) is False
    reference = open_reference(tmp_path / "odd.npz", ["fd_mnist"])
    (result,) = score(reference, statistics.moments, {"fd_mnist": MNIST}, images)
    ledger.append(tmp_path / "l.jsonl", scoring.ledger_record(result, reference, MNIST, images, {}))
    assert len(ledger.read(tmp_path / "l.jsonl")) == 1


def test_quantisers_follow_the_encoder() -> None:
    assert quantiser({"class": "StabilityVAEEncoder", "vae_name": "x"}) == "clipped to [0, 1], * 255, truncated"
    for unknown in ({"class": "SomethingElse"}, {"class": ["odd"]}, {}, "text", 5, None):
        assert quantiser(unknown) is None


def test_the_vae_ran_only_for_latents_generated_here() -> None:
    vae, rgb = {"encoder": {"class": "StabilityVAEEncoder"}}, {"encoder": {"class": "StandardRGBEncoder"}}
    assert vae_ran({"kind": "generated", "recipe": vae})
    assert not vae_ran({"kind": "zip", "recipe": vae}), "decoded elsewhere, at another time"
    assert not vae_ran({"kind": "generated", "recipe": rgb})
    assert not vae_ran({"kind": "generated", "recipe": None})


def test_generated_images_are_described_by_recipe_and_seeds() -> None:
    recipe = Recipe(net=NetworkRef("a.pkl", "1" * 64))
    described = describe_generated(recipe, range(5, 25), (16, 16))
    assert described["seeds"] == "5-24"
    assert described["num_images"] == 20
    assert described["recipe_hash"] == recipe.hash


def test_content_hash_tells_sets_apart_by_their_images_alone(make_digit_zip: Callable[..., Path]) -> None:
    first = content_sha256(make_digit_zip(5, "a.zip"))
    assert first == content_sha256(make_digit_zip(5, "b.zip", extra={"recipe.json": b"{}"}))
    assert first != content_sha256(make_digit_zip(6, "c.zip"))


def test_stored_sets_say_which_subset_they_are(make_digit_zip: Callable[..., Path]) -> None:
    path = make_digit_zip(20)
    everything = open_stored(path, ["fd_mnist"])
    assert everything.description["subset_seed"] is None
    assert everything.names == [f"{i:06d}.png" for i in range(20)]
    part = open_stored(path, ["fd_mnist"], num=5, seed=7)
    assert part.description["subset_seed"] == 7
    assert part.names == [f"{seed:06d}.png" for b in part.source for seed in b.seeds or ()]


def test_too_few_images(make_digit_zip: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="holds 3 images, fewer than the 50000 to score: give --num-images=3"):
        open_stored(make_digit_zip(3), ["fd_mnist"], num=50000)
    with pytest.raises(ValueError, match="at least 2"):
        open_stored(make_digit_zip(1), ["fd_mnist"])


def test_npz_images_have_no_names_and_no_recipe(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((4, 16, 16, 3), dtype=np.uint8))
    stored = open_stored(tmp_path / "images.npz", ["fd_mnist"])
    assert stored.names is None
    assert stored.description["recipe"] is None
    assert stored.description["kind"] == "npz"


def test_folders_are_described(tmp_path: Path, make_digit_zip: Callable[..., Path]) -> None:
    import zipfile

    with zipfile.ZipFile(make_digit_zip(4)) as file:
        file.extractall(tmp_path / "folder")
    stored = open_stored(tmp_path / "folder", ["fd_mnist"])
    assert stored.description["kind"] == "folder"
    assert stored.description["content_sha256"] is None
    assert describe_stored(tmp_path / "folder", stored.source, 4, 0) == stored.description


def test_measure_counts_sizes_and_progress(make_digit_zip: Callable[..., Path]) -> None:
    from edm2_guidance.metrics.detectors import load_detector

    seen: list[int] = []
    stored = open_stored(make_digit_zip(10), ["fd_mnist"], batch=4)
    found, size, reduced = measure(stored.source, [load_detector("fd_mnist")], stored.names, seen.append)
    assert found["fd_mnist"].num_images == 10
    assert size == (16, 16)
    assert reduced == {}
    assert seen == [4, 4, 2]
