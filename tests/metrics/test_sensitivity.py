"""Heat maps: gradients against finite differences of the distance as it is defined, maps against slow loops."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.commands.score.sensitivity import picture_names
from edm2_guidance.images.heat import heat_picture
from edm2_guidance.metrics.catalog import Metric, find_metric
from edm2_guidance.metrics.detectors import Detector, load_detector
from edm2_guidance.metrics.extractors.base import Extractor
from edm2_guidance.metrics.measures.frechet import Frechet
from edm2_guidance.metrics.measures.gaussians import frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.resampling import moments_of
from edm2_guidance.metrics.sensitivity import PATCHES, Sensitivity, from_0_to_1, heat_map, hidden_patches

STEP = 1e-5


def rows(count: int, dim: int, seed: int, moved: float = 0.0) -> np.ndarray:
    draws = np.random.RandomState(seed)
    return draws.standard_normal((count, dim)) @ (np.eye(dim) + 0.3 * draws.standard_normal((dim, dim))) + moved


def defined(feature: np.ndarray, others: np.ndarray, reference: Moments) -> float:
    """The distance of N images by the mean and covariance of the other N - 1, and this feature."""
    count, mean, cov = len(others) + 1, others.mean(axis=0), np.cov(others.T)
    away = feature - mean
    mean = (count - 1) / count * mean + feature / count
    cov = (count - 2) / (count - 1) * cov + np.outer(away, away) / count
    return frechet_distance(Moments(mean, (cov + cov.T) / 2), reference)


def slopes(of: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences in every element."""
    found = np.zeros(at.shape)
    for place in np.ndindex(*at.shape):
        step = np.zeros(at.shape)
        step[place] = STEP
        found[place] = (of(at + step) - of(at - step)) / (2 * STEP)
    return found


@pytest.mark.parametrize(
    ("images", "reference"),
    [
        (rows(60, 6, 0), rows(80, 6, 1, 0.5)),
        (rows(5, 8, 2), rows(50, 8, 3, 0.3)),  # the images' covariance is singular
        (rows(50, 8, 4), rows(5, 8, 5, 0.3)),  # the reference's is
        (rows(5, 8, 6), rows(4, 8, 7, 0.3)),
    ],
    ids=["full rank", "few images", "few references", "few of both"],
)
def test_gradient_is_the_slope_of_the_distance_as_it_is_defined(images: np.ndarray, reference: np.ndarray) -> None:
    found, theirs = Sensitivity.of(moments_of(images), moments_of(reference)), moments_of(reference)
    for number in (0, 3):
        others = np.delete(images, number, axis=0)
        assert found.distance == pytest.approx(defined(images[number], others, theirs), rel=1e-9)
        expected = slopes(partial(defined, others=others, reference=theirs), images[number])
        assert found.gradient(images[number]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_feature_in_the_place_of_another_gives_the_distance_of_that_set() -> None:
    images, reference = rows(30, 5, 0), moments_of(rows(40, 5, 1))
    changed = images.copy()
    changed[7] = images[7] + [3, 0, -1, 0, 2]
    found = Sensitivity.of(moments_of(images), reference).exchanged(images[7], changed[7])
    assert found == pytest.approx(frechet_distance(moments_of(changed), reference), rel=1e-10)


def test_two_images_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 images: leaving one out needs 3"):
        Sensitivity.of(moments_of(rows(2, 3, 0)), moments_of(rows(9, 3, 1)))


class Net(nn.Module):
    """Two channels of 3x3 places, 3 features; in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 2, 3, stride=2), nn.Linear(2, 3)
        self.double().requires_grad_(False)

    def places(self, images: Tensor) -> Tensor:
        return torch.relu(self.conv(images.double() / 255 - 0.3))

    def pooled(self, places: Tensor) -> Tensor:
        pooled: Tensor = self.linear(places.square().mean(dim=(2, 3)))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        return self.pooled(self.places(images))


@dataclass(frozen=True)
class Tiny(Extractor):
    """An extractor of tests."""

    kind = "tiny"
    stored_as = "fd_tiny"
    features = {"pool": 3}  # noqa: RUF012


@dataclass(frozen=True)
class Attentive(Tiny):
    """The same, which tells its last map."""

    kind = "attentive"

    def last_map(self, net: Any, images: Tensor) -> Tensor:
        places: Tensor = net.places(images)
        return places

    def pooled(self, net: Any, last_map: Tensor) -> Tensor:
        pooled: Tensor = net.pooled(last_map)
        return pooled


NET = Net()
DETECTOR = Detector("fd_tiny", {"fd_tiny": 3}, {}, NET, torch.device("cpu"))
IMAGES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (12, 3, 7, 7), dtype=np.uint8))
REFERENCE = moments_of(rows(30, 3, 1))


def metric(extractor: Extractor) -> Metric:
    return Metric("fd_tiny", Frechet(), extractor, "pool")


def scaled(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = (values - values.min()) / (values.max() - values.min())
    return found


def test_map_of_gradients_is_that_of_slow_loops() -> None:
    features, number = NET(IMAGES).numpy(), 4
    last_map, others = NET.places(IMAGES[number : number + 1])[0].numpy(), np.delete(features, 4, axis=0)

    def distance(places: np.ndarray) -> float:
        return defined(NET.pooled(torch.from_numpy(places)[None])[0].numpy(), others, REFERENCE)

    gradient, expected = slopes(distance, last_map), np.zeros((3, 3))
    for channel in range(2):
        expected += sum(slope**2 / 9 for slope in gradient[channel].flat) * last_map[channel]
    found = heat_map(IMAGES[number], metric(Attentive()), DETECTOR, Sensitivity.of(moments_of(features), REFERENCE))
    assert found == pytest.approx(scaled(expected), rel=1e-4, abs=1e-6)
    assert (found.min(), found.max()) == (0, 1)


def test_map_of_an_extractor_without_places_is_what_hiding_patches_changes() -> None:
    """Every patch in turn, in a set of which everything is computed anew. 7 pixels are 7 patches."""
    images, number = IMAGES.clone(), 2
    before, changed = frechet_distance(moments_of(NET(images).numpy()), REFERENCE), np.zeros((7, 7))
    colour = torch.tensor([round(float(channel.double().mean())) for channel in IMAGES[number]], dtype=torch.uint8)
    for row, column in np.ndindex(7, 7):
        images[number] = IMAGES[number]
        images[number, :, row, column] = colour
        changed[row, column] = abs(frechet_distance(moments_of(NET(images).numpy()), REFERENCE) - before)
    found = Sensitivity.of(moments_of(NET(IMAGES).numpy()), REFERENCE)
    assert heat_map(IMAGES[number], metric(Tiny()), DETECTOR, found) == pytest.approx(scaled(changed), abs=1e-6)


def test_patches_cover_the_image_once() -> None:
    image = torch.full((3, 20, 33), 10, dtype=torch.uint8)
    image[0, 0, 0] = 255  # so that no pixel has the mean colour
    image[1:] = torch.arange(33) % 2 * 200
    hidden, shape = hidden_patches(image)
    assert shape == (PATCHES, PATCHES) == (8, 8)
    assert ((hidden != image).any(dim=1).sum(dim=0) == 1).all()


def test_a_map_of_equal_values_is_zero() -> None:
    assert not from_0_to_1(np.zeros((2, 2))).any()
    assert not from_0_to_1(np.full((2, 2), 3.0)).any()
    black = heat_picture(np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((2, 2)))
    assert len(np.unique(np.asarray(black)[:, 256:512].reshape(-1, 3), axis=0)) == 1


def test_picture_has_the_image_its_map_and_both() -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[4, 4] = 255
    heat = np.zeros((16, 16))
    heat[10, 12] = 1
    pixels = np.asarray(heat_picture(image, heat))[8::16, 8::16]
    shown, coloured, both = (pixels[:, start : start + 16] for start in (0, 16, 32))
    assert (shown == image).all()
    assert coloured[10, 12].tolist() == [250, 250, 40]
    assert coloured[0, 0].tolist() == [40, 20, 120]
    low, high = 2 * 20 / 255, max(2 * 250 / 255, 1 + 2 * 120 / 255)
    for place, value in (((4, 4), 1 + 2 * 120 / 255), ((10, 12), 2 * 40 / 255), ((0, 0), 2 * 120 / 255)):
        assert both[place][2] == pytest.approx(255 * (value - low) / (high - low), abs=1)


def test_the_digits_last_map_gives_their_features() -> None:
    net, extractor = load_detector("fd_mnist").net, find_metric("fd_mnist").extractor
    digits = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        last_map = extractor.last_map(net, digits)
        assert last_map is not None
        assert last_map.shape == (2, 48, 8, 8)
        assert torch.equal(extractor.pooled(net, last_map), net(digits))


def test_pictures_have_a_name_each() -> None:
    assert picture_names(["a/b.png", "a.png", "c.x.png"], [0, 2]) == {0: "a-b.png", 2: "c.x.png"}
    assert picture_names(None, [7]) == {7: "000007.png"}
    for names in (["a/b.png", "a-b.png"], ["a.png", "a.jpg"], ["a.png", "A.png"]):
        with pytest.raises(ValueError, match=r"would both be a(-b)?\.png|would both be A\.png"):
            picture_names(names, [0, 1])
        assert len(picture_names(names, [1])) == 1


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["sensitivity", *words])


def test_command(make_digit_zip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits = str(make_digit_zip(60))
    done = run(digits, "mnist16", "--metrics=fd_mnist", "--out=heat", "--seeds=3,41")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("heat: 2 pictures; fd_mnist ")
    assert sorted(path.name for path in Path("heat").iterdir()) == ["000003.png", "000041.png"]
    with Image.open("heat/000041.png") as picture:
        assert picture.size == (768, 256)
    hidden = run(digits, "mnist16-ae-refs", "--metrics=fd_mnist_ae", "--out=hidden", "--seeds=3")
    assert hidden.exit_code == 0, hidden.output
    for words, message in (
        ((digits, "mnist16", "--metrics=kid_mnist"), "kid_mnist is no Frechet distance"),
        ((digits, "mnist16", "--metrics=fd_mnist", "--seeds=60"), "has no image of seed 60 among the 60"),
        ((digits, "mnist16", "--metrics=fd_mnist", "--seeds=41"), "heat/000041.png exists"),
        ((digits, "mnist16", "--metrics=fd_mnist_ae"), "has no statistics for fd_mnist_ae"),
        (("mnist16-test-500", "mnist16", "--metrics=fd_mnist"), "mnist16-test-500 holds statistics"),
    ):
        refused = run(*words, "--out=heat")
        assert (refused.exit_code, message in refused.stderr) == (2, True), refused.output
