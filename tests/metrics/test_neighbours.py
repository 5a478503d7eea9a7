"""Nearest neighbours and balls against slow references: every distance by differences, every pair looked at."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from edm2_guidance.metrics.measures import neighbours
from edm2_guidance.metrics.measures.base import groups
from edm2_guidance.metrics.measures.neighbours import Balls, Neighbours, blocks, nearest
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.running import RunningMoments


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


def normal(count: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def clusters(count: int, seed: int) -> np.ndarray:
    """Three tight clusters far from zero: within one, product forms in float32 know nothing."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(3, size=(count, 1)) * 50 + 1e4 + rng.standard_normal((count, 16)) * 0.01
    return rows.astype(np.float32)


SETS = {
    "gaussian": (normal(150, 24, 0), normal(130, 24, 1)),
    "offset 1e4": (normal(150, 24, 2) + np.float32(1e4), normal(130, 24, 3) + np.float32(1e4)),
    "tight clusters": (clusters(120, 4), clusters(140, 5)),
    "ties": tuple(np.random.default_rng(6).integers(0, 2, (2, 120, 6)).astype(np.float32)),
    "duplicates": (np.repeat(normal(40, 8, 7), 4, axis=0), np.repeat(normal(60, 8, 7), 3, axis=0)),
    "near-duplicates": (normal(150, 24, 8), np.nextafter(normal(150, 24, 8), np.float32(9))),
    "an outlier": (normal(150, 24, 9), np.vstack([normal(99, 24, 10), np.full((1, 24), 1e6, np.float32)])),
    "huge": (normal(90, 8, 11) * np.float32(1e25), normal(80, 8, 12) * np.float32(1e25)),
    "tiny": (normal(90, 8, 13) * np.float32(1e-25), normal(80, 8, 14) * np.float32(1e-25)),
    "constant": (np.full((50, 8), 0.7, np.float32), np.full((60, 8), 0.7, np.float32)),
    "float64, close": tuple(1e4 + 1e-9 * np.random.default_rng(15).standard_normal((2, 100, 8))),
    "one feature": (normal(70, 1, 16), normal(80, 1, 17)),
}


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[len(a), len(b)], float64."""
    return np.stack([((x.astype(np.float64) - b.astype(np.float64)) ** 2).sum(axis=1) for x in a])


def slow_radii(rows: np.ndarray, k: int) -> np.ndarray:
    squared = squared_distances(rows, rows)
    return np.array([np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(squared)])


@pytest.fixture(params=SETS)
def sets(request: pytest.FixtureRequest) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    threads = torch.get_num_threads()
    yield SETS[request.param]
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("pairs", "threads"), [(1, 1), (777, 2), (1 << 23, 2)])
def test_the_nearest_for_any_block_and_threads(sets: tuple[np.ndarray, np.ndarray], pairs: int, threads: int) -> None:
    a, b = map(torch.from_numpy, sets)
    torch.set_num_threads(threads)
    squared = squared_distances(*sets)
    order = np.argsort(squared, axis=1, kind="stable")[:, :4]
    found = nearest(a, b, 4, pairs=pairs)
    np.testing.assert_array_equal(found.place, order)
    np.testing.assert_array_equal(found.squared, np.take_along_axis(squared, order, axis=1))
    np.testing.assert_array_equal(nearest(a, a, 3, pairs=pairs).squared[:, -1], slow_radii(sets[0], 3))


@pytest.mark.parametrize("pairs", [500, 1 << 23])
@pytest.mark.parametrize("closed", [True, False])
def test_who_is_inside_for_any_block(sets: tuple[np.ndarray, np.ndarray], pairs: int, closed: bool) -> None:
    squared, (a, b) = squared_distances(*sets), map(torch.from_numpy, sets)
    for radii in (slow_radii(sets[0], 3)[:, None], slow_radii(sets[1], 3)[None]):
        expected = squared <= radii if closed else squared < radii
        given = torch.from_numpy(radii)
        found = [
            block.inside(given if len(radii) == 1 else given[block.rows], closed)
            for block in blocks(a, b, "exact", pairs)
        ]
        np.testing.assert_array_equal(torch.cat(found), expected)


def test_counts_of_all_that_is_asked_come_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SETS["ties"]
    images, reference = map(kept, rows)
    passes: list[int] = []
    original = neighbours.blocks
    monkeypatch.setattr(neighbours, "blocks", lambda *given: passes.append(1) or original(*given))
    asked = [Balls("reference", 3, True), Balls("reference", 5, False), Balls("images", 2, True)]
    counts = [Neighbours.of(reference).ask(balls) for balls in asked]
    squared = squared_distances(*rows)
    for balls, count in zip(asked, counts, strict=True):
        radii = slow_radii(rows[1], balls.k)[None] if balls.around == "reference" else slow_radii(rows[0], 2)[:, None]
        inside = squared <= radii if balls.closed else squared < radii
        np.testing.assert_array_equal(count(images).by_image, inside.sum(axis=1))
        np.testing.assert_array_equal(count(images).by_reference, inside.sum(axis=0))
    assert len(passes) == 3, "the radii of either set, and the pairs"


@pytest.mark.parametrize("name", ["gaussian", "ties", "duplicates"])
def test_counts_without_each_group(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if the images of the group had never been there: radii around the others are found anew."""
    ours, theirs = SETS[name]
    monkeypatch.setattr(neighbours, "_BLOCK", 1 << 10)
    asked = [Balls("reference", 3, False), Balls("images", 3, True), Balls("images", 1, False)]
    counts = [Neighbours.of(reference).ask(balls) for reference in [kept(theirs)] for balls in asked]
    images, group_of = kept(ours), groups(len(ours))
    for balls, count in zip(asked, counts, strict=True):
        for group, found in enumerate(count(images).without):
            left = ours[group_of != group]
            around = theirs if balls.around == "reference" else left
            radii = slow_radii(around, balls.k)
            radii = radii[None] if balls.around == "reference" else radii[:, None]
            squared = squared_distances(left, theirs)
            inside = squared <= radii if balls.closed else squared < radii
            np.testing.assert_array_equal(found, inside.sum(axis=0))


@pytest.mark.parametrize("count", [101, 100])
def test_clipped_radii_are_at_most_the_median(count: int) -> None:
    rows = normal(count, 5, 20)
    plain = np.sqrt(slow_radii(rows, 4))
    found = Balls("reference", 4, True, clipped=True).radii(kept(rows))
    np.testing.assert_allclose(found.sqrt(), np.minimum(plain, np.median(plain)), rtol=1e-15)
    if count % 2:
        assert set(found.tolist()) <= set(slow_radii(rows, 4).tolist()), "the median is one of them, to the last bit"


def test_half_precision_is_rounded_after_each_operation() -> None:
    """numpy's float16, number by number; the reference's norm comes first, as the evaluator has it."""
    a, b = normal(30, 12, 21), normal(25, 12, 22)
    ours, theirs = a.astype(np.float16), b.astype(np.float16)

    def norm(x: np.ndarray) -> np.float16:
        return np.float16(sum(float(np.float16(each * each)) for each in x))

    def distance(first: np.ndarray, last: np.ndarray) -> np.float16:
        product = np.float16(sum(float(u) * float(v) for u, v in zip(first, last, strict=True)))
        return max(np.float16(np.float16(norm(first) - np.float16(2) * product) + norm(last)), np.float16(0))

    expected = np.array([[distance(y, x) for y in theirs] for x in ours], dtype=np.float64)
    (block,) = blocks(torch.from_numpy(a), torch.from_numpy(b), "float16")
    for radius in (expected.min(), np.median(expected), expected.max()):
        found = block.inside(torch.full((1, 25), float(radius), dtype=torch.float64), True)
        np.testing.assert_array_equal(found, expected <= radius)
    own = np.array([sorted(float(distance(x, y)) for y in ours)[3] for x in ours])
    images = torch.from_numpy(a)
    np.testing.assert_array_equal(nearest(images, images, 3, "float16").squared[:, -1], own)


def test_what_half_precision_does_not_hold_is_exact() -> None:
    a, b = (torch.from_numpy(normal(40, 12, seed) * np.float32(100)) for seed in (25, 26))
    assert torch.equal(nearest(a, b, 3, "float16").squared, nearest(a, b, 3).squared)
    few = nearest(a / 10, b / 10, 3, "float16").squared
    assert not torch.equal(few, nearest(a / 10, b / 10, 3).squared)


def test_memory_holds_blocks_alone() -> None:
    """Of 4,000 x 4,000 distances, no more than a block is there at once."""
    a, b = (torch.from_numpy(normal(4000, 4, seed)) for seed in (23, 24))
    sizes = [
        block.inside(torch.ones(1, 4000, dtype=torch.float64), True).shape for block in blocks(a, b, "exact", 1 << 16)
    ]
    assert max(rows * columns for rows, columns in sizes) <= 1 << 16
    assert sum(rows for rows, _ in sizes) == 4000
