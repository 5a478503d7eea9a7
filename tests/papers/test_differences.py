"""Differences of curves: of the same seeds, with the intervals of `compare`, or refused."""

import numpy as np
import pytest

from edm2_guidance.metrics.compare import of_lines
from edm2_guidance.metrics.uncertainty import difference
from edm2_guidance.papers.differences import difference_panel
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.recipe import Recipe

RECIPE = Recipe(NetworkRef("main"), num_steps=16).to_json()


def line(name, weight, value, block=0, kind="search", **more):
    tag = {"name": name, "point": {"weight": weight}} if kind == "search" else {"name": name, "block": block}
    seeds = f"{block * 10}-{block * 10 + 9}"
    return {
        "images": {"seeds": seeds, "num_images": 10, "total": 10}, "metric": "fd_mnist", "value": value,
        "num_images": 10, "recipe": RECIPE, "recipe_hash": f"{name} {weight}", kind: tag, **more,
    }  # fmt: skip


def blocks(name, weight, *values, **more):
    return [line(name, weight, value, block, **more) for block, value in enumerate(values)]


def panel(records, *names, against="cfg"):
    return difference_panel(records, names, 10, "weight", against, of_lines)


CFG = blocks("cfg", 1.5, 1.0, 2.0, 1.5) + blocks("cfg", 2.0, 1.1, 2.3, 1.4)


def test_blocks_of_the_same_seeds_are_paired():
    autog = blocks("autog", 1.5, 0.9, 1.8, 1.5) + blocks("autog", 3.0, 2, 2, 2)
    found = panel(CFG + autog, "autog")
    assert found.curves == {"autog": {1.5: [pytest.approx(-0.1)]}}
    known = difference(1.4, 1.5, np.array([0.9, 1.8, 1.5]), np.array([1.0, 2.0, 1.5]), paired=True)
    assert found.intervals["autog"][1.5].low == pytest.approx(known.low)
    assert (found.baseline, found.names) == ("cfg", ["autog", "cfg"])
    assert found.notes == (
        "autog: 1 of 2 points are left out, where cfg has none",
        "autog - cfg: by the spread over blocks of seeds, 3 and 3, paired",
    )


def test_only_blocks_that_both_have_count():
    found = panel(CFG + blocks("autog", 2.0, 1.0, 2.0), "autog")
    assert found.curves == {"autog": {2.0: [pytest.approx(-0.2)]}}


def test_a_row_is_a_baseline_at_every_weight():
    row = blocks("mnist16", 1, 2.0, 2.0, 2.5, kind="row")
    found = panel(CFG + row, "cfg", against="mnist16")
    values = {weight: [round(value, 3) for value in values] for weight, values in found.curves["cfg"].items()}
    assert values == {1.5: [-0.667], 2.0: [-0.567]}
    other = [{**each, "images": {**each["images"], "precision": "bfloat16"}} for each in row]
    assert panel(CFG + other + row, "cfg", against="mnist16").curves == found.curves, "of the precision of the search"
    with pytest.raises(ValueError, match="no row of that name at 10 images with networks in the usual precision"):
        panel(CFG + other, "cfg", against="mnist16")


def test_intervals_of_lines_are_taken_and_said_to_be_unpaired():
    interval = {"interval": {"low": 0.8, "high": 1.2, "error": 0.1}}
    records = [line("cfg", 1.5, 1.0, **interval), line("autog", 1.5, 1.0, **interval)]
    found = panel(records, "autog")
    assert found.intervals["autog"][1.5].high == pytest.approx(0.2 * 2**0.5)
    assert "unpaired, by the intervals of the lines; both are of the same seeds" in found.notes[0]


@pytest.mark.parametrize(
    ("records", "against", "message"),
    [
        (
            [line("autog", 1.5, 1.0, block=3)],
            "cfg",
            r"autog and cfg at 1.5 have no block of seeds in common \(30-",
        ),
        ([line("autog", 1.5, 1.0)], "cfg", "autog and cfg at 1.5: no interval: a line has none"),
        ([line("autog", 9, 1.0)], "cfg", "--against=cfg: it has no weight that autog has"),
        ([line("autog", 1.5, 1.0)], "nobody", "--against=nobody: no search and no row of that name at 10 images"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(records, against, message):
    with pytest.raises(ValueError, match=message):
        panel(CFG + records, "autog", against=against)
