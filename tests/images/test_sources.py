import os
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edm2_guidance.images import npy, sources
from edm2_guidance.images.archive import select_subset
from edm2_guidance.images.sources import StoredImages, decode_rgb, seeds_of
from tests.pictures import chunk, encoded


def raw_png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG of any bit depth, also those that PIL does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def everything(images: StoredImages) -> tuple[torch.Tensor, list[int] | None, list[int] | None]:
    batches = list(images)
    assert len(batches) == len(images)
    assert sum(map(len, batches)) == images.num_images
    parts = [[batch.seeds for batch in batches], [batch.labels for batch in batches]]
    flat = [None if None in part else [x for values in part for x in values] for part in parts]
    return torch.cat([batch.images for batch in batches]), flat[0], flat[1]


def expected(make_picture: Any, numbers: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(make_picture(i))).permute(2, 0, 1) for i in numbers])


@pytest.fixture
def generated(make_zip: Any, make_png: Any) -> Path:
    """A ZIP as generate_zip.py writes it: seeds 3, 4, ..., 12."""
    names = [f"{seed:06d}.png" for seed in range(3, 13)]
    return make_zip(
        {name: make_png(seed) for seed, name in enumerate(names, start=3)},
        labels=[[name, seed % 4] for seed, name in enumerate(names, start=3)],
    )


@pytest.mark.parametrize("batch", [1, 3, 5, 10, 64])
def test_zip_gives_images_seeds_and_labels_for_any_batch(generated: Path, make_picture: Any, batch: int) -> None:
    images = StoredImages(generated, batch=batch)
    assert (images.num_images, images.image_size) == (10, (8, 8))
    for _ in range(2):  # it can be read again
        pixels, seeds, labels = everything(images)
        assert torch.equal(pixels, expected(make_picture, list(range(3, 13))))
        assert seeds == list(range(3, 13))
        assert labels == [seed % 4 for seed in range(3, 13)]


def test_folder_and_npz_give_the_same(generated: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(generated) as file:
        file.extractall(tmp_path / "set")
    pixels, seeds, labels = everything(StoredImages(generated, batch=4))
    folder = everything(StoredImages(tmp_path / "set", batch=4))
    assert torch.equal(folder[0], pixels)
    assert folder[1:] == (seeds, labels)
    array = pixels.permute(0, 2, 3, 1).numpy()
    for save_npz in (np.savez, np.savez_compressed):
        save_npz(tmp_path / "set.npz", array, np.array(labels))
        stored = everything(StoredImages(tmp_path / "set.npz", batch=4))
        assert torch.equal(stored[0], pixels)
        assert stored[1:] == (None, labels)
    np.savez(tmp_path / "plain.npz", array)
    assert everything(StoredImages(tmp_path / "plain.npz"))[2] is None


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_subsets_follow_the_rule(generated: Path, tmp_path: Path, make_picture: Any, kind: str) -> None:
    path = generated
    if kind == "npz":
        path = tmp_path / "set.npz"
        np.savez(path, everything(StoredImages(generated))[0].permute(0, 2, 3, 1).numpy())
    chosen = select_subset(10, 4, 7)
    assert chosen != list(range(4))
    images = StoredImages(path, batch=3, max_images=4, seed=7)
    pixels, seeds, _ = everything(images)
    assert torch.equal(pixels, expected(make_picture, [3 + i for i in chosen]))
    assert seeds == (None if kind == "npz" else [3 + i for i in chosen])
    assert StoredImages(path, max_images=99).num_images == 10


def test_other_formats_and_members(make_zip: Any, make_picture: Any) -> None:
    members = {
        "a.JPG": encoded(make_picture(0), "JPEG"),
        "b.webp": encoded(make_picture(1), "WEBP", lossless=True),
        "c.bmp": encoded(make_picture(2), "BMP"),
        "notes.txt": b"not an image",
    }
    pixels, seeds, labels = everything(StoredImages(make_zip(members)))
    assert torch.equal(pixels[1:], expected(make_picture, [1, 2]))
    assert (seeds, labels) == (None, None)


def test_label_vectors_are_not_class_indices(make_zip: Any, make_png: Any) -> None:
    path = make_zip({"0.png": make_png(0)}, labels=[["0.png", [0.5, 0.5]]])
    assert everything(StoredImages(path))[2] is None


def test_seeds_need_exact_names() -> None:
    assert seeds_of(["000012.png", "000000/000003.png", "1234567.png"]) == [12, 3, 1234567]
    assert seeds_of(["000012.png", "000012.jpg"]) is None
    assert seeds_of(["000012.png", "a/000012.png"]) is None
    assert seeds_of(["0000012.png"]) is None
    assert seeds_of(["12.png"]) is None
    assert seeds_of(["img00000012.png"]) is None
    assert seeds_of(["٠٠٠٠١٢.png"]) is None  # digits, but not ASCII ones


def bad_images(make_picture: Callable[..., Image.Image]) -> dict[str, tuple[bytes, str]]:
    """Every kind of unusable file, with what the error must say."""
    picture = make_picture(5, 32)
    png = encoded(picture)
    flipped = bytearray(png)
    flipped[png.index(b"IDAT") + 300] ^= 1
    without_end = png[: png.index(b"IEND") - 4]
    deep_rgb = raw_png(1, 1, 16, 2, zlib.compress(b"\0" + bytes(6)))
    deep_grey = raw_png(1, 1, 16, 0, zlib.compress(b"\0" + bytes(2)))
    bomb = raw_png(60000, 60000, 8, 2, zlib.compress(bytes(1000)))
    large = raw_png(10000, 7000, 8, 2, zlib.compress(bytes(1000)))
    short = raw_png(32, 32, 8, 2, zlib.compress(bytes(1000)))
    animation = encoded(picture, "WEBP", save_all=True, append_images=[make_picture(6, 32)])
    return {
        "grey": (encoded(picture.convert("L")), "grey image"),
        "grey and alpha": (encoded(picture.convert("LA")), "grey image with transparency"),
        "palette": (encoded(picture.convert("P")), "palette image"),
        "RGBA": (encoded(picture.convert("RGBA")), "transparency"),
        "transparent colour": (encoded(picture, transparency=(1, 2, 3)), "transparency"),
        "black and white": (encoded(picture.convert("1")), "black-and-white"),
        "CMYK": (encoded(picture.convert("CMYK"), "JPEG"), "CMYK"),
        "16-bit RGB": (deep_rgb, "16 bits"),
        "16-bit grey": (deep_grey, "16 bits"),
        "truncated": (png[:-100], "truncated"),
        "only the head": (png[:30], "truncated"),
        "no end chunk": (without_end, "truncated"),
        "bit flip": (bytes(flipped), "damaged"),
        "too few pixels": (short, "truncated or damaged"),
        "truncated JPEG": (encoded(picture, "JPEG")[:-200], "truncated or damaged"),
        "bomb": (bomb, "more than the 67108864"),
        "large": (large, "10000x7000"),
        "animation": (animation, "animation"),
        "text": (b"hello", "not a PNG, JPEG, WebP, BMP, GIF or TIFF"),
        "empty": (b"", "not a PNG, JPEG, WebP, BMP, GIF or TIFF"),
        "GIF": (encoded(picture, "GIF"), "palette image"),
    }


KINDS = sorted(bad_images(lambda number, size: Image.effect_noise((size, size), 50).convert("RGB")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_bad_images_are_errors_that_name_the_member(make_zip: Any, make_png: Any, make_picture: Any, kind: str) -> None:
    data, message = bad_images(make_picture)[kind]
    path = make_zip({"a/a.png": make_png(0, 32), "a/bad.png": data, "a/last.png": make_png(1, 32)})
    images = StoredImages(path, batch=1)
    with pytest.raises(ValueError, match=message) as caught:
        list(images)
    assert "'a/bad.png'" in str(caught.value)
    assert "set.zip" in str(caught.value)
    with pytest.raises(ValueError, match=message):  # as the first image, it is found before the pass
        StoredImages(make_zip({"bad.png": data}))


def test_mixed_sizes_name_both(make_zip: Any, make_png: Any) -> None:
    path = make_zip({"a.png": make_png(0, 8), "b.png": make_png(1, 8), "c.png": make_png(2, 9)})
    with pytest.raises(ValueError, match=r"'a\.png' has 8x8 pixels, 'c\.png' 9x9"):
        list(StoredImages(path, batch=2))


def test_latents_are_no_images(make_zip: Any) -> None:
    with pytest.raises(ValueError, match=r"'0\.npy'.*latents"):
        StoredImages(make_zip({"0.npy": b"x"}))


def test_good_images_before_a_bad_one_arrive_first(make_zip: Any, make_png: Any) -> None:
    members = {f"{i}.png": make_png(i) for i in range(8)} | {"8.png": b"bad"}
    seen = []
    with pytest.raises(ValueError, match=r"8\.png"):
        seen.extend(StoredImages(make_zip(members), batch=2))
    assert sum(map(len, seen)) == 8


def test_mutated_pngs_give_an_image_or_a_clear_error() -> None:
    """Every chunk is under its CRC: a changed image never comes through, as it does in PIL for smooth ones."""
    ramp = np.add.outer(np.arange(64), np.arange(64))
    pixels = np.stack([ramp, ramp, ramp // 2], axis=2).astype(np.uint8)
    original = encoded(Image.fromarray(pixels), compress_level=1)
    random = np.random.RandomState(1)
    refused = 0
    for _ in range(3000):
        data = bytearray(original)
        for _ in range(random.randint(1, 4)):
            data[random.randint(len(data))] = random.randint(256)
        if random.rand() < 0.2:
            del data[random.randint(len(data)) :]
        try:
            assert np.array_equal(decode_rgb(bytes(data), "x.png"), pixels)
        except ValueError:
            refused += 1
    assert refused > 2500


def test_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    images = np.zeros([2, 4, 4, 3], dtype=np.uint8)

    def error(message: str, *arrays: Any, **named: Any) -> None:
        np.savez(path, *arrays, **named)
        with pytest.raises(ValueError, match=message) as caught:
            list(StoredImages(path))
        assert "set.npz" in str(caught.value)

    error(r"holds statistics \(mu, sigma\)", mu=np.zeros(3), sigma=np.zeros([3, 3]))
    error(r"no arr_0 .* it holds images", images=images)
    error(r"float32 \[2, 4, 4, 3\]", images.astype(np.float32))
    error(r"uint8 \[2, 3, 4, 4\]", images.transpose(0, 3, 1, 2).copy())
    error(r"uint8 \[0, 4, 4, 3\]", images[:0])
    error("Fortran order", np.asfortranarray(images))
    error("no readable array", np.array([{}], dtype=object))
    error("one class per image|one class index per image", images, np.zeros([2, 10]))
    error("one class index per image", images, np.zeros([3], dtype=np.int64))
    error("one class index per image", images, np.array([0, -1]))
    error("no readable array", images, np.array([{}, {}], dtype=object))
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a ZIP file"):
        StoredImages(path)
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(path, "w", compression) as file:
            file.writestr("arr_0.npy", npy.to_bytes(images))
        with pytest.raises(ValueError, match=r"'arr_0\.npy' in .* another method than deflate"):
            StoredImages(path)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")
        for array in (images, images + 1):
            file.writestr("arr_0.npy", npy.to_bytes(array))
    with pytest.raises(ValueError, match=r"two members named 'arr_0\.npy'"):
        StoredImages(path)


def npy_header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("member", "header", "message"),
    [
        ("arr_0", npy_header("|u1", "(99999999, 1, 1, 3)"), "99999999 images, more than the 10000000 allowed"),
        ("arr_0", npy_header("|u1", "(9, 9000, 9000, 3)"), "9000x9000 pixels, more than"),
        ("arr_0", npy_header("|u1", "(999999, 9, 9, 3)"), "arr_0 in .* has 0 bytes"),
        ("arr_0", b"\x93NUMPY\1\0\x09\0(((((((((", "arr_0 in .* no readable array"),  # an error of Python's tokenizer
        ("arr_1", npy_header("<i8", "(999999999999999,)"), "arr_1 in .* takes 7999999999999992 bytes"),
    ],
)
def test_announced_arrays_take_no_memory(tmp_path: Path, member: str, header: bytes, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as file:
        if member == "arr_1":
            file.writestr("arr_0.npy", npy.to_bytes(np.zeros([2, 4, 4, 3], dtype=np.uint8)))
        file.writestr(f"{member}.npy", header)
    with pytest.raises(ValueError, match=message):
        StoredImages(tmp_path / "set.npz")


def test_npz_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        StoredImages(tmp_path / "none.npz")


@pytest.mark.parametrize("max_images", [None, 2])
def test_a_flipped_bit_in_an_npz_is_found_by_its_crc(tmp_path: Path, max_images: int | None) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, np.zeros([9, 64, 64, 3], dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[100_000] ^= 1
    path.write_bytes(data)
    images = StoredImages(path, max_images=max_images)
    with pytest.raises(ValueError, match=r"arr_0 in .*set\.npz is damaged"):
        list(images)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_stays_open_after_a_pass(generated: Path) -> None:
    handles, threads = open_descriptors(), threading.active_count()
    images = StoredImages(generated, batch=2)
    passing = iter(images)
    next(passing)
    assert open_descriptors() > handles
    passing.close()  # type: ignore[attr-defined]
    assert (open_descriptors(), threading.active_count()) == (handles, threads)
    list(images)
    assert (open_descriptors(), threading.active_count()) == (handles, threads)


def test_few_images_are_held_at_a_time(make_zip: Any, make_png: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding runs ahead of the reader by a bounded number of images, whatever the size of the set."""
    path = make_zip({f"{i:06d}.png": make_png(i) for i in range(300)})
    decoded: list[str] = []

    def counting(data: bytes, where: str, *reserve: Callable[[int], None]) -> sources.Pixels:
        decoded.append(where)
        return decode_rgb(data, where, *reserve)

    monkeypatch.setattr(sources, "decode_rgb", counting)
    images = StoredImages(path, batch=4)
    decoded.clear()
    for number, _ in enumerate(images, start=1):
        assert len(decoded) <= 4 * (number + 1) + 8
    assert len(decoded) == 300


def test_arguments(generated: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 images per batch"):
        StoredImages(generated, batch=0)
    with pytest.raises(ValueError, match="subset of 0"):
        StoredImages(generated, max_images=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        StoredImages(tmp_path / "nowhere")


def test_batches_of_large_images_are_bounded_in_bytes(make_zip: Any, make_png: Any, make_picture: Any,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    path = make_zip({f"{i}.png": make_png(i) for i in range(10)})
    monkeypatch.setattr(sources, "MAX_BATCH_BYTES", 3 * 8 * 8 * 3 + 5)
    images = StoredImages(path, batch=64)
    assert (images.batch, len(images)) == (3, 4)
    assert torch.equal(everything(images)[0], expected(make_picture, list(range(10))))
    monkeypatch.setattr(sources, "MAX_BATCH_BYTES", 1)
    assert StoredImages(path, batch=64).batch == 1


def test_what_is_not_read_is_in_the_notes(make_zip: Any, make_png: Any) -> None:
    path = make_zip({"0.png": make_png(0), "1.heic": b"x"})
    assert StoredImages(path).notes == (f"{path}: 1 file is not read, as no images of a known kind: 1 .heic",)
