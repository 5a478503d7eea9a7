"""Features in shards: the same moments as in one pass, whoever made the shards and whatever happened in between."""

import io
import itertools
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edm2_guidance.images import npy
from edm2_guidance.images.batch import ImageBatch, drain
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.running import RunningMoments
from edm2_guidance.metrics.score_output import feature_shards
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.shards import ShardFolder
from tests.works import SEEDS, Generated, MomentsOutput, Stated, pixels


class Colours(torch.nn.Module):
    """Five numbers of each image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(1, 2, 3))[:, None], x[:, :1, 0, 0]], dim=1)


def detector(name: str = "fid", sha: str = "ab") -> Detector:
    return Detector(name, {name: 5}, {"metric": name, "weights_sha256": sha}, Colours(), torch.device("cpu"))


DETECTORS = (detector(), detector("fd_dinov2"))


class Chained:
    """Sources one after the other, as one."""

    def __init__(self, sources: Sequence[Generated]) -> None:
        self.sources = sources
        self.num_images = sum(source.num_images for source in sources)

    def __iter__(self) -> Iterator[ImageBatch]:
        return itertools.chain.from_iterable(self.sources)


def shards_at(folder: Path, seeds: tuple[int, ...] = SEEDS, detectors: Sequence[Detector] = DETECTORS) -> ShardFolder:
    return feature_shards(folder, ShardPlan(seeds, 3), Stated("c0ffee", {"net": "main"}), Run(2), detectors)


def opened(folder: Path, **changes: Any) -> ShardFolder:
    shards = shards_at(folder, **changes)
    shards.open()
    return shards


def work(folder: Path, made: list[int] | None = None, **changes: Any) -> Any:
    """What `complete` gives; made: gets the shards that are made. The shards are gone if the result is ours."""
    shards = shards_at(folder, **changes)

    def source_of(seeds: Sequence[int]) -> Generated:
        if made is not None:
            made.append(shards.plan.seeds.index(seeds[0]) // shards.plan.shard_size)
        return Generated(seeds)

    return complete(MomentsOutput(shards, DETECTORS), source_of)


def assert_same(result: Any, expected: Any) -> None:
    assert result[1] == expected[1]
    for name, moments in expected[0].items():
        assert np.array_equal(result[0][name].mean, moments.mean)
        assert np.array_equal(result[0][name].cov, moments.cov)
        assert result[0][name].num_images == moments.num_images


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return work(tmp_path_factory.mktemp("undisturbed") / "work")


def test_moments_are_those_of_all_features(undisturbed: Any) -> None:
    (batch,) = Generated(SEEDS, batch=10)
    features = DETECTORS[0](batch.images)["fid"].double()
    moments, size, _ = undisturbed
    assert size == (6, 6)
    assert list(moments) == ["fid", "fd_dinov2"]
    for found in moments.values():
        assert found.num_images == 10
        np.testing.assert_allclose(found.mean, features.mean(dim=0), rtol=1e-12)
        np.testing.assert_allclose(found.cov, features.T.cov(), rtol=1e-12, atol=1e-14)


def test_moments_are_accumulated_in_the_order_of_the_plan(tmp_path: Path, undisturbed: Any) -> None:
    shards = opened(tmp_path / "work")
    running = RunningMoments(5)
    for index in range(4):
        (batch,) = Generated(shards.plan.shard(index), batch=3)
        running.append(DETECTORS[0](batch.images)["fid"])
    assert np.array_equal(undisturbed[0]["fid"].cov, running.moments().cov)


def test_a_shard_is_an_npz_that_anyone_reads(tmp_path: Path) -> None:
    shards = all_made(tmp_path / "work")
    with np.load(tmp_path / "work" / "shard-00001.npz") as file:
        assert file["fid"].dtype == np.float32
        assert file["fid"].shape == (3, 5)
        assert file["labels"].tolist() == [0, 0, 1]
        assert json.loads(bytes(file["shard.json"]))["size"] == [6, 6]
    with zipfile.ZipFile(shards.path(3)) as file:
        before = {name: file.read(name) for name in file.namelist() if name != "shard.json"}
    shards.path(3).unlink()
    drain(Generated(shards.plan.shard(3), batch=1), shards.sink(3))
    with zipfile.ZipFile(shards.path(3)) as file:
        assert {name: file.read(name) for name in before} == before
    drain(Generated(shards.plan.shard(3), labels=False), shards.sink(3))
    with np.load(shards.path(3)) as file:
        assert "labels" not in file.files


def all_made(folder: Path) -> ShardFolder:
    shards = opened(folder)
    for index in range(4):
        drain(Generated(shards.plan.shard(index)), shards.sink(index))
    return shards


def not_a_number(data: bytes) -> bytes:
    """A sound shard, but for a feature."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    features = np.load(io.BytesIO(members["fid.npy"]))
    features[0, 2] = np.nan
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, content in members.items():
            file.writestr(name, npy.to_bytes(features) if name == "fid.npy" else content)
    return target.getvalue()


DAMAGE = {
    "not a number": not_a_number,
    "truncated": lambda data: data[:-40],
    "empty": lambda data: b"",
    "a bit": lambda data: data[:170] + bytes([data[170] ^ 1]) + data[171:],  # of the first array
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_shards_are_made_again(tmp_path: Path, undisturbed: Any, kind: str) -> None:
    shards = all_made(tmp_path / "work")
    for index in (1, 3):
        path = shards.path(index)
        path.write_bytes(DAMAGE[kind](path.read_bytes()))
    made: list[int] = []
    with pytest.warns(RuntimeWarning, match="shard [13] is unusable"):
        assert_same(work(tmp_path / "work", made), undisturbed)
    assert made == [1, 3]


def test_another_detector_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "work")
    for detectors, words in [
        (DETECTORS[:1], "detectors.fd_dinov2"),
        ((detector(), detector("fd_dinov2", "cd")), "weights_sha256: ab | cd"),
    ]:
        with pytest.raises(ValueError, match="belongs to another run") as caught:
            opened(tmp_path / "work", detectors=detectors)
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="once only"):
        shards_at(tmp_path / "work", detectors=(detector(), detector()))


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    shards = opened(tmp_path / "work")
    with pytest.raises(ValueError, match="another size"):
        drain(Chained([Generated((4,)), Generated((5, 6), size=8)]), shards.sink(0))
    assert shards.missing() == [0, 1, 2, 3]
    assert sorted(p.name for p in shards.folder.iterdir()) == ["plan.json", "worker-0-of-1.0.claim"]


def test_features_that_are_not_finite_name_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Colours.forward

    def overflow(self: Colours, images: torch.Tensor) -> torch.Tensor:
        features = plain(self, images)
        features[images[:, 0, 0, 0] == pixels(6)[0, 0, 0]] = torch.nan
        return features

    monkeypatch.setattr(Colours, "forward", overflow)
    with pytest.raises(ValueError, match="fid: the features of seed 6 are not finite"):
        work(tmp_path / "work")


def test_several_features_of_one_detector(tmp_path: Path, undisturbed: Any) -> None:
    """An array each in every shard, of one pass; kept are those that measures need."""
    calls: list[int] = []

    def run(net: torch.nn.Module, images: torch.Tensor, names: Any) -> dict[str, torch.Tensor]:
        calls.append(len(images))
        found = net(images)
        return {name: {"fid": found, "sfid": found[:, :2] * 2, "fid_logits": -found}[name] for name in names}

    both = replace(detector(), dims={"fid": 5, "sfid": 2}, keep=frozenset({"sfid"}), run=run)
    shards = shards_at(tmp_path / "work", detectors=(both,))
    result: Any = complete(MomentsOutput(shards, (both,)), Generated)
    moments = result.moments
    assert sum(calls) == len(SEEDS)
    assert np.array_equal(moments["fid"].cov, undisturbed[0]["fid"].cov)
    assert np.allclose(moments["sfid"].mean, 2 * moments["fid"].mean[:2], rtol=1e-6)
    assert moments["fid"].features is None
    assert moments["sfid"].features.shape == (len(SEEDS), 2)
    with pytest.raises(ValueError, match="once only"):
        shards_at(tmp_path / "other", detectors=(both, detector("sfid")))


def test_the_plan_of_one_feature_is_what_it_was(tmp_path: Path) -> None:
    """So that work begun before several features were possible goes on."""
    opened(tmp_path / "work")
    plan = json.loads((tmp_path / "work" / "plan.json").read_text())
    assert plan["detectors"] == {name: {"metric": name, "weights_sha256": "ab"} for name in ("fid", "fd_dinov2")}


def test_what_memory_did_not_hold_is_on_record(tmp_path: Path) -> None:
    shards = opened(tmp_path / "work")
    DETECTORS[1].memory.limit = 2
    try:
        with shards.sink(1) as sink:
            for batch in Generated(shards.plan.shard(1)):
                sink.write(replace(batch, reduced={"sampling": 1}))
    finally:
        DETECTORS[1].memory.limit = None
    result = work(tmp_path / "work")
    assert result.reduced == {"sampling": 1, "fd_dinov2": 2}
    assert work(tmp_path / "other").reduced == {}


def test_a_failing_join_lets_others_have_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no covariance"):
        work(tmp_path / "work", seeds=(3,))
    assert list((tmp_path / "work").glob("*.claim")) == []
