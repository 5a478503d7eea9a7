import numpy as np
import pytest

from images.transforms import pad_average, to_rgb


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
