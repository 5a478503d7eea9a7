import shutil
from collections import Counter

import numpy as np
import pytest

from edm2_guidance.images import archive
from edm2_guidance.images.archive import select_subset
from edm2_guidance.images.zips import ZipWriter
from tests.pictures import write_set
from training.dataset import ImageFolderDataset, ShuffledOrder

from .conftest import NUM_ITEMS


def test_pixels_and_one_hot_labels(tiny_zip, tiny_pixels, tiny_labels):
    dataset = ImageFolderDataset(tiny_zip)
    assert len(dataset) == NUM_ITEMS
    assert dataset.image_shape == (3, 8, 8)
    assert dataset.label_dim == 3
    items = dataset.items([7, 0, 7])
    assert items.dtype == np.uint8
    assert np.array_equal(items, tiny_pixels[[7, 0, 7]].transpose(0, 3, 1, 2))
    assert np.array_equal(dataset.labels([7, 0]), np.eye(3, dtype=np.float32)[[tiny_labels[7], tiny_labels[0]]])


def test_cached_items_are_the_same(tiny_zip):
    plain, cached = ImageFolderDataset(tiny_zip), ImageFolderDataset(tiny_zip)
    cached.cache()
    assert np.array_equal(plain.items(range(NUM_ITEMS)), cached.items(range(NUM_ITEMS)))
    assert plain.nbytes == NUM_ITEMS * 3 * 8 * 8


def test_folder_reads_like_the_zip(tmp_path, tiny_zip):
    import zipfile

    zipfile.ZipFile(tiny_zip).extractall(tmp_path / "folder")
    one, other = ImageFolderDataset(tiny_zip), ImageFolderDataset(tmp_path / "folder")
    assert np.array_equal(one.items(range(NUM_ITEMS)), other.items(range(NUM_ITEMS)))
    assert np.array_equal(one.labels([0, 1]), other.labels([0, 1]))


def test_subset_keeps_the_rule_and_the_labels(tiny_zip, tiny_pixels, tiny_labels):
    dataset = ImageFolderDataset(tiny_zip, max_size=11, random_seed=5)
    chosen = select_subset(NUM_ITEMS, 11, 5)
    assert len(dataset) == 11
    assert np.array_equal(dataset.items(range(11)), tiny_pixels[chosen].transpose(0, 3, 1, 2))
    assert dataset.labels(range(11)).argmax(axis=1).tolist() == [tiny_labels[i] for i in chosen]


def test_labels_can_be_left_out(tiny_zip):
    dataset = ImageFolderDataset(tiny_zip, use_labels=False)
    assert dataset.label_dim == 0
    assert dataset.labels([0]) is None


def test_vector_labels(tmp_path, tiny_pixels):
    path = write_set(tmp_path / "set.zip", tiny_pixels[:2], [[0.5, -1.0], [0.0, 2.0]])
    dataset = ImageFolderDataset(path)
    assert dataset.label_dim == 2
    assert dataset.labels([1]).tolist() == [[0.0, 2.0]]


def test_latents(tmp_path):
    arrays = np.random.default_rng(0).normal(size=[3, 8, 4, 4]).astype(np.float32)
    dataset = ImageFolderDataset(write_set(tmp_path / "latents.zip", arrays), use_labels=False)
    assert dataset.image_shape == (8, 4, 4)
    assert np.array_equal(dataset.items([2, 1]), arrays[[2, 1]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros([8, 4, 4], np.float64), "float64"),
        (np.zeros([4, 4], np.float32), "expected finite float32"),
        (np.full([8, 4, 4], np.nan, np.float32), "expected finite float32"),
        (np.array([[[object()]]]), "no readable array"),
    ],
)
def test_bad_latents(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        ImageFolderDataset(write_set(tmp_path / "latents.zip", [array]), use_labels=False)


def test_missing_labels(tmp_path, tiny_pixels):
    path = write_set(tmp_path / "set.zip", tiny_pixels[:2])
    with pytest.raises(ValueError, match="--cond=False"):
        ImageFolderDataset(path)


def test_absurd_class_index(tmp_path, tiny_pixels):
    with pytest.raises(ValueError, match="class 4000000000"):
        ImageFolderDataset(write_set(tmp_path / "set.zip", tiny_pixels[:2], [0, 4_000_000_000]))


def test_not_square(tmp_path):
    path = write_set(tmp_path / "set.zip", np.zeros([1, 8, 4, 3], np.uint8), [0])
    with pytest.raises(ValueError, match="4x8"):
        ImageFolderDataset(path)


def test_sizes_that_differ_name_the_file(tmp_path):
    path = tmp_path / "set.zip"
    one = write_set(tmp_path / "a.zip", np.zeros([1, 8, 8, 3], np.uint8))
    other = write_set(tmp_path / "b.zip", np.zeros([1, 4, 4, 3], np.uint8))
    import zipfile

    with ZipWriter(path) as archive:
        archive.add("a.png", zipfile.ZipFile(one).read("00000/img00000000.png"))
        archive.add("b.png", zipfile.ZipFile(other).read("00000/img00000000.png"))
    with pytest.raises(ValueError, match=r"'b.png' .* has shape \[3, 4, 4\]"):
        ImageFolderDataset(path, use_labels=False).items([0, 1])


def test_order_visits_every_item_once_per_pass_and_differs_between_passes():
    order = ShuffledOrder(13, seed=3)
    passes = [[order[p] for p in range(13 * e, 13 * e + 13)] for e in range(3)]
    assert all(Counter(one) == Counter(range(13)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_order_is_a_function_of_seed_and_position():
    far = ShuffledOrder(13, seed=3)[13 * 7 + 5]  # asked for at once, nothing before it
    again = ShuffledOrder(13, seed=3)
    assert [again[p] for p in range(13 * 7 + 6)][-1] == far
    assert [ShuffledOrder(1000, 3)[p] for p in range(8)] != [ShuffledOrder(1000, 4)[p] for p in range(8)]


def test_order_of_nothing():
    with pytest.raises(ValueError, match="0 items"):
        ShuffledOrder(0, 0)


def test_fingerprint_tells_images_labels_and_their_order(tmp_path, tiny_pixels, tiny_labels, tiny_zip):
    """The same wherever the set lies and whatever it is called; another one when a pixel, name or label changes."""
    one = ImageFolderDataset(tiny_zip).fingerprint()
    assert ImageFolderDataset(write_set(tmp_path / "again.zip", tiny_pixels, tiny_labels)).fingerprint() == one
    shutil.unpack_archive(tiny_zip, tmp_path / "folder")
    assert ImageFolderDataset(tmp_path / "folder").fingerprint() == one
    other = tiny_pixels.copy()
    other[-1, 3, 3, 1] ^= 1
    images = ImageFolderDataset(write_set(tmp_path / "images.zip", other, tiny_labels)).fingerprint()
    labels = ImageFolderDataset(write_set(tmp_path / "labels.zip", tiny_pixels, tiny_labels[::-1])).fingerprint()
    first, last = (tmp_path / "folder" / "00000" / f"img{i:08d}.png" for i in (0, 49))
    first.rename(tmp_path / "kept"), last.rename(first), (tmp_path / "kept").rename(last)
    swapped = ImageFolderDataset(tmp_path / "folder").fingerprint()
    for found, changed in ((images, "images (hash)"), (labels, "labels (hash)"), (swapped, "images (hash)")):
        assert [name for name in one if found[name] != one[name]] == [changed]
    assert ImageFolderDataset(tiny_zip, use_labels=False).fingerprint()["labels (hash)"] is None


def test_of_a_large_set_some_images_are_looked_into_and_all_are_counted(tmp_path, tiny_zip, monkeypatch):
    shutil.unpack_archive(tiny_zip, tmp_path)
    monkeypatch.setattr(archive, "HASHED_BYTES", 1000)
    monkeypatch.setattr(archive, "HASHED_FILES", 10)
    folder = archive.open_archive(tmp_path)
    whole, files = folder.content_hash(folder.names), [tmp_path / name for name in folder.names]
    assert archive.open_archive(tiny_zip).content_hash(folder.names) == whole
    unread = files[4].read_bytes()
    files[4].write_bytes(bytes(len(unread)))  # of this one only the size counts
    assert folder.content_hash(folder.names) == whole
    files[4].write_bytes(unread + b"\0")
    assert folder.content_hash(folder.names) != whole
    files[4].write_bytes(unread)
    files[5].write_bytes(bytes(files[5].stat().st_size))
    assert folder.content_hash(folder.names) != whole
