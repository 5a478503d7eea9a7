"""The settings of EDM's Table 2, and those that show its samplers (arXiv 2206.00364), out of `edm.csv`. No torch here.

A setting is a line: the network, sampler, steps and the FID in print. Most numbers are second hand, and say so. The
sampler's state is float64 in all, as published.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

#: Where the authors published networks and references.
EDM_ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm"


@dataclass(frozen=True)
class Setting:
    """One line. table: of `papers.tables`. net: below the folder of networks; None: never released."""

    name: str
    table: str
    data: str
    model: str
    method: str
    net: str | None
    sampler: str
    schedule: str
    num_steps: int
    fid: float
    assumed: str
    note: str

    @property
    def unconditional(self) -> bool:
        """Whether the network knows no classes."""
        return self.net is not None and "-uncond-" in self.net


@functools.cache
def settings() -> tuple[Setting, ...]:
    """All of them, table by table."""
    with open(Path(__file__).with_name("edm.csv"), newline="", encoding="utf-8") as file:
        return tuple(
            Setting(
                name=line["preset"],
                table=line["table"],
                data=line["data"],
                model=line["model"],
                method=line["method"],
                net=line["net"] or None,
                sampler=line["sampler"],
                schedule=line["schedule"],
                num_steps=int(line["steps"]),
                fid=float(line["fid"]),
                assumed=line["assumed"],
                note=line["note"],
            )
            for line in csv.DictReader(file)
        )
