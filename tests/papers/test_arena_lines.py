"""Which lines of a ledger are an arena's as it is today."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edm2_guidance.metrics.ledger import read
from edm2_guidance.papers.arena import Method, Search, Solvers, load
from edm2_guidance.papers.arena_lines import lines_of
from edm2_guidance.papers.standings import standings
from tests.arenas import ARENA, scores_of
from tests.papers.ledger_lines import line

RECORDS = [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.9)]


def searched(entry, value, w=1.5):
    found, point = next(each for each in ARENA.entries if each.name == entry), {"weight": w}
    return line(value, search=f"small/{entry}", point=point, recipe=found.at(point), num=1000)


def held_by(record, sha256):
    """The same line, of a main network that held this."""
    recipe = record["recipe"]
    return {**record, "recipe": {**recipe, "net": {**recipe["net"], "sha256": sha256}}}


def test_all_lines_of_the_arena_fit():
    found = lines_of(ARENA, [*RECORDS, searched("fdg/weak", 1.0), line(0.5)])
    assert {name: [each["value"] for each in lines] for name, lines in found.finals.items()} == {
        "linear/weak": [2.0, 4.0], "fdg/weak": [1.9, 3.8],
    }  # fmt: skip
    assert [each["value"] for each in found.searches["fdg/weak"]] == [1.0]
    assert found.notes == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"methods": (Method("linear"), Method("fdg", rule="fdg:low=0.5"))}, "3 of another recipe than that of"),
        ({"num_steps": 3}, "5 of another recipe"),
        ({"sampler": "euler"}, "5 of another recipe"),
        ({"schedule": "vp"}, "5 of another recipe"),
        ({"guides": {"weak": "mnist16-uncond"}}, "5 of another recipe"),
        ({"net": "other.pkl"}, "5 of another recipe"),
        (
            {"methods": (Method("linear", weight="constant:w=2", over="first", values=(0.0, 1.0)),)},
            "2 at another setting than",
        ),
        ({"search": Search(values=(1.25, 2.0))}, "4 at another setting"),
        ({"reference": "img64"}, "5 against another reference than img64"),
        ({"reference": "elsewhere/mnist16-refs.npz"}, None),
        ({"search": Search(num_images=10)}, None),
    ],
)
def test_what_was_changed_since(changed, said):
    """Lines of an entry that was another one when they were written are no scores of it."""
    found = lines_of(replace(ARENA, **changed, solvers=Solvers()), [*RECORDS, searched("fdg/weak", 1.0)])
    assert [said in each for each in found.notes] == ([] if said is None else [True])
    assert sum(found.left_out.values()) == sum(map(int, re.findall(r"\d+(?= of| against| at)", said or "")))


def test_the_setting_is_what_the_search_finds_now():
    """Whichever was scored last; as far as the ledger has the scores of today's grid."""
    grid = {1.25: 3.0, 1.5: 1.0, 2.0: 2.0, 3.0: 4.0, 5.0: 5.0, 2.5: 0.5}
    searches = [searched("fdg/weak", value, w) for w, value in grid.items()]
    finals = [*scores_of("fdg/weak", 1.9, w=1.5), *scores_of("fdg/weak", 1.8, w=2.5), *scores_of("fdg/weak", 3, w=5.0)]

    def settings(records, arena=ARENA, **more):
        found = lines_of(arena, records, **more).finals.get("fdg/weak", ())
        return {each["arena"]["point"]["weight"] for each in found}

    assert settings([*searches, *finals]) == {1.5}
    wider = replace(ARENA, search=Search(values=(1.25, 1.5, 2.0, 2.5, 3.0, 5.0)))
    assert settings([*searches, *finals], wider) == {2.5}
    assert settings([*searches[1:], *finals]) == {5.0}, "the last of the grid, where the search is not whole"
    assert settings([*searches, *finals], replace(ARENA, search=Search(values=(1.25, 2.0, 3.0)))) == set()
    assert settings([*searches, *finals], points={"fdg/weak": {"weight": 5.0}}) == {5.0}


def test_files_are_the_same_by_content_where_that_is_known():
    arena = replace(ARENA, net="copy.pkl", reference="copy.npz", solvers=Solvers())
    assert lines_of(arena, RECORDS).finals == {}
    judged = RECORDS[0]["reference"]["sha256"]
    records = [held_by(record, "same") for record in RECORDS]
    found = lines_of(arena, records, {"copy.pkl": "same", "copy.npz": judged})
    assert (sorted(found.finals), found.notes) == (["fdg/weak", "linear/weak"], [])
    assert lines_of(arena, records, {"copy.pkl": "another", "copy.npz": judged}).finals == {}


def test_a_file_that_was_changed_under_its_name():
    """The newest counts, for all that it makes or judges."""
    old = [held_by(record, "old") for record in RECORDS]
    new = [held_by(record, "new") for record in scores_of("fdg/weak", 1.5)]
    found = lines_of(ARENA, [*old, *new])
    assert (list(found.finals), found.left_out) == (["fdg/weak"], {"of files that have changed since": 4})
    assert list(lines_of(ARENA, [*old, *new], {"mnist16-cond": "old"}).finals) == ["fdg/weak", "linear/weak"]
    (best,) = standings(ARENA, found)
    assert best.mean("fd_mnist") == 1.5
    judged = [{**record, "reference": {**record["reference"], "sha256": "new"}} for record in scores_of("fdg/weak", 3)]
    assert [each.mean("fd_mnist") for each in standings(ARENA, lines_of(ARENA, [*RECORDS, *judged]))] == [3.0]


@pytest.mark.parametrize("recipe", [None, [], {"format": 9}, {"net": 3}])
def test_lines_without_a_recipe_of_ours_are_no_scores(recipe):
    found = lines_of(ARENA, [{**record, "recipe": recipe} for record in RECORDS])
    assert (found.finals, sum(found.left_out.values())) == ({}, 4)


def test_the_ledger_that_ships_fits_its_arena():
    lines = read(Path(__file__).parents[2] / "docs" / "arena" / "mnist16.jsonl")
    assert not [path for line in lines if (path := line["images"]["path"]) and Path(path).is_absolute()]
    found = lines_of(load("mnist16"), lines)
    assert found.left_out == {}
    assert len(found.finals) >= 14
