"""Statistics files: every format that is read, the two that are written, and damaged ones."""

import io
import json
import os
import pickle
import pickletools
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.images import npy
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import check_new, holds_statistics, open_statistics, save_statistics
from edm2_guidance.metrics.running import RunningMoments
from torch_utils.safe_pickle import DamagedPickleError, UnsafePickleError

IDENTITY = {"metric": "fid", "weights_sha256": "ab", "resize": "torch"}


def moments(dim: int = 5, count: int = 30, seed: int = 0) -> Moments:
    running = RunningMoments(dim)
    running.append(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))
    return running.moments()


def arrays(dim: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    each = moments(dim, seed=seed)
    return {"mu": each.mean, "sigma": each.cov}


def assert_equal(a: Moments, b: Moments) -> None:
    assert np.array_equal(a.mean, b.mean)
    assert np.array_equal(a.cov, b.cov)
    assert a.num_images == b.num_images


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_round_trip_keeps_every_bit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"stats{suffix}"
    stored = {"fid": moments(), "fd_mnist": moments(3, seed=1)}
    save_statistics(path, stored, detectors={"fid": IDENTITY}, images={"size": [16, 16]})
    loaded = open_statistics(path)
    assert list(loaded.moments) == ["fid", "fd_mnist"]
    for metric, each in stored.items():
        assert_equal(loaded.moments[metric], each)
    assert loaded.source == str(path)
    assert len(loaded.sha256) == 64
    if suffix == ".npz":
        assert loaded.detectors == {"fid": IDENTITY}
        assert loaded.images == {"size": [16, 16]}
    else:
        assert loaded.detectors == loaded.images == {}


def test_only_the_metrics_asked_for_are_read(tmp_path: Path) -> None:
    """The others may be damaged, or the same array again and again."""
    odd = np.zeros((3, 4))
    path = tmp_path / "many.npz"
    np.savez(path, **arrays(), **{f"m{i}.{part}": odd for i in range(100) for part in ("mu", "sigma")})
    assert list(open_statistics(path, ["fid"]).moments) == ["fid"]
    assert list(open_statistics(path).moments) == ["fid"], "the others are no metrics here"
    with pytest.raises(ValueError, match=r"no statistics for fd_x, only for fid, m0, .* and 93 more") as caught:
        open_statistics(path, ["fid", "fd_x"])
    assert len(str(caught.value)) < 1000
    (tmp_path / "many.pkl").write_bytes(
        pickle.dumps({"fid": arrays(), "num_images": 30, "bad": {"mu": odd, "sigma": odd}})
    )
    assert list(open_statistics(tmp_path / "many.pkl", ["fid"]).moments) == ["fid"]
    assert list(open_statistics(tmp_path / "many.pkl").moments) == ["fid"]
    with pytest.raises(ValueError, match="bad"):
        open_statistics(tmp_path / "many.pkl", ["bad"])
    np.savez(path, **{f"m{i}.{part}": odd for i in range(100) for part in ("mu", "sigma")})
    with pytest.raises(ValueError, match=r"for no metric of this program, only for m0, m1, .*, m7 and 92 more$"):
        open_statistics(path)


def test_arrays_of_absurd_size_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    """A megabyte of deflated zeros can be a gigabyte: a covariance, or what stands in the place of a short text."""
    huge = np.zeros(8 * (1 << 20) * 5, np.uint8)  # 40 MB
    plain = {"mu": np.zeros(3), "sigma": np.eye(3)}
    wide = np.zeros((4097, 4097))
    for name, hostile in [("sigma", wide), ("mu", huge), ("provenance", huge), ("num_images", huge)]:
        np.savez_compressed(tmp_path / "bomb.npz", **{**plain, name: hostile})
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"bomb\.npz cannot be read as statistics \({name} has \d+ bytes"):
            open_statistics(tmp_path / "bomb.npz", ["fid"])
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()
    for metric, dim, words in [("fd_x", 4097, "4097 features: at most 4096"), ("fid", 2049, "2049 .* detector 2048")]:
        mu, sigma = np.zeros(dim, np.float16), np.zeros((dim, dim), np.float16)
        (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({metric: {"mu": mu, "sigma": sigma}}))
        np.savez_compressed(tmp_path / "bomb.npz", **{f"{metric}.mu": mu, f"{metric}.sigma": sigma})
        for name, most in [("bomb.pkl", sigma.nbytes + (1 << 20)), ("bomb.npz", 1 << 20)]:
            tracemalloc.start()
            with pytest.raises(ValueError, match=words):
                open_statistics(tmp_path / name, [metric])
            assert tracemalloc.get_traced_memory()[1] < most
            tracemalloc.stop()


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "refs.npz")
    with pytest.raises(ValueError, match=r"refs\.npz is a pipe"):
        open_statistics(tmp_path / "refs.npz")


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_bytes_depend_on_content_alone(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_statistics(tmp_path / f"a{suffix}", {"fid": moments()}, images={"b": 1, "a": 2})
    monkeypatch.setattr("time.time", lambda: 2e9)
    save_statistics(tmp_path / f"b{suffix}", {"fid": moments()}, images={"a": 2, "b": 1})
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("dim", "metric"), [(64, "fd_mnist"), (1024, "fd_dinov2"), pytest.param(3, "fid", id="no detector's")]
)
def test_plain_mu_and_sigma_are_of_the_metric_with_so_many_features(dim: int, metric: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", mu=np.zeros(dim), sigma=np.eye(dim))
    assert list(open_statistics(tmp_path / "plain.npz", [metric]).moments) == [metric]
    save_statistics(tmp_path / "own.npz", {"fid": moments(dim)})
    assert list(open_statistics(tmp_path / "own.npz").moments) == ["fid"], "it says so"


def test_own_npz_serves_tools_that_look_for_mu_and_sigma(tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", {"fid": moments(), "fd_dinov2": moments(4)})
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert np.array_equal(file["mu"], arrays()["mu"])
        assert np.array_equal(file["sigma"], arrays()["sigma"])
        assert file["fd_dinov2.mu"].shape == (4,)
        assert int(file["num_images"]) == 30


def test_pickle_is_edm2s_and_any_numpy_reads_it(tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.pkl", {"fid": moments(), "fd_dinov2": moments(4)})
    data = (tmp_path / "s.pkl").read_bytes()
    content = pickle.loads(data)
    assert list(content) == ["fid", "fd_dinov2", "num_images"]
    assert content["num_images"] == 30
    for name in ("mu", "sigma"):
        assert content["fid"][name].dtype == np.float64
        assert np.array_equal(content["fid"][name], arrays()[name])
        content["fid"][name] += 1  # arrays of their own, not views of the file
    names = {arg for opcode, arg, _ in pickletools.genops(data) if opcode.name in ("GLOBAL", "STACK_GLOBAL")}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def test_pickles_of_numpy_itself_are_read(tmp_path: Path) -> None:
    """As EDM2 writes them: pickle.dump of a dict, in the highest protocol of the day or an older one."""
    for protocol in (3, 4, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps({"fid": arrays(), "fd_dinov2": arrays(4), "num_images": 50000}, protocol))
        loaded = open_statistics(path).moments
        assert loaded["fid"].num_images == loaded["fd_dinov2"].num_images == 50000
        assert np.array_equal(loaded["fid"].cov, arrays()["sigma"])
        assert loaded["fd_dinov2"].dim == 4


@pytest.mark.parametrize(
    "extra",
    [
        {},  # EDM, pytorch-fid, clean-fid
        {"mu_s": np.zeros(7), "sigma_s": np.zeros((7, 7)), "arr_0": np.zeros((3, 8, 8, 3), dtype=np.uint8)},  # ADM
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_other_tools_hold_fid(extra: dict[str, np.ndarray], save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "ref.npz", **arrays(), **extra)
    loaded = open_statistics(tmp_path / "ref.npz").moments
    assert list(loaded) == ["fid", *(["sfid"] if "mu_s" in extra else [])]
    assert np.array_equal(loaded["fid"].mean, arrays()["mu"])
    assert loaded["fid"].num_images is None, "arr_0 of guided-diffusion holds only some of the images"


def test_float32_statistics_are_widened_and_made_symmetric(tmp_path: Path) -> None:
    sigma = arrays()["sigma"].astype(np.float32)
    sigma[0, 1] *= 1 + 1e-7
    np.savez(tmp_path / "ref.npz", mu=arrays()["mu"].astype(np.float32), sigma=sigma)
    cov = open_statistics(tmp_path / "ref.npz").moments["fid"].cov
    assert cov.dtype == np.float64
    assert np.array_equal(cov, cov.T)


def test_urls_go_through_the_download_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset-refs").mkdir()
    save_statistics(tmp_path / "dataset-refs" / "img512.pkl", {"fid": moments()})
    monkeypatch.setenv("EDM2_MODEL_ROOT", str(tmp_path))
    url = "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/img512.pkl"
    loaded = open_statistics(url, offline=True)
    assert_equal(loaded.moments["fid"], moments())
    assert loaded.source == url


def test_asking_for_a_metric_that_is_not_there(tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", {"fd_dinov2": moments(), "fd_mnist": moments()})
    statistics = open_statistics(tmp_path / "s.npz")
    with pytest.raises(ValueError, match=r"no statistics for fid, only for fd_dinov2, fd_mnist"):
        statistics.of("fid", 2048)
    with pytest.raises(ValueError, match="fd_mnist has 5 features, its detector 64"):
        statistics.of("fd_mnist", 64)
    with pytest.raises(ValueError, match="made of 30 images, not of 40"):
        statistics.of("fd_mnist", 5, 40)
    assert statistics.of("fd_mnist", 5, 30).num_images == 30


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**arrays(), name: value}


def asymmetric() -> np.ndarray:
    sigma = arrays()["sigma"].copy()
    sigma[0, 1] += 0.1
    return sigma


DAMAGED = [
    ("nan", changed("mu", np.full(5, np.nan)), "NaN or infinity"),
    ("infinite", changed("sigma", np.full((5, 5), np.inf)), "NaN or infinity"),
    ("asymmetric", changed("sigma", asymmetric()), "not symmetric"),
    ("negative", changed("sigma", -np.eye(5)), "negative variances"),
    ("overflowing", changed("sigma", np.full((5, 5), 1.7e308)), "NaN or infinity"),
    ("shapes", changed("sigma", np.eye(4)), r"expected \[D\] and \[D, D\]"),
    ("no mean", changed("mu", np.zeros((5, 1))), r"expected \[D\] and \[D, D\]"),
    ("integers", changed("mu", np.zeros(5, dtype=np.int64)), "floating point"),
    ("complex", changed("sigma", np.eye(5, dtype=np.complex128)), "floating point"),
]


@pytest.mark.parametrize(("content", "message"), [d[1:] for d in DAMAGED], ids=[d[0] for d in DAMAGED])
@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_damaged_statistics_are_refused(suffix: str, content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / f"ref{suffix}"
    if suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_bytes(pickle.dumps({"fid": content, "num_images": 100}, 4))
    with pytest.raises(ValueError, match=message) as error:
        open_statistics(path)
    assert str(path) in str(error.value)
    assert "fid" in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("page.npz", b"<html>404</html>", "a web page"),
        ("text.npz", b"not found", "neither"),
        ("empty.pkl", b"", "neither"),
        ("short.npz", b"PK\x03\x04 and then nothing", "short.npz is a damaged"),
        ("short.pkl", pickle.dumps({"fid": 1}, 4)[:-2], "pickle|byte"),
        ("other.pkl", pickle.dumps({"ema": [1, 2]}, 4), "not of statistics"),
        ("list.pkl", pickle.dumps([1, 2], 4), "not of statistics"),
        ("values.pkl", pickle.dumps({"fid": {"mu": 1.0, "sigma": 2.0}}, 4), "not arrays"),
    ],
)
def test_files_that_are_no_statistics(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_statistics(tmp_path / name)


def test_images_instead_of_statistics(tmp_path: Path, make_digit_zip: Callable[..., Path]) -> None:
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((2, 4, 4, 3), dtype=np.uint8))
    for path in (make_digit_zip(3), tmp_path / "samples.npz"):
        with pytest.raises(ValueError, match="it holds images; make statistics of them"):
            open_statistics(path)
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="no mu and sigma, only weights"):
        open_statistics(tmp_path / "other.npz")


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        open_statistics("nowhere.npz")


def test_damaged_array_inside_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", **arrays())
    data = bytearray((tmp_path / "ref.npz").read_bytes())
    position = data.index(b"sigma.npy") + 300
    data[position] ^= 0xFF
    (tmp_path / "ref.npz").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as statistics"):
        open_statistics(tmp_path / "ref.npz")


def test_objects_in_an_npz_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(1))
    with pytest.raises(ValueError, match="cannot be read as statistics"):
        open_statistics(tmp_path / "ref.npz")


def test_pickles_run_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    hostile = b"cos\nsystem\n(Vtouch " + str(mark).encode() + b"\ntR."
    (tmp_path / "ref.pkl").write_bytes(b"\x80\x02" + hostile)
    with pytest.raises(ValueError, match=r"os\.system|posix"):
        open_statistics(tmp_path / "ref.pkl")
    assert not mark.exists()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.npz or, for EDM2, as \.pkl"):
        save_statistics(tmp_path / "stats.txt", {"fid": moments()})
    with pytest.raises(ValueError, match="at least one metric"):
        save_statistics(tmp_path / "stats.npz", {})
    with pytest.raises(ValueError, match="same known number"):
        save_statistics(tmp_path / "stats.npz", {"fid": moments(), "fd_mnist": moments(count=9)})
    each = moments()
    with pytest.raises(ValueError, match="same known number"):
        save_statistics(tmp_path / "stats.npz", {"fid": Moments(each.mean, each.cov)})
    assert list(tmp_path.iterdir()) == []


def test_statistics_and_images_are_told_apart(tmp_path: Path, make_digit_zip: Callable[..., Path]) -> None:
    save_statistics(tmp_path / "a.npz", {"fd_mnist": moments()})
    save_statistics(tmp_path / "b.pkl", {"fd_mnist": moments()})
    np.savez(tmp_path / "c.npz", arr_0=np.zeros((2, 4, 4, 3), dtype=np.uint8))
    np.savez(tmp_path / "d.npz", **arrays(), arr_0=np.zeros((2, 4, 4, 3), dtype=np.uint8))
    (tmp_path / "e.npz").write_bytes(b"damaged")
    assert holds_statistics(tmp_path / "a.npz")
    assert holds_statistics(tmp_path / "b.pkl")
    for path in (tmp_path / "c.npz", tmp_path / "d.npz", tmp_path / "e.npz", make_digit_zip(2), tmp_path):
        assert not holds_statistics(path)
    assert holds_statistics(tmp_path / "d.npz", reference=True), "guided-diffusion's: statistics of all, images of some"
    assert not holds_statistics(tmp_path / "c.npz", reference=True)


def test_provenance_is_readable_without_this_program(tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", {"fid": moments()}, detectors={"fid": IDENTITY})
    with zipfile.ZipFile(tmp_path / "s.npz") as file:
        text = str(np.lib.format.read_array(io.BytesIO(file.read("provenance.npy"))))
    assert json.loads(text)["detectors"] == {"fid": IDENTITY}


def test_destinations_are_checked_without_making_anything(tmp_path: Path) -> None:
    (tmp_path / "there.npz").write_text("")
    check_new(tmp_path / "new" / "folder" / "s.npz")
    check_new(tmp_path / "there.npz", overwrite=True)
    with pytest.raises(ValueError, match=r"there\.npz exists: take another name, or --overwrite"):
        check_new(tmp_path / "there.npz")
    with pytest.raises(ValueError, match="choose such a name"):
        check_new(tmp_path / "s.txt", overwrite=True)
    with pytest.raises(NotADirectoryError, match=r"there\.npz is a file"):
        check_new(tmp_path / "there.npz" / "s.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        check_new(tmp_path / "folder.npz", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npz", "there.npz"]


@pytest.mark.parametrize("count", [1, -3, 2.5, float("inf"), "30", [30], 2**70])
@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_impossible_numbers_of_images(count: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ref{suffix}"
    if suffix == ".npz":
        np.savez(path, num_images=np.array(float(count) if count == 2**70 else count), **arrays())
    else:
        path.write_bytes(pickle.dumps({"fid": arrays(), "num_images": count if count != 2**70 else 1e21}, 4))
    with pytest.raises(ValueError, match=r"ref\.\w+: num_images is .*, expected an integer of 2 or more"):
        open_statistics(path)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float64])
def test_numbers_of_images_of_any_type(kind: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", num_images=kind(30), **arrays())
    (tmp_path / "ref.pkl").write_bytes(pickle.dumps({"fid": arrays(), "num_images": kind(30)}, 4))
    for suffix in (".npz", ".pkl"):
        assert open_statistics(tmp_path / f"ref{suffix}").moments["fid"].num_images == 30


@pytest.mark.parametrize(
    "provenance",
    [
        "[1]",
        "{",
        "no json",
        '{"detectors": 3}',
        '{"detectors": [1]}',
        '{"detectors": {"fid": 3}}',
        '{"images": 3}',
        '{"images": {"size": 3}}',
        '{"images": {"size": [1, "x"]}}',
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_foreign_provenance_is_refused(provenance: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", provenance=np.array(provenance), **arrays())
    with pytest.raises(ValueError, match=r"ref\.npz.*provenance"):
        open_statistics(tmp_path / "ref.npz")


def test_an_announced_array_takes_no_memory(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"
    with zipfile.ZipFile(tmp_path / "ref.npz", "w") as file:
        file.writestr("mu.npy", npy.to_bytes(np.zeros(3)))
        file.writestr("sigma.npy", b"\x93NUMPY\1\0" + bytes((len(header), 0)) + header)
    with pytest.raises(
        ValueError, match=r"ref\.npz cannot be read as statistics .*takes 8000000000000 bytes, 0 are there"
    ):
        open_statistics(tmp_path / "ref.npz")


def test_errors_of_the_pickle_reader_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ref.pkl"
    path.write_bytes(pickle.dumps({"fid": arrays()}, 3)[:-20])
    with pytest.raises(DamagedPickleError, match=r"ref\.pkl: damaged or incomplete pickle"):
        open_statistics(path)
    path.write_bytes(b"\x80\x03cos\nsystem\n.")
    with pytest.raises(UnsafePickleError, match=r"ref\.pkl: the file names os\.system"):
        open_statistics(path)


def test_a_damaged_npz_is_neither_images_nor_statistics(tmp_path: Path) -> None:
    """Its end is whole, so that it looks like an archive at first."""
    np.savez(tmp_path / "ref.npz", **arrays())
    data = bytearray((tmp_path / "ref.npz").read_bytes())
    data[data.index(b"PK\1\2")] = 0
    (tmp_path / "ref.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"ref\.npz is a damaged"):
        holds_statistics(tmp_path / "ref.npz")
