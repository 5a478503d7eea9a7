"""What several metric tests share: golden weights drawn by their published recipe, tiny image sets."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.pictures import encoded

Array = torch.Tensor | np.ndarray
Golden = tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]

DATA = Path(__file__).resolve().parents[1] / "data"


def draw_weights(shapes: dict[str, list[int]], salt: int) -> dict[str, torch.Tensor]:
    """The weight recipe of the golden files: one generator per key, in sorted order of the keys."""
    state = {}
    for index, key in enumerate(sorted(shapes)):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros(shapes[key], dtype=torch.int64)
            continue
        z = torch.randn(shapes[key], generator=torch.Generator().manual_seed(salt * 100000 + index))
        if key.endswith("running_var"):
            state[key] = 0.5 * z.abs() + 0.5
        elif key.endswith(("running_mean", "bias")):
            state[key] = 0.1 * z
        elif key.endswith(".gamma") or z.ndim == 1:
            state[key] = 1 + 0.1 * z
        elif key in ("cls_token", "mask_token", "pos_embed"):
            state[key] = 0.5 * z
        else:
            state[key] = z * math.sqrt(2 / math.prod(z.shape[1:]))
    return state


def golden_state(name: str) -> Golden:
    """All arrays of a golden file, and the network parameters its numbers belong to."""
    with np.load(DATA / f"{name}.npz") as file:
        arrays = dict(file)
    shapes = json.loads(str(arrays["state_dict_shapes"]))
    return arrays, draw_weights(shapes, int(arrays["salt"]))


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Array, Array], float]:
    """||actual - expected|| / ||expected|| over the whole array, in float64."""

    def error(actual: Array, expected: Array) -> float:
        a, b = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        assert a.shape == b.shape
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    return error


@pytest.fixture(scope="session")
def inception_golden() -> Golden:
    return golden_state("inception")


@pytest.fixture(scope="session")
def dinov2_golden() -> Golden:
    return golden_state("dinov2")


@pytest.fixture
def make_digit_zip(tmp_path: Path) -> Callable[..., Path]:
    """Makes a ZIP of the first `count` test digits with labels; extra members replace or join its own."""

    def make(count: int = 200, name: str = "digits.zip", extra: dict[str, bytes] | None = None) -> Path:
        with np.load(DATA / "mnist16-200.npz") as file:
            pixels, labels = file["arr_0"][:count], file["arr_1"][:count]
        members = {f"{i:06d}.png": encoded(image) for i, image in enumerate(pixels)}
        listed = [[key, int(label)] for key, label in zip(members, labels, strict=True)]
        members["dataset.json"] = json.dumps({"labels": listed}).encode()
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for key, data in {**members, **(extra or {})}.items():
                file.writestr(key, data)
        return tmp_path / name

    return make


@pytest.fixture
def trained_files(tmp_path: Path, make_digit_zip: Callable[..., Path]) -> Callable[[Any, str], list[Path]]:
    """What a training script writes for the seeds 0, 0 and 1, from few digits; said: what it prints."""

    def train(main: Any, said: str) -> list[Path]:
        data, files = make_digit_zip(), [tmp_path / f"{number}.safetensors" for number in range(3)]
        for seed, file in zip((0, 0, 1), files, strict=True):
            arguments = [f"--data={data}", f"--test={data}", f"--dest={file}", "--epochs=1", f"--seed={seed}"]
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.output
            assert said in result.output
        return files

    return train
