"""Captioned picture grids: rows of methods, columns of weights or classes, as the papers print them.

Torch-free.
"""

from collections.abc import Sequence
from itertools import chain

from PIL import Image, ImageDraw, ImageFont

from edm2_guidance.images.fonts import typeface_for

Tile = Image.Image
#: What stands at one place of the grid: one tile, or a small block of them, row by row.
Cell = Tile | Sequence[Sequence[Tile]]

#: Tiles smaller than this are enlarged to it, by a whole factor without smoothing, so that pixels stay pixels.
MIN_TILE = 64

_PAPER = "white"
_INK = (40, 40, 40)


def compose_grid(
    tiles: Sequence[Sequence[Cell]],
    row_captions: Sequence[str] = (),
    column_captions: Sequence[str] = (),
    title: str | None = None,
    tile_size: int | None = None,
) -> Image.Image:
    """Lay out pictures in rows and columns on white, with captions.

    Args:
        tiles: Rows of cells. All rows have the same number of cells, all cells the same number of tiles, all tiles
            the same size in pixels.
        row_captions: One text per row, to the left of it; none for a grid without. Long texts are wrapped.
        column_captions: One text per column, above it; none for a grid without.
        title: Text above everything; None for none.
        tile_size: Longer side of a drawn tile in pixels. Larger tiles are reduced to it (Lanczos), smaller ones
            enlarged by the largest whole factor that does not exceed it. None keeps tiles as they are and
            enlarges those below 64 pixels to 64 or a little more.

    Returns:
        An RGB image.

    Captions may be of any script that a font on this machine has; what none has is told in a RuntimeWarning.
    Raises ValueError if rows, cells, tiles or captions do not match, naming the place.
    """
    if tile_size is not None and tile_size < 1:
        raise ValueError(f"tiles of {tile_size} pixels: need 1 or more")
    blocks = [[[[cell]] if isinstance(cell, Image.Image) else cell for cell in row] for row in tiles]
    _check_shapes(blocks, row_captions, column_captions)
    cells = [[_join_block(block, tile_size) for block in row] for row in blocks]
    return _Layout(cells, row_captions, column_captions, title).draw()


class _Layout:
    """Sizes and positions, in pixels; the font grows with the picture, so that it is readable when shown whole."""

    def __init__(
        self,
        cells: list[list[Image.Image]],
        row_captions: Sequence[str],
        column_captions: Sequence[str],
        title: str | None,
    ) -> None:
        self.cells = cells
        self.width, self.height = cells[0][0].size
        self.gap = max(8, min(self.width, self.height) // 16)
        columns, rows = len(cells[0]), len(cells)
        grid_width = columns * (self.width + self.gap) - self.gap
        size = min(max(grid_width // 36, 15), 48)
        self.margin = size
        face = typeface_for([*row_captions, *column_captions, title or ""])
        self.font = face.at(size)
        self.title_font = face.at(size * 4 // 3)
        self.rows = [_wrap(face.spell(text), self.font, 13 * size) for text in row_captions]
        self.columns = [_wrap(face.spell(text), self.font, self.width) for text in column_captions]
        self.left = self.margin + (_width(self.rows, self.font) + self.margin if self.rows else 0)
        self.total_width = self.left + grid_width + self.margin
        self.title = (
            _wrap(face.spell(title or ""), self.title_font, self.total_width - 2 * self.margin) if title else ""
        )
        self.below_title = self.margin + (_height(self.title, self.title_font) + self.margin if title else 0)
        captions = max((_height(text, self.font) for text in self.columns), default=0)
        self.top = self.below_title + (captions + self.margin // 2 if self.columns else 0)
        # A caption of many lines beside a small tile makes all rows higher; the tiles stand in their middle.
        self.row_height = max([self.height, *(_height(text, self.font) for text in self.rows)])
        self.total_height = self.top + rows * (self.row_height + self.gap) - self.gap + self.margin

    def draw(self) -> Image.Image:
        """The finished picture."""
        picture = Image.new("RGB", (self.total_width, self.total_height), _PAPER)
        draw = ImageDraw.Draw(picture)
        for i, row in enumerate(self.cells):
            for j, cell in enumerate(row):
                picture.paste(cell, (self.x(j), self.y(i)))
        middle = (self.total_width // 2, self.margin)
        _draw_text(draw, middle, self.title, self.title_font, "ma", "center")
        for j, text in enumerate(self.columns):  # standing on the row below
            place = (self.x(j) + self.width // 2, self.top - self.margin // 2)
            _draw_text(draw, place, text, self.font, "md", "center")
        for i, text in enumerate(self.rows):
            place = (self.left - self.margin, self.y(i) + self.height // 2)
            _draw_text(draw, place, text, self.font, "rm", "right")
        return picture

    def x(self, column: int) -> int:
        return self.left + column * (self.width + self.gap)

    def y(self, row: int) -> int:
        return self.top + row * (self.row_height + self.gap) + (self.row_height - self.height) // 2


def _check_shapes(
    blocks: Sequence[Sequence[Sequence[Sequence[Tile]]]], row_captions: Sequence[str], column_captions: Sequence[str]
) -> None:
    if not blocks or not blocks[0] or not blocks[0][0] or not blocks[0][0][0]:
        raise ValueError("a grid needs at least one picture")
    if row_captions and len(row_captions) != len(blocks):
        raise ValueError(f"{len(row_captions)} row captions for {len(blocks)} rows")
    if column_captions and len(column_captions) != len(blocks[0]):
        raise ValueError(f"{len(column_captions)} column captions for {len(blocks[0])} columns")
    first = blocks[0][0]
    shape, size = [len(line) for line in first], first[0][0].size
    for i, row in enumerate(blocks):
        if len(row) != len(blocks[0]):
            raise ValueError(f"row {i} of the grid has {len(row)} cells, row 0 has {len(blocks[0])}")
        for j, block in enumerate(row):
            if [len(line) for line in block] != shape or len(set(shape)) != 1:
                raise ValueError(f"row {i}, column {j} of the grid is not a block of {len(shape)}x{shape[0]} tiles")
            for tile in chain.from_iterable(block):
                if tile.size != size:
                    raise ValueError(f"row {i}, column {j} of the grid has a tile of {tile.size}, others {size}")


def _join_block(block: Sequence[Sequence[Tile]], tile_size: int | None) -> Image.Image:
    """A block of tiles as one picture, narrow white lines between them."""
    drawn = [[scaled(tile, tile_size) for tile in line] for line in block]
    width, height = drawn[0][0].size
    line_width = max(1, min(width, height) // 32)
    across, down = width + line_width, height + line_width
    joined = Image.new("RGB", (across * len(block[0]) - line_width, down * len(block) - line_width), _PAPER)
    for i, line in enumerate(drawn):
        for j, tile in enumerate(line):
            joined.paste(tile, (j * across, i * down))
    return joined


def scaled(tile: Tile, tile_size: int | None) -> Image.Image:
    """A tile in RGB at the size that `compose_grid` draws it in."""
    tile = tile.convert("RGB")
    longer = max(tile.size)
    if tile_size is None:
        factor = -(-MIN_TILE // longer)
    elif longer > tile_size:
        small = [max(1, round(side * tile_size / longer)) for side in tile.size]
        return tile.resize((small[0], small[1]), Image.Resampling.LANCZOS)
    else:
        factor = tile_size // longer
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)


def captioned(tiles: Sequence[Tile], texts: Sequence[str]) -> list[Tile]:
    """Tiles of one size, each with its text below it on white; again of one size."""
    width, height = tiles[0].size
    face = typeface_for(texts)
    font = face.at(max(width // 8, 10))
    wrapped = [_wrap(face.spell(text), font, width) for text in texts]
    below = max(_height(text, font) for text in wrapped) + int(font.size) // 2
    fields = []
    for tile, text in zip(tiles, wrapped, strict=True):
        fields.append(Image.new("RGB", (width, height + below), _PAPER))
        fields[-1].paste(tile, (0, 0))
        _draw_text(ImageDraw.Draw(fields[-1]), (width // 2, height + int(font.size) // 4), text, font, "ma", "center")
    return fields


def _wrap(text: str, font: ImageFont.FreeTypeFont, limit: int) -> str:
    """Break the text into lines no wider than `limit` pixels: between words where possible, else inside them."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if line and font.getlength(joined) > limit:
                lines.append(line)
                joined = word
            while font.getlength(joined) > limit and len(joined) > 1:
                fitting = max((n for n in range(1, len(joined)) if font.getlength(joined[:n]) <= limit), default=1)
                lines.append(joined[:fitting])
                joined = joined[fitting:]
            line = joined
        lines.append(line)
    return "\n".join(lines)


def _width(texts: Sequence[str], font: ImageFont.FreeTypeFont) -> int:
    """Width of the widest line of all texts."""
    lines = chain.from_iterable(text.splitlines() for text in texts)
    return max((int(font.getlength(line)) + 1 for line in lines), default=0)


def _height(text: str, font: ImageFont.FreeTypeFont) -> int:
    """Height of a text of one or more lines."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return int(draw.multiline_textbbox((0, 0), text, font, spacing=_spacing(font))[3]) + 1


def _draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, anchor: str, align: str
) -> None:
    draw.multiline_text(place, text, _INK, font, anchor, spacing=_spacing(font), align=align)


def _spacing(font: ImageFont.FreeTypeFont) -> int:
    """Pixels between lines, beyond PIL's own, which sits them tight."""
    return int(font.size) // 3
