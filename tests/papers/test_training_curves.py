"""Training runs as a picture: what is drawn is what their statistics say."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from dnnlib import figures
from edm2_guidance.commands.reproduce import main
from edm2_guidance.papers.plots import Look
from edm2_guidance.papers.training_curves import arranged
from training.run_log import read_stats

pytest.importorskip("matplotlib")


def report(kimg, loss, lr=0.01):
    return {"images_seen": int(1000 * kimg), "kimg": kimg, "loss": loss, "lr": lr}


def score(kimg, length, value, interval=None):
    network = f"network-snapshot-{int(kimg):07d}-{length}.pkl"
    seen = {"images_seen": int(1000 * kimg), "kimg": kimg}
    return {**seen, "network": network, "metric": "fd_mnist@64", "value": value, "interval": interval}


FIRST = [
    report(1, 0.9), report(2, None), score(2, "0.050", 30.0, {"low": 27.0, "high": 35.0}), score(2, "0.100", 33.0),
    report(3, 0.5, 0.005), score(3, "0.050", 20.0, {"low": 18.0, "high": 21.0}), score(3, "0.100", 22.0),
]  # fmt: skip
SECOND = [report(1, 0.8)]


def test_curves_are_those_of_the_statistics():
    with figures.styled():
        loss, lr, scores = arranged({"a": FIRST, "b": SECOND}, Look()).axes
    assert [line.get_xdata().tolist() for line in loss.lines] == [[1, 2, 3], [1]]
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [0.9, np.nan, 0.5])
    assert [line.get_ydata().tolist() for line in lr.lines] == [[0.01, 0.01, 0.005], [0.01]]
    assert [bars.lines[0].get_ydata().tolist() for bars in scores.containers] == [[30, 20], [33, 22]]
    ends = scores.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([(low[1], high[1]) for low, high in ends], [(27, 35), (18, 21)])
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["0.050", "0.100"]
    assert scores.get_ylabel() == "fd_mnist@64"


@pytest.fixture
def run(tmp_path):
    """The command, on runs with these statistics."""

    def run(*args, **stats):
        for name, records in stats.items():
            (tmp_path / name).mkdir()
            text = "".join(f"{json.dumps(record)}\n" for record in records)
            (tmp_path / name / "stats.jsonl").write_text(text + '{"images_seen": 4')  # it is still going
        words = ["plot-training", *(str(tmp_path / name) for name in stats), f"--out={tmp_path}/out.svg", *args]
        return CliRunner().invoke(main, words)

    return run


def test_several_runs_in_one_picture(run, tmp_path):
    result = run("--labels=main,weak", "--title=Digits", a=FIRST, b=SECOND)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out.svg").read_text()
    for word in ("main", "weak", "Digits", "loss", "learning rate", "fd_mnist@64", "thousands of images seen"):
        assert f">{word}<" in text
    assert read_stats(tmp_path / "a") == FIRST


@pytest.mark.parametrize(
    ("args", "stats", "message"),
    [
        ([], {"a": []}, "no stats.jsonl of a training run there, or no report in it yet"),
        (["--labels=one,two"], {"a": FIRST}, "2 labels for 1 curve: "),
        (["--out=a.gif"], {"a": FIRST}, "give a name that ends in"),
        (["--style=nothing"], {"a": FIRST}, "there is none of that name"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run, tmp_path, args, stats, message):
    result = run(*args, **stats)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1 + bool(args and "out" in args[0]))
    assert message in result.stderr
    assert not (tmp_path / "out.svg").exists()
