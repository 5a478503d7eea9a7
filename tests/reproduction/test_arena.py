"""reproduce.py arena, as a user types it, on the networks that ship."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from dnnlib.places import EMBEDDED
from edm2_guidance.commands import reproduce
from edm2_guidance.metrics.uncertainty import apart, interval_of
from tests.arenas import QUICK

WORDS = ("arena", "--arena=small.toml", "--ledger=a.jsonl", "--device=cpu", "--shard-size=20")


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(QUICK)

    def call(*words):
        return CliRunner().invoke(reproduce.main, list(words))

    return call


def fdx():
    Path("fdx.toml").write_text(QUICK.replace('"fd_mnist"', '"fdx"'))
    return "arena", "--arena=fdx.toml"


def guided_solvers():
    Path("guided.toml").write_text(QUICK.replace('["unguided"]', '["linear/weak"]'))
    return "guided.toml"


def lines(path="a.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_an_arena_is_run_shown_and_not_run_again(invoke):
    listed = invoke(*WORDS, "--list")
    assert listed.exit_code == 0, listed.output
    assert "Small: 5 entries, 272 images" in listed.stdout
    guided = invoke("arena", f"--arena={guided_solvers()}", "--list", "--only=*/2").stdout
    assert "2 main + 2 guide 1" in guided.splitlines()[-1]
    assert not Path("a.jsonl").exists()
    refused = invoke(*WORDS, "--report=out")
    assert (refused.exit_code, Path("out").exists()) == (2, False)
    assert "there is no ledger a.jsonl yet: run it without --report and --time first" in refused.output

    done = invoke(*WORDS)
    assert done.exit_code == 0, done.output
    assert "linear/weak  weight 1.5  fd_mnist" in done.stdout
    written = lines()
    searched = [line for line in written if "search" in line]
    assert {line["search"]["name"] for line in searched} == {"small/linear/weak", "small/fdg/weak"}
    assert {line["images"]["seeds"] for line in searched} == {"0-7"}
    finals = [line["arena"] for line in written if "arena" in line]
    assert sorted((each["entry"], each["block"]) for each in finals if each["block"] == 0) == [
        ("fdg/weak", 0), ("linear/weak", 0), ("unguided", 0), ("unguided/euler/2", 0), ("unguided/heun/2", 0),
    ]  # fmt: skip
    assert sum(each["block"] == 1 for each in finals) == 1  # of the best one
    check_pairs(written)

    before = Path("a.jsonl").read_bytes(), Path("a.pairs.jsonl").read_bytes()
    again = invoke(*WORDS)
    assert again.exit_code == 0, again.output
    assert (Path("a.jsonl").read_bytes(), Path("a.pairs.jsonl").read_bytes()) == before
    assert again.stdout.splitlines()[-8:] == done.stdout.splitlines()[-8:]

    second = invoke(*WORDS, "--worker=1/2", "--share-device")
    assert second.exit_code == 0, second.output
    assert Path("a.jsonl").read_bytes() == before[0]
    assert "difference" in done.stdout
    assert "difference" not in second.stdout  # the first worker shows how things stand

    other = invoke(*WORDS, "--only=linear/*,fdg/*", "--metrics=fd_mnist_ae", "--ref=mnist16-ae-refs")
    assert other.exit_code == 0, other.output  # what was kept for differences is of the first metric

    assert invoke(*WORDS, "--only=linear/*", "--time=2").exit_code == 0
    (taken,) = lines("a.times.jsonl")
    assert taken["entry"] == "linear/weak"
    assert taken["times"] > 0
    assert invoke(*WORDS, "--only=fdg/*", "--time=2").exit_code == 0
    assert {each["entry"]: each["times"] for each in lines("a.times.jsonl")}["linear/weak"] == taken["times"]
    told = invoke(*WORDS, "--report=out")
    assert told.exit_code == 0, told.output
    assert told.stdout.split() == ["out/tables.md", "out/methods.png", "out/searches.png", "out/solvers.png"]
    assert "| fdg/weak | w = " in Path("out/tables.md").read_text()
    assert Image.open("out/methods.png").width > 300
    check_reports_of_some(invoke)


def check_reports_of_some(invoke):
    """Of entries by name; and of what is still what it was, once the file has changed."""
    whole = Path("out/tables.md").read_text().splitlines()
    assert invoke(*WORDS, "--report=some", "--only=fdg/*").stdout.split() == [
        "some/tables.md", "some/methods.png", "some/searches.png",
    ]  # fmt: skip
    some = Path("some/tables.md").read_text().splitlines()
    assert [row for row in some if "weak" in row] == [row for row in whole if row.startswith("| ") and "| fdg/" in row]
    assert "Some of the entries: ties and differences are among all." in some

    Path("small.toml").write_text(QUICK.replace('rule = "fdg"', 'rule = "fdg:low=0.5"'))
    told = invoke(*WORDS, "--report=other")
    tags = [str(line.get("search") or line["arena"]) for line in lines() if line["metric"] == "fd_mnist"]
    count = sum("fdg/weak" in tag for tag in tags)
    assert told.stderr == (
        f"note: {count} lines of the ledger left out: {count} of another recipe than that of their entry\n"
    )
    assert "fdg" not in Path("other/tables.md").read_text()
    refused = invoke(*WORDS, "--report=none", "--only=fdg/*")
    assert (refused.exit_code, Path("none").exists()) == (2, False)
    assert "a.jsonl has no score of these entries of the arena small" in refused.output


def check_pairs(written):
    """Differences of the same seeds: of the values in the ledger, and closer than by the intervals of both."""
    known = {(pair["a"], pair["b"]): pair["metrics"]["fd_mnist"] for pair in lines("a.pairs.jsonl")}
    first = {line["arena"]["entry"]: line for line in written if line.get("arena", {}).get("block") == 0}
    ours, theirs = first["fdg/weak"], first["linear/weak"]
    pair = known["fdg/weak", "linear/weak"]
    difference = ours["value"] - theirs["value"]
    assert (pair["low"] + pair["high"]) / 2 == pytest.approx(difference, abs=1e-9)
    unpaired = apart(ours["value"], theirs["value"], interval_of(ours), interval_of(theirs))
    assert pair["high"] - pair["low"] < unpaired.high - unpaired.low


def test_what_was_lost_is_made_again(invoke):
    words = (*WORDS, "--only=linear/*")
    assert invoke(*words).exit_code == 0
    whole = lines()
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole[1:]))
    again = invoke(*words)
    assert again.exit_code == 0, again.output
    assert lines()[-1]["value"] == whole[0]["value"]
    assert lines()[-1]["search"] == whole[0]["search"]
    check_that_the_ledger_is_enough(invoke, words)


def check_that_the_ledger_is_enough(invoke, words):
    """Nothing is sampled again: where the images are gone, or a network has another name by now."""
    before = Path("a.jsonl").read_bytes()
    shutil.rmtree("results")
    again = invoke(*words)
    assert again.exit_code == 0, again.output
    shutil.copy(EMBEDDED / "mnist16-cond.pkl", "copy.pkl")
    Path("small.toml").write_text(QUICK.replace('net = "mnist16-cond"', 'net = "copy.pkl"'))
    renamed = invoke(*words)
    assert renamed.exit_code == 0, renamed.output
    assert "linear/weak" in renamed.stdout
    assert Path("a.jsonl").read_bytes() == before
    assert not list(Path("results").rglob("*.zip"))


def test_two_entries_of_one_recipe_are_sampled_once(invoke):
    """And both are compared by the same images."""
    Path("small.toml").write_text(QUICK + '[[methods]]\nname = "same"\nguides = ["weak"]\n')
    done = invoke(*WORDS, "--only=linear/*,same/*,unguided")
    assert done.exit_code == 0, done.output
    finals = [line for line in lines() if "arena" in line and line["arena"]["block"] == 0]
    values = {line["arena"]["entry"]: line["value"] for line in finals}
    assert values["linear/weak"] == values["same/weak"]
    assert len(list(Path("results/images").glob("*-100-139.zip"))) == 2
    pairs = {(pair["a"], pair["b"]): pair["metrics"]["fd_mnist"] for pair in lines("a.pairs.jsonl")}
    assert pairs["same/weak", "linear/weak"]["high"] == 0


def test_usage(invoke):
    for words, said in (
        (("--arena=large",), "there is no arena 'large'"),
        (("--only=nothing*",), "no entry of the arena small"),
        (("--only=",), "no entry of the arena small is called ''"),
        (("--metrics=fid",), "mnist16"),
        (("--worker=2/2",), "workers count from 0 to N - 1"),
        (("--report=out",), "there is no ledger a.jsonl yet"),
        (("--time=2",), "there is no ledger a.jsonl yet"),
    ):
        refused = invoke(*WORDS, *words)
        assert refused.exit_code == 2, refused.output
        assert said in refused.output
    for each in ("--list", "--report=out"):
        assert "metric 'fdx' is not known" in invoke(*fdx(), each).output
    Path("a.pairs.jsonl").write_text("{")
    refused = invoke(*WORDS)
    assert refused.exit_code == 2, refused.output
    assert "a.pairs.jsonl does not hold differences" in refused.output
    assert not Path("results").exists()
