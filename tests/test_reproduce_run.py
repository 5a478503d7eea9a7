"""reproduce.py run, search and plot, as a user types them, on the networks that ship."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands import reproduce

PRETRAINED = Path(__file__).parents[1] / "edm2_guidance" / "pretrained"


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(reproduce.main, list(words))

    return call


def lines():
    return [json.loads(line) for line in Path("results/ledger.jsonl").read_text().splitlines()]


def test_run_then_report_then_run_again(invoke):
    done = invoke("run", "mnist16-floor", "--num=16")
    assert done.exit_code == 2
    assert "no statistics of 16 real images" in done.output
    words = ("run", "mnist16-autog", "--num=2", "--blocks=2", "--shard-size=1", "--device=cpu")
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("mnist16-autog") == 2
    assert "seeds 0-1" in done.stdout
    assert "seeds 2-3" in done.stdout
    assert "row 1 of 1, block 1 of 2: mnist16-autog\n" in done.stderr
    assert "row 1 of 1, block 2 of 2: mnist16-autog (about " in done.stderr
    assert "left in all" in done.stderr
    again = invoke(*words)
    assert again.stdout.count("(in the ledger)") == 2
    assert len(lines()) == 2
    report = invoke("report", "mnist16-autog")
    assert report.exit_code == 0, report.output
    assert "changed protocol" in report.stdout.lower()
    assert "2 images" in report.stdout or "| 2 |" in report.stdout


def test_unfinished_work_of_another_run_is_refused(invoke):
    """Before any work, whatever block it is of."""
    words = ("run", "mnist16-autog", "--num=2", "--blocks=2", "--shard-size=1", "--device=cpu")
    assert invoke(*words, "--worker=0/2").exit_code == 0
    (first,) = (path for path in Path("results/work").iterdir() if "-0-2" in path.name)
    shutil.rmtree(first)
    refused = invoke(*words, "--worker=1/2", "--batch=2")
    assert refused.exit_code == 2
    assert "batch: 64 | 2" in refused.stderr
    assert not first.exists()
    assert "\n1 block left to the other workers (start any" in invoke(*words, "--worker=1/2").stdout


def test_rows_that_nothing_published_makes_are_named_with_what_would(invoke):
    done = invoke("run", "edm2-img512-s-autog-same-ema-fid", "gi1-dit-xl-2-fid", "--networks=nets")
    assert done.exit_code == 2
    done = invoke("run", "edm2-img512-s-autog-same-ema-fid", "--networks=nets")
    assert done.exit_code == 2
    assert "--outdir=nets --outprefix=edm2-img512-s --outkimg=2147483 --outstd=0.050" in done.stderr
    assert "none of these rows can run" in done.stderr
    assert not Path("results").exists()


def test_search_and_plot(invoke, monkeypatch):
    words = ("search", "--preset=mnist16-autog", "--over=weight", "--weights=1,1.5,...,3", "--stride=2", "--num=4")
    done = invoke(*words, "--steps=2", "--blocks=2", "--device=cpu", "--verbose")
    assert done.exit_code == 0, done.output
    assert "about 5 points of 4 images, then the best in 2 blocks of 4\n" in done.stderr
    assert "fixed: mnist16-cond; guided by mnist16-weak, at all steps; 2 steps; labels: random" in done.stderr
    assert "tried: weight 1 to 3 (5 values); every 2nd first" in done.stderr
    assert "point 1 of about 5: weight 1\n" in done.stderr
    assert "point 2 of about 5: weight 2 (about " in done.stderr
    assert "block 2 of 2 at the best point (about " in done.stderr
    assert "best:" in done.stdout
    assert "in 2 blocks of 4: min" in done.stdout
    *_, sample, score = done.stdout.splitlines()
    best = float(done.stdout.split("best:\nweight ")[1].split()[0])
    guide = "" if best == 1 else f" --gnet=mnist16-weak --guidance={best:g}"
    flags = f"--net=mnist16-cond{guide} --steps=2"
    assert sample == f"to sample: python generate_images.py {flags} --outdir=out --seeds=0-63"
    assert score.endswith(f"gen {flags} --ref=mnist16-refs --metrics=fd_mnist --num-images=4")
    count = len(lines())
    assert 4 <= count <= 6
    assert invoke(*words, "--steps=2", "--blocks=2", "--device=cpu").stdout == done.stdout
    more = ("--weights=1.5", "--final-num=5", "--blocks=1", "--steps=2", "--device=cpu", "--ledger=my scores.jsonl")
    others = [word for word in words if not word.startswith("--weights=")]
    assert invoke(*others, *more).stdout.splitlines()[-1].endswith(" --num-images=5 --ledger='my scores.jsonl'")
    assert len(lines()) == count
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        assert (
            invoke(*words, "--steps=2", "--blocks=2", "--device=cpu", "--share-device").stdout == ""
        )  # the first says it
    drawn = invoke("plot", "mnist16-autog", "--kind=weight", "--num=4", "--out=plot.png")
    assert drawn.exit_code == 0, drawn.output
    assert Image.open("plot.png").size[0] > 400
    assert invoke("plot", "mnist16-autog", "--kind=weight", "--num=4", "--out=plot.png").exit_code == 2
    for kind in ("interval", "ema"):
        refused = invoke("plot", "mnist16-autog", f"--kind={kind}", "--num=4", "--out=other.png")
        assert refused.exit_code == 2
        assert "--kind=weight fits it" in refused.stderr
        assert not Path("other.png").exists()


def test_a_search_records_others_beside_its_metric(invoke):
    """Of the same images, so that nothing is sampled twice; plots of the search show what it was by."""
    reference = f"--ref={Path(__file__).parent / 'data' / 'mnist16-200.npz'}"
    words = ("search", "--preset=mnist16-autog", "--over=weight", "--weights=1,2", "--stride=1", "--num=4")
    words = (*words, "--blocks=1", "--steps=2", "--device=cpu", reference)
    alone = invoke(*words)
    assert alone.exit_code == 0, alone.output
    beside = invoke(*words, "--metrics=fd_mnist,precision/mnist,recall/mnist")
    assert beside.stdout == alone.stdout
    found = [(line["search"]["point"]["weight"], line["metric"]) for line in lines()]
    metrics = ["fd_mnist", "precision/mnist", "recall/mnist"]
    assert sorted(found) == [(weight, metric) for weight in (1, 2) for metric in metrics]
    for kind, out in (("weight", "scores"), ("precision-recall", "both")):
        drawn = invoke("plot", "mnist16-autog", f"--kind={kind}", "--num=4", f"--out={out}.png")
        assert drawn.exit_code == 0, drawn.output
        assert Image.open(f"{out}.png").size[0] > 400
    for more, message in (
        (["--kind=weight", "--metrics=recall/mnist,fd_mnist"], "--kind=weight draws one"),
        (["--kind=interval", "--metrics=recall/mnist"], "--metrics is for --kind=weight"),
        (["--kind=precision-recall", "--against=mnist16-cfg"], "--against is for --kind=weight"),
        (["--kind=precision-recall", "--labels=a,b"], "2 labels for 1 curve"),
    ):
        refused = invoke("plot", "mnist16-autog", *more, "--num=4", "--out=other.png")
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert not Path("other.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset=mnist16-cfg", "--over=weight", "--metrics=all"], "a search is by one metric: name that first"),
        (
            ["--preset=mnist16-cfg", "--over=weight", "--metrics=fd_mnist,recall/mnist"],
            "holds mean and covariance alone",
        ),
        (
            ["--preset=mnist16-cfg", "--over=weight", "--metrics=recall/mnist", "--num=3"],
            "3 images are too few for the 3",
        ),
        (["--over=weight"], "which network"),
        (["--preset=mnist16", "--over=weight"], "has no guide"),
        (["--preset=mnist16-cfg", "--over=ema"], "no EMA length in the name"),
        ([f"--net={PRETRAINED}/mnist16-cond.pkl", "--over=ema"], "without a --preset"),
        (["--preset=mnist16-cfg", "--over=weight", "--weights=2,1,3"], "rise or fall"),
        (["--preset=mnist16-cfg", "--over=weight", "--weight=linear:w=3"], "w is what --over=weight says"),
        (["--preset=mnist16-cfg", "--over=weight,interval", "--guidance=2"], "w is what --over=weight,interval says"),
        (["--preset=mnist16-uncond", "--over=weight"], "has no guide"),
        (["--preset=mnist16-cfg", "--over=weight", "--ref=img-512"], "did you mean img512"),
    ],
)
def test_searches_that_cannot_be(invoke, words, message):
    done = invoke("search", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("results").exists()


@pytest.mark.parametrize("words", [("run", "mnist16-autog"), ("search", "--preset=mnist16-autog", "--over=weight")])
def test_a_noise_device_that_is_not_there(invoke, monkeypatch, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = invoke(*words, "--num=4", "--device=cpu", "--noise-device=cuda")
    assert done.exit_code == 2
    assert "--noise-device=cuda is not available here" in done.stderr
    assert not Path("results").exists()


@pytest.mark.parametrize("words", [("run", "mnist16-autog"), ("search", "--preset=mnist16-autog", "--over=weight")])
def test_a_damaged_ledger_is_found_before_any_work(invoke, words):
    Path("ledger.jsonl").write_text('{"schema": 1, "metric": "fid", "value": "x"}\n')
    done = invoke(*words, "--num=4", "--ledger=ledger.jsonl")
    assert done.exit_code == 2
    assert "ledger.jsonl, line 1, has \"x\" for 'value'" in done.stderr
    assert not Path("results").exists()


def test_places_are_checked_before_work(invoke):
    Path("file").write_text("")
    done = invoke("run", "mnist16-autog", "--num=4", "--blocks=1", "--results=file")
    assert done.exit_code == 2
    assert "file is a file" in done.stderr


def test_rows_that_are_no_presets_say_what_they_are(invoke):
    done = invoke("search", "--preset=mnist16-blend", "--over=alpha")
    assert done.exit_code == 2
    assert "reproduce.py run mnist16-blend" in done.stderr
