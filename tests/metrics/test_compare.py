"""Better, worse or inconclusive: of ledger lines whose answer is known, and of sets on the command line."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner, Result

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics import compare, ledger
from tests.pictures import encoded

DATA = Path(__file__).resolve().parents[1] / "data" / "mnist16-200.npz"
DETECTOR = {"network": "N", "weights_sha256": "aa", "resize": "none", "dtype": "float32"}


def line(value: float, half: float | None = None, seeds: str = "0-999", **changes: Any) -> dict[str, Any]:
    """A score of the images of these seeds; half: of its interval."""
    known = {"low": value - half, "high": value + half, "error": half / 1.96, "level": 0.95} if half else None
    return {
        "schema": 2,
        "name": "fid@1000",
        "metric": "fid",
        "value": value,
        "num_images": 1000,
        "interval": known,
        "images": {"path": None, "seeds": seeds, "num_images": 1000, "total": 1000},
        "recipe_hash": "r1",
        "reference": {"source": "img512", "sha256": "01"},
        "detector": DETECTOR,
        **changes,
    }


@pytest.mark.parametrize(
    ("metric", "a", "b", "word"),
    [("fid", 2.0, 2.5, "better"), ("fid", 2.5, 2.0, "worse"), ("precision/inception", 0.7, 0.6, "better")],
)
def test_directions(metric: str, a: float, b: float, word: str) -> None:
    assert compare.of_lines([line(a, 0.01, metric=metric)], [line(b, 0.01, metric=metric)]).word == word


def test_lines_with_intervals_are_compared_by_these() -> None:
    """A gap of 0.5 is more than what intervals of 0.3 leave open, 0.42, and less than what those of 0.4 do, 0.57."""
    clear = compare.of_lines([line(2.0, 0.3)], [line(2.5, 0.3, seeds="1000-1999")])
    assert clear.interval is not None
    assert (clear.interval.low, clear.interval.high) == pytest.approx((-0.5 - 0.3 * 2**0.5, -0.5 + 0.3 * 2**0.5))
    assert clear.word == "better"
    assert compare.of_lines([line(2.0, 0.4)], [line(2.5, 0.4)]).word == "inconclusive"
    three = [line(value, 0.4, f"{k}000-{k}999") for k, value in enumerate((1.9, 2.0, 2.1))]
    assert compare.of_lines(three, [line(2.5, 0.4, "0-999", recipe_hash="r2")]).word == "better", "the mean of three"


def test_lopsided_intervals_keep_their_sides() -> None:
    """Newcombe's interval of two shares is made of Wilson's (Statistics in Medicine 1998, 17:873, method 10)."""
    known = [scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson") for k, n in ((56, 70), (48, 80))]
    a, b = (
        line(value, metric="precision/inception", interval={"low": each.low, "high": each.high, "error": 0.05})
        for value, each in zip((0.8, 0.6), known, strict=True)
    )
    found = compare.of_lines([a], [b]).interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5), "the paper's Table II, (a)"


def test_lines_without_intervals_need_blocks_of_seeds() -> None:
    ours = [line(value, None, f"{k}000-{k}999") for k, value in enumerate((2.1, 2.2, 2.3))]
    theirs = [line(value, None, f"{k}000-{k}999", recipe_hash="r2") for k, value in enumerate((2.2, 2.31, 2.39))]
    paired = compare.of_lines(ours, theirs)
    expected = scipy.stats.ttest_rel([2.1, 2.2, 2.3], [2.2, 2.31, 2.39]).confidence_interval(0.95)
    assert paired.interval is not None
    assert (paired.interval.low, paired.interval.high) == pytest.approx(tuple(expected), rel=1e-5)
    assert (paired.word, paired.how) == ("better", "by the spread over blocks of seeds, 3 and 3, paired")
    unpaired = compare.of_lines(ours, theirs[:2])
    assert (unpaired.word, unpaired.how) == ("inconclusive", "by the spread over blocks of seeds, 3 and 2")
    alone = compare.of_lines(ours[:1], theirs[:1])
    assert (alone.word, alone.interval) == ("inconclusive", None)
    assert "gen --again" in alone.how
    again = compare.of_lines([ours[0], ours[0]], theirs)
    assert again.interval is None, "the same images twice are one block"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": "kid"}, "fid and kid are different numbers"),
        ({"reference": {"source": "other", "sha256": "02"}}, r"different references \(img512 01, other 02\)"),
        ({"detector": {**DETECTOR, "resize": "tf1"}}, r"different resizes \(none, tf1\)"),
        ({"detector": {**DETECTOR, "weights_sha256": "bb"}}, "different detector weights"),
        ({"num_images": 5000}, "fid of 1,000 and 5,000 images: fewer give higher values"),
        ({"metric": "mystery"}, "metric 'mystery' is not known"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compare.of_lines([line(2.0, 0.1)], [line(2.5, 0.1, **changes)])


def test_variants_are_different_numbers_and_overlapping_blocks_none() -> None:
    ours, theirs = (line(0.5, 0.1, metric=name) for name in ("precision/inception", "precision:prdc/inception"))
    with pytest.raises(ValueError, match="precision and precision:prdc are different numbers"):
        compare.of_lines([ours], [theirs])
    with pytest.raises(ValueError, match="seeds 0-999 and 500-1499 on one side overlap"):
        compare.of_lines([line(2.0), line(2.1, seeds="500-1499")], [line(2.5)])


# On the command line


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.output}\n{result.exception!r}"
    return result


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """ZIPs of real digits with some noise; first: the seed in the first name."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, noise: float = 0, first: int = 0) -> str:
        with np.load(DATA) as file:
            pixels = file["arr_0"].astype(np.float64)
        grain = np.random.RandomState(0).standard_normal([*pixels.shape[:3], 1])
        with zipfile.ZipFile(name, "w") as file:
            for number, image in enumerate((pixels + noise * grain).clip(0, 255).astype(np.uint8)):
                file.writestr(f"{first + number:06d}.png", encoded(image))
        return name

    return make


def test_sets_are_paired_where_seeds_agree(digits: Callable[..., str]) -> None:
    a, b, apart = digits("a.zip"), digits("b.zip", 6), digits("c.zip", 6, first=1000)
    arguments = ("mnist16", "--metrics=fd_mnist,precision:prdc/mnist", "--ledger=l.jsonl")
    refused = run("compare", a, b, *arguments, code=2)
    assert "precision:prdc/mnist needs the features themselves" in refused.stderr, "and the reference holds none"
    paired = run("compare", a, b, "mnist16", "--metrics=fd_mnist", "--ledger=l.jsonl")
    unpaired = run("compare", a, apart, "mnist16", "--metrics=fd_mnist", "--ledger=l.jsonl")
    assert "fd_mnist@200: paired, image by image" in paired.stderr
    assert "fd_mnist@200: unpaired" in unpaired.stderr
    widths = []
    for result in (paired, unpaired):
        cells = result.stdout.splitlines()[-1].replace("[", "").replace("]", "").replace(",", "").split()
        widths.append(float(cells[5]) - float(cells[4]))
    assert widths[0] < 0.7 * widths[1]
    lines = ledger.read("l.jsonl")
    assert [record["images"]["path"] for record in lines] == [a, b, a, apart], "scores are kept, as those of calc"
    rows = run("compare", "2", "l.jsonl:4", "--ledger=l.jsonl").stdout.splitlines()
    assert rows[1].split()[1:3] == [f"{lines[1]['value']:.4f}", f"{lines[3]['value']:.4f}"]
    assert rows[1].endswith("inconclusive")


def test_statistics_are_compared_by_the_features_in_them(digits: Callable[..., str]) -> None:
    a, b = digits("a.zip"), digits("b.zip", 60)
    for name, metrics in (("plain.npz", "fd_mnist"), ("kept.npz", "fd_mnist,kid/mnist")):
        run("ref", f"--data={b}", f"--dest={name}", f"--metrics={metrics}")
    known = run("compare", a, "kept.npz", "mnist16", "--metrics=fd_mnist")
    assert known.stdout.splitlines()[-1].endswith("better")
    unknown = run("compare", a, "plain.npz", "mnist16", "--metrics=fd_mnist")
    assert unknown.stdout.splitlines()[-1].split()[-2:] == ["unknown", "inconclusive"]
    assert "ref --metrics=fd_mnist,kid/mnist" in unknown.stderr


def test_rows_of_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = [
        line(value, 0.1, f"{k}000-{k}999", metric="fd_mnist", row={"name": name, "block": k}, recipe_hash=name)
        for name, values in (("mnist16-cfg", (1.0, 1.1)), ("mnist16-autog", (0.5, 0.6)))
        for k, value in enumerate(values)
    ]
    Path("l.jsonl").write_text("".join(json.dumps(each) + "\n" for each in scores))
    result = run("compare", "mnist16-autog", "mnist16-cfg", "--ledger=l.jsonl")
    assert result.stdout.splitlines()[-1].split()[1:4] == ["0.5500", "1.0500", "-0.5000"]
    assert result.stdout.endswith("better\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1", "9"], "l.jsonl has 1 rows, and none of number 9"),
        (["1", "l.jsonl"], "sets are compared by a reference: compare A B REFERENCE"),
        (["1", "mnist16"], "mnist16 is a table of"),
        (["1", "nothing"], "there is no table or row 'nothing'"),
        (["1", "mnist16-cfg"], "mnist16-cfg has no scores in this ledger: reproduce.py run mnist16-cfg"),
    ],
)
def test_what_is_no_side(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("l.jsonl").write_text(json.dumps(line(1.0, 0.1)) + "\n")
    assert message in run("compare", *arguments, "--ledger=l.jsonl", code=2).stderr
