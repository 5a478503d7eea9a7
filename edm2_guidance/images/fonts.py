"""Fonts for captions: Pillow's own, and for what it cannot draw the best of those that are installed. Torch-free."""

import importlib.util
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

#: Where systems keep fonts: Linux, macOS, Windows.
FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts",
    "~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
_NO_CHARACTER = "\U0010ffff"  # drawn as every font draws what it lacks

#: What Pillow's font cannot draw and captions are likely to hold; accents are dropped.
_SPELLED = str.maketrans(
    {
        "\N{GREEK SMALL LETTER SIGMA}": "sigma",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{MINUS SIGN}": "-",
        "\N{LESS-THAN OR EQUAL TO}": "<=",
        "\N{GREATER-THAN OR EQUAL TO}": ">=",
        "\N{ELEMENT OF}": "in",
        "\N{INFINITY}": "inf",
    }
)


@dataclass(frozen=True)
class Typeface:
    """A font of any size. file: None for Pillow's own. extra: what it is to draw as it is."""

    file: Path | None = None
    extra: frozenset[str] = frozenset()

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at that height in pixels."""
        if self.file is not None:
            return ImageFont.truetype(str(self.file), size)
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise RuntimeError("captions need a Pillow with FreeType support; install the wheel from PyPI")
        return font

    def spell(self, text: str) -> str:
        """The text in what the font can draw: other characters become their nearest in ASCII, or `?`."""
        return "".join(char if char in self.extra else _plain(char) for char in unicodedata.normalize("NFC", text))


def typeface_for(texts: Iterable[str]) -> Typeface:
    """The typeface that draws these texts: Pillow's own if it can, else the installed font that lacks least.

    What none of them has is told in a RuntimeWarning, with what to install.
    """
    chars = {char for text in texts for char in unicodedata.normalize("NFC", text)}
    foreign = frozenset(filter(_is_foreign, chars))
    best = Typeface()
    for file in _installed() if foreign else ():
        drawn = _drawn_by(file, chars)
        if len(drawn & foreign) > len(best.extra & foreign):
            best = Typeface(file, drawn)
        if drawn >= foreign:
            break
    if missing := sorted(foreign - best.extra):
        scripts = ", ".join(dict.fromkeys(unicodedata.name(char, "unnamed").split()[0] for char in missing))
        what = f"{''.join(missing[:8])} ({scripts})"
        cure = "install one that has, such as Noto Sans (on Debian and Ubuntu: fonts-noto-core, fonts-noto-cjk)"
        warnings.warn(f"no font here has {what}: captions show ? instead; {cure}", RuntimeWarning, stacklevel=2)
    return best


def _plain(text: str) -> str:
    """The text in what Pillow's font can draw."""
    spelled = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    kept = "".join(char for char in spelled if not unicodedata.combining(char))
    return kept.encode("ascii", "replace").decode("ascii")


def _is_foreign(char: str) -> bool:
    """Whether a character has a shape of its own, and none that Pillow's font can draw."""
    return unicodedata.category(char)[0] in "LNPS" and "?" in _plain(char) and char != "?"


def _installed() -> Iterator[Path]:
    """Font files, plain ones without serifs first; matplotlib's at the end, which has most alphabets."""
    folders = [Path(os.path.expanduser(folder)) for folder in FOLDERS]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    for folder in folders:
        files = (path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf", ".ttc"))
        # Fonts of last resort draw the name of a script in place of its characters.
        yield from sorted((path for path in files if "lastresort" not in path.name.lower()), key=_plainness)


def _plainness(file: Path) -> tuple[bool, bool, str]:
    name = file.name.lower()
    slanted_or_bold = any(word in name for word in ("bold", "italic", "oblique", "black", "thin", "light"))
    return slanted_or_bold, "sans" not in name, name


def _drawn_by(file: Path, chars: Iterable[str]) -> frozenset[str]:
    """Those of the characters that a font has; none of a file that is no font, or one of fixed sizes."""
    try:
        font = ImageFont.truetype(str(file), 20)
        lacking = _shape(font, _NO_CHARACTER)
        return frozenset(char for char in chars if _shape(font, char) != lacking)
    except (OSError, ValueError):
        return frozenset()


def _shape(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(char)
    return mask.size, bytes(mask)
