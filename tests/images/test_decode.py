"""The one door for image files: which formats come through, what they may cost, and that there is no other."""

import ast
import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from edm2_guidance.images import convert
from edm2_guidance.images.archive import open_archive
from edm2_guidance.images.decode import MAX_PIXELS, has_more_frames, opened_image, plain_png, to_array
from edm2_guidance.images.sources import decode_rgb
from tests.pictures import chunk, encoded

ROOT = Path(__file__).parents[2]


def test_no_other_file_of_the_product_opens_images() -> None:
    """PIL's own `open` tries every plugin, also those that start a program: only images/decode.py may call it."""
    found = []
    folders = [path.parent for path in ROOT.glob("*/__init__.py")]
    for path in [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]:
        if path.relative_to(ROOT).parts[0] in ("tests", "benchmarks"):  # plain ways to compare with are not the product
            continue
        text = path.read_text()
        if "PIL" not in text and "Image." not in text and "Parser" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                limited = any(keyword.arg == "formats" for keyword in node.keywords)
                if path != ROOT / "edm2_guidance/images/decode.py" or not limited:
                    found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
                found += [f"{path.name}:{node.lineno}" for alias in node.names if alias.name == "open"]
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("ImageFile.Parser", "Image.Image.open"):
                found.append(f"{path.name}:{node.lineno}")
    assert not found


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of Ghostscript's names on PATH, which leaves a file when it is started."""
    sign = tmp_path / "started"
    for name in ("gs", "gswin32c", "gswin64c"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho 10.0\ntouch {sign}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # not looked for yet
    return sign


def test_postscript_in_disguise_starts_nothing(canary: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").write_bytes(EPS)
    with pytest.raises(OSError, match=r"."), Image.open(io.BytesIO(EPS)) as image:  # PIL alone would start it
        image.load()
    assert canary.exists()
    canary.unlink()
    with pytest.raises(ValueError, match=r"'0\.png' .* is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"):
        convert.read_pixels(open_archive(tmp_path / "set"), "0.png")
    with pytest.raises(ValueError, match="is not a PNG"):
        decode_rgb(EPS, "0.png")
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "JPEG2000", "AVIF"])
def test_formats_that_are_not_listed_stay_outside(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    with pytest.raises(ValueError, match=r"^x is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"):
        decode_rgb(encoded(Image.new("RGB", (16, 16)), kind), "x")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_listed_formats_keep_their_pixels(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, [9, 7, 3], dtype=np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_rgb(encoded(Image.fromarray(pixels), kind, **options), "x"), pixels)


def through_pil(png: bytes) -> NDArray[np.uint8]:
    """The pixels as PIL opens and reads them."""
    with opened_image(png, "x") as image:
        return to_array(image, "RGB")


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (7, 130), (128, 128)])
def test_small_plain_pngs_are_read_as_by_pil(size: tuple[int, int], level: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, [*size, 3], dtype=np.uint8)
    for pixels in (noise, noise.cumsum(axis=0, dtype=np.uint8) // 9):  # rows of other filters
        png = encoded(Image.fromarray(pixels), "PNG", compress_level=level)
        body = b"".join(read for kind, read in chunks_of(png) if kind == b"IDAT")
        pieces = [chunk(b"IDAT", body[start : start + 999]) for start in range(0, len(body), 999)]
        for read in (png, png[:33] + b"".join(pieces) + png[-12:]):
            found = plain_png(read)
            assert found is not None
            assert np.array_equal(found, pixels)
            assert np.array_equal(through_pil(read), pixels)


@pytest.mark.parametrize(
    "png",
    {
        "large": lambda: encoded(Image.new("RGB", (128, 129)), "PNG"),
        "grey": lambda: encoded(Image.new("L", (16, 16)), "PNG"),
        "with alpha": lambda: encoded(Image.new("RGBA", (16, 16)), "PNG"),
        "transparent colour": lambda: encoded(Image.new("RGB", (16, 16)), "PNG", transparency=(0, 0, 0)),
        "animated": lambda: encoded(
            Image.new("RGB", (16, 16)), "PNG", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")]
        ),
        "with a text": lambda: with_chunks(encoded(Image.new("RGB", (16, 16)), "PNG"), chunk(b"tEXt", b"k\0text")),
        "deep": lambda: _other_header(bit_depth=16),
        "interlaced": lambda: _other_header(interlaced=1),
        "JPEG": lambda: encoded(Image.new("RGB", (16, 16)), "JPEG"),
    }.values(),
)  # fmt: skip
def test_all_other_files_are_left_to_pil(png: Callable[[], bytes]) -> None:
    assert plain_png(png()) is None


def _other_header(bit_depth: int = 8, interlaced: int = 0) -> bytes:
    png = encoded(Image.new("RGB", (16, 16)), "PNG")
    return png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, bit_depth, 2, 0, 0, interlaced)) + png[33:]


def test_of_a_damaged_png_both_ways_read_the_same_or_nothing() -> None:
    """Bytes of its packed pixels are changed, cut or added, under a CRC that is right."""
    draws = np.random.default_rng(1)
    png = encoded(Image.fromarray(draws.integers(0, 99, [16, 16, 3], dtype=np.uint8)), "PNG")
    body = dict(chunks_of(png))[b"IDAT"]
    read = 0
    for _ in range(400):
        changed = bytearray(body)
        changed[draws.integers(len(body))] ^= 1 << draws.integers(8)
        changed = changed[: draws.integers(1, len(body) + 40)] + bytes(draws.integers(0, 30))
        damaged = png[:33] + chunk(b"IDAT", bytes(changed)) + png[-12:]
        found = plain_png(damaged)
        if found is not None:
            assert np.array_equal(found, through_pil(damaged))
            read += 1
    assert 0 < read < 400


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of all chunks."""
    found, position = [], 8
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        found.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """The chunks behind the header of a PNG."""
    return png[:33] + b"".join(chunks) + png[33:]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
def test_texts_and_profiles_of_any_size_are_not_unpacked(kind: bytes) -> None:
    """Each would unpack to 64 MiB, which PIL refuses; the pixels are whole, and all that is wanted."""
    pixels = np.random.default_rng(1).integers(0, 256, [8, 8, 3], dtype=np.uint8)
    packed = zlib.compress(bytes(1 << 26), 1)
    body = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"p\0\0", b"tEXt": b"k\0"}[kind] + packed
    png = with_chunks(encoded(Image.fromarray(pixels), "PNG"), chunk(kind, body), chunk(b"tEXt", b"more\0text"))
    if kind != b"tEXt":
        assert len(packed) > PngImagePlugin.MAX_TEXT_CHUNK // 16
    tracemalloc.start()
    try:
        assert np.array_equal(decode_rgb(png, "x"), pixels)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
    damaged = bytearray(png)
    damaged[60] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        decode_rgb(bytes(damaged), "x")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(1 << 13, (1 << 13) + 1), (13_300, 13_300), (60_000, 60_000)])
def test_too_many_pixels_are_refused_before_they_are_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (tmp_path / "0.png").write_bytes(png)
    for read in (lambda: convert.read_pixels(open_archive(tmp_path), "0.png"), lambda: decode_rgb(png, "x")):
        with pytest.raises(ValueError, match=f"more than the {MAX_PIXELS}"):
            read()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_frames_and_pages_are_noticed(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), (v, v, v)) for v in (0, 120, 240)]
    for more in ([], frames[1:]):
        with opened_image(encoded(frames[0], kind, save_all=True, append_images=more), "x") as image:
            assert has_more_frames(image) == bool(more)
            image.load()
            assert np.asarray(image.convert("RGB")).max() == 0


def test_truncated_images_stay_refused() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(ValueError, match="truncated or damaged"):
        decode_rgb(encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:-200], "x")


@pytest.mark.parametrize(
    ("values", "tags", "text"),
    [
        (np.full([4, 4], 70_000, np.int32), {339: 1}, "32 bits per channel: only"),
        (np.full([4, 4], 700, np.int32), {}, "32 bits per channel, with a sign or a fraction: only"),
        (np.full([4, 4], 0.5, np.float32), {}, "32 bits per channel, with a sign or a fraction: only"),
        (np.full([4, 4], 700, np.uint16), {339: 2}, "16 bits per channel, with a sign or a fraction: only"),
        (np.full([4, 4], 700, np.uint16), {258: 12}, "12 bits per channel: only"),
        (np.full([4, 4], 7, np.uint8), {339: 2}, "8 bits per channel, with a sign or a fraction: only"),
    ],
)
def test_numbers_that_have_no_white_are_refused(tmp_path: Path, values: Any, tags: Any, text: str) -> None:
    """By both readers in the same words: neither sends people to the other."""
    data = encoded(Image.fromarray(values), "TIFF", tiffinfo={339: 1})
    for tag, value in tags.items():  # PIL writes its own
        place = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
        data = data[:place] + struct.pack("<H", value) + data[place + 2 :]
    (tmp_path / "0.tif").write_bytes(data)
    for read in (lambda: convert.read_pixels(open_archive(tmp_path), "0.tif"), lambda: decode_rgb(data, "x")):
        with pytest.raises(ValueError, match=text):
            read()


def test_sixteen_bits_of_grey_are_read(tmp_path: Path) -> None:
    for kind in ("PNG", "TIFF"):
        Image.fromarray(np.array([[0, 255, 256, 65_535]], np.uint16)).save(tmp_path / "0.png", format=kind)
        assert convert.read_pixels(open_archive(tmp_path), "0.png").pixels.tolist() == [[0, 0, 1, 255]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cut_files_are_no_other_format(kind: str) -> None:
    """A TIFF's directory may be at its end, so that nothing is known of a cut one but how it begins."""
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind, **options)
    for length in (8, 20, len(data) // 2):
        with pytest.raises(ValueError, match="is truncated"):
            decode_rgb(data[:length], "x")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "CMYK", "1"])
@pytest.mark.parametrize("strip", [1, 30, 63, 1 << 20])
def test_strips_of_an_image_are_its_pixels(monkeypatch: pytest.MonkeyPatch, mode: str, strip: int) -> None:
    monkeypatch.setattr("edm2_guidance.images.decode._STRIP_PIXELS", strip)
    pixels = np.random.default_rng(2).integers(0, 256, [11, 9, 3], dtype=np.uint8)
    if mode == "I;16":
        image, target = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), mode
    else:
        image, target = Image.fromarray(pixels).convert(mode), "RGB"
    assert np.array_equal(to_array(image, target), np.asarray(image.convert(target)))
