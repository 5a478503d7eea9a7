"""How `dataset_tool.py convert` turns a source image into a training image: pure functions on arrays."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def to_rgb(image: Pixels) -> Pixels:
    """Repeat a grey image into three equal channels; leave an RGB image as it is.

    Args:
        image: uint8 [H, W] or [H, W, 3].

    Returns:
        uint8 [H, W, 3].
    """
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def stretch(image: Pixels, width: int, height: int) -> Pixels:
    """Resize to the target by PIL's Lanczos filter, whatever that does to the proportions.

    What happens when a resolution is given and no transform. Arguments and result as `pad_average`.
    """
    return _resized(to_rgb(image), width, height, Image.Resampling.LANCZOS)


def center_crop(image: Pixels, width: int, height: int) -> Pixels:
    """Cut out the largest square in the middle and resize it by PIL's Lanczos filter.

    Arguments and result as `pad_average`; width and height are equal.
    """
    _require_square("center-crop", width, height)
    side = min(image.shape[:2])
    return stretch(_middle(image, side, side), width, height)


def center_crop_wide(image: Pixels, width: int, height: int) -> Pixels:
    """Cut out the largest middle part of the target's proportions, resize it by Lanczos, add bars to a square.

    The black bars above and below make the result as high as it is wide: 512x384 gives 512x512 images.

    Args:
        image: uint8 [H, W] grey or [H, W, 3] RGB, range 0..255.
        width: Width of the picture and of the result, in pixels.
        height: Height of the picture between the bars; at most `width`.

    Returns:
        uint8 [width, width, 3].
    """
    if height > width:
        raise ValueError(f"--resolution={width}x{height}: center-crop-wide makes pictures that are wider than high")
    rows, columns = image.shape[:2]
    part_rows = max(1, min(rows, round(columns * height / width)))  # of a sliver, one pixel of any proportions
    part = _middle(image, part_rows, min(columns, round(rows * width / height)))
    square = np.zeros([width, width, 3], dtype=np.uint8)
    top = (width - height) // 2
    square[top : top + height] = stretch(part, width, height)
    return square


def center_crop_dhariwal(image: Pixels, width: int, height: int) -> Pixels:
    """Bring the shorter side to the target size as the ADM training sets were made, and cut out the middle.

    Both sides are halved (rounded down) by PIL's box filter as long as the shorter one is at least twice the target;
    then one resize by PIL's bicubic filter brings the shorter side to the target, smaller images too, and the longer
    one to the nearest integer in proportion (a tie goes to the even one). After every resize pixels are 8-bit. Of a
    longer side that exceeds the target by an odd number, one more pixel is cut off at the right or bottom.
    The data preparation of Dhariwal and Nichol, arXiv 2105.05233, which EDM2 shares.

    Arguments and result as `pad_average`; width and height are equal.
    """
    _require_square("center-crop-dhariwal", width, height)
    image = to_rgb(image)
    while min(image.shape[:2]) >= 2 * width:
        image = _resized(image, image.shape[1] // 2, image.shape[0] // 2, Image.Resampling.BOX)
    scale = width / min(image.shape[:2])
    image = _resized(image, round(image.shape[1] * scale), round(image.shape[0] * scale), Image.Resampling.BICUBIC)
    return _middle(image, height, width)


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
    result: Pixels = np.rint(boxes.mean(axis=(1, 3))).astype(np.uint8)
    return result


#: Names of `--transform`. Each takes (image, width, height) and returns uint8 [H, W, 3], H and W depending on the
#: last two arguments alone; ValueError for a width and height that it cannot make.
TRANSFORMS: dict[str, Callable[[Pixels, int, int], Pixels]] = {
    "center-crop": center_crop,
    "center-crop-wide": center_crop_wide,
    "center-crop-dhariwal": center_crop_dhariwal,
    "pad-average": pad_average,
}


def _require_square(name: str, width: int, height: int) -> None:
    if width != height:
        raise ValueError(f"--resolution={width}x{height}: {name} makes squares, give such as {width}x{width}")


def _resized(image: Pixels, width: int, height: int, resample: Image.Resampling) -> Pixels:
    """Resize by PIL, rows first and then columns, with 8-bit pixels in between.

    That was PIL's own order when the published sets were made; newer versions take the cheaper one, which moves
    pixels of some sizes by a level.
    """
    rows = Image.fromarray(image).resize((width, image.shape[0]), resample)
    return np.asarray(rows.resize((width, height), resample))


def _middle(image: Pixels, rows: int, columns: int) -> Pixels:
    """The middle of an image; of an odd surplus, one more row or column goes at the bottom or right."""
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]
