"""The autoencoder of digits that ships: it draws digits, and its features tell good ones from damaged ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.detectors import Detector, load_detector
from edm2_guidance.metrics.extractors.mnist_ae import MnistAutoencoder
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.pretrained.train_autoencoder import main

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = ROOT / "edm2_guidance" / "pretrained"


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """200 real test digits: uint8 [200, 3, 16, 16]."""
    with np.load(ROOT / "tests" / "data" / "mnist16-200.npz") as file:
        return torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("fd_mnist_ae")


@pytest.fixture(scope="module")
def reference() -> Moments:
    return open_statistics(PRETRAINED / "mnist16-ae-refs.npz").of("fd_mnist_ae", 24)


def distance(detector: Detector, images: torch.Tensor, reference: Moments) -> float:
    running = RunningMoments(24)
    running.append(detector(images)["fd_mnist_ae"])
    return frechet_distance(running.moments(), reference)


def test_shipped_statistics_belong_to_the_shipped_network(detector: Detector, reference: Moments) -> None:
    statistics = open_statistics("mnist16-ae-refs")
    assert statistics.detectors["fd_mnist_ae"] == detector.identities["fd_mnist_ae"]
    assert detector.identity["published"] is True
    assert reference.num_images == 60000
    assert (PRETRAINED / "mnist16-ae.safetensors").stat().st_size < 300_000


def test_features_are_standardised_over_the_training_images(reference: Moments) -> None:
    assert np.abs(reference.mean).max() < 1e-4
    assert np.abs(reference.cov.diagonal() - 1).max() < 1e-3


def test_it_draws_digits_from_eight_numbers(detector: Detector, digits: torch.Tensor) -> None:
    """Which it has never seen; the mean digit would miss by three times as much."""
    x = digits[:, :1] / 255
    code = detector.net.get_submodule("encoder")(x)
    assert code.shape == (200, 8)
    missed = F.mse_loss(detector.net.get_submodule("decoder")(code), x)
    assert missed < 0.013 < x.var(dim=0).mean() / 3


def test_features_are_the_code_and_what_was_missed(detector: Detector, digits: torch.Tensor) -> None:
    """Block by block, before they are standardised; the batch changes nothing."""
    x = digits[:3, :1] / 255
    code = detector.net.get_submodule("encoder")(x)
    missed = (x - detector.net.get_submodule("decoder")(code)).abs()
    blocks = [missed[:, 0, i : i + 4, j : j + 4].mean(dim=(1, 2)) for i in range(0, 16, 4) for j in range(0, 16, 4)]
    raw = torch.cat([code, torch.stack(blocks, dim=1).add(1e-3).log()], dim=1)
    features = detector.net.get_submodule("standardise")(raw)
    assert torch.allclose(detector(digits[:3])["fd_mnist_ae"], features, atol=1e-4)
    assert torch.allclose(detector(digits)["fd_mnist_ae"][:3], features, atol=1e-4)


def test_damaged_digits_are_farther_than_real_ones(
    detector: Detector, digits: torch.Tensor, reference: Moments
) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = digits + 25 * torch.randn(digits.shape, generator=generator)
    holes = digits.clone()
    holes[:, :, 6:9, 6:9] = 0
    halves = torch.cat([digits[:, :, :8], digits.roll(1, dims=0)[:, :, 8:]], dim=2)
    blurred = F.avg_pool2d(digits.float(), 3, 1, 1)
    real = distance(detector, digits, reference)
    assert real < 0.6
    for damaged in (noisy, holes, halves, blurred):
        assert distance(detector, damaged.round().clamp(0, 255).to(torch.uint8), reference) > 3 * real


def test_names() -> None:
    assert find_metric("fd-mnist-ae").name == find_metric("fd/mnist-ae").name == "fd_mnist_ae"
    assert find_metric("fd_mnist_ae").extractor.weights_variable == "EDM2_FD_MNIST_AE_WEIGHTS"


@pytest.mark.parametrize("size", [(8, 8), (32, 16)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]}"):
        MnistAutoencoder().build().eval()(torch.zeros(2, 3, *size, dtype=torch.uint8))


def test_training_script_reproduces_its_bytes(tmp_path: Path, trained_files: Callable[[Any, str], list[Path]]) -> None:
    files = trained_files(main, "mean squared error")
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    assert load_detector("fd_mnist_ae", weights=files[2]).identity["published"] is False
