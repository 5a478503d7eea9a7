"""Figures of matplotlib as files to publish: PNG, PDF or SVG, in a style, of the same bytes every time.

Texts stay texts, with their fonts in a PDF. matplotlib, which is optional, is imported when something is drawn.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib.atomic import atomic_path, check_destination
from dnnlib.extras import matplotlib_figure, need

INSTALL = "pip install matplotlib"
SUFFIXES = (".png", ".pdf", ".svg")
#: Of Okabe and Ito, which people with any colour vision tell apart; beside them markers that differ without colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

#: What a page of a paper wants, by matplotlib's names.
PRINT = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "figure.titlesize": 8, "legend.fontsize": 8,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "lines.linewidth": 0.8, "lines.markersize": 3.5,
    "axes.linewidth": 0.5, "grid.linewidth": 0.4, "xtick.major.width": 0.5, "ytick.major.width": 0.5,
    "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5, "ytick.minor.size": 1.5, "savefig.dpi": 300,
}  # fmt: skip
_USUAL = {"figure.titlesize": 10, "legend.fontsize": 8, "lines.linewidth": 1.4, "lines.markersize": 5}
_DPI = 130  # of a PNG, unless the style has its own
_TEXTS = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "edm2-guidance"}
_NO_DATE = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def check_target(path: Path) -> None:
    """ValueError or OSError, before any work, if no picture could be written there."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: give a name that ends in {', '.join(SUFFIXES)}")
    check_destination(path)


def check_style(style: str | None) -> None:
    """ValueError if `styled` would know no such style, or cannot read its file; ImportError without matplotlib."""
    with styled(style):
        pass


@contextmanager
def styled(style: str | None = None) -> Iterator[None]:
    """Inside, figures are drawn in a style: `print`, one of matplotlib's by name, or a .mplstyle file; None for ours.

    Colours and markers are those above unless the style has its own. ValueError for a style that is not there.
    """
    matplotlib_figure()  # first, so that no backend is asked for
    matplotlib, styles = need("matplotlib", INSTALL), need("matplotlib.style", INSTALL)
    cycle = need("cycler", INSTALL).cycler(color=COLOURS, marker=MARKERS)
    with matplotlib.rc_context({**_USUAL, "savefig.dpi": _DPI, "axes.prop_cycle": cycle}):
        if style == "print":
            matplotlib.rcParams.update(PRINT)
        elif style is not None:
            try:
                styles.use(style)
            except OSError as error:
                near = difflib.get_close_matches(style, ["print", *styles.available])
                advice = (
                    f"near it: {', '.join(near)}" if near else "give print, a style of matplotlib or a .mplstyle file"
                )
                raise ValueError(f"style {style}: there is none of that name; {advice}") from error
        yield


def setting(name: str) -> Any:
    """One of matplotlib's, as the style has it."""
    return need("matplotlib", INSTALL).rcParams[name]


def new_figure(inches: tuple[float, float]) -> Any:
    """An empty figure that arranges its axes, for a file. ImportError without matplotlib."""
    return matplotlib_figure()(figsize=inches, layout="constrained")


def save(figure: Any, path: Path, dpi: float | None = None) -> None:
    """Write a picture, the format by its suffix; it appears whole or not at all. dpi: None for that of the style."""
    suffix, dpi = path.suffix.lower(), dpi or setting("savefig.dpi")
    with need("matplotlib", INSTALL).rc_context(_TEXTS), atomic_path(path) as temporary:
        figure.savefig(temporary, format=suffix.lstrip("."), dpi=dpi, metadata=_NO_DATE[suffix])
