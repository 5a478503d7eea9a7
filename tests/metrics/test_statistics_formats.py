"""Statistics in the formats of other evaluators, read as these read them."""

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edm2_guidance.commands import calculate_metrics
from edm2_guidance.images import npy
from edm2_guidance.images.zips import ZipWriter
from edm2_guidance.metrics import evaluation
from edm2_guidance.metrics import running as running_module
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import open_statistics, save_statistics
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.statistics_formats import FORMATS, choose_format

DIM = 64  # as many features as the small network of digits has: readers tell by it what they have
READ_AS = "fd_mnist"


def moments(dim: int = DIM, count: int = 12, keep: bool = False) -> Moments:
    running = RunningMoments(dim, keep)
    running.append(torch.randn(count, dim, generator=torch.Generator().manual_seed(dim)))
    return running.moments()


FID = moments(keep=True)
MU, SIGMA = FID.mean, FID.cov


def save(dest: Path, name: str, **features: Moments) -> dict[str, Path]:
    """The files by their ending."""
    chosen = choose_format(dest, name)
    save_statistics(dest, features, chosen=chosen)
    written = chosen.paths(dest, kept=features["fid"].features is not None)
    assert sorted(file.name for file in dest.parent.iterdir()) == sorted(file.name for file in written.values())
    return written


def assert_ours(found: Moments, features: bool = False, mean_within: float = 0.0) -> None:
    """What we read out of a file is what was written; features: from them alone, up to rounding."""
    assert np.abs(found.mean - FID.mean).max() <= mean_within
    assert np.abs(found.cov - FID.cov).max() <= (1e-12 if features else 0)


@pytest.mark.parametrize("name", ["edm", "pytorch-fid"])
def test_mu_and_sigma(tmp_path: Path, name: str) -> None:
    (path,) = save(tmp_path / "s.npz", name, fid=moments()).values()
    with np.load(path) as file:  # as both read it
        assert sorted(file.files) == ["mu", "sigma"]
        assert (file["mu"].dtype, file["mu"].shape) == (np.float64, (DIM,))
        assert (file["sigma"].dtype, file["sigma"].shape) == (np.float64, (DIM, DIM))
        np.testing.assert_array_equal(file["mu"][:], MU)
        np.testing.assert_array_equal(file["sigma"][:], SIGMA)
    assert_ours(open_statistics(path).moments[READ_AS])


def test_guided_diffusion_takes_spatial_moments_by_name(tmp_path: Path) -> None:
    spatial = moments(7)
    (path,) = save(tmp_path / "s.npz", "guided-diffusion", fid=FID, sfid=spatial).values()
    with np.load(path) as file:
        assert list(file.keys()) == ["mu", "sigma", "mu_s", "sigma_s"]
        np.testing.assert_array_equal(file["sigma"], SIGMA)
        np.testing.assert_array_equal(file["mu_s"], spatial.mean)
        np.testing.assert_array_equal(file["sigma_s"], spatial.cov)
    found = open_statistics(path, [READ_AS])
    assert_ours(found.moments[READ_AS])
    assert found.resize_known
    with pytest.raises(ValueError, match="holds mu and sigma of fid, mu_s and sigma_s of sfid: use --metrics=fid,sfid"):
        save(tmp_path / "t.npz", "guided-diffusion", fid=FID)


def test_clean_fid_finds_both_files_by_their_lower_names(tmp_path: Path) -> None:
    stem = tmp_path / "mydata_legacy_tensorflow_custom_na"  # of name "MyData", which it looks for in lower letters
    save(tmp_path / "MyData", "clean-fid", fid=FID)
    with np.load(f"{stem}.npz") as file:
        np.testing.assert_array_equal(file["mu"], MU)
        np.testing.assert_array_equal(file["sigma"], SIGMA)
    with np.load(f"{stem}_kid.npz") as file:
        assert file["feats"].dtype == np.float32
        np.testing.assert_array_equal(file["feats"], FID.features)
    assert_ours(open_statistics(f"{stem}.npz").moments[READ_AS])
    again = open_statistics(f"{stem}_kid.npz", keep=[READ_AS]).moments[READ_AS]
    assert_ours(again, features=True, mean_within=1e-14)
    assert np.array_equal(again.features, FID.features)
    with pytest.raises(ValueError, match="together with the features"):
        save_statistics(tmp_path / "x", {"fid": moments()}, chosen=FORMATS["clean-fid"])


def test_torch_fidelity_finds_its_cache(tmp_path: Path) -> None:
    """It compares types of numpy's arrays: means of float32, covariances of float64."""
    stem = str(tmp_path / "real-inception-v3-compat")
    save(tmp_path / "real", "torch-fidelity", fid=FID)
    found = torch.load(f"{stem}-stat-fid-2048.pt", map_location="cpu", weights_only=False)
    own = FID.features
    assert list(found) == ["mu", "sigma"]
    assert found["mu"].dtype == np.mean(own, axis=0).dtype == np.float32
    assert found["sigma"].dtype == np.cov(own[:, :2], rowvar=False).dtype == np.float64
    np.testing.assert_allclose(found["mu"], np.mean(own, axis=0), atol=1e-6)
    np.testing.assert_array_equal(found["sigma"], SIGMA)
    assert_ours(open_statistics(f"{stem}-stat-fid-2048.pt").moments[READ_AS], mean_within=1e-7)
    features = torch.load(f"{stem}-features-2048.pt", map_location="cpu", weights_only=True)
    assert np.array_equal(features, FID.features)
    again = open_statistics(f"{stem}-features-2048.pt", keep=[READ_AS]).moments[READ_AS]
    assert np.array_equal(again.features, FID.features)
    assert_ours(again, features=True, mean_within=1e-14)


def test_features_of_other_images_do_not_stay_beside_new_statistics(tmp_path: Path) -> None:
    save(tmp_path / "real", "torch-fidelity", fid=FID)
    written = save(tmp_path / "real", "torch-fidelity", fid=moments())
    assert [end for end in written if "features" in end] == []


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    names = [name for name, each in FORMATS.items() if each.arrays]
    for name in names:
        contents = []
        for number in range(2):
            dest = tmp_path / name / f"{number}" / ("s.npz" if FORMATS[name].ending else "s")
            dest.parent.mkdir(parents=True)
            contents.append([path.read_bytes() for path in save(dest, name, fid=FID, **spatial(name)).values()])
        assert contents[0] == contents[1], name


def spatial(name: str) -> dict[str, Moments]:
    return {"sfid": moments(7)} if name == "guided-diffusion" else {}


def test_pickles_of_edm2_are_read_by_pickle(tmp_path: Path) -> None:
    (path,) = save(tmp_path / "s.pkl", "edm2", fid=moments(5), fd_dinov2=moments(3)).values()
    content = pickle.loads(path.read_bytes())
    assert (list(content), content["num_images"]) == (["fid", "fd_dinov2", "num_images"], 12)
    assert content["fid"]["mu"].dtype == content["fid"]["sigma"].dtype == np.float64


@pytest.mark.parametrize(
    ("name", "dest", "features", "kept", "match"),
    [
        ("edm", "s.pkl", ["fid"], [], "a file of edm ends in .npz"),
        ("torch-fidelity", "s.pt", ["fid"], [], "give FOLDER/NAME; torch-fidelity finds its files by their names"),
        ("clean-fid", "s.npz", ["fid"], [], "give FOLDER/NAME"),
        (None, "s.pt", ["fid"], [], "choose such a name"),
        ("edm", "s.npz", ["fid", "fd_dinov2"], [], "EDM's format holds mu and sigma of fid: use --metrics=fid"),
        ("pytorch-fid", "s.npz", ["fd_dinov2"], [], "pytorch-fid's format holds"),
        ("edm", "s.npz", ["fid"], ["fid"], "no place for features"),
        ("edm2", "s.pkl", ["fid"], ["fid"], "EDM2's format has no place for features"),
    ],
)
def test_what_a_format_does_not_hold_is_refused(
    name: str | None, dest: str, features: list[str], kept: list[str], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        choose_format(dest, name).check(dest, features, kept)


# ----------------------------------------------------------------------------
# The command.


def ref(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(calculate_metrics.main, ["ref", *arguments])
    assert result.exit_code == code, f"{result.output} {result.exception!r}"
    return result


def test_ref_writes_what_is_asked_for(tmp_path: Path, make_digit_zip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(source: Any, detectors: Any, names: Any, progress: Any) -> evaluation.Measured:
        return evaluation.Measured({"fid": FID}, (16, 16), {})

    def open_detectors(choices: Any, device: str, *, offline: bool) -> list[Any]:
        asked.append(choices)
        return []

    asked: list[Any] = []
    monkeypatch.setattr(evaluation, "measure", measure)
    monkeypatch.setattr(calculate_metrics, "open_detectors", open_detectors)
    monkeypatch.chdir(tmp_path)
    data = f"--data={make_digit_zip(12)}"
    result = ref(data, "--dest=cache/digits", "--format=torch-fidelity", "--keep-features")
    assert asked.pop() == {"fid": {"features": ["pool"], "keep": ["pool"]}}
    files = sorted(path.as_posix() for path in Path("cache").iterdir())
    assert result.stdout == f"{files[1]}, {files[0]}: fid of 12 images\n"
    assert "stat-fid-2048.pt exists" in ref(data, "--dest=cache/digits", "--format=torch-fidelity", code=2).stderr
    ref(data, "--dest=digits", "--format=clean-fid")  # keeps features without being told
    assert asked.pop() == {"fid": {"features": ["pool"], "keep": ["pool"]}}
    refused = ref(data, "--dest=s.npz", "--format=edm", "--metrics=fid,kid", code=2).stderr
    assert "EDM's format has no place for features" in refused
    assert "'edm3' is not one of edm2-guidance" in ref(data, "--dest=s.npz", "--format=edm3", code=2).stderr


def test_the_list_names_every_format_and_what_it_lacks() -> None:
    text = ref("--format=list").stdout
    for name, each in FORMATS.items():
        assert f"{name}: NAME" in text
        assert each.lacks in text


def test_features_are_kept_when_asked(tmp_path: Path, make_digit_zip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = f"--data={make_digit_zip(40)}"
    ref(data, "--dest=s.npz", "--metrics=fd_mnist", "--keep-features")
    ref(data, "--dest=k.npz", "--metrics=fd_mnist,kid/mnist")
    assert Path("s.npz").read_bytes() == Path("k.npz").read_bytes()
    with np.load("s.npz") as file:
        assert (file["fd_mnist.features"].shape, file["fd_mnist.features"].dtype) == ((40, 64), np.float32)
        np.testing.assert_allclose(file["fd_mnist.features"].mean(0), file["fd_mnist.mu"], atol=1e-5)


# ----------------------------------------------------------------------------
# Memory.


def test_features_are_written_and_read_in_the_memory_of_one_copy(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1 << 17, 64), dtype=np.float32)  # 32 MiB
    whole = Moments(np.zeros(64), np.eye(64), len(rows), rows)
    tracemalloc.start()
    save_statistics(tmp_path / "s.npz", {"fd_mnist": whole})
    assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 4
    tracemalloc.reset_peak()
    found = open_statistics(tmp_path / "s.npz", keep=["fd_mnist"]).moments["fd_mnist"]
    assert tracemalloc.get_traced_memory()[1] < rows.nbytes * 1.2  # a piece beside them
    tracemalloc.stop()
    assert np.array_equal(found.features, rows)


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_parts_that_were_kept_become_one_in_their_order(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(running_module, "_BLOCK_BYTES", block)
    running = RunningMoments(3, keep=True)
    parts = [torch.full((n, 3), float(n), dtype=torch.float32) for n in (2, 0, 5, 1)]
    for part in parts:
        running.append(part)
    assert np.array_equal(running.moments().features, torch.cat(parts))
    running.append(parts[0].double())
    assert np.array_equal(running.moments().features, torch.cat([*parts, parts[0]]).double())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "?"])
def test_arrays_in_pieces_are_those_of_numpy(tmp_path: Path, order: str, dtype: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(npy, "_PIECE_BYTES", 7)
    array = np.asarray(np.arange(15).reshape(5, 3) % 4, dtype=dtype, order=order)
    whole = npy.to_bytes(array)
    assert b"".join(npy.pieces(array)) == whole
    with ZipWriter(tmp_path / "pieces.zip") as pieces, ZipWriter(tmp_path / "whole.zip") as one:
        pieces.add("a.npy", *npy.pieces(array))
        one.add("a.npy", whole)
    assert (tmp_path / "pieces.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "pieces.zip") as file, file.open("a.npy") as stream:
        np.testing.assert_array_equal(npy.read_array(stream, len(whole)), array)
    with pytest.raises(ValueError, match="are there"):
        npy.read_array(io.BytesIO(whole), len(whole) - 1)
