"""The sheets of the interval paper's figures: images edge to edge, and a part of each magnified under it.

Torch-free.
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from edm2_guidance.images.grid import compose_grid

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded

#: Width of the frames, as shares of the image's height.
REGION_FRAME, INSET_FRAME = 0.007, 0.004

FRAME_COLOUR = (255, 0, 0)

#: Smaller images are enlarged to this width, or a little less, by a whole factor: frames need pixels.
MIN_WIDTH = 256


def framed(image: Image.Image, box: Box) -> Image.Image:
    """A copy with a red frame of 0.7 % of its height just inside `box`. ValueError if the box leaves the image."""
    _check_box(image, box)
    return _with_frame(image, box, REGION_FRAME)


def magnified(image: Image.Image, box: Box) -> Image.Image:
    """The part inside `box`, enlarged (Lanczos) to the image's size, with a frame of 0.4 % of its height at the edge.

    ValueError if the box leaves the image.
    """
    _check_box(image, box)
    whole = (0, 0, *image.size)
    return _with_frame(image.crop(box).resize(image.size, Image.Resampling.LANCZOS), whole, INSET_FRAME)


def sheet(images: Sequence[Image.Image], columns: int, box: Box | None = None, caption: str = "") -> Image.Image:
    """Images of one size in rows of `columns`, edge to edge; with `box`, under each row what it frames, magnified.

    Images narrower than 256 pixels are enlarged by the largest whole factor that stays within. `box` counts the
    pixels of the images as given. A caption stands above the sheet on white. ValueError if the rows do not come out.
    """
    if not images or len(images) % columns != 0:
        raise ValueError(f"{len(images)} images are not rows of {columns}")
    width, height = images[0].size
    factor = max(1, MIN_WIDTH // width)
    width, height = width * factor, height * factor
    tiles = [image.convert("RGB").resize((width, height), Image.Resampling.NEAREST) for image in images]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    if box is not None:
        left, top, right, bottom = (end * factor for end in box)
        around = (left, top, right, bottom)
        rows = [[draw(tile, around) for tile in row] for row in rows for draw in (framed, magnified)]
    joined = Image.new("RGB", (width * columns, height * len(rows)))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            joined.paste(tile, (j * width, i * height))
    return compose_grid([[joined]], title=caption) if caption else joined


def _with_frame(image: Image.Image, box: Box, share: float) -> Image.Image:
    image = image.copy()
    left, top, right, bottom = box
    edge = max(1, round(share * image.height))
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=FRAME_COLOUR, width=edge)
    return image


def _check_box(image: Image.Image, box: Box) -> None:
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ValueError(f"an inset of {box} does not lie in an image of {image.width}x{image.height} pixels")
