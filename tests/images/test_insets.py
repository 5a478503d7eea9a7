"""Sheets of figures, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from edm2_guidance.images.grid import compose_grid
from edm2_guidance.images.insets import framed, magnified, sheet

RED = (255, 0, 0)


def noise(seed, width=512, height=512):
    """A picture without any pure red."""
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def red(picture):
    return (np.asarray(picture) == RED).all(axis=2)


def ring(shape, box, width):
    """True on a frame `width` pixels wide, just inside the box."""
    left, top, right, bottom = box
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    mask[top + width : bottom - width, left + width : right - width] = False
    return mask


@pytest.mark.parametrize(("height", "edge"), [(512, 4), (256, 2), (1024, 7), (64, 1)])  # 0.7 %, at least a pixel
def test_the_frame_around_a_region(height, edge):
    image, box = noise(0, height, height), (height // 8, 0, height // 2, height // 2)
    result = framed(image, box)
    expected = ring((height, height), box, edge)
    assert (red(result) == expected).all()
    assert (np.asarray(result)[~expected] == np.asarray(image)[~expected]).all()
    assert not red(image).any()


@pytest.mark.parametrize(("height", "edge"), [(512, 2), (256, 1), (1024, 4), (64, 1)])  # 0.4 %
def test_the_magnified_region(height, edge):
    image, box = noise(1, height, height), (height // 8, 3, height // 2, height // 2 + 3)
    result = magnified(image, box)
    expected = ring((height, height), (0, 0, height, height), edge)
    plain = image.crop(box).resize(image.size, Image.Resampling.LANCZOS)
    assert (red(result) == expected).all()
    assert (np.asarray(result)[~expected] == np.asarray(plain)[~expected]).all()


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (0, 0, 513, 4), (4, 4, 4, 8), (0, 500, 4, 520)])
def test_a_region_outside_the_image(box):
    for draw in (framed, magnified):
        with pytest.raises(ValueError, match="does not lie in an image of 512x512"):
            draw(noise(0), box)


def test_sheets_fill_rows_first_and_leave_no_gaps():
    images = [noise(seed, 300, 300) for seed in range(6)]
    pixels = np.asarray(sheet(images, columns=2))
    assert pixels.shape == (900, 600, 3)
    for number, image in enumerate(images):
        y, x = divmod(number, 2)
        assert (pixels[y * 300 :, x * 300 :][:300, :300] == np.asarray(image)).all()


def test_magnified_regions_stand_under_their_images():
    images, box = [noise(seed) for seed in range(3)], (150, 175, 330, 355)
    pixels = np.asarray(sheet(images, 3, box))
    assert pixels.shape == (1024, 1536, 3)
    for column, image in enumerate(images):
        ours = pixels[:, column * 512 : (column + 1) * 512]
        assert (ours[:512] == np.asarray(framed(image, box))).all()
        assert (ours[512:] == np.asarray(magnified(image, box))).all()


def test_small_images_grow_by_whole_factors_and_their_regions_with_them():
    image = noise(0, 48, 48)
    large = image.resize((240, 240), Image.Resampling.NEAREST)
    pixels = np.asarray(sheet([image], 1, (4, 0, 20, 16)))
    assert (pixels[:240] == np.asarray(framed(large, (20, 0, 100, 80)))).all()


def test_a_caption_stands_above_the_same_sheet():
    plain = sheet([noise(0)], 1)
    captioned = sheet([noise(0)], 1, caption="Stand-in")
    assert captioned.height > plain.height
    assert (np.asarray(captioned) == np.asarray(compose_grid([[plain]], title="Stand-in"))).all()


@pytest.mark.parametrize("count", [0, 3])
def test_rows_that_do_not_come_out(count):
    with pytest.raises(ValueError, match=f"{count} images are not rows of 2"):
        sheet([noise(0)] * count, 2)
