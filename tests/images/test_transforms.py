import math

import numpy as np
import pytest

from edm2_guidance.commands import dataset_tool
from edm2_guidance.images.transforms import (
    TRANSFORMS,
    center_crop,
    center_crop_dhariwal,
    center_crop_wide,
    pad_average,
    stretch,
    to_rgb,
)


def slow_pad_average(image, width, height):
    """Pixel by pixel, in Python's integers and exact halves."""
    rows, columns = len(image), len(image[0])
    k = 1
    while k * height < rows or k * width < columns:
        k *= 2
    top, left = (k * height - rows) // 2, (k * width - columns) // 2

    def pixel(y, x):
        inside = 0 <= y - top < rows and 0 <= x - left < columns
        return int(image[y - top][x - left]) if inside else 0

    return [
        [round(sum(pixel(k * y + j, k * x + i) for j in range(k) for i in range(k)) / k**2) for x in range(width)]
        for y in range(height)
    ]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((28, 28), (16, 16)), ((5, 9), (4, 2)), ((16, 16), (16, 16)), ((3, 2), (8, 8)), ((7, 7), (2, 4))],
)
def test_grey_against_a_slow_reference(shape, size):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = pad_average(image, *size)
    assert result.dtype == np.uint8
    assert result.shape == (size[1], size[0], 3)
    expected = np.array(slow_pad_average(image, *size))
    for channel in range(3):
        assert np.array_equal(result[:, :, channel], expected)


def test_colours_are_averaged_apart():
    image = np.random.default_rng(1).integers(0, 256, [28, 28, 3], dtype=np.uint8)
    result = pad_average(image, 16, 16)
    for channel in range(3):
        assert np.array_equal(result[:, :, channel], pad_average(image[:, :, channel], 16, 16)[:, :, 0])


def test_a_digit_lies_in_the_middle():
    """28 is padded by 2 on each side to 32: the outermost ring of 16x16 is black, the rest is full."""
    result = pad_average(np.full([28, 28], 255, np.uint8), 16, 16)
    assert result[1:15, 1:15].min() == 255
    ring = result.copy()
    ring[1:15, 1:15] = 0
    assert ring.max() == 0


def test_ties_go_to_the_even_number():
    image = np.array([[0, 1, 1, 1], [0, 1, 2, 2]], dtype=np.uint8)  # means 0.5 and 1.5
    assert pad_average(image, 2, 1)[0, :, 0].tolist() == [0, 2]


def test_grey_becomes_three_equal_channels():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(to_rgb(image), np.stack([image] * 3, axis=2))


# --- Resizing: PIL's fixed-point arithmetic, pixel by pixel -------------------------------------------------


def box(x):
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def bicubic(x):
    """Keys' kernel with a = -1/2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def lanczos(x):
    def sinc(t):
        return 1.0 if t == 0 else math.sin(math.pi * t) / (math.pi * t)

    return sinc(x) * sinc(x / 3) if abs(x) < 3 else 0.0


RADIUS = {box: 0.5, bicubic: 2, lanczos: 3}


def slow_line(line, size, kernel):
    """Resample a list of bytes: weights in units of 2^-22, the sum rounded and clipped to a byte."""
    if size == len(line):
        return list(line)
    scale = len(line) / size
    stretched = max(scale, 1.0)  # antialiasing: the kernel widens when the image shrinks
    out = []
    for i in range(size):
        middle = (i + 0.5) * scale
        first = max(int(middle - RADIUS[kernel] * stretched + 0.5), 0)
        last = min(int(middle + RADIUS[kernel] * stretched + 0.5), len(line))
        weights = [kernel((j - middle + 0.5) / stretched) for j in range(first, last)]
        total = sum(weights)
        units = [math.trunc(w / total * 2**22 + math.copysign(0.5, w)) for w in weights]
        value = (2**21 + sum(int(line[first + k]) * unit for k, unit in enumerate(units))) >> 22
        out.append(min(max(value, 0), 255))
    return out


def slow_resize(image, width, height, kernel):
    """[H][W] of bytes: rows first, bytes in between, then columns."""
    rows = [slow_line(row, width, kernel) for row in image]
    columns = [slow_line([row[x] for row in rows], height, kernel) for x in range(width)]
    return [[columns[x][y] for x in range(width)] for y in range(height)]


def slow_dhariwal(image, size):
    height, width = len(image), len(image[0])
    while min(height, width) >= 2 * size:
        height, width = height // 2, width // 2
        image = slow_resize(image, width, height, box)
    shorter = min(height, width)
    height, width = round(height * size / shorter), round(width * size / shorter)
    image = slow_resize(image, width, height, bicubic)
    top, left = (height - size) // 2, (width - size) // 2
    return [row[left : left + size] for row in image[top : top + size]]


def random_image(height, width, seed=0):
    """uint8 with black, white and what overshoots beside them."""
    rng = np.random.default_rng(seed)
    return (rng.normal(128, 120, [height, width, 3])).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "shape",
    [(37, 53), (64, 33), (16, 16), (8, 8), (31, 16), (5, 9), (47, 15), (100, 17)],
    ids=lambda shape: f"{shape[1]}x{shape[0]}",
)
def test_dhariwal_against_a_slow_reference(shape):
    image = random_image(*shape)
    result = center_crop_dhariwal(image, 8, 8)
    assert result.shape == (8, 8, 3)
    for channel in range(3):
        assert np.array_equal(result[:, :, channel], slow_dhariwal(image[:, :, channel].tolist(), 8))


def test_dhariwal_halves_only_as_long_as_twice_the_size_is_left():
    """A ramp of period 2 vanishes in a box over 2, but not in a bicubic from 15 to 8."""
    stripes = np.tile(np.array([0, 255], np.uint8), (16, 8))
    assert np.ptp(center_crop_dhariwal(stripes, 8, 8)) == 0
    assert np.ptp(center_crop_dhariwal(stripes[:15, :15], 8, 8)) > 0


def test_dhariwal_of_the_size_itself_changes_nothing():
    image = random_image(8, 13)
    assert np.array_equal(center_crop_dhariwal(image, 8, 8), image[:, 2:10])


def test_center_crop_is_the_middle_square_then_lanczos():
    image = random_image(19, 30)
    result = center_crop(image, 8, 8)
    for channel in range(3):
        middle = image[:, 5:24, channel].tolist()
        assert np.array_equal(result[:, :, channel], slow_resize(middle, 8, 8, lanczos))


@pytest.mark.parametrize(
    ("shape", "part"),
    [((30, 32), np.s_[3:27, :]), ((12, 20), np.s_[:, 2:18]), ((24, 32), np.s_[:, :])],
    ids=["too high", "too wide", "right"],
)
def test_wide_is_the_middle_of_the_proportions_between_bars(shape, part):
    image = random_image(*shape)
    result = center_crop_wide(image, 8, 6)
    assert result.shape == (8, 8, 3)
    assert not result[0].any()
    assert not result[7].any()
    for channel in range(3):
        assert np.array_equal(result[1:7, :, channel], slow_resize(image[part][:, :, channel].tolist(), 8, 6, lanczos))


def test_stretch_ignores_proportions():
    image = random_image(9, 20)
    for channel in range(3):
        expected = slow_resize(image[:, :, channel].tolist(), 5, 12, lanczos)
        assert np.array_equal(stretch(image, 5, 12)[:, :, channel], expected)


def test_the_command_line_offers_all():
    assert tuple(TRANSFORMS) == dataset_tool.TRANSFORMS


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_grey_and_its_colours_agree(name):
    image = random_image(21, 40)[:, :, 0]
    assert np.array_equal(TRANSFORMS[name](image, 8, 8), TRANSFORMS[name](to_rgb(image), 8, 8))


@pytest.mark.parametrize(
    ("name", "size"), [("center-crop", (8, 6)), ("center-crop-dhariwal", (8, 6)), ("center-crop-wide", (6, 8))]
)
def test_sizes_that_a_transform_cannot_make(name, size):
    with pytest.raises(ValueError, match=f"--resolution={size[0]}x{size[1]}"):
        TRANSFORMS[name](random_image(9, 9), *size)
