"""Kernel distance: torch-fidelity's numbers, the formula in slow loops, and what a command line says of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.measures.kernel import Kernel, unbiased_mmd
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.running import RunningMoments

DATA = Path(__file__).resolve().parents[1] / "data"
DIGITS = DATA / "mnist16-200.npz"
PRETRAINED = Path(__file__).resolve().parents[2] / "edm2_guidance" / "pretrained"
METRIC = "kid_mnist:size=40:subsets=5"


def kept(rows: np.ndarray) -> Moments:
    running = RunningMoments(rows.shape[1], keep=True)
    running.append(torch.from_numpy(rows))
    return running.moments()


@pytest.fixture(scope="module")
def golden() -> tuple[Moments, Moments, dict[str, Any]]:
    with np.load(DATA / "metrics_ties.npz") as file:
        return kept(file["a"]), kept(file["b"]), json.loads(str(file["expected"]))["torch-fidelity"]


def test_torch_fidelitys_numbers(golden: tuple[Moments, Moments, dict[str, Any]]) -> None:
    """Its kernel is float32; `float64_features` are its own draws with the features made float64 first."""
    ours, theirs, expected = golden
    found = Kernel(size=expected["kid_params"]["subset_size"]).against(theirs, "golden")(ours)
    assert found["kid"] == pytest.approx(expected["kid_mean_float64_features"], abs=1e-12)
    assert found["std"] == pytest.approx(expected["kid_std_float64_features"], abs=1e-12)
    assert found["kid"] == pytest.approx(expected["kid_mean"], abs=1e-6)


def test_the_formula_pair_by_pair() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 5)), generator.normal(0.5, 2, size=(7, 5))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(a * b) / 5 + 1) ** 3

    others = [(i, j) for i in range(7) for j in range(7) if i != j]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in others) / (7 * 6)
    between = sum(k(a, b) for a in x for b in y) / 49
    assert unbiased_mmd(x, y) == pytest.approx(within - 2 * between, rel=1e-12)


def test_defaults_are_torch_fidelitys_and_named_in_short() -> None:
    assert (Kernel().size, Kernel().subsets) == (1000, 100)
    assert [find_metric(text).name for text in ("kid", "kid/inception", "kid:size=1000")] == ["kid"] * 3
    assert find_metric("kid:subsets=5:size=40/mnist").name == find_metric("kid-mnist:size=40:subsets=5").name == METRIC
    assert find_metric("kid/dinov2").name == "kid/dinov2"


def test_unbiased_so_about_zero_for_two_halves_of_one_set(golden: tuple[Moments, Moments, dict[str, Any]]) -> None:
    rows = golden[1].features
    assert rows is not None
    halves = [kept(half) for half in (rows[::2], rows[1::2])]
    assert abs(Kernel(size=200, subsets=20).against(halves[0], "half")(halves[1])["kid"]) < 0.01


def test_a_damaged_reference_is_refused_beforehand() -> None:
    rows = np.full((50, 4), 1e90)
    with pytest.raises(ValueError, match=r"ref\.npz: kid: its features are too large"):
        Kernel(size=20).against(kept(rows), "ref.npz: kid")


# On the command line


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.output}\n{result.exception!r}"
    return result


def test_a_file_that_keeps_features_gives_the_value_of_its_images() -> None:
    """And a second metric of the same features costs no second pass, nor moves the first."""
    half = ["--data", DIGITS, "--num=100"]
    run("ref", *half, "--dest=kept.npz", f"--metrics=fd_mnist,{METRIC}")
    run("ref", *half, "--dest=plain.npz", "--metrics=fd_mnist")
    stored = open_statistics("kept.npz", keep=["fd_mnist"]).moments["fd_mnist"]
    assert stored.features is not None
    assert stored.features.shape == (100, 64)
    assert stored.sha256 == open_statistics("plain.npz").moments["fd_mnist"].sha256
    few = run("calc", f"--images={DIGITS}", "--ref=kept.npz", "--metrics=kid_mnist", code=2).stderr
    assert few.rstrip().endswith("or smaller subsets, as in kid_mnist:size=100")
    told = run("calc", f"--images={DIGITS}", "--ref=kept.npz", f"--metrics={METRIC},fd_mnist").stdout.splitlines()
    run("calc", f"--images={DIGITS}", "--ref=plain.npz", "--metrics=fd_mnist", "--again")
    run("calc", "--images=kept.npz", f"--ref={DIGITS}", f"--metrics={METRIC}")
    run("calc", f"--images={DIGITS}", f"--ref={DIGITS}", f"--metrics={METRIC}", "--num=100", "--again")
    kid, fd, plain, swapped, subset = ledger.read("results/ledger.jsonl")
    assert (kid["name"], kid["metric"]) == (f"{METRIC}@200", METRIC)
    assert [line.split()[:2] for line in told] == [
        [kid["name"], f"{kid['value']:.6f}"],
        [fd["name"], f"{fd['value']:.4f}"],
    ]
    assert f"{kid['value']:.6f}" in run("table").stdout
    assert kid["also"]["std"] > 0
    assert kid["detector"]["metric"] == "fd_mnist"
    assert fd["value"] == plain["value"]
    assert {"also", "name"} & fd.keys() == {"name"}
    assert swapped["value"] == subset["value"], "the subset that ref chose is the one that calc chooses"


def test_warnings_that_are_not_of_all_metrics_name_theirs() -> None:
    said = run("calc", DIGITS, DIGITS, f"--metrics={METRIC},fd_mnist,recall/mnist").stderr
    where = "200 images, where published scores have 50,000: fewer give"
    assert f"warning: fd_mnist: {where} higher values" in said
    assert f"warning: recall/mnist: {where} lower values" in said
    assert f"warning: {where} higher values" in run("calc", DIGITS, DIGITS, "--metrics=fd_mnist").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            [f"--ref={PRETRAINED / 'mnist16-refs.npz'}", "--metrics=kid_mnist:size=40"],
            "mnist16-refs.npz holds mean and covariance alone, and kid_mnist:size=40 needs the features themselves: "
            "give the images in its place, or make a file with them by calculate_metrics.py ref "
            "--images=IMAGES --out=NAME.npz --metrics=kid_mnist:size=40",
        ),
        (
            [f"--ref={DIGITS}", "--metrics=kid_mnist"],
            "are too few for subsets of 1000: give more, or smaller subsets, as in kid_mnist:size=200",
        ),
        ([f"--ref={DIGITS}", "--metrics=kid_mnist:size=1"], "kid_mnist: size=1: must be at least 2"),
        ([f"--ref={DIGITS}", "--metrics=kid_mnist:sise=100"], "did you mean size?"),
        ([f"--ref={DIGITS}", "--metrics=kid/mnist:size=9"], "fields stand with the measure, as in kid:size=500/mnist"),
    ],
)
def test_refused_in_one_line_before_any_work(arguments: list[str], says: str) -> None:
    result = run("calc", f"--images={DIGITS}", *arguments, code=2)
    assert says in result.stderr.splitlines()[-1]
    assert not Path("results").exists()


def test_few_images_are_no_fault_of_an_unbiased_measure() -> None:
    """Of all images there are, a Frechet distance says that fewer than the published 50,000 raise it."""
    run("calc", f"--images={DIGITS}", f"--ref={DIGITS}", f"--metrics={METRIC},fd_mnist")
    kid, fd = ledger.read("results/ledger.jsonl")
    assert kid["flags"] == []
    assert "fewer give higher values" in fd["flags"][0]


def test_edm2s_format_has_no_place_for_features() -> None:
    result = run("ref", f"--data={DIGITS}", "--dest=a.pkl", f"--metrics={METRIC}", code=2)
    assert "a.pkl: EDM2's format has no place for features" in result.stderr


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    run("ref", f"--data={DIGITS}", "--dest=kept.npz", f"--metrics={METRIC}")
    with np.load("kept.npz") as file:
        arrays = dict(file)
    whole = arrays["fd_mnist.features"]
    for rows, says in ((whole[1:], "expected floating point"), (whole * np.inf, "NaN or infinity")):
        np.savez("bad.npz", **{**arrays, "fd_mnist.features": rows})
        with pytest.raises(ValueError, match=f"fd_mnist.features .*{says}"):
            open_statistics("bad.npz", keep=["fd_mnist"])
        assert "fd_mnist" in open_statistics("bad.npz").moments, "nobody asked for them"


def test_networks_are_scored_shard_by_shard(tmp_path: Path) -> None:
    """The same value from shards as from stored images, and two metrics of the same features in one pass."""
    from edm2_guidance.commands.generate_zip import main as generate_zip

    drawn = ["--preset=mnist16", "--steps=2", "--device=cpu", "--num=20", "--batch=8"]
    stored = CliRunner().invoke(generate_zip, [*drawn, "--zip_dir=out"])
    assert stored.exit_code == 0, stored.output
    (images,) = Path("out").glob("*.zip")
    few = "kid_mnist:size=20:subsets=5"
    run("gen", *drawn, "--shard-size=8", f"--ref={DIGITS}", f"--metrics={few},fd_mnist")
    run("calc", f"--images={images}", f"--ref={DIGITS}", f"--metrics={few}", "--batch=8")
    sampled, distance, scored = ledger.read("results/ledger.jsonl")
    assert sampled["value"] == pytest.approx(scored["value"], rel=1e-5)
    assert distance["metric"] == "fd_mnist"
    assert not any(Path("results/work").iterdir())


def test_a_reference_of_few_images_is_made_and_scored_by_smaller_subsets() -> None:
    done = run("ref", f"--data={DIGITS}", "--dest=few.npz", "--metrics=kid_mnist")
    note = "note: kid_mnist: 200 images are too few for subsets of 1000: give more, or smaller subsets, as in kid_mnist"
    assert note in done.stderr
    assert done.stdout == "few.npz: kid_mnist of 200 images\n"
    run("calc", f"--images={DIGITS}", "--ref=few.npz", "--metrics=kid_mnist:size=200:subsets=1")
    refused = run("calc", f"--images={DIGITS}", "--ref=few.npz", "--metrics=kid_mnist", code=2)
    assert "200 reference images are too few for subsets of 1000" in refused.stderr


def test_the_catalogue_is_printed() -> None:
    lines = run("calc", "--metrics=list").stdout.splitlines()
    (kid,) = [line for line in lines if line.startswith("kid ")]
    assert "unbiased squared MMD" in kid
    assert "arXiv 1801.01401" in kid
