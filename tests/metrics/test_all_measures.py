"""All measures by one command: one pass over the images, one line each, and what is refused beforehand."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.uncertainty import interval
from edm2_guidance.recipe.catalog import kinds

DIGITS = Path(__file__).resolve().parents[1] / "data" / "mnist16-200.npz"
#: Every kind of the digits' features, the class scores of which are not among these.
KINDS = [kind for kind in kinds("measure") if kind not in ("is", "kid")]
METRICS = [f"{kind}/mnist" for kind in KINDS] + [
    "kid:fidelity:size=50/mnist",
    "precision:adm/mnist",
    "recall:prdc/mnist",
]


@pytest.fixture(autouse=True)
def two_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """120 digits to be scored, and 80 others."""
    monkeypatch.chdir(tmp_path)
    with np.load(DIGITS) as file:
        for name, part in (("images.npz", slice(0, 120)), ("others.npz", slice(120, 200))):
            np.savez(name, arr_0=file["arr_0"][part])


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, f"exit {result.exit_code}: {result.output}\n{result.exception!r}"
    return result


def test_all_measures_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of the measures' own features, and each image through the network once."""
    run("ref", "--data=images.npz", "--dest=ours.npz", f"--metrics={METRICS[2]}")
    run("ref", "--data=others.npz", "--dest=theirs.npz", f"--metrics={METRICS[2]}")
    seen: list[int] = []
    original = Detector._features
    monkeypatch.setattr(Detector, "_features", lambda self, images: seen.append(len(images)) or original(self, images))
    run("calc", "--images=images.npz", "--ref=theirs.npz", "--metrics=" + ",".join(METRICS))
    assert sum(seen) == 120
    kept = [open_statistics(f"{name}.npz", keep=["fd_mnist"]).moments["fd_mnist"] for name in ("ours", "theirs")]
    records = ledger.read("results/ledger.jsonl")
    assert len(records) == len(METRICS)
    for text, record in zip(METRICS, records, strict=True):
        metric = find_metric(text)
        expected = metric.measure.against(kept[1], text)(kept[0])
        assert record["metric"] == metric.name
        assert record["value"] == pytest.approx(expected[metric.measure.kind], rel=1e-9, abs=1e-9), text
        known = interval(metric.measure, record["value"], *kept)
        assert record["interval"] == pytest.approx(asdict(known), rel=1e-6, abs=1e-9)
        assert record["interval"]["low"] < record["interval"]["high"]


def test_a_reference_must_be_enough_for_what_is_done_with_it() -> None:
    """An extrapolation takes subsets of the samples, and mean and covariance of the reference."""
    with np.load("others.npz") as file:
        np.savez("few.npz", arr_0=file["arr_0"][:20])
    run("calc", "--images=images.npz", "--ref=few.npz", "--metrics=fd-inf/mnist")
    refused = run("calc", "--images=few.npz", "--ref=others.npz", "--metrics=fd-inf/mnist", code=2)
    assert "20 images of few.npz are too few for 15 subsets" in refused.stderr


@pytest.mark.parametrize(("metric", "says"), [("coverage", "lower"), ("mind", "higher"), ("density", None)])
def test_flags_say_what_few_images_do(metric: str, says: str | None) -> None:
    run("calc", "--images=images.npz", "--ref=others.npz", f"--metrics={metric}/mnist")
    (record,) = ledger.read("results/ledger.jsonl")
    assert [flag.partition(": ")[2] for flag in record["flags"] if "published" in flag] == (
        [] if says is None else [f"fewer give {says} values, so compare only at the same number"]
    )


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "recall:k=80/mnist",
            "recall:k=80/mnist: 80 images of others.npz are too few for the 80 nearest neighbours",
        ),
        ("precision:interval/mnist", "precision:interval/mnist is of 50000 images of either set, and these are"),
        ("precision:adn/mnist", "precision has no 'adn'"),
        ("precision:adm:prdc/mnist", "adm and prdc are variants, and one may be given"),
        ("fd-inff/mnist", "there is no measure 'fd-inff' (did you mean fd-inf?)"),
    ],
)
def test_refused_in_one_line_before_any_work(metric: str, message: str) -> None:
    result = run("calc", "--images=images.npz", "--ref=others.npz", f"--metrics={metric}", code=2)
    assert message in result.stderr.splitlines()[-1]
    assert not Path("results").exists()


def test_moments_alone_serve_what_needs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    run("ref", "--data=others.npz", "--dest=alone.npz", "--metrics=fd_mnist")
    run("calc", "--images=images.npz", "--ref=alone.npz", "--metrics=fd-inf/mnist,vendi/mnist")
    assert [record["metric"] for record in ledger.read("results/ledger.jsonl")] == ["fd-inf/mnist", "vendi/mnist"]
    result = run("calc", "--images=images.npz", "--ref=alone.npz", "--metrics=precision/mnist", code=2)
    assert "alone.npz holds mean and covariance alone" in result.stderr
    assert json.loads(Path("results/ledger.jsonl").read_text().splitlines()[0])["also"].keys() == {"slope"}
