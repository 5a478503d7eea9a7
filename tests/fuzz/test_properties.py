"""What people and files may say, in any form: read as it is meant, or refused with the project's own words."""

import json
import ntpath
import posixpath
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edm2_guidance.cli.intervals import Sigmas, Steps
from edm2_guidance.cli.lists import MAX_IMAGES, IntList
from edm2_guidance.images.archive import open_archive
from edm2_guidance.images.labels import Label, parse_label_file, parse_labels
from edm2_guidance.images.members import clean_name, has_image_suffix, is_junk
from edm2_guidance.images.unzip import check_member_name
from edm2_guidance.images.zips import ZipWriter, dataset_json, json_bytes, parse_object, read_recipe
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.ledger_table import format_table, rows_of
from edm2_guidance.recipe.describe import describe_recipe
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import MAX_SEED, Recipe
from edm2_guidance.work.plan import format_seeds
from tests.functions import levels


def said(function: Callable[[], object]) -> str | None:
    """What a function's ValueError or usage error says; None if it raises none. Other exceptions pass."""
    try:
        function()
    except click.BadParameter as error:
        return error.message
    except ValueError as error:
        assert type(error) is ValueError, f"not the project's own: {error!r}"  # noqa: PT017 - that is the very question
        return str(error)
    return None


# ----------------------------------------------------------------------------
# Seed lists.


@given(seeds=st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=100, unique=True))
def test_seed_lists_are_read_as_they_are_written(seeds: list[int]) -> None:
    assert IntList().convert(format_seeds(tuple(seeds)), None, None) == seeds


@given(text=st.one_of(st.text("0123456789,- x", max_size=40), st.text(max_size=20)))
@example("0-4294967295")
@example("9" * 5000)
@example("0-" + "9" * 5000)
@example("٣")
def test_any_text_is_seeds_or_refused(text: str) -> None:
    seeds: list[int] = []
    refusal = said(lambda: seeds.extend(IntList().convert(text, None, None)))
    if refusal is not None:
        assert len(refusal) < 300 + 2 * len(text)
        return
    assert len(seeds) == len(set(seeds)) <= MAX_IMAGES
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


# ----------------------------------------------------------------------------
# Intervals.

STEPS = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted)
LEVELS = st.builds(
    lambda steps, low, ratio, rho: levels(steps, sigma_min=low, sigma_max=low * ratio, rho=rho),
    st.integers(1, 64), st.floats(1e-3, 1), st.floats(2, 1e5), st.floats(3, 9),
)  # fmt: skip


@given(ends=STEPS, style=st.sampled_from(["{},{}", "[{}, {}]", "({},{})", " {}-{} ", "[{} - {}]"]))
def test_step_intervals_in_every_spelling(ends: list[int], style: str) -> None:
    assert Steps().convert(style.format(*ends), None, None) == StepInterval(*ends)


@given(text=st.one_of(st.text("0123456789,-[]() .einfa", max_size=20), st.text(max_size=20)))
@example("nan,nan")
@example("0,nan")
@example("-0.0,inf")
@example("9" * 5000 + ",1")
def test_any_text_is_an_interval_or_refused(text: str) -> None:
    for kind, found in ((Steps(), StepInterval), (Sigmas(), SigmaInterval)):
        refusal = said(lambda kind=kind: kind.convert(text, None, None))
        if refusal is not None:
            assert len(refusal) < 300 + 2 * len(text)
            continue
        value = kind.convert(text, None, None)
        assert isinstance(value, found) or value == "everywhere"
        if isinstance(value, SigmaInterval):
            assert 0 <= value.lo < value.hi
        if isinstance(value, StepInterval):
            assert 0 <= value.first <= value.last


@given(levels=LEVELS, ends=st.tuples(st.floats(0, 200), st.floats(0, 200)))
def test_noise_levels_select_the_steps_that_start_inside(levels: list[float], ends: tuple[float, float]) -> None:
    """Ends within 2 % of a level mean that level; apart from these the rule is lo < sigma <= hi, step by step."""
    lo, hi = sorted(ends)
    if lo == hi or any(0 < abs(level - end) <= 0.021 * end for level in levels for end in (lo, hi)):
        return
    steps, notes = SigmaInterval(lo, hi).steps(levels)
    assert notes == []
    assert [i for i, level in enumerate(levels) if lo < level <= hi] == [
        i for i in range(len(levels)) if steps and i in steps
    ]


@given(levels=LEVELS, data=st.data())
def test_steps_survive_the_way_through_noise_levels(levels: list[float], data: st.DataObject) -> None:
    """Unless two levels are nearer than the tolerance for printed ends, which then may mean either."""
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(levels) - 1)] * 2)))
    if any(a <= 1.05 * b for a, b in pairwise(levels)):
        return
    interval = StepInterval(first, last)
    assert interval.sigmas(levels).steps(levels)[0] == interval


@given(ends=st.tuples(st.floats(0, 100), st.floats(0, 100)), steps=st.integers(1, 40), weight=st.floats(0, 5))
def test_recipes_say_which_steps_are_guided(ends: tuple[float, float], steps: int, weight: float) -> None:
    lo, hi = sorted(ends)
    if lo == hi:
        return
    guide = Guide(NetworkRef("guide.pkl", "cd" * 32), constant(weight), SigmaInterval(lo, hi))
    recipe = Recipe(NetworkRef("main.pkl", "ab" * 32), (guide,), steps)
    stated = recipe.to_json()["guides"][0]["steps"]
    assert stated == [] or 0 <= stated[0] <= stated[1] < steps
    assert recipe.hash == recipe.resolved()[0].hash
    assert parse_object(json_bytes(recipe.to_json()), "recipe") == json.loads(json.dumps(recipe.to_json()))
    assert describe_recipe(recipe.to_json()).startswith("main + guide w=")


# ----------------------------------------------------------------------------
# Names of members.

PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "C:", "c:x", ".. ", "...", ".. .", "\\", "a", "0.png", "~", "con"]),
    st.text(max_size=5),
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(["/", "\\"]).map(lambda s: s.join(parts))
)


@given(name=NAMES)
@example("C:evil.png")
@example(".. /evil.png")
@example("\udcff.png")
def test_a_name_that_passes_stays_in_its_folder_on_every_system(name: str) -> None:
    refusal = said(lambda: check_member_name(Path("set.zip"), name))
    if refusal is not None:
        assert "set.zip holds a member with" in refusal
        return
    for path, root in ((posixpath, "/root/set"), (ntpath, "D:\\root\\set")):
        for spelled in (name, name.replace("\\", "/"), "/".join(part.rstrip(". ") or "." for part in name.split("/"))):
            assert path.normpath(path.join(root, spelled)).startswith(root)
    name.encode()


@given(names=st.lists(NAMES, min_size=1, max_size=4))
def test_what_is_written_is_read_under_the_same_names(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("zip") / "set.zip"
    written = []
    with ZipWriter(path) as file:
        file.add("last.png", b"last.png")
        for name in names:
            refusal = said(lambda name=name: file.add(name, name.encode("utf-8", "replace")))
            assert refusal is None or str(path) in refusal
            written += [name] * (refusal is None)
    files = [name for name in {*written, "last.png"} if not name.endswith(("/", "\\"))]
    seen = {clean_name(name): name for name in files if not is_junk(clean_name(name))}
    if len(seen) < sum(not is_junk(clean_name(name)) for name in files):
        assert "two members named" in str(said(lambda: open_archive(path)))
        return
    with open_archive(path) as archive:
        assert archive.names == tuple(sorted(filter(has_image_suffix, seen)))
        assert all(archive.read(name) == seen[name].encode() for name in archive.names)


# ----------------------------------------------------------------------------
# JSON sidecars.

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def read_labels(names: list[str], data: bytes) -> dict[str, Label] | None:
    return parse_labels(parse_label_file(data, "dataset.json"), "dataset.json", "", names)


@given(
    labels=st.dictionaries(
        st.text(st.characters(exclude_characters="\\/"), min_size=1, max_size=5), st.integers(0, 2**63 - 1), max_size=4
    )
)
def test_labels_are_read_as_they_are_written(labels: dict[str, int]) -> None:
    assert read_labels(list(labels), dataset_json(labels.items())) == labels
    for name in labels:  # the same with one image too few, and one too many
        rest = [other for other in labels if other != name]
        with pytest.raises(ValueError, match="not in the image set"):
            read_labels(rest, dataset_json(labels.items()))
        with pytest.raises(ValueError, match="has no label for"):
            read_labels(list(labels), dataset_json((other, labels[other]) for other in rest))


@given(
    content=st.one_of(
        JSON, st.fixed_dictionaries({"labels": st.lists(st.tuples(st.sampled_from(["0.png", "1.png"]), JSON))})
    )
)
def test_any_json_is_labels_or_refused(content: Any) -> None:
    read = partial(read_labels, ["0.png", "1.png"], json.dumps(content).encode())
    refusal = said(read)
    assert refusal is None or "dataset.json" in refusal
    labels = read() if refusal is None else None
    assert labels is None or set(labels) == {"0.png", "1.png"}


@given(content=st.one_of(JSON, st.fixed_dictionaries({"recipe": JSON, "net": JSON, "guides": JSON})))
def test_any_json_is_a_recipe_or_refused(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("zip") / "set.zip"
    with ZipWriter(path) as file:
        file.add("recipe.json", json.dumps(content).encode())
    refusal = said(lambda: read_recipe(path))
    assert refusal is None or f"recipe.json in {path}" in refusal
    if refusal is None:
        recipe = read_recipe(path)
        assert recipe is not None
        assert len(describe_recipe(recipe)) > 0
        json_bytes(recipe)  # goes into the records of what is made with it


RECORDS = st.fixed_dictionaries(
    {"schema": st.just(1), "metric": JSON, "value": st.one_of(st.floats(0, 100), JSON)},
    optional=dict.fromkeys(
        ("name", "images", "reference", "detector", "recipe", "flags", "labels", "note", "time", "search"), JSON
    ),
)


@given(record=st.one_of(JSON, RECORDS))
def test_any_json_is_a_result_or_refused(record: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "scores.jsonl"
    path.write_text(json.dumps(record) + "\n")
    refusal = said(lambda: ledger.read(path))
    assert refusal is None or refusal.startswith(f"{path}, line 1, ")
    if refusal is None:
        assert format_table(rows_of(ledger.read(path))).startswith("row")
