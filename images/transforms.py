"""How `dataset_tool.py convert` turns a source image into a training image: pure functions on arrays."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def to_rgb(image: Pixels) -> Pixels:
    """Repeat a grey image into three equal channels; leave an RGB image as it is.

    Args:
        image: uint8 [H, W] or [H, W, 3].

    Returns:
        uint8 [H, W, 3].
    """
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def pad_average(image: Pixels, width: int, height: int) -> Pixels:
    """Pad with black to a power-of-two multiple of the target size, then average boxes down to it.

    The multiple is the smallest power of two k at which `k * width` x `k * height` holds the image, the same for
    both directions; the image sits in the middle (the odd pixel of padding goes right and below). Each output
    pixel is the mean of a k x k box, rounded to the nearest integer (a tie goes to the even one). MNIST digits,
    28x28, become 16x16 through 32x32 and means over 2x2.

    Args:
        image: uint8 [H, W] grey or [H, W, 3] RGB, range 0..255.
        width: Output width in pixels.
        height: Output height in pixels.

    Returns:
        uint8 [height, width, 3].
    """
    image = to_rgb(image)
    rows, columns = image.shape[:2]
    factor = 1
    while factor * height < rows or factor * width < columns:
        factor *= 2
    top = (factor * height - rows) // 2
    left = (factor * width - columns) // 2
    padded = np.zeros((factor * height, factor * width, 3), dtype=np.float64)
    padded[top : top + rows, left : left + columns] = image
    boxes = padded.reshape(height, factor, width, factor, 3)
    return np.rint(boxes.mean(axis=(1, 3))).astype(np.uint8)


#: Names of `--transform`. Each takes (image, width, height) and returns uint8 [height, width, 3].
TRANSFORMS: dict[str, Callable[[Pixels, int, int], Pixels]] = {"pad-average": pad_average}
