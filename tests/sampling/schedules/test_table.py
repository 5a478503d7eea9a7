"""Numbers from a file: noise levels and weights of one's own, which recipes hold, store and hash."""

import json
import math

import numpy as np
import pytest
import torch

from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Sampler, Schedule, Weight, planned
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.stored import read_recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe
from tests.functions import levels

LEVELS = "# of mine\n80\n10, \n\n1  # and the last\n"


@pytest.fixture
def file(tmp_path):
    def write(text, name="levels.txt"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_levels_from_a_file(file):
    made = Schedule.parse(f"table:file={file(LEVELS)}")
    assert made == Schedule.parse("table:sigmas=80+10+1")
    assert str(made) == "table:sigmas=80+10+1"
    assert made.levels(3) == [80, 10, 1]
    assert made.levels(5) == pytest.approx([80, math.sqrt(800), 10, math.sqrt(10), 1])
    assert Recipe("net", schedule=made).evaluations() == {"main": 5}, "three steps of heun"


def test_the_content_is_what_counts(file):
    """Not the name, nor remarks; other numbers are another recipe; the file may go."""
    path = file(LEVELS)
    recipe = Recipe("net", schedule=f"table:file={path}")
    other = file("80 \n10\n1", "other.csv")
    again = Recipe("net", schedule=f"table:file={other}")
    assert again.hash == recipe.hash
    path.write_text("80\n11\n1\n")
    assert Recipe("net", schedule=f"table:file={path}").hash != recipe.hash
    path.unlink()
    stored = read_recipe(json.loads(json.dumps(recipe.to_json())))
    assert stored.hash == recipe.hash
    assert stored.levels() == [80, 10, 1]


def test_a_mark_of_the_byte_order_is_no_part_of_a_number(tmp_path):
    (tmp_path / "table.txt").write_bytes("50 1.5\n1 2\n".encode("utf-8-sig"))
    assert str(Weight.parse(f"table:file={tmp_path / 'table.txt'}")) == "table:sigmas=50+1:weights=1.5+2"


def test_a_stored_recipe_reads_no_file(file):
    held = Recipe("net", schedule="table:sigmas=3+2").to_json() | {"schedule": f"table:file={file(LEVELS)}"}
    with pytest.raises(ValueError, match="names a file, and recipes that are stored hold what was in it"):
        read_recipe(held)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("80\nten\n1\n", "levels.txt, line 2: 'ten' is not a noise level, as numbers"),
        ("80\n10 3\n", "line 2: '10 3' is not a noise level"),
        ("80\nnan\n", "line 2: 'nan' is not a noise level"),
        ("# nothing\n", "levels.txt holds no numbers: write a noise level on each line"),
        ("80\n80\n", "noise levels must fall, and 80 comes after 80"),
        ("1\n10\n", "noise levels must fall, and 10 comes after 1"),
        ("80\n0\n", "noise levels must be above 0 and finite"),
    ],
)
def test_malformed_levels(file, text, says):
    with pytest.raises(ValueError, match=says):
        Schedule.parse(f"table:file={file(text)}")


def test_no_file_no_text_and_both(tmp_path):
    with pytest.raises(ValueError, match=r"table: no file at 'nowhere.txt'"):
        Schedule.parse("table:file=nowhere.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text"):
        Schedule.parse(f"table:file={tmp_path / 'binary'}")
    with pytest.raises(ValueError, match="is a folder"):
        Weight.parse(f"table:file={tmp_path}")
    (tmp_path / "levels").write_text(LEVELS)
    with pytest.raises(ValueError, match="the file says sigmas, which is given too"):
        Schedule.parse(f"table:sigmas=3+2:file={tmp_path / 'levels'}")
    with pytest.raises(ValueError, match="the schedule table is empty: give table:file=FILE"):
        Recipe("net", schedule="table")
    with pytest.raises(ValueError, match="the weight table is empty"):
        Recipe("net", Guide("other", "table"))


def test_weights_from_a_file(file):
    """Straight over ln sigma, by numpy's interpolation; flat beyond the ends."""
    path = file("40 1\n5, 3\n0.5 2\n")
    weight = Weight.parse(f"table:file={path}")
    assert weight == Weight.parse("table:sigmas=40+5+0.5:weights=1+3+2")
    steps = planned(Sampler.parse("heun"), levels(16))
    places = np.log([step.level for step in steps])
    expected = np.interp(places, np.log([0.5, 5, 40]), [2, 3, 1])
    assert [weight.value(step) for step in steps] == pytest.approx(expected.tolist())
    assert weight.off(steps[0])
    half = weight.with_fields({"w": 1.5})
    assert [half.value(step) for step in steps] == pytest.approx((1 + (expected - 1) / 2).tolist())
    assert not weight.with_fields({"w": 1.0}).moves
    exactly = planned(Sampler.parse("euler"), [40.0, 5.0, 0.5])
    assert [weight.value(step) for step in exactly] == [1, 3, 2]


def test_weights_under_churn_are_of_the_schedules_level():
    weight = Weight.parse("table:sigmas=10+1:weights=3+1")
    (first, *_) = planned(Sampler.parse("euler:S_churn=10"), [5.0, 1.0])
    assert first.sigma > first.level
    assert weight.value(first) == pytest.approx(1 + 2 * math.log(5) / math.log(10))


@pytest.mark.parametrize("text", ["table:sigmas=10+1:weights=2", "table:sigmas=10:weights=inf"])
def test_a_weight_for_each_level(text):
    with pytest.raises(ValueError, match="a finite weight for each noise level is needed"):
        Weight.parse(text)


def test_a_table_that_is_1_asks_no_reference():
    guide = Guide("other", "table:sigmas=1+0.5:weights=1+3")
    recipe = Recipe("net", guide, 16, sampler="euler")
    below = sum(level < 1 for level in recipe.levels())
    assert recipe.evaluations() == {"main": 16, "guide 1": below}


def test_a_table_costs_what_was_said(tiny_networks):
    guide = Guide(str(tiny_networks["weak"]), "table:sigmas=1+0.5:weights=1+3")
    recipe = Recipe(str(tiny_networks["cond"]), guide, schedule="table:sigmas=10+3+0.7+0.1")
    generation = open_recipe(recipe, "cpu")
    counted = dict.fromkeys(generation.evaluations_per_image(), 0)
    whole, _ = sample(generation, [0, 1], counted)
    assert recipe.evaluations() == {"main": 7, "guide 1": 3}
    assert counted == {"main": 14, "guide 1": 6}
    torch.testing.assert_close(sample(generation, [1])[0], whole[1:], rtol=1e-3, atol=1e-4)


def test_large_numbers_in_lists():
    made = Weight.parse("table:sigmas=1e20+1:weights=1e16+2")
    assert Weight.parse(str(made)) == made


def test_captions_of_many_numbers_are_short():
    many = "+".join(str(100 - number) for number in range(40))
    assert len(Schedule.parse(f"table:sigmas={many}").caption) < 20
    assert Schedule.parse("table:sigmas=3+2").caption == "table:sigmas=3+2"
