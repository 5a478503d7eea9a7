"""Streaming moments against numpy on all features at once."""

import hashlib
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import MomentsSink, RunningMoments, first_non_finite_row


def features(count: int, dim: int = 6, offset: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing + offset


def run(parts: list[torch.Tensor]) -> Moments:
    running = RunningMoments(parts[0].shape[1])
    for part in parts:
        running.append(part)
    return running.moments()


def assert_same(a: Moments, b: Moments, tolerance: float = 1e-10) -> None:
    assert a.num_images == b.num_images
    assert np.abs(a.mean - b.mean).max() <= tolerance * np.abs(b.mean).max()
    assert np.abs(a.cov - b.cov).max() <= tolerance * np.abs(b.cov).max()


def test_equal_numpy_with_n_minus_1() -> None:
    x = features(101)
    moments = run(list(x.split(16)))
    assert moments.mean == pytest.approx(x.numpy().mean(axis=0), rel=1e-12)
    assert np.abs(moments.cov - np.cov(x.numpy(), rowvar=False)).max() < 1e-12
    assert moments.num_images == 101
    assert moments.mean.dtype == moments.cov.dtype == np.float64


@pytest.mark.parametrize("batch", [1, 7, 64, 101])
def test_batch_size_does_not_matter(batch: int) -> None:
    x = features(101, offset=3)
    assert_same(run(list(x.split(batch))), run([x]))


def test_order_does_not_matter() -> None:
    x = features(200, offset=-2)
    shuffled = x[torch.randperm(200, generator=torch.Generator().manual_seed(5))]
    assert_same(run(list(shuffled.split(9))), run(list(x.split(32))))


def test_float32_features_are_accumulated_in_float64() -> None:
    x = features(5000, dim=3, offset=1000).float()
    assert_same(run(list(x.split(50))), run([x.double()]))


def test_no_cancellation_with_means_far_from_zero() -> None:
    """Sums of squares would leave no correct digit here: 1e8 squared is 1e16, the covariance is of order 1."""
    x = features(1000)
    near, far = run(list(x.split(10))), run(list((x + 1e8).split(10)))
    exact = np.cov((x + 1e8).numpy() - 1e8, rowvar=False)
    assert np.abs(far.cov - exact).max() < 1e-5
    assert np.abs(far.cov - near.cov).max() < 1e-5


def test_merge_equals_one_stream_and_is_fixed_by_the_callers_order() -> None:
    x = features(90, offset=1)
    parts = []
    for chunk in x.split(25):
        part = RunningMoments(6)
        part.append(chunk)
        parts.append(part)
    totals = []
    for _ in range(2):
        total = RunningMoments(6)
        for part in parts:
            total.merge(part)
        total.merge(RunningMoments(6))  # an empty shard is legal
        totals.append(total.moments())
    assert_same(totals[0], run([x]))
    assert np.array_equal(totals[0].cov, totals[1].cov)
    assert parts[0].num_images == 25, "merging must leave the other side alone"


def test_merging_into_an_empty_one_keeps_every_bit() -> None:
    part = RunningMoments(6)
    part.append(features(40))
    total = RunningMoments(6)
    total.merge(part)
    assert np.array_equal(total.moments().cov, part.moments().cov)


def test_too_few_images_and_wrong_shapes() -> None:
    running = RunningMoments(6)
    running.append(torch.zeros(0, 6))
    running.append(features(1))
    with pytest.raises(ValueError, match="at least 2"):
        running.moments()
    with pytest.raises(ValueError, match=r"expected \[N, 6\]"):
        running.append(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="cannot merge"):
        running.merge(RunningMoments(5))
    with pytest.raises(ValueError, match="at least 1"):
        RunningMoments(0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_rows_are_found(bad: float) -> None:
    x = features(5)
    assert first_non_finite_row(x) is None
    x[3, 2] = bad
    x[4, 0] = bad
    assert first_non_finite_row(x) == 3
    running = RunningMoments(6)
    with pytest.raises(ValueError, match="row 3"):
        running.append(x)
    assert running.num_images == 0


def test_moments_check_their_shapes_and_types() -> None:
    with pytest.raises(ValueError, match=r"\[D, D\]"):
        Moments(np.zeros(3), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="float64"):
        Moments(np.zeros(3, np.float32), np.zeros((3, 3), np.float32))


class PixelMeans:
    """A detector whose features are known: the mean of each channel; NaN for an image of 255s."""

    name = "pixel_means"
    dims: ClassVar[dict[str, int]] = {"pixel_means": 3}
    keep = frozenset[str]()

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        means = images.float().mean(dim=(2, 3))
        return {self.name: torch.where(means == 255, torch.nan, means)}


class FirstPixel(PixelMeans):
    name = "first_pixel"
    dims: ClassVar[dict[str, int]] = {"first_pixel": 3}

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.name: images[:, :, 0, 0].float()}


def random_images(count: int) -> torch.Tensor:
    return torch.randint(0, 255, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_sink_feeds_every_detector_in_one_pass() -> None:
    images = random_images(20)
    with MomentsSink([PixelMeans(), FirstPixel()]) as sink:
        for chunk in images.split(6):
            sink.write(ImageBatch(chunk))
    result = sink.moments()
    assert sink.num_images == 20
    assert_same(result["pixel_means"], run([images.float().mean(dim=(2, 3))]))
    assert_same(result["first_pixel"], run([images[:, :, 0, 0].float()]))


@pytest.mark.parametrize(
    ("seeds", "names", "expected"),
    [
        (None, None, "image number 7"),
        ((100, 101, 102, 103), None, r"image number 7 \(seed 103\)"),
        (None, [f"{i:06d}.png" for i in range(8)], "image '000007.png'"),
    ],
)
def test_sink_names_the_first_image_with_non_finite_features(
    seeds: tuple[int, ...] | None, names: list[str] | None, expected: str
) -> None:
    images = random_images(8)
    images[7] = 255
    sink = MomentsSink([PixelMeans()], names)
    sink.write(ImageBatch(images[:4], seeds))
    with pytest.raises(ValueError, match=f"pixel_means: the features of {expected} are not finite"):
        sink.write(ImageBatch(images[4:], seeds))


def test_sink_refuses_a_detector_twice() -> None:
    with pytest.raises(ValueError, match="once only"):
        MomentsSink([PixelMeans(), PixelMeans()])


def test_hash_is_of_every_bit() -> None:
    moments = run([features(20)])
    assert run([features(20)]).sha256 == moments.sha256
    # Computed by hand: mean, then covariance row by row, little-endian doubles.
    assert (
        Moments(np.zeros(1), np.ones((1, 1))).sha256
        == hashlib.sha256(bytes(8) + bytes.fromhex("000000000000f03f")).hexdigest()
    )
    transposed = Moments(moments.mean, np.asfortranarray(moments.cov))
    assert transposed.sha256 == moments.sha256
    for part in ("mean", "cov"):
        other = getattr(moments, part).copy()
        other.flat[-1] = np.nextafter(other.flat[-1], np.inf)
        assert replace(moments, **{part: other}).sha256 != moments.sha256


def test_batches_do_not_matter():
    """Whoever takes other batches, or has more workers, has the same moments to the last bit."""
    rows = torch.randn(2500, 8, generator=torch.Generator().manual_seed(3)) + 5
    made = []
    for size in (1, 64, 1000, 1024, 2048, 2500):
        running = RunningMoments(8)
        for part in rows.split(size):
            running.append(part)
        assert running.num_images == 2500
        made.append(running.moments())
    for other in made[1:]:
        assert np.array_equal(other.cov, made[0].cov)
        assert np.array_equal(other.mean, made[0].mean)
    assert np.allclose(made[0].cov, np.cov(rows.double().numpy(), rowvar=False), rtol=1e-12)
