"""`python -m benchmarks.traps`: what it calls right is, and what it calls wrong differs as it should."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import traps
from edm2_guidance.metrics.measures.gaussians import frechet_distance

DRAWS = np.random.RandomState(0)


def gaussian(count: int, dim: int, shift: float = 0.0):
    return traps.moments_of(torch.from_numpy(DRAWS.standard_normal((count, dim)) + shift))


def test_roots_give_the_same_distance_where_nothing_is_singular_and_more_on_the_diagonal_lowers_it() -> None:
    a, b = gaussian(400, 8), gaussian(300, 8, 0.5)
    assert traps.by_roots(a, b) == pytest.approx(frechet_distance(a, b), abs=1e-9)
    few = gaussian(5, 8), gaussian(6, 8)
    assert traps.by_roots(*few, 1e-6).real < frechet_distance(*few)


def test_images_of_one_grey_are_the_same_by_every_resize() -> None:
    images = torch.full([2, 3, 12, 12], 77, dtype=torch.uint8)
    for name, resize in traps.resizes(4).items():
        found = resize(images)
        assert found.dtype == torch.uint8, name
        assert torch.equal(found, images[..., :4, :4]), name
    checks = (torch.arange(12)[:, None] + torch.arange(12)) % 2 * 255
    images = checks.to(torch.uint8).expand(1, 3, 12, 12)
    assert abs(traps.resizes(4)["Pillow, box"](images).float() - 127.5).max() < 30, "the mean of all pixels"
    assert set(traps.resizes(4)["torch, nearest"](images).unique().tolist()) <= {0, 255}, "one of them"


def test_parts_of_classes_lower_the_inception_score_and_one_part_has_no_order() -> None:
    labels = torch.from_numpy(DRAWS.randint(0, 10, 1000))
    logits = 12 * torch.nn.functional.one_hot(labels, 10) + torch.from_numpy(DRAWS.standard_normal((1000, 10)))
    rows = {name: [float(value) for value in values] for name, *values in traps.sorted_inception_score(logits, labels)}
    assert rows["10 parts, shuffled"] == pytest.approx([9.5, 9.5], abs=0.4)
    as_stored, by_class = rows["10 parts, as they come"]
    assert as_stored == pytest.approx(rows["10 parts, shuffled"][0], rel=0.02)
    assert by_class < 2.5
    assert rows["one part"][0] == rows["one part"][1]


def test_distances_fall_with_the_number_of_images() -> None:
    rows = torch.from_numpy(DRAWS.standard_normal((200, 64)))
    found = list(traps.few_images(rows, gaussian(4000, 64), dim=32))
    assert [row[0] for row in found] == ["20", "50", "100", "200"]
    for column in (1, 4):
        assert all(float(a[column]) > float(b[column]) > 0 for a, b in pairwise(found))


def test_wrong_images_are_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = str(tmp_path / "digits.npz")
    np.savez(digits, arr_0=np.zeros((30, 16, 16, 3), np.uint8), arr_1=np.zeros(30, np.int64))
    for words, message in (
        (["nothing-here"], "nothing-here does not exist"),
        ([digits, "--num-images=-3"], "a subset of -3 images was asked for"),
        ([digits, "--num-images=19"], "20 or more 16x16 digits with classes are needed"),
    ):
        with pytest.raises(SystemExit, match="2"):
            traps.main(words)
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_order_of_channels_changes_the_distance() -> None:
    images = torch.from_numpy(DRAWS.randint(0, 256, (16, 3, 16, 16)).astype(np.uint8))
    right, *wrong = (float(value) for _, value in traps.channel_order(images))
    assert all(value > 1.5 * right for value in wrong)
