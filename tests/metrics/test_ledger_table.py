"""The ledger as a table that says what its rows mix; which rows, in which order; as CSV."""

import csv
import io
from typing import Any

import pytest
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.ledger_table import Row, format_csv, format_table, mixtures, rows_of, select
from edm2_guidance.recipe.describe import describe_recipe
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Sampler, constant
from edm2_guidance.recipe.recipe import Recipe
from tests.metrics.test_ledger import record


def shown(records) -> str:
    return format_table(rows_of(records))


def test_table_is_aligned() -> None:
    lines = shown(
        [record(), record(name="fid@5000", value=123.4, images={"path": "/a/very/long-name.npz"}, labels=0)]
    ).splitlines()
    assert lines[0].split() == [
        "row", "metric", "value", "95", "%", "interval", "images", "method", "labels", "reference", "time"
    ]  # fmt: skip
    assert lines[1].split() == ["1", "fid", "1.9877", "a.zip", "-", "random", "img512.pkl", "2026-01-02T03:04:05+00:00"]
    assert "long-name.npz  -       0       img512.pkl" in lines[2], "class 0 is a class"
    assert lines[1].index("1.9877") == lines[2].index("123.4000") + 2
    assert lines[1].index("a.zip") == lines[2].index("long-name.npz") == lines[0].index("images")
    assert len(lines) == 3


def test_table_has_intervals_and_the_numbers_of_rows() -> None:
    known = {"low": 1.9, "high": 2.05, "error": 0.03, "level": 0.95}
    lines = format_table([Row(7, record()), Row(8, record(interval=known, flags=["few"]))]).splitlines()
    assert "1.9877  [1.9000, 2.0500]  a.zip" in lines[2]
    assert [line.split()[0] for line in lines[1:3]] == ["7", "8"]
    assert lines[3] == "! row 8: few"


def test_table_describes_the_method_or_takes_the_users_words() -> None:
    guides = (
        Guide(NetworkRef("xs-uncond.pkl"), constant(1.4), StepInterval(17, 22)),
        Guide(NetworkRef("weak"), constant(2)),
        Guide(NetworkRef("off"), constant(3), never=True),
    )
    recipe = Recipe(NetworkRef("edm2-img512-s.pkl"), guides).to_json()
    words = "edm2-img512-s + xs-uncond w=1.4 steps 17-22 + weak w=2 + off w=3 never"
    assert describe_recipe(recipe) == words
    assert describe_recipe(None) == "-"
    assert words in shown([record(recipe=recipe)])
    assert "unguided" in shown([record(recipe=recipe, note="unguided")])


def test_table_says_what_its_rows_mix() -> None:
    same = [record(), record(value=2)]
    assert mixtures(same) == []
    other = record(
        labels="balanced",
        detector={"weights_sha256": "ffffffffff", "resize": "tf1-bilinear-299"},
        reference={"source": "x", "sha256": "99999999"},
    )
    assert mixtures([*same, other]) == [
        "fid: the rows mix references (img512.pkl 01234567, x 99999999)",
        "fid: the rows mix detector weights (67268250, ffffffff)",
        "fid: the rows mix label rules (balanced, random)",
    ]
    assert mixtures([*same, {**other, "name": "fid@5000"}]) == [], "another count is another name"
    assert "! fid: the rows mix label rules (balanced, random)" in shown([*same, other])


def test_table_says_which_precision_is_not_the_usual_one() -> None:
    recipe = Recipe(NetworkRef("main")).to_json()
    usual = record(recipe=recipe, images={"path": None, "seeds": "0-1", "precision": "float16"})
    other = record(recipe=recipe, images={"path": None, "seeds": "0-1", "precision": "bfloat16"}, note="mine")
    assert "mine, networks in bfloat16" in shown([other])
    assert "mine, networks in bfloat16" not in format_csv(rows_of([other]))
    assert "main, 32 steps, noise from cpu, networks in bfloat16" in format_csv(rows_of([other]))
    assert "networks" not in shown([usual])
    assert mixtures([usual, record(), other]) == ["fid: the rows mix precisions (as usual, networks in bfloat16)"]
    assert [row.number for row in select(rows_of([usual, other]), words=["bfloat16"])] == [2]


def test_one_reference_under_two_names_is_no_mixture() -> None:
    by_name = record(reference={"source": "mnist16-refs", "sha256": "01234567"})
    by_path = record(reference={"source": "pretrained/mnist16-refs.npz", "sha256": "01234567"})
    assert mixtures([by_name, by_path]) == []
    unknown = record(reference={"source": "other", "sha256": None})
    assert mixtures([by_name, unknown]) == ["fid: the rows mix references (mnist16-refs 01234567, other)"]


def test_table_tells_rows_apart_that_differ_in_anything_that_is_sampled() -> None:
    net = NetworkRef("s")
    plain = Recipe(net)
    generated = {"path": None, "seeds": "0-49999"}
    alike = [record(recipe=plain.to_json(), images=generated), record(recipe=plain.to_json(), images=generated)]
    assert "steps" not in shown(alike), "what is the same everywhere is not said"
    assert "seeds" not in shown(alike)
    for other, words in (
        (Recipe(net, num_steps=1), ("s, 32 steps", "s, 1 step ")),
        (Recipe(net, dtype="float64"), ("s ", "s, float64")),
        (Recipe(net, noise_device="cuda"), ("s, noise from cpu", "s, noise from cuda")),
        (Recipe(net, sampler=Sampler.parse("euler")), ("s ", "s, euler")),
    ):
        lines = shown([alike[0], record(recipe=other.to_json(), images=generated)]).splitlines()
        assert words[0] in lines[1], other
        assert words[1] in lines[2], other
    assert "s, float64" in shown([record(recipe=Recipe(net, dtype="float64").to_json())])
    lines = shown([alike[0], record(recipe=plain.to_json(), images={"path": None, "seeds": "9"})])
    assert "seeds 0-49999" in lines.splitlines()[1]
    assert "seeds 9" in lines.splitlines()[2]


def test_table_shows_flags() -> None:
    text = shown([record(), record(flags=["few images"])])
    assert text.splitlines()[2].endswith("!")
    assert not text.splitlines()[1].endswith("!")
    assert "! row 2: few images" in text
    assert shown([]) == ""


@pytest.mark.parametrize(
    "recipe",
    [
        {"net": "main"},
        {"net": {"source": "main"}, "guides": 3},
        {"net": {"source": "main"}, "guides": [[]]},
        {"net": {"source": "main"}, "guides": [{"net": {}, "steps": None}]},
        {"net": {"source": "main"}, "guides": [{"net": {}, "weight": "x", "steps": None}]},
        {"net": {"source": "main"}, "guides": [{"net": {}, "weight": 2, "steps": 3}]},
        {"net": {"source": "main"}, "guides": [{"net": {}, "weight": 2, "steps": [1]}]},
        {"net": {"source": "main"}, "guides": [{"weight": 2, "steps": [1, 2]}]},
    ],
)
def test_recipes_of_others_are_unknown(recipe: dict[str, Any]) -> None:
    """A recipe.json that lies beside stored images may hold anything, and gets into the ledger with their score."""
    assert describe_recipe(recipe) == "-"
    assert "1.9877" in shown([record(recipe=recipe, flags=None)])


THREE = [
    record(name="fid@500", value=2.0, note="Plain", flags=["few", "old"]),
    record(name="fid@500", value=1.0, flags=["few"], images={"path": "b.zip"}),
    record(metric="recall", name="recall", value=0.5),
    record(metric="recall", name="recall", value=0.75, flags=["few"], note='says "x", twice'),
]


def test_rows_are_selected_by_metric_and_words() -> None:
    rows = rows_of(THREE)

    def numbers(*given):
        return [row.number for row in select(rows, *given)]

    assert numbers() == [1, 2, 3, 4]
    assert numbers(["fid"]) == numbers(["fid@500"]) == [1, 2]
    assert numbers(["fid", "recall"]) == [1, 2, 3, 4]
    assert numbers(["fid@1"]) == []
    digits = rows_of([record(metric="fd_mnist"), record(row={"name": "table-row"}), record(search={"name": "Over-w"})])
    assert [row.number for row in select(digits, ["fd-mnist"])] == [1]
    assert [row.number for word in ("table-row", "over-w") for row in select(digits, (), [word])] == [2, 3]
    assert numbers([], ["plain"]) == [1]
    assert numbers([], ["img512", "B.ZIP"]) == [2]
    assert numbers([], ["b.zip", "plain"]) == []


def test_flags_of_several_rows_are_one_line() -> None:
    assert shown(THREE).splitlines()[5:] == ["! rows 1-2, 4: few", "! row 1: old"]


def test_csv_has_all_digits_and_no_line_of_its_own() -> None:
    known = {"low": 1.9, "high": 2.05, "error": 0.03, "level": 0.95}
    rows = rows_of([record(value=1 / 3, interval=known, note="a\nb", num_images=500), *THREE])
    first, *_, last = csv.DictReader(io.StringIO(format_csv(rows)))
    assert (float(first["value"]), first["low"], first["num_images"]) == (1 / 3, "1.9", "500")
    assert (last["row"], last["flags"], last["note"]) == ("5", "few", 'says "x", twice')
    assert len(format_csv(rows).splitlines()) == 6, "a note's newline is printed as what it is"


def test_the_command_sorts_and_selects(tmp_path) -> None:
    path = tmp_path / "l.jsonl"
    for each in THREE:
        ledger.append(path, each)

    def rows(*arguments, code=0):
        done = CliRunner().invoke(calculate_metrics.main, ["table", str(path), *arguments])
        assert done.exit_code == code, done.output
        return done.stderr if code else [line.split()[0] for line in done.stdout.splitlines()[1:] if line[0] != "!"]

    assert rows() == ["1", "2", "3", "4"]
    assert rows("--sort=value") == ["2", "1", "4", "3"], "fid is better low, recall high"
    assert rows("--metrics=fid", "--last=1") == ["2"]
    assert [line.split(",")[0] for line in rows("--csv", "--where=b.zip")] == ["2"]
    assert "its metrics are fid@500, recall" in rows("--metrics=kid", code=2)
    assert "l.jsonl and --ledger=m.jsonl are two ledgers" in rows("--ledger=m.jsonl", code=2)
    named = CliRunner().invoke(calculate_metrics.main, ["table", f"--ledger={path}", "--last=1"])
    assert named.stdout.splitlines()[1].split()[0] == "4"
