"""Features as other tools store them: their mean and covariance, by formula, and what is refused."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.metrics import features
from edm2_guidance.metrics.features import metric_of_dim, moments_of_array
from edm2_guidance.metrics.reference import holds_statistics, open_statistics
from edm2_guidance.metrics.scoring import prepare_reference, score

ROWS = np.random.RandomState(0).randn(150, 64) + 3


def npy(array: np.ndarray) -> io.BytesIO:
    stream = io.BytesIO()
    np.save(stream, array)
    stream.seek(0)
    return stream


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
@pytest.mark.parametrize("layout", ["C", "F", "pooled"])
def test_moments_are_those_of_the_rows(dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_PIECE_BYTES", 64 * 40)  # several pieces, the last one smaller
    rows = np.asarray(ROWS, dtype, order="F" if layout == "F" else "C")
    found = moments_of_array(npy(rows.reshape(150, 1, 1, 64) if layout == "pooled" else rows))
    exact = rows.astype(np.float64)
    assert found.num_images == 150
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(exact.T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key", ["feats", "pool_3", "reps"])
def test_arrays_of_other_tools(key: str, tmp_path: Path) -> None:
    path = tmp_path / "set_clean_custom_na_kid.npz"
    np.savez(path, **{key: ROWS})
    assert holds_statistics(path)
    found = open_statistics(path)
    assert list(found.moments) == ["fd_mnist"]  # which has 64 features
    assert not found.resize_known


def test_dgm_eval_names_the_model_and_pickles_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "reps.npz"
    np.savez(path, reps=ROWS, model="inception", hparams=np.array({"seed": 1}, dtype=object))
    assert list(open_statistics(path).moments) == ["fid"]
    np.savez(path, reps=ROWS, model="clip")
    with pytest.raises(ValueError, match=r"reps\.npz .*the model 'clip'.*known: inception, dinov2"):
        open_statistics(path)


def test_bare_features(tmp_path: Path) -> None:
    np.save(tmp_path / "feats.npy", ROWS)
    assert holds_statistics(tmp_path / "feats.npy")
    found = open_statistics(tmp_path / "feats.npy")
    reference = prepare_reference(found, ["fd_mnist"])
    (result,) = score(reference, found.moments, {"fd_mnist": {"published": True, "resize": "none"}}, {})
    assert result.value == pytest.approx(0, abs=1e-9)
    assert any("does not say how its images were resized" in flag for flag in result.flags)


def changed(row: int, value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[row, 3] = value
    return rows


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(changed(140, np.nan)).read(), "features of image 140 are not finite"),
        (npy(ROWS).read()[:-8], "ends before its last row"),
        (npy(ROWS).read() + b"x", "goes on after its last row"),
        (npy(ROWS[:, :63]).read(), "features of 63 numbers each belong to no metric here"),
        (npy(ROWS[:1]).read(), "at least 2"),
        (npy(ROWS[:0]).read(), "at least 2"),
        (npy(ROWS[0]).read(), r"float64 \[64\], and features are"),
        (npy(ROWS.astype(np.int64)).read(), "int64"),
        (npy(np.zeros((4, 8, 8, 3), np.uint8)).read(), "images are given as a folder, a ZIP or an .npz"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}  ", "header"),
    ],
)
def test_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "feats.npy").write_bytes(data)
    with pytest.raises(ValueError, match=words) as error:
        open_statistics(tmp_path / "feats.npy")
    assert "feats.npy" in str(error.value)
    with zipfile.ZipFile(tmp_path / "feats.npz", "w") as file:
        file.writestr("feats.npy", data)
    with pytest.raises(ValueError, match=words):
        open_statistics(tmp_path / "feats.npz")


def test_every_metric_has_features_of_its_own() -> None:
    assert [metric_of_dim(dim) for dim in (2048, 1024, 64)] == ["fid", "fd_dinov2", "fd_mnist"]


@pytest.mark.parametrize(
    ("arrays", "known"),
    [
        ({}, False),  # EDM, pytorch-fid or clean-fid: they differ
        ({"mu_s": np.zeros(3), "sigma_s": np.eye(3)}, True),  # guided-diffusion
    ],
)
def test_statistics_that_do_not_say_how_images_were_resized(
    arrays: dict[str, Any], known: bool, tmp_path: Path
) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.zeros(8), sigma=np.eye(8), **arrays)
    assert open_statistics(tmp_path / "ref.npz").resize_known is known


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_torch_fidelitys_features(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_PIECE_BYTES", 64 * 8 * 40)
    rows = torch.from_numpy(ROWS).to(dtype)
    torch.save(rows, tmp_path / "x-features-64.pt")
    assert holds_statistics(tmp_path / "x-features-64.pt")
    found = open_statistics(tmp_path / "x-features-64.pt").moments["fd_mnist"]
    assert found.num_images == 150
    np.testing.assert_allclose(found.cov, np.cov(rows.double().numpy().T), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_torch_fidelitys_statistics(as_tensors: bool, tmp_path: Path) -> None:
    """It saves numpy arrays."""
    mu, sigma = ROWS.mean(0), np.cov(ROWS.T)
    content = {"mu": mu, "sigma": sigma}
    torch.save({k: torch.from_numpy(v) for k, v in content.items()} if as_tensors else content, tmp_path / "s.pt")
    found = open_statistics(tmp_path / "s.pt")
    assert np.array_equal(found.moments["fd_mnist"].mean, mu)
    assert np.allclose(found.moments["fd_mnist"].cov, sigma, rtol=1e-15)
    assert found.moments["fd_mnist"].num_images is None
    assert not found.resize_known


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """numpy has no bfloat16."""
    mu, sigma = torch.from_numpy(ROWS.mean(0)).to(dtype), torch.from_numpy(np.cov(ROWS.T)).to(dtype)
    torch.save({"mu": mu, "sigma": sigma}, tmp_path / "s.pt")
    found = open_statistics(tmp_path / "s.pt").moments["fd_mnist"]
    assert np.array_equal(found.mean, mu.double())
    assert np.array_equal(found.cov, sigma.double())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mu": 1.0, "sigma": 2.0}, "features of 0 numbers"),
        ({"mu": np.zeros(64), "sigma": np.eye(63)}, r"expected \[D\] and \[D, D\]"),
        ({"weight": torch.zeros(3)}, "neither features"),
        ([1, 2], "neither features"),
        (torch.zeros(3, 8, 8, 3), r"\[3, 8, 8, 3\], and features are"),
        (torch.full((70, 64), float("nan")), "features of image 0 are not finite"),
        (Path("x"), "pathlib"),
    ],
)
def test_other_torch_files_are_refused(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "s.pt")
    with pytest.raises(ValueError, match=words) as error:
        open_statistics(tmp_path / "s.pt")
    assert str(error.value).count("s.pt") == 1
