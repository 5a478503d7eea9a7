"""A contact sheet: some images of any set in one picture, in order, by chance, or a row per class."""

import os
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from edm2_guidance.images.archive import open_archive, select_subset
from edm2_guidance.images.convert import labels_of, read_pixels
from edm2_guidance.images.grid import captioned, compose_grid, scaled
from edm2_guidance.recipe.class_names import ClassName, class_text, find_class

#: More images than this are no sheet that anybody looks at.
MAX_IMAGES = 10_000


class ContactSheet:
    """Which images of a set a sheet has, chosen when made; `draw` reads these alone, one at a time.

    Attributes:
        num_images: How many the sheet has.
        notes: What the user should know, as sentences.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        num: int = 64,
        columns: int = 8,
        seed: int | None = None,
        classes: Sequence[int | ClassName] | None = None,
        tile: int = 128,
    ) -> None:
        """Looks at names, and with classes at labels.

        Args:
            source: A ZIP, tar, folder or pattern of these, as `open_archive` takes them.
            num: Images at most, unless there are classes.
            columns: Images in a row.
            seed: Of the choice, as `select_subset` makes it; None for the first ones in the order of names.
            classes: A row for each, of as many images as there are columns; empty for all classes. None for no rows.
            tile: Longer side of an image in the sheet, pixels. Larger ones are reduced to it, smaller ones enlarged
                by a whole factor; images of other proportions stand in the middle of equal fields.

        Raises FileNotFoundError if nothing is there, ValueError if it is no set of image files, has no such classes, or
        the sheet would have more than 10,000 images.
        """
        self._archive = open_archive(source)
        self._names, self.notes = self._archive.names, [*self._archive.notes]
        if any(name.lower().endswith(".npy") for name in self._names):
            raise ValueError(f"{source} holds arrays, no image files: dataset_tool.py decode makes images of latents")
        self._tile = tile
        self._captions: list[str] = []
        if classes is None:
            chosen = _chosen(range(len(self._names)), num, seed)
            self._rows = [chosen[start : start + columns] for start in range(0, len(chosen), columns)]
        else:
            self._rows = [_chosen(members, columns, seed) for members in self._members(classes)]
        self.num_images = sum(map(len, self._rows))
        if self.num_images > MAX_IMAGES:
            raise ValueError(f"a sheet of {self.num_images:,} images: ask for {MAX_IMAGES:,} or fewer")

    def _members(self, wanted: Sequence[int | ClassName]) -> list[list[int]]:
        """The images of each class, by index; captions are kept."""
        labels, names, notes = labels_of(self._archive)
        self.notes += notes
        members: dict[int, list[int]] = {}
        for index, name in enumerate(self._names):
            label = None if labels is None else labels[name]
            if not isinstance(label, int):
                raise ValueError(f"{self._archive.path} has no classes: leave out --classes")
            members.setdefault(label, []).append(index)
        where, count = str(self._archive.path), max(members) + 1
        named = [item.text for item in wanted if not isinstance(item, int)]
        if named and names is None:
            raise ValueError(f"{where} has no class names, such as {named[0]}: give numbers from 0 to {count - 1}")
        indices = [item if isinstance(item, int) else find_class(item.text, names, where, count) for item in wanted]
        missing = [index for index in indices if index not in members]
        if missing:
            raise ValueError(f"{where} has no image of class {missing[0]}; its classes are up to {max(members)}")
        indices = indices or sorted(members)
        self._captions = [class_text(index, names) for index in indices]
        return [members[index] for index in indices]

    def draw(self, progress: Callable[[int], None] | None = None) -> Image.Image:
        """The sheet, RGB; `progress` is told each image. ValueError, naming the file, for one that cannot be read."""
        tiles: dict[int, Image.Image] = {}
        with self._archive:
            for index in sorted(index for row in self._rows for index in row):  # as a tar has them
                pixels = read_pixels(self._archive, self._names[index]).pixels
                tiles[index] = scaled(Image.fromarray(pixels), self._tile)
                if progress is not None:
                    progress(1)
        size = max(tile.width for tile in tiles.values()), max(tile.height for tile in tiles.values())
        across = max(map(len, self._rows))
        filled = [[_field(tiles[index], size) for index in row] for row in self._rows]
        filled = [row + [_field(None, size)] * (across - len(row)) for row in filled]
        if self._captions:
            return compose_grid([[[row]] for row in filled], self._captions, tile_size=max(size))
        return compose_grid([[filled]], tile_size=max(size))


def captioned_sheet(
    groups: Mapping[str, Sequence[tuple[Image.Image, str]]], *, columns: int = 8, tile: int = 128
) -> Image.Image:
    """Groups of pictures below each other, each picture with a text under it, each group with its name beside it.

    Pictures are of one size. columns, tile: as of `ContactSheet`. ValueError without any picture, or with more than
    10,000.
    """
    shown = [each for group in groups.values() for each in group]
    if len(shown) > MAX_IMAGES:
        raise ValueError(f"a sheet of {len(shown):,} images: ask for {MAX_IMAGES:,} or fewer")
    if not shown:
        raise ValueError("a sheet without images: ask for 1 or more")
    fields = iter(captioned([scaled(picture, tile) for picture, _ in shown], [text for _, text in shown]))
    across = min(columns, max(map(len, groups.values())))
    lines, captions = [], []
    for name, group in groups.items():
        for start in range(0, len(group), across):
            lines.append([next(fields) for _ in group[start : start + across]])
            captions.append("" if start else name)
    size = lines[0][0].size
    lines = [line + [Image.new("RGB", size, "white")] * (across - len(line)) for line in lines]
    return compose_grid([[[line]] for line in lines], captions, tile_size=max(size))


def _chosen(indices: Sequence[int], num: int, seed: int | None) -> list[int]:
    """So many of them, in their order: the first, or by chance."""
    return [*indices[:num]] if seed is None else [indices[at] for at in select_subset(len(indices), num, seed)]


def _field(tile: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    """White, of this width and height, with the tile in its middle."""
    field = Image.new("RGB", size, "white")
    if tile is not None:
        field.paste(tile, ((size[0] - tile.width) // 2, (size[1] - tile.height) // 2))
    return field
