"""Every kind of sampling says what it computes and where it is from."""

import pytest

from edm2_guidance.recipe.catalog import CATALOG, OF_FUNCTIONS, find, kinds

METRICS = {"extractor", "measure", "change"}
#: What they compute is the user's.
OWN = {*OF_FUNCTIONS.items(), ("schedule", "table"), ("weight", "table")}
KINDS = [(axis, kind) for axis in CATALOG if axis not in METRICS for kind in kinds(axis)]


@pytest.mark.parametrize(("axis", "kind"), KINDS)
def test_every_kind_has_a_formula_and_a_source(axis, kind):
    cls = find(axis, kind)
    assert bool(cls.source) == ((axis, kind) not in OWN)
    lines = cls.formula.split("\n")
    assert all(line.strip() == line and line for line in lines)
    assert max(map(len, lines)) <= 110, "as wide as a page"
    assert cls.formula.isascii(), "as one would type it"
