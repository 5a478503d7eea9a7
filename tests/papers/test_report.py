"""What counts as a reproduction and what does not; published beside ours; output in three formats."""

import copy
import csv
import functools
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import scipy.stats

from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.papers import report as report_module
from edm2_guidance.papers.listing import as_csv
from edm2_guidance.papers.report import collect, compare_shipped, differences, left_out, report
from edm2_guidance.papers.tables import all_rows, find
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe

AUTOG = "edm2-img512-s-autog-fid"
ROOT = Path(__file__).parents[2]


def row(name):
    return find(name)[0]


def record(name, value, seeds=None, tagged=True, **changes):
    """A ledger line as a run of this row writes it, with changes of the recipe."""
    it = row(name)
    recipe = replace(it.recipe(), **changes)
    count = it.num_images
    line = {
        "schema": 1,
        "metric": it.metric,
        "value": value,
        "num_images": count,
        "flags": [],
        "reference": {"source": it.reference, "sha256": "r"},
        "detector": {"published": True, "resize": find_metric(it.metric).extractor.resized, "weights_sha256": "d"},
        "images": {"kind": "generated", "seeds": seeds or f"0-{count - 1}", "subset_seed": None, "path": None},
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash,
    }
    return line | ({"row": {"name": name, "block": 0}} if tagged else {})


def blocks(name, values, tagged=True):
    count = row(name).num_images
    return [record(name, value, f"{k * count}-{(k + 1) * count - 1}", tagged) for k, value in enumerate(values)]


def test_texts_of_a_ledger_are_no_formulas_and_no_markup():
    evil = [
        '=HYPERLINK("http://evil/")',
        "@SUM(A1)",
        "+1+cmd",
        "-2+3",
        "\t=1",
        "\uff1d1",
        "a |\n\n# Head\n<script>x</script>",
        "`code` ![x](http://evil/p.png) *b*",
        "\x1b[2J\u202e\r",
        "\udcff",
    ]
    records = [record(AUTOG, 1.0 + i) | {"flags": [text]} for i, text in enumerate(evil)]
    for r, text in zip(records, evil, strict=True):
        r["recipe"] = r["recipe"] | {"labels": text}
    made = report([row(AUTOG)], records, "csv")
    assert made.replace("\n", "").isprintable()
    cells = [cell for line in csv.reader(io.StringIO(made)) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\uff1d"))]
    assert [float(cell) for cell in cells if cell.startswith("-")] == []
    assert "'=HYPERLINK" in made
    other = "edm2-img512-xxl-autog-fid"  # what several rows share stands below the table, once
    records += [record(other, 2.0) | {"flags": [text]} for text in evil]
    text = report([row(AUTOG), row(other)], records, "markdown")
    assert text.replace("\n", "").isprintable()
    assert "in 2 rows" in text
    unescaped = re.sub(r"\\.", "", text)
    assert not any(mark in unescaped for mark in ("<", "[", "]", "\n#", "://", "`", "*b"))
    assert len({line.count("|") for line in unescaped.splitlines() if line.startswith("|")}) == 1
    data = report([row(AUTOG)], records, "json")
    assert data.replace("\n", "").isprintable()
    assert {r["labels"] for r in json.loads(data)["results"]} == set(evil)


def test_numbers_stay_numbers_in_csv():
    records = [{"a": -0.5, "b": "-0.5", "c": ["-1e-3", -2, "=1"], "d": "+3", "e": None, "f": "-x"}]
    assert as_csv(records).splitlines()[1] == "-0.5,-0.5,-1e-3;-2;'=1,+3,,'-x"


def only(results):
    (result,) = results
    return result


def test_least_mean_difference_and_spread_of_a_reproduction():
    result = only(collect([row(AUTOG)], blocks(AUTOG, [1.36, 1.35, 1.37])))
    assert result.differs == ()
    assert (result.best, result.mean) == pytest.approx((1.35, 1.36))
    assert result.difference == pytest.approx(100 * (1.35 / 1.34 - 1))
    assert result.within is True
    assert only(collect([row(AUTOG)], blocks(AUTOG, [1.34 * 1.021]))).within is False
    assert only(collect([row(AUTOG)], blocks(AUTOG, [1.34 * 0.979]))).within is False


def test_means_have_intervals():
    """By those of the lines, where all have one; else by the spread of several; one value alone has none."""
    records = blocks(AUTOG, [1.35, 1.36, 1.37])
    spread = scipy.stats.ttest_1samp([1.35, 1.36, 1.37], 0).confidence_interval(0.95)
    known = [
        line | {"interval": {"low": line["value"] - 0.3, "high": line["value"] + 0.6, "error": 0.2}} for line in records
    ]
    for lines, expected in (
        (records, tuple(spread)),
        (known, (1.36 - 0.3 / 3**0.5, 1.36 + 0.6 / 3**0.5)),
        (known[:1], (1.05, 1.95)),
    ):
        (result,) = collect([row(AUTOG)], lines)
        assert (result.interval.low, result.interval.high) == pytest.approx(expected, rel=1e-5)
        assert f"| {result.interval.low:.4g} to {result.interval.high:.4g} |" in report([row(AUTOG)], lines, "markdown")
    (result,) = collect([row(AUTOG)], records[:1])
    assert result.interval is None


def test_the_images_that_a_network_enlarges_are_part_of_the_method():
    u, gu = "adm-256-u-fid", "adm-256-gu-fid"
    (base,) = (text for text in differences(row(u), record(gu, 3.94)) if text.startswith("base"))
    guide = "classifier 64x64_classifier scale=1 posterior"
    assert re.match(rf"base 64x64_diffusion guided by {guide}, .*, not 64x64_diffusion, 250 steps,", base)
    assert not [text for text in differences(row(u), record(u, 7.49)) if text.startswith("base")]
    stored = record(u, 7.49, base=ImageSet("mine.zip", "a" * 64))
    assert any(text.startswith("base mine.zip, not 64x64_diffusion, ") for text in differences(row(u), stored))


def test_other_precisions_are_other_images_and_flagged():
    """Whichever line comes first; what is usual, float16 on CUDA or float32, is one set of images."""

    def of(value, precision):
        line = record(AUTOG, value)
        return line | {"images": line["images"] | ({} if precision is None else {"precision": precision})}

    records = [of(2.0, "bfloat16"), of(1.36, "float16"), of(9.0, None), of(3.0, "float32"), of(4.0, "tf32")]
    found = {result.differs: result.values for result in collect([row(AUTOG)], records)}
    others = {(f"networks in {name}",): (value,) for name, value in (("bfloat16", 2), ("float32", 3), ("tf32", 4))}
    assert found == {(): (1.36,), **others}
    assert left_out([row(AUTOG)], records) == {"of images that an older line scores, which counts": [ANY]}
    text = report([row(AUTOG)], records[:1], "markdown")
    assert "**Changed protocol" in text
    assert "networks in bfloat16" in text


def test_one_published_run_is_compared_with_our_mean():
    name = "edm2-img512-s-dino"
    result = only(collect([row(name)], blocks(name, [68.0, 70.0])))
    assert result.difference == pytest.approx(100 * (69.0 / 68.64 - 1))
    assert result.within is None  # no paper says how much FD-DINOv2 varies


@pytest.mark.parametrize("name", [r.name for r in all_rows() if r.table in ("ag1", "mnist16") and r.net is not None])
def test_untagged_lines_belong_to_the_row_that_they_were_made_as(name):
    """And to rows of other papers that make the same images."""
    everything = {r.name: r for r in all_rows() if r.net is not None}
    same = [n for n, r in everything.items() if r.metric == row(name).metric and hash_of(n) == hash_of(name)]
    results = collect(list(everything.values()), [record(name, 2.0, tagged=False)])
    assert [(result.row.name, result.differs) for result in results] == [(each, ()) for each in same]


@functools.cache
def hash_of(name):
    return row(name).recipe().hash


def test_of_rows_that_differ_in_sampler_or_rule_alone_a_line_belongs_to_the_nearest():
    pairs = [
        ("entropy-xs-deterministic-32-edm-fid", "edm2-img512-xs-fid"),
        ("fdg-s-fid", "fdg-s-cfg-fid"),
        ("erk-cfg-16-fid", "erk-cfg-16-heun-fid"),
    ]
    for names in pairs:
        rows = [row(name) for name in names]
        for name in names:
            few = record(name, 2.0, tagged=False) | {"num_images": 500}
            (result,) = collect(rows, [few])
            assert result.row.name == name
            assert result.differs == (f"500 images, not {row(name).num_images:,}",)
    far = record("fdg-s-fid", 2.0, tagged=False)
    (alone,) = collect([row("fdg-s-cfg-fid")], [far])
    assert alone.differs == ("rule fdg",)
    heun, erk = "erk-cfg-16-heun-fid", "erk-cfg-16-fid"
    (alone,) = collect([row(erk)], [record(heun, 2.0, tagged=False)])
    assert alone.differs == ("without erk:w_stiff=0.75",)
    (alone,) = collect([row(heun)], [record(erk, 2.0, tagged=False)])
    assert alone.differs == ("around erk:w_stiff=0.75",)


def test_heun_is_not_the_sampler_of_a_row_of_another():
    (result,) = collect([row("entropy-xs-deterministic-32-edm-fid")], [record("edm2-img512-xs-fid", 2.0, tagged=False)])
    assert result.differs == ("sampler heun",)


def test_what_a_row_assumes_stands_below_its_score():
    text = report([row("icg-fid")], blocks("icg-fid", [3.4]), "markdown")
    assert "| icg-fid | EDM2-XS, independent condition guidance | fid | 3.35 | 3.4 |" in text
    assert "- icg-fid: assumed the EMA length, of edm2-img512-xs-guid-dino" in text
    (told,) = json.loads(report([row("icg-fid")], blocks("icg-fid", [3.4]), "json"))["results"]
    assert told["assumed"] == row("icg-fid").assumed


def changed(**changes):
    line = copy.deepcopy(record(AUTOG, 1.3))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = line
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    return line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_images": 5000}, "5,000 images, not 50,000"),
        ({"num_images": None}, "an unknown number of images, not 50,000"),
        ({"reference__source": "elsewhere/imagenet512.npz"}, "reference imagenet512.npz, not img512.pkl"),
        ({"detector__published": False}, "the detector's weights are not known to be the published ones"),
        ({"detector": None}, "the detector's weights are not known to be the published ones"),
        ({"detector__resize": "pil"}, "images resized by pil, not tf1-bilinear-299"),
        ({"recipe__labels": "balanced"}, "labels balanced, not random"),
        ({"recipe__labels": 0}, "labels 0, not random"),
        ({"recipe__num_steps": 16}, "steps 16, not 32"),
        ({"recipe__schedule": "edm:rho=5"}, "schedule edm:rho=5"),
        ({"recipe__sampler": "heun:S_churn=40"}, "sampler heun:S_churn=40"),
        ({"recipe__guides__0__weight": "constant:w=2"}, "guide edm2-img512-xs-0134217-0.125 w=2, not "
                                             "edm2-img512-xs-0134217-0.125 w=2.1"),
        ({"recipe__guides__0__steps": [3, 9]}, "guide edm2-img512-xs-0134217-0.125 w=2.1 on steps 3-9, not "
                                               "edm2-img512-xs-0134217-0.125 w=2.1"),
        ({"recipe__net__source": "mine"}, "network mine, not edm2-img512-s-2147483-0.070"),
        ({"recipe": None}, "it is not known how the images were made"),
        ({"recipe": {"of": "another program"}}, "the recipe of the images is in no form that this version knows"),
        ({"recipe__sampler": ["another program's"]}, "the recipe of the images is in no form that this version knows"),
        ({"recipe__guides": ["x"]}, "the recipe of the images is in no form that this version knows"),
        ({"recipe__guides__0__weight": "x"}, "the recipe of the images is in no form that this version knows"),
        ({"recipe__guides__0__steps": {}}, "the recipe of the images is in no form that this version knows"),
        ({"images": {"sha256": {"no": "text"}}, "recipe": None}, "it is not known how the images were made"),
        ({"flags": ["made on a Monday"]}, "made on a Monday"),
    ],
)  # fmt: skip
def test_a_changed_protocol_is_no_reproduction(changes, said):
    line = changed(**changes)
    assert said in differences(row(AUTOG), line)
    result = only(collect([row(AUTOG)], [line]))
    assert (result.difference, result.within) == (None, None)
    text = report([row(AUTOG)], [line], "markdown")
    assert said in text
    assert "1.34" not in text  # the published number
    assert "Changed protocol" in text
    (plain,) = json.loads(report([row(AUTOG)], [line], "json"))["results"]
    assert (plain["protocol"], plain["published"], plain["difference_percent"]) == ("changed", None, None)


def test_what_does_not_matter_is_the_same_protocol():
    assert differences(row(AUTOG), changed(recipe__dtype="float64")) == []  # the interval paper's
    assert differences(row(AUTOG), changed(recipe__guides__0__steps=[0, 31])) == []  # every step
    assert differences(row(AUTOG), changed(recipe__sampler="heun:S_noise=1.003")) == []  # without churn
    plain = "edm2-img512-s-fid"
    idle = (Guide(NetworkRef("other.pkl"), constant(1.0)), Guide(NetworkRef("another.pkl"), constant(2.0), never=True))
    assert differences(row(plain), record(plain, 2.5, guides=idle)) == []


def test_other_settings_are_nobodys_unless_the_line_says_whose():
    other = record(AUTOG, 1.4, tagged=False, num_steps=16)
    assert collect(list(all_rows()), [other]) == []
    other["row"] = {"name": AUTOG, "block": 0}
    assert only(collect(list(all_rows()), [other])).differs == ("steps 16, not 32",)


def test_a_line_written_for_another_row_counts_if_it_is_the_same_setting():
    line = record("mnist16-cfg", 1.0)
    line["row"]["name"] = "mnist16-interval"
    found = {r.row.name: r.differs for r in collect(find("mnist16"), [line])}
    assert found["mnist16-cfg"] == ()
    assert found["mnist16-interval"] != ()
    assert set(found) == {"mnist16-cfg", "mnist16-interval"}


def test_the_same_images_count_once():
    lines = blocks(AUTOG, [1.36, 1.35])
    again = copy.deepcopy(lines[0]) | {"value": 1.30}
    assert only(collect([row(AUTOG)], [*lines, again])).values == (1.36, 1.35)


def test_scores_that_no_row_holds_are_counted_with_the_reason():
    lines = [
        record("mnist16-cfg", 1.0),
        record("mnist16-cfg", 1.1),
        record("mnist16-cfg", 1.2) | {"metric": "kid_mnist"},
        record("mnist16-cfg", 1.3, tagged=False, num_steps=8),
        *(record("mnist16-unguided", 1.4, tagged=False, num_steps=steps) for steps in range(20, 27)),
        record("mnist16-cfg", 1.5, tagged=False) | {"recipe": None, "images": {"path": "out/mine.zip"}},
    ]
    rows = find("mnist16")
    text = report(rows, lines, "markdown")
    assert "**In none of these rows: 11 of 12 scores in the ledger**" in text
    assert "- 1 score by a metric that none of these rows has: kid_mnist" in text
    made = "mnist16-cond guided by mnist16-uncond w=1.5, 8 steps; mnist16-cond, 20 steps; "
    assert f"- 9 scores of images that none of these rows makes: {made}" in text
    assert "mnist16-cond, 24 steps, and 3 more" in text
    assert "- 1 score of images that an older line scores, which counts: mnist16-cond guided by mnist16-uncond " in text
    left = json.loads(report(rows, lines, "json"))["left_out"]
    assert sum(map(len, left.values())) == 11
    assert left["of images that none of these rows makes"][-1] == "mine.zip"
    assert "In none" not in report(rows, lines[:1], "markdown")


def test_scores_of_another_precision_are_no_run_of_the_same_series():
    lines = [record(AUTOG, 1.36), record(AUTOG, 1.30, "50000-99999", dtype="float64")]
    results = collect([row(AUTOG)], lines)
    assert [(r.values, r.dtype, r.differs) for r in results] == [((1.36,), "float32", ()), ((1.30,), "float64", ())]
    assert "autoguidance (XS, T/16), float64 | fid" in report([row(AUTOG)], lines, "markdown")
    for line in lines:
        line["num_images"] = 500
    text = report([row(AUTOG)], lines, "markdown")
    assert ("| (1) | 1.36 |" in text, "| (1), float64 | 1.3 |" in text) == (True, True)


def test_an_interval_row_wants_its_interval():
    name = "edm2-img512-xxl-interval-fid"
    line = record(name, 1.4)
    assert line["recipe"]["guides"][0]["steps"] == [17, 22]
    assert differences(row(name), line) == []
    line["recipe"]["guides"][0]["steps"] = None
    assert any("on steps 17-22" in text for text in differences(row(name), line))


def test_two_guides_in_any_order():
    line = record("mnist16-blend", 0.8)
    line["recipe"]["guides"].reverse()
    assert differences(row("mnist16-blend"), line) == []


def test_unconditional_rows_have_no_labels():
    name = "edm2-img512-s-uncond-autog-fid"
    line = record(name, 3.9)
    assert line["recipe"]["labels"] == "none"
    assert differences(row(name), line) == []


def test_the_floor_is_found_by_its_file():
    floor = row("mnist16-floor")
    line = record("mnist16-cfg", 0.2, tagged=False) | {
        "recipe": None,
        "recipe_hash": None,
        "images": {"path": "/somewhere/pretrained/mnist16-test-5000.npz", "kind": "statistics", "sha256": "a"},
    }
    second = copy.deepcopy(line) | {"value": 0.3}
    second["images"] |= {"path": "mnist16-test-5000-1", "sha256": "b"}
    assert only(collect([floor], [line, second])).values == (0.2, 0.3)
    fewer = copy.deepcopy(line) | {"num_images": 500}
    fewer["images"]["path"] = "mnist16-test-500.npz"
    assert only(collect([floor], [fewer])).differs == ("500 images, not 5,000",)
    other = copy.deepcopy(line)
    other["images"]["path"] = "mine.npz"
    assert collect([floor], [other]) == []


def test_groups_of_one_row_stay_apart():
    lines = blocks(AUTOG, [1.36, 1.35, 1.37])
    for line in lines[1:]:
        line["num_images"] = 1000
    results = collect([row(AUTOG)], lines)
    assert [(r.values, r.differs) for r in results] == [
        ((1.36,), ()), ((1.35, 1.37), ("1,000 images, not 50,000",))
    ]  # fmt: skip


def test_markdown(golden_lines):
    text = report(find("ag1"), golden_lines, "markdown")
    lines = text.splitlines()
    assert lines[0] == "**Table 1 of arXiv 2406.02507v3, autoguidance**"
    assert (
        "| edm2-img512-s-autog-fid | EDM2-S, autoguidance (XS, T/16) | fid | 1.34 | 1.35 | 1.36 | 1.335 to 1.385 "
        "| 1.36, 1.35, 1.37 | +0.7 % | yes (±2 %) | 3 of 3 | 50,000 | random |"
    ) in lines
    assert "| 36.5 | 36.5 | - | 36.5 | -0.5 % | not stated | 1 of 3 | 50,000 | random |" in text
    assert (
        "| edm2-img512-s-fid | fid | labels balanced, not random | 2.4 | 2.4 | - | 2.4 | 50,000 | balanced |" in lines
    )
    assert "**Not run: 30 of 33 rows**" in lines


@pytest.fixture
def golden_lines():
    balanced = record("edm2-img512-s-fid", 2.4, labels="balanced")
    return [*blocks(AUTOG, [1.36, 1.35, 1.37]), *blocks("edm2-img512-s-autog-dino", [36.5]), balanced]


def test_csv_and_json_hold_the_same(golden_lines):
    rows = find("ag1")
    data = json.loads(report(rows, golden_lines, "json"))
    table = list(csv.DictReader(io.StringIO(report(rows, golden_lines, "csv"))))
    assert len(table) == len(data["results"]) == 3
    for line, result in zip(table, data["results"], strict=True):
        assert line["row"] == result["row"]
        assert [float(value) for value in line["all"].split(";")] == result["all"]
        assert float(line["min"]) == result["min"]
    assert len(data["not_run"]) == 30
    by_row = {result["row"]: result for result in data["results"]}
    assert by_row[AUTOG]["within_spread"] is True
    assert by_row[AUTOG]["mean"] == pytest.approx(1.36)
    assert by_row["edm2-img512-s-fid"]["changed"] == ["labels balanced, not random"]


def test_a_row_of_two_tables_is_reported_in_both():
    name = "edm2-img512-s-guid-fid"
    text = report([*find("ag1"), *find("gi1")], blocks(name, [2.24]), "markdown")
    assert text.count(f"| {name} |") == 2
    changed_text = report([*find("ag1"), *find("gi1")], [record(name, 2.2, labels="balanced")], "markdown")
    assert changed_text.count(f"| {name} |") == 1  # what is changed is listed once


def test_nothing_scored():
    lines = report(find("gi1"), [], "markdown").splitlines()
    assert lines[0] == "**Not run: 12 of 12 rows**"
    names = [name for line in lines[2:] for name in line.split(": ")[-1].replace("python reproduce.py run ", "")
             .replace(",", "").split()]  # fmt: skip
    assert sorted(names) == sorted(row.name for row in find("gi1"))
    assert report(find("gi1"), [], "csv") == ""
    assert json.loads(report(find("gi1"), [], "json"))["results"] == []


def test_rows_that_did_not_run_are_named_with_the_command_or_the_reason():
    names = ["edm2-img512-s-fid", "rin-img64-fid", "edm2-img512-s-uncond-fid", "edm2-img512-s-dino"]
    rows = [row(name) for name in names]
    lines = report(rows, [], "markdown").splitlines()[2:]
    assert lines[0] == "- not run yet: python reproduce.py run edm2-img512-s-fid edm2-img512-s-dino"
    assert lines[1].startswith("- a number copied from another paper: ")
    assert lines[1].endswith(": rin-img64-fid")
    assert "not published at these EMA lengths (the commands that make it: python reproduce.py plan ROW)" in lines[2]
    data = json.loads(report(rows, [], "json"))
    assert data["not_run"] == names
    assert data["not_run_why"]["edm2-img512-s-fid"] == "not run yet"


def test_a_difference_of_several_rows_is_said_once():
    lines = [record(name, 1.0) | {"num_images": 500} for name in ("mnist16-cfg", "mnist16-autog")]
    lines[1]["flags"] = ["500 images, where published scores have 50,000: fewer give higher values", "another"]
    text = report(find("mnist16"), lines, "markdown")
    assert text.count("500 images, not 5,000") == 1
    assert "(1) 500 images, not 5,000, in 2 rows" in text
    assert "| mnist16-cfg | fd_mnist | (1) | 1 |" in text
    assert "| mnist16-autog | fd_mnist | (1); another | 1 |" in text


def digits(name, value, seeds, **changes):
    line = record(name, value, seeds, noise_device="cpu")
    return line | {"num_images": 500} | changes


def test_digits_are_compared_with_the_scores_that_ship():
    lines = [digits("mnist16-cfg", 1.104267 * 1.002, "0-499"), digits("mnist16-autog", 0.836676, "500-999")]
    (found,) = compare_shipped(find("mnist16"), lines)
    assert (found.row.name, found.images) == ("mnist16-cfg", "0-499")
    assert found.difference == pytest.approx(0.2, abs=1e-3)
    text = report(find("mnist16"), lines, "markdown")
    assert "| mnist16-cfg | 0-499 | 1.1065 | 1.1043 | +0.20 % |" in text
    assert "All are within 1 %" in text
    far = report(find("mnist16"), [digits("mnist16-cfg", 1.2, "0-499")], "markdown")
    assert "1 of 1 are more than 1 % off" in far
    assert json.loads(report(find("mnist16"), lines, "json"))["shipped"][0]["shipped"] == 1.104267


@pytest.mark.parametrize(
    "changes",
    [
        {"reference": {"source": "mine.npz"}},
        {"detector": {"published": False, "resize": "none"}},
        {"recipe": {**digits("mnist16-cfg", 1, "0-499")["recipe"], "noise_device": "cuda"}},
        {"recipe": {**digits("mnist16-cfg", 1, "0-499")["recipe"], "labels": "balanced"}},
        {"images": {**digits("mnist16-cfg", 1, "0-499")["images"], "subset_seed": 0}},  # some of them
    ],
)
def test_only_what_was_made_by_the_same_rules_is_compared_with_what_ships(changes):
    for name in ("mnist16-refs", "pretrained/mnist16-refs.npz"):  # of the same file, now and in older ledgers
        assert compare_shipped(find("mnist16"), [digits("mnist16-cfg", 1, "0-499", reference={"source": name})])
    assert not compare_shipped(find("mnist16"), [digits("mnist16-cfg", 1, "0-499", **changes)])


def test_scores_that_ship_are_those_of_the_documentation():
    lines = (ROOT / "docs" / "digits.jsonl").read_text().splitlines()
    compared = compare_shipped(find("mnist16"), [json.loads(line) for line in lines])
    assert len(compared) > 25
    assert all(abs(c.difference) < 1e-3 for c in compared)
    assert {c.row.name for c in compared} == {row.name for row in find("mnist16")}


def test_a_recipe_is_read_once_however_many_rows_and_lines_there_are(monkeypatch):
    read, real = [], report_module.read_recipe
    monkeypatch.setattr(report_module, "read_recipe", lambda stored: read.append(stored) or real(stored))
    recipe = Recipe("a-network-of-this-test", num_steps=3).to_json()
    records = [{"metric": "fd_mnist", "value": 1.0, "recipe": recipe}] * 20
    rows = [row for row in all_rows() if row.metric == "fd_mnist"]
    assert collect(rows, records) == []
    assert len(read) == 1
