"""Inception-v3 of 2015-12-05 against golden features, and its resize against a direct loop."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.extractors.inception import Inception
from edm2_guidance.metrics.extractors.networks.inception import TAPS, InceptionV3, resize_tf1

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def network(inception_golden: tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]) -> InceptionV3:
    with torch.device("meta"):
        net = InceptionV3()
    net.load_state_dict(inception_golden[1], assign=True)
    return net.eval()


def test_names_and_shapes_are_those_of_the_published_file(inception_golden: tuple) -> None:
    expected = json.loads(str(inception_golden[0]["state_dict_shapes"]))
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize(("size", "count"), [(299, 1), (512, 1), (64, 3), (32, 1)])
def test_golden(
    network: InceptionV3, inception_golden: tuple, size: int, count: int, relative_error: Callable[..., float]
) -> None:
    arrays = inception_golden[0]
    with torch.no_grad():
        taps = network.taps(torch.from_numpy(arrays[f"images_{size}"][:count]))
    assert tuple(taps) == TAPS
    for name, value in taps.items():
        if name == "spatial":
            continue  # in a golden file of its own, below
        expected = arrays[f"{'pool' if name.isdigit() else ''}{name}_{size}"][:count]
        assert relative_error(value, expected) < 1e-5, name


def test_its_last_map_gives_the_features(
    network: InceptionV3, inception_golden: tuple, relative_error: Callable[..., float]
) -> None:
    with torch.no_grad():
        last_map = Inception().last_map(network, torch.from_numpy(inception_golden[0]["images_32"][:1]))
        assert last_map.shape == (1, 2048, 8, 8)
        assert relative_error(Inception().pooled(network, last_map), inception_golden[0]["pool2048_32"][:1]) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float64, 1e-6, marks=pytest.mark.slow), (torch.float32, 1e-5)]
)
def test_every_tap_as_torch_fidelity_has_it(
    dtype: torch.dtype, tolerance: float, relative_error: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images, not square, and other weights, drawn as the file says; sFID's tap is channel-last.

    In float64 nothing but the file's own rounding is left, which moves no tap by more than 6.1e-7 (sFID's); in float32
    that of this processor comes to it, for which the file's note allows 1e-5.
    """
    with np.load(DATA / "metrics_inception_taps.npz") as file:
        arrays = dict(file)
    with torch.device("meta"):
        net = InceptionV3()
    state = {key: torch.from_numpy(_drawn(key, tuple(value.shape))) for key, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    resized = "edm2_guidance.metrics.extractors.networks.inception.resize_tf1"
    monkeypatch.setattr(resized, lambda images, size: resize_tf1(images.to(dtype), size))
    with torch.no_grad():
        taps = net.eval().to(dtype).taps(torch.from_numpy(arrays["images"]))
    assert taps["spatial"].shape == (2, 2023)
    for name, value in taps.items():
        assert value.dtype == dtype
        assert relative_error(value, arrays[name]) < tolerance, name


def _drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The file's `weights_recipe`."""
    draws = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("conv.weight"):
        value = draws.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
    elif key.endswith("bn.weight"):
        value = draws.random_sample(shape) * 0.4 + 0.8
    elif key.endswith("running_var"):
        value = draws.random_sample(shape) * 0.8 + 0.6
    else:
        value = draws.standard_normal(shape) * (0.02 if key == "fc.weight" else 0.1)
    return value.astype(np.float32)


def test_forward_is_the_2048_tap_and_independent_of_the_batch(
    network: InceptionV3, inception_golden: tuple, relative_error: Callable[..., float]
) -> None:
    images = torch.from_numpy(inception_golden[0]["images_32"][:2])
    with torch.no_grad():
        together, alone = network(images), network(images[1:])
    assert relative_error(together, inception_golden[0]["pool2048_32"][:2]) < 1e-5
    assert relative_error(together[1:], alone) < 1e-5


def test_forward_computes_no_logits(
    network: InceptionV3, inception_golden: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.from_numpy(inception_golden[0]["images_32"][:1])
    monkeypatch.setattr("edm2_guidance.metrics.extractors.networks.inception.F.linear", None)
    with torch.no_grad():
        assert network(images).shape == (1, 2048)


@pytest.mark.parametrize(("rows", "columns", "size"), [(5, 7, 11), (16, 16, 299), (9, 30, 10)])
def test_resize_equals_a_direct_loop(rows: int, columns: int, size: int) -> None:
    """Pixel by pixel from the rule's definition; not square, growing and shrinking."""
    image = np.random.default_rng(0).uniform(0, 255, (rows, columns))
    expected = np.empty((size, size))
    for y in range(size):
        for x in range(size):
            v, u = y * rows / size, x * columns / size
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = image[top, left] * (1 - (u - left)) + image[top, right] * (u - left)
            lower = image[bottom, left] * (1 - (u - left)) + image[bottom, right] * (u - left)
            expected[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    result = resize_tf1(torch.from_numpy(image)[None, None], size)[0, 0]
    assert np.abs(result.numpy() - expected).max() < 1e-9


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(resize_tf1(image, 8), image)
