"""Noise levels of one's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edm2_guidance.recipe.parts import Schedule
from edm2_guidance.recipe.spec import option
from edm2_guidance.sampling.from_file import FromFile, check_falling, read_columns
from edm2_guidance.sampling.schedules.resampled import resampled


@dataclass(frozen=True)
class Table(FromFile, Schedule):
    """Levels of your own: table:file=FILE, one a line, falling, without the 0 at the end; or table:sigmas=80+10+1.

    For another number of steps than there are levels, ln sigma goes straight from each to the next, over their index.
    """

    kind: ClassVar[str] = "table"
    formula: ClassVar[str] = "sigma_i from a table; between its levels straight in ln sigma"

    sigmas: tuple[float, ...] = option((), "Noise levels, falling, joined by +", unit="sigmas")

    def check(self) -> None:
        check_falling(self.kind, self.sigmas)

    def read(self, path: Path) -> dict[str, Any]:
        (sigmas,) = read_columns(path, ["a noise level"])
        return {"sigmas": sigmas}

    @property
    def usual_steps(self) -> int:
        return len(self.sigmas) or super().usual_steps

    def levels(self, num_steps: int) -> list[float]:
        if not self.sigmas:
            raise ValueError(f"the schedule {self.kind} is empty: give {self.kind}:file=FILE, a noise level a line")
        return resampled(self.sigmas, num_steps)
