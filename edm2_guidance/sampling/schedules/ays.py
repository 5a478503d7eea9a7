"""The published noise levels of Align Your Steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.schedules.resampled import resampled

_TABLES: Mapping[str, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


@dataclass(frozen=True)
class AYS(Schedule):
    """Ten levels, optimised for one of three networks, none of which is an EDM network. Experimental.

    The highest level is not 80, nor the lowest 0.002, so a network of EDM starts from less noise than it was trained
    for. For another number of steps ln sigma goes straight from each level to the next, over their index; that is the
    authors' recipe as it is told, which was not found in print.
    """

    kind: ClassVar[str] = "ays"
    source: ClassVar[str] = "arXiv 2404.14507"
    formula: ClassVar[str] = "sigma_i from a table of ten; between its levels straight in ln sigma"

    table: Literal["sd15", "sdxl", "svd"] = option("sd15", "Network that the levels are of")

    @property
    def usual_steps(self) -> int:
        return len(_TABLES[self.table])

    def levels(self, num_steps: int) -> list[float]:
        return resampled(_TABLES[self.table], num_steps)
