"""The plot of diagnostics: how far main network and references are apart at each noise level, above the weights.

matplotlib is needed to draw. No torch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dnnlib import figures
from edm2_guidance.papers.plots import Look, add_legend, looks

_QUANTILES = (0.05, 0.5, 0.95)  # of the images: band, line, band


class Diagnostics(Protocol):
    """What is drawn of `images.diagnostics.Diagnostics`."""

    @property
    def sigma(self) -> NDArray[np.float32]: ...
    @property
    def difference(self) -> NDArray[np.float32]: ...
    @property
    def weight(self) -> NDArray[np.float32]: ...
    @property
    def guides(self) -> tuple[str, ...]: ...


Named = Sequence[tuple[str, Diagnostics]]  # with what each is called


def curve_names(sets: Named) -> list[str]:
    """A curve for every guide of every set. ValueError for a set without guides, which has nothing to draw."""
    for name, found in sets:
        if not found.guides:
            raise ValueError(f"{name} was made without guidance: nothing to draw")
    return [name if len(found.guides) == 1 else f"{name}, {guide}" for name, found in sets for guide in found.guides]


def draw(sets: Named, path: str | Path, look: Look) -> None:
    """Draw them into a PNG, PDF or SVG, which appears whole or not at all. Raises as `plots.draw`."""
    with figures.styled(look.style):
        figures.save(arranged(sets, look), Path(path))


def arranged(sets: Named, look: Look) -> Any:
    """The figure that `draw` saves, inside `figures.styled`. Curves break off where a guide is off."""
    width = look.width or 5.2
    figure = figures.new_figure((width, look.height or width))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    handles = []
    for (sigma, difference, weight), style in zip(_curves(sets), looks(), strict=False):
        low, median, high = _quantiles(difference)
        handles += above.plot(sigma, median, **style)
        above.fill_between(sigma, low, high, color=style["color"], alpha=0.15, lw=0)
        below.plot(sigma, _quantiles(weight)[1], **style)
    below.axhline(1, ls="--", lw=0.8, color="#666666")
    above.set(xscale="log", yscale="log", ylabel="RMS of D_main - D_ref")
    below.set(xlabel="noise level sigma\n(lines: median of the images; bands: 5 to 95 %)", ylabel="weight w")
    for axes in (above, below):
        axes.grid(alpha=0.25)
    add_legend(above, handles, curve_names(sets) if look.labels is None else look.labels, width)
    if look.title:
        figure.suptitle(look.title)
    return figure


def _curves(sets: Named) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """Of every guide: sigma [steps], difference and weight [N, steps]."""
    for _, found in sets:
        for guide in range(len(found.guides)):
            yield found.sigma, found.difference[:, :, guide], found.weight[:, :, guide]


def _quantiles(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over the images, [3, steps], of those of which there is a value; NaN where there is none."""
    known = ~np.isnan(values).all(0)
    found = np.full((len(_QUANTILES), values.shape[1]), np.nan)
    found[:, known] = np.nanquantile(values[:, known].astype(np.float64), _QUANTILES, axis=0)
    return found
