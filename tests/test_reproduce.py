"""reproduce.py as its user runs it: list, plan, report."""

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from dnnlib.places import EMBEDDED
from edm2_guidance.commands import calculate_metrics, reconstruct_phema, reproduce, train_edm2
from edm2_guidance.commands.reproduce import main
from edm2_guidance.papers.costs import facts_of, snapshot_bytes
from edm2_guidance.papers.tables import all_rows, find, how_to_make


def run(*args):
    return CliRunner().invoke(main, args)


def test_list_shows_every_row_and_its_score():
    result = run("list")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    names_in_order = [row.name for row in all_rows()]
    names = set(names_in_order)
    for row in all_rows():
        (line, *_) = (line for line in lines if line.split(" ")[0] == row.name)
        assert row.method in line
        assert row.published is None or f" {row.published:.2f} " in line
    assert [name for name in (line.split(" ")[0] for line in lines) if name in names] == names_in_order
    assert "reconstruct" in next(line for line in lines if line.startswith("edm2-img512-s-uncond-fid"))
    assert "train, reconstruct" in next(line for line in lines if line.startswith("edm2-img64-s-guid-fid"))
    assert "no: copied number" in next(line for line in lines if line.startswith("rin-img64-fid"))


def test_list_as_data():
    table = list(csv.DictReader(io.StringIO(run("list", "gi1", "--format=csv").output)))
    data = json.loads(run("list", "gi1", "--format=json").output)
    assert len(table) == len(data) == 12
    row = next(row for row in data if row["row"] == "edm2-img512-xxl-interval-fid")
    assert (row["interval_steps"], row["interval_sigmas"], row["weights"]) == ("17-22", "(0.19, 1.61]", [2.0])
    assert row["ema"] == [0.015, 0.015]
    assert row["steps"] == 32
    assert (row["images"], row["repeats"], row["labels"], row["runnable"]) == (50000, 3, "random", "yes")


def test_rows_of_another_code_base_have_no_steps_of_ours():
    data = json.loads(run("list", "--format=json").output)
    steps = {row["row"]: row["steps"] for row in data}
    assert steps["rin-img64-fid"] is None
    assert steps["mnist16-floor"] is None
    assert all((row["steps"] is None) == (row["networks"] == []) for row in data)


def test_plan():
    result = run("plan", "edm2-img512-xxl-interval-fid", "--throughput=320")
    assert result.exit_code == 0, result.output
    assert "63 main + 12 guide = 75 per image" in result.output
    assert "5,488 PFLOP, 4.76 hours at 320 TFLOP/s" in result.output
    assert "together" not in result.output
    table = run("plan", "edm2-4", "mnist16", "--num=1000")
    assert table.output.count("1,000 images x 3 runs") == 6 + 6
    assert "together: 12 rows that can be sampled here" in table.output
    for tflop in ("38.91", "42.48", "47.43", "53.82", "61.61", "70.83"):
        assert f"{tflop} Tflop per image" in table.output


@pytest.mark.parametrize("args", [("list", "ag2"), ("plan", "edm2-img512-s-autog"), ("report", "nonsense")])
def test_unknown_names_are_usage_errors(args):
    result = run(*args)
    assert result.exit_code == 2
    assert "there is no table or row" in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("speed", ["nan", "inf", "0"])
def test_plan_refuses_a_throughput_that_is_none(speed):
    result = run("plan", "mnist16-cfg", f"--throughput={speed}")
    assert result.exit_code == 2
    assert "throughput" in result.stderr
    assert result.stdout == ""


def test_plan_needs_a_name():
    assert run("plan").exit_code == 2


def test_report_without_a_ledger(tmp_path):
    result = run("report", f"--ledger={tmp_path / 'none.jsonl'}")
    assert result.exit_code == 2
    assert "yet: reproduce.py run, " in result.output


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Scores of four digits, as calculate_metrics.py writes them."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    args = ["gen", "--preset=mnist16-interval", "--num=4", "--batch=4", "--metrics=fd_mnist", "--device=cpu",
            f"--ref={EMBEDDED / 'mnist16-refs.npz'}", f"--ledger={path}"]  # fmt: skip
    result = CliRunner().invoke(calculate_metrics.main, args)
    assert result.exit_code == 0, result.output
    return path


def test_scores_of_calculate_metrics_find_their_row(ledger):
    (result,) = json.loads(run("report", "mnist16", "--format=json", f"--ledger={ledger}").output)["results"]
    assert result["row"] == "mnist16-interval"
    assert result["changed"][0] == "4 images, not 5,000"
    assert result["changed"][1:] == json.loads(Path(ledger).read_text())["flags"]
    assert result["published"] is None


def test_the_same_line_at_the_rows_count_is_as_defined(ledger, tmp_path):
    line = json.loads(Path(ledger).read_text()) | {"num_images": 5000, "flags": []}
    full = tmp_path / "full.jsonl"
    full.write_text(json.dumps(line) + "\n")
    result = run("report", "mnist16", f"--ledger={full}", f"--out={tmp_path / 'report.md'}")
    assert (result.exit_code, result.output) == (0, "")
    text = (tmp_path / "report.md").read_text()
    assert "| mnist16-interval | digits, CFG in an interval | fd_mnist | - |" in text
    assert "1 of 3 | 5,000 | random |" in text
    assert "Changed" not in text
    assert "**Not run: 6 of 7 rows**" in text
    assert text.endswith("- not run yet: python reproduce.py run mnist16-unguided mnist16-cfg mnist16-autog "
                         "mnist16-classifier mnist16-blend mnist16-floor\n")  # fmt: skip


def test_the_commands_that_make_networks_are_accepted():
    scripts = {"reconstruct_phema.py": reconstruct_phema.main, "train_edm2.py": train_edm2.main}
    all_lines = how_to_make(file for row in all_rows() for file in row.files)
    lines = [line for line in all_lines if not line.startswith("save the network from ")]
    assert len(all_lines) - len(lines) == 4
    for line in lines:
        words = shlex.split(line)
        script = next(word for word in words if word in scripts)
        context = scripts[script].make_context(script, words[words.index(script) + 1 :], resilient_parsing=False)
        assert context.params["outdir"]
        if script == "train_edm2.py":
            assert context.params["cond"] is False
    assert len(lines) == 17


def test_the_searches_of_the_interval_papers_figures_are_accepted(monkeypatch, tmp_path):
    """Up to the point where networks are opened; the reference of images need not be there."""

    def opened(*args):
        raise ValueError("reached")

    page = (Path(__file__).parents[1] / "docs" / "tables.md").read_text()
    part = page.partition("## Figures 3 to 5")[2].partition("\n## ")[0]
    lines = [line.removeprefix("python reproduce.py ") for line in part.splitlines() if " search " in line]
    assert len(lines) == 6
    monkeypatch.setattr(reproduce, "runner_from", opened)
    images = tmp_path / "img512.zip"
    images.touch()
    for line in lines:
        done = run(*shlex.split(line.replace("datasets/img512.zip", str(images))))
        assert "reached" in done.output, line


def test_reconstructions_are_named_as_rows_look_for_them_and_read_what_the_plan_says(tmp_path):
    from training.reconstruct import find_snapshots, plan_reconstructions

    (row,) = find("edm2-img512-s-autog-training-only-fid")
    for file, line in zip(reversed(row.files), reversed(how_to_make(row.files, tmp_path)), strict=True):
        options = dict(word[2:].split("=") for word in shlex.split(line) if word.startswith("--"))
        snapshots = find_snapshots(options["indir"], kimg=int(options["outkimg"]))
        assert snapshot_bytes([file]) == len(snapshots) * facts_of(file).bytes
        made = plan_reconstructions(snapshots, [float(options["outstd"])], options["outdir"], options["outprefix"])
        assert [output.path for output in made.outputs] == [tmp_path / file]


def test_a_csv_report_says_on_stderr_what_it_cannot_hold(tmp_path):
    line = {"schema": 2, "metric": "kid_mnist", "value": 0.1, "num_images": 50}
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(json.dumps(line) + "\n")
    done = run("report", "mnist16", "--format=csv", f"--ledger={ledger}")
    assert (done.exit_code, done.stdout) == (0, "\n")
    assert done.stderr == "note: 1 score by a metric that none of these rows has: kid_mnist\n"


LEDGER = Path(__file__).resolve().parents[1] / "docs" / "digits.jsonl"
PLOT = ("plot", "mnist16-autog", "--num=1000", f"--ledger={LEDGER}")


def test_a_plot_for_a_column(tmp_path):
    picture = tmp_path / "plot.svg"
    words = (*PLOT, "mnist16-interval-weight", "--kind=weight", f"--out={picture}", "--size=column", "--title=Digits")
    done = run(*words, "--against=mnist16-cfg", "--labels=autoguidance, interval, CFG")
    assert done.exit_code == 0, done.output
    assert "note: mnist16-autog - mnist16-cfg: by the spread over blocks of seeds, 3 and 3, paired" in done.stderr
    text = picture.read_text()
    assert f'width="{3.3 * 72:g}pt"' in text
    for label in ("Digits", "autoguidance", "interval", "CFG", "difference in fd_mnist@1000", "(bars: 95 % intervals)"):
        assert f">{label}</text>" in text
    assert " 8px" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind=interval", "--out=a.png", "--against=x"], "--against is for --kind=weight, scale and alpha"),
        (["--out=a.gif"], "a.gif: give a name that ends in .png, .pdf, .svg"),
        (["--out=a.png", "--size=big"], "give inches from 1 to 100, such as 5,3, or column or page"),
        (["--out=a.png", "--size=3"], "give inches"),
        (["--out=a.png", "--size=0,nan"], "give inches"),
        (["--out=a.png", "--labels=a,b"], "2 labels for 1 curve: one each for mnist16-autog"),
        (["--out=a.png", "--style=nowhere.mplstyle"], "style nowhere.mplstyle: there is none of that name"),
        (["--out=a.png", "--against=mnist16"], "no search and no row of that name at 1000 images"),
        (["--out=a.png", "--kind=scale"], "did not vary the classifier's scale; --kind=weight fits it"),
        (["--out=a.png", "mnist16-cfg", "--kind=ema"], "--kind=ema plots one search at a time"),
    ],
)
def test_a_plot_that_cannot_be_is_refused_before_work(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = run(*PLOT, *(words if any("--kind" in word for word in words) else ["--kind=weight", *words]))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
