"""The digit classifier that ships: it knows digits, and its features tell good ones from damaged ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edm2_guidance.metrics.detectors import Detector, load_detector
from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier, grey
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.running import RunningMoments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """200 real test digits: uint8 [200, 3, 16, 16], and their classes."""
    with np.load(ROOT / "tests" / "data" / "mnist16-200.npz") as file:
        return torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2), torch.from_numpy(file["arr_1"])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("fd_mnist")


@pytest.fixture(scope="module")
def reference() -> Moments:
    return open_statistics(ROOT / "edm2_guidance" / "pretrained" / "mnist16-refs.npz").of("fd_mnist", 64)


def distance(detector: Detector, images: torch.Tensor, reference: Moments, batch: int = 50) -> float:
    running = RunningMoments(64)
    for chunk in images.split(batch):
        running.append(detector(chunk)["fd_mnist"])
    return frechet_distance(running.moments(), reference)


def test_it_knows_digits(detector: Detector, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = digits
    with torch.no_grad():
        guesses = detector.net.logits(images).argmax(dim=1)
    assert (guesses == labels).sum() >= 197


def test_shipped_statistics_belong_to_the_shipped_detector(detector: Detector, reference: Moments) -> None:
    for name, num_images in (("mnist16-refs.npz", 60000), ("mnist16-test-1000.npz", 1000)):
        statistics = open_statistics(ROOT / "edm2_guidance" / "pretrained" / name)
        assert statistics.detectors["fd_mnist"] == detector.identities["fd_mnist"]
        assert statistics.moments["fd_mnist"].num_images == num_images
    assert detector.identity["published"] is True


def test_features_are_standardised_over_the_training_images(reference: Moments) -> None:
    assert np.abs(reference.mean).max() < 1e-4
    assert np.abs(reference.cov.diagonal() - 1).max() < 1e-3


def test_distance_grows_with_damage(
    detector: Detector, digits: tuple[torch.Tensor, torch.Tensor], reference: Moments
) -> None:
    images, labels = digits
    kernel = torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([1.0, 2, 1]) / 16
    blurred = F.conv2d(images.float().flatten(0, 1)[:, None], kernel[None, None], padding=1).reshape(images.shape)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    real = distance(detector, images, reference)
    assert distance(detector, (images + 10 * noise).clamp(0, 255).byte(), reference) > 2 * real
    assert distance(detector, torch.lerp(images.float(), blurred, 0.3).byte(), reference) > 1.5 * real
    assert distance(detector, blurred.byte(), reference) > 4 * real
    only_some_classes = images[labels < 5].repeat(2, 1, 1, 1)
    assert distance(detector, only_some_classes, reference) > 4 * real


def test_distance_depends_on_neither_batch_nor_order(
    detector: Detector, digits: tuple[torch.Tensor, torch.Tensor], reference: Moments
) -> None:
    images = digits[0]
    value = distance(detector, images, reference)
    for batch in (1, 7, 200):
        assert distance(detector, images, reference, batch) == pytest.approx(value, rel=1e-5)
    shuffled = images[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert distance(detector, shuffled, reference) == pytest.approx(value, rel=1e-5)


def test_features_are_taken_before_the_relu(detector: Detector, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    features = detector(digits[0])["fd_mnist"]
    assert 0.3 < (features < 0).double().mean() < 0.7


def test_grey_is_the_mean_of_the_channels() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    images[0, :, 2, 3] = torch.tensor([10, 20, 60], dtype=torch.uint8)
    result = grey(images)
    assert result.shape == (1, 1, 16, 16)
    assert result[0, 0, 2, 3] == pytest.approx(30 / 255)
    assert result.sum() == pytest.approx(30 / 255)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (16, 17), (32, 16)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]}"):
        DigitClassifier().eval()(torch.zeros(2, 3, *size, dtype=torch.uint8))


def test_weights_are_small(detector: Detector) -> None:
    assert (ROOT / "edm2_guidance" / "pretrained" / "mnist16-detector.safetensors").stat().st_size < 1_000_000
    assert detector.dims == {"fd_mnist": 64}


def test_training_script_reproduces_its_bytes(tmp_path: Path, trained_files: Callable[[Any, str], list[Path]]) -> None:
    """Not well trained by 130 digits, but complete: the same seed gives the same file, another seed another one."""

    from edm2_guidance.pretrained.train_detector import main

    files = trained_files(main, "test accuracy")
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    features = load_detector("fd_mnist", weights=files[0])(all_images(tmp_path / "digits.zip"))["fd_mnist"]
    assert features.mean(dim=0).abs().max() < 1e-3
    assert ((features.var(dim=0) > 0.5) & (features.var(dim=0) < 1.001)).all()  # not 1: eps counts when untrained


def all_images(path: Path) -> torch.Tensor:
    from edm2_guidance.images.sources import StoredImages

    return torch.cat([batch.images for batch in StoredImages(path)])
