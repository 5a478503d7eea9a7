"""Heat maps over images, as pictures. Torch-free."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edm2_guidance.images.insets import sheet

# From dark blue by green to yellow, ever lighter; evenly spaced.
_COLOURS = np.array([(40, 20, 120), (20, 100, 210), (20, 165, 170), (120, 195, 100), (235, 190, 50), (250, 250, 40)])


def heat_picture(image: NDArray[np.uint8], heat: NDArray[np.float64]) -> Image.Image:
    """The image, the map in colours, and both over each other, side by side.

    image: uint8 [H, W, 3]. heat: [h, w] from 0 to 1, enlarged by Lanczos from its 8 bits. Over each other: twice the
    map's colours plus the image, each from 0 to 1, and the sum brought to that range again (arXiv 2203.06026).
    """
    height, width = image.shape[:2]
    small = Image.fromarray((heat * 255).round().astype(np.uint8))
    large = np.asarray(small.resize((width, height), Image.Resampling.LANCZOS)) / 255
    colours = _coloured(large)
    both = _stretched(2 * colours + _stretched(image.astype(np.float64)))
    return sheet([Image.fromarray(each) for each in (image, _in_8_bits(colours), _in_8_bits(both))], 3)


def _coloured(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """[H, W] from 0 to 1 -> [H, W, 3] likewise."""
    places = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(heat, places, channel) for channel in _COLOURS.T], axis=-1) / 255


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 to 1; all 0 if they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _in_8_bits(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (values * 255).round().astype(np.uint8)
