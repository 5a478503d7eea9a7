"""A tiny training set and the smallest network that has every part."""

import numpy as np
import pytest
import torch

from tests.pictures import write_set

NUM_ITEMS = 50  # no multiple of any batch, so that passes end inside steps


@pytest.fixture(scope="session")
def tiny_pixels():
    """uint8 [50,8,8,3]: smooth gradients, so that there is something to learn."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 256, [NUM_ITEMS, 2, 2, 3]).astype(np.float64)
    ramp = np.linspace(0, 1, 8)
    rows = corners[:, 0, :, None] * (1 - ramp[:, None]) + corners[:, 1, :, None] * ramp[:, None]
    images = rows[:, 0, None] * (1 - ramp[:, None, None]) + rows[:, 1, None] * ramp[:, None, None]
    return images.astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_labels():
    return [i % 3 for i in range(NUM_ITEMS)]


@pytest.fixture(scope="session")
def tiny_zip(tmp_path_factory, tiny_pixels, tiny_labels):
    return write_set(tmp_path_factory.mktemp("data") / "tiny.zip", tiny_pixels, tiny_labels)


@pytest.fixture
def one_thread():
    """Bits of sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
