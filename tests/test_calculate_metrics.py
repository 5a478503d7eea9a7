"""calculate_metrics.py end to end, offline, on real digits."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.reference import open_statistics
from tests.digits_network import save_digits_network
from tests.pictures import encoded
from tests.words import last_of_each

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "edm2_guidance" / "pretrained" / "mnist16-refs.npz"
FLOOR = ROOT / "edm2_guidance" / "pretrained" / "mnist16-test-1000.npz"
DIGITS = ROOT / "tests" / "data" / "mnist16-200.npz"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.output}\n{result.exception!r}"
    if code != 0:
        assert len(result.stderr.strip().splitlines()[-1]) > 0
        assert "Traceback" not in result.stderr
    return result


def calc(*arguments: object, code: int = 0) -> Result:
    return run("calc", "--metrics=fd_mnist", f"--ref={REFERENCE}", *arguments, code=code)


def error(result: Result) -> str:
    """The one line that the user gets."""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def png(mode: str = "RGB", size: int = 16) -> bytes:
    return encoded(PIL.Image.new(mode, (size, size)))


def digit_png(index: int) -> bytes:
    with np.load(DIGITS) as file:
        return encoded(file["arr_0"][index])


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[..., Path]:
    """Digits 0..count-1 of the test data; `extra` replaces or joins members."""

    def make(count: int = 80, extra: dict[str, bytes] | None = None, name: str = "images.zip") -> Path:
        members = {f"{i:06d}.png": digit_png(i) for i in range(count)}
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for key, data in {**members, **(extra or {})}.items():
                file.writestr(zipfile.ZipInfo(key), data)  # of no time: the same bytes again
        return tmp_path / name

    return make


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained 16x16 network with ten classes."""
    return save_digits_network(tmp_path_factory.mktemp("net") / "net.safetensors")


# What it computes


def test_calc_prints_and_records_the_score() -> None:
    result = calc(f"--images={DIGITS}", "--num=200", "--note=real digits")
    (record,) = ledger.read("results/ledger.jsonl")
    ends = record["interval"]["low"], record["interval"]["high"]
    assert result.stdout == "fd_mnist@200    {:.4f}  [{:.4f}, {:.4f}]\n".format(record["value"], *ends)
    assert 0.5 < record["value"] < 2
    assert record["num_images"] == 200
    assert record["note"] == "real digits"
    assert record["flags"] == []
    assert record["reference"]["source"] == str(REFERENCE)
    assert record["reference"]["detector"] == record["detector"]
    assert record["images"]["path"] == str(DIGITS)


def test_the_floor_is_the_score_of_real_test_digits() -> None:
    """Statistics may stand for images; 1000 unseen real digits are near the reference, and nearer than 200."""
    calc(f"--images={FLOOR}", "--ledger=l.jsonl")
    calc(f"--images={FLOOR}", "--num=1000", "--ledger=l.jsonl", "--again")
    calc(f"--images={DIGITS}", "--num=200", "--ledger=l.jsonl")
    floor, again, few = ledger.read("l.jsonl")
    assert floor["name"] == "fd_mnist@1000"
    assert 0.1 < floor["value"] == again["value"] < 0.4 < few["value"]
    assert floor["images"]["kind"] == "statistics"
    assert floor["flags"] == []


def test_zip_folder_and_npz_of_the_same_images_score_alike(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    path = make_zip(100)
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "folder" / "000000")
    with np.load(DIGITS) as file:
        np.savez(tmp_path / "images.npz", arr_0=file["arr_0"][:100])
    for images in (path, tmp_path / "folder", tmp_path / "images.npz"):
        calc(f"--images={images}", "--num=100")
    values = [record["value"] for record in ledger.read("results/ledger.jsonl")]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("batch", [1, 13, 200])
def test_batch_size_moves_only_last_digits(batch: int) -> None:
    calc(f"--images={DIGITS}", "--num=200", f"--batch={batch}")
    calc(f"--images={DIGITS}", "--num=200", "--workers=0", "--again")
    ours, standard = (record["value"] for record in ledger.read("results/ledger.jsonl"))
    assert ours == pytest.approx(standard, rel=1e-6)


def test_subset_is_chosen_by_the_published_rule(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    """As EDM2: shuffle all indices by RandomState(seed), take the first, sort."""
    chosen = np.arange(100)
    np.random.RandomState(5).shuffle(chosen)
    with np.load(DIGITS) as file:
        np.savez(tmp_path / "subset.npz", arr_0=file["arr_0"][np.sort(chosen[:70])])
    calc(f"--images={make_zip(100)}", "--num=70", "--seed=5")
    calc(f"--images={tmp_path / 'subset.npz'}", "--num=70")
    calc(f"--images={make_zip(100)}", "--num=70", "--seed=6")
    ours, theirs, other = ledger.read("results/ledger.jsonl")
    assert ours["value"] == theirs["value"] != other["value"]
    assert ours["images"]["subset_seed"] == 5
    assert theirs["images"]["subset_seed"] is None


def test_form_of_the_interval_repository_takes_all_images(make_zip: Callable[..., Path]) -> None:
    result = run(f"--gen_zip={make_zip(90)}", f"--ref_path={REFERENCE}", "--metric=fd_mnist", "--results_dir=res")
    assert result.stdout.startswith("fd_mnist@90 ")
    (record,) = ledger.read("res/ledger.jsonl")
    assert record["run"]["batch"] == 128
    calc("--images=images.zip", "--num=90")
    assert ledger.read("results/ledger.jsonl")[0]["value"] == pytest.approx(record["value"], rel=1e-6)


def test_ref_writes_statistics_that_score_zero_against_themselves(tmp_path: Path) -> None:
    for dest in ("own.npz", "own.pkl"):
        run("ref", f"--data={DIGITS}", f"--dest={dest}", "--metrics=fd_mnist")
        run("calc", f"--images={DIGITS}", f"--ref={dest}", "--metrics=fd_mnist", "--num=200")
    records = ledger.read("results/ledger.jsonl")
    assert [abs(record["value"]) < 1e-9 for record in records] == [True, True]
    own = open_statistics("own.npz")
    assert own.images["path"] == "mnist16-200.npz"
    assert own.detectors["fd_mnist"] == records[0]["detector"]
    content = pickle.loads((tmp_path / "own.pkl").read_bytes())
    assert np.array_equal(content["fd_mnist"]["sigma"], own.moments["fd_mnist"].cov)
    assert content["num_images"] == 200


def test_ref_is_reproducible_byte_for_byte() -> None:
    for dest in ("a.npz", "b.npz"):
        run("ref", f"--data={DIGITS}", f"--dest={dest}", "--metrics=fd_mnist", "--num=150", "--seed=1")
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()
    assert open_statistics("a.npz").images["subset_seed"] == 1


def test_gen_equals_storing_the_images_and_scoring_them(network: Path, tmp_path: Path) -> None:
    from edm2_guidance.commands.generate_zip import main as generate_zip

    options = [f"--net={network}", "--steps=2", "--labels=balanced", "--device=cpu"]
    run("gen", *options, f"--ref={REFERENCE}", "--metrics=fd_mnist", "--num=70", "--seed=3", "--batch=35")
    made = CliRunner().invoke(
        generate_zip, [*options, "--out=made.zip", "--num_images=70", "--seed=3", "--batch=35", "--shard-size=35"]
    )
    assert made.exit_code == 0, made.output
    calc("--images=made.zip", "--num=70")
    live, stored = ledger.read("results/ledger.jsonl")
    assert live["value"] == pytest.approx(stored["value"], rel=1e-6)
    for record in (live, stored):
        assert record["labels"] == "balanced"
        assert record["encoder"] == {"class": "StandardRGBEncoder"}
        assert "truncated" in record["quantiser"]
        assert record["images"]["seeds"] == "3-72"
        assert record["images"]["size"] == [16, 16]
    assert live["recipe_hash"] == stored["recipe_hash"]
    assert live["recipe"] == stored["recipe"]
    assert live["images"]["kind"] == "generated"


def test_table_prints_the_ledger() -> None:
    calc(f"--images={DIGITS}", "--num=200", "--note=real")
    calc(f"--images={FLOOR}", "--note=floor")
    lines = run("table").stdout.splitlines()
    assert lines[0].startswith("row  metric")
    assert len(lines) == 3
    assert " real " in lines[1]
    assert " floor " in lines[2]
    last = run("table", "results/ledger.jsonl", "--last=1").stdout.splitlines()
    assert last[1].split() == lines[2].split(), "with its number in the ledger"


def test_few_images_are_scored_with_a_warning(make_zip: Callable[..., Path]) -> None:
    result = calc(f"--images={make_zip(30)}", "--num=30")
    assert "warning: 30 images for the 64 features" in result.stderr
    assert "warning" not in result.stdout
    assert "singular" in ledger.read("results/ledger.jsonl")[0]["flags"][0]
    assert "! row 1: 30 images" in run("table").stdout


def test_statistics_of_another_detector_are_flagged(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(ROOT / "edm2_guidance" / "pretrained" / "mnist16-detector.safetensors")
    state["hidden.weight"] *= 1.001
    save_file(state, tmp_path / "other.safetensors")
    result = calc(f"--images={DIGITS}", "--num=200", f"--weights=fd_mnist={tmp_path / 'other.safetensors'}")
    assert "warning: the detector's weights_sha256 is" in result.stderr
    assert ledger.read("results/ledger.jsonl")[0]["detector"]["published"] is False


def test_without_arguments_it_explains_itself() -> None:
    assert run().stdout == run("--help").stdout
    assert "calc" in run().stdout


@pytest.mark.parametrize(
    "line",
    [
        "calc --images=out --ref=https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/img512.pkl",
        "calc --images=out --ref=r.npz --metrics=fid --num=5000 --seed=1 --batch=32 --workers=4",
        "ref --data=datasets/img512.zip --dest=dataset-refs/img512.pkl",
        "ref --data=datasets/img512.zip --dest=r.pkl --metrics=fid,fd_dinov2 --batch=32 --workers=4",
        "gen --net=https://host/edm2-img512-s-2147483-0.130.pkl --ref=https://host/img512.pkl --seed=123456789",
    ],
)
def test_documented_command_lines_of_edm2_parse(line: str) -> None:
    name, *arguments = line.split()
    context = main.commands[name].make_context(name, arguments)
    assert context.params["metrics"] == (["fid"] if "--metrics=fid " in line else ["fid", "fd_dinov2"])
    if name == "gen":
        assert (context.params["seed"], context.params["batch"], context.params["num"]) == (123456789, 32, None)


def test_documented_command_lines_of_the_interval_repository_parse() -> None:
    context = main.make_context("main", ["--gen_zip=a.zip", "--ref_path=img512.pkl", "--metric=fd_dinov2"])
    expected = {"images": "a.zip", "ref": "img512.pkl", "metric": "fd_dinov2", "results_dir": "./results"}
    assert context.params == {**expected, "batch": 128}


# The two sides: SAMPLES REFERENCE


def last_record() -> dict[str, Any]:
    return ledger.read("results/ledger.jsonl")[-1]


def test_every_kind_of_reference_gives_the_distance_of_its_statistics(
    make_zip: Callable[..., Path], tmp_path: Path
) -> None:
    """Images, in whatever they come, count as the statistics that `ref` makes of them."""
    samples, images = make_zip(80), make_zip(100, name="real.zip")
    with zipfile.ZipFile(images) as file:
        file.extractall(tmp_path / "real")
    run("ref", f"--data={images}", "--dest=real-stats.npz", "--metrics=fd_mnist")
    for reference in ("real-stats.npz", "real.zip", "real"):
        run("calc", samples, reference, "--metrics=fd_mnist", "--again")
    records = ledger.read("results/ledger.jsonl")
    assert records[0]["value"] == records[1]["value"] == records[2]["value"]
    for record in records[1:]:
        assert record["reference"]["num_images"] == 100
        assert record["reference"]["detector"] == record["detector"]
        assert record["reference"]["images"]["generated"] is False
        assert record["num_images"] == 80
    assert [record["reference"]["source"] for record in records] == ["real-stats.npz", "real.zip", "real"]
    assert records[1]["reference"]["sha256"] == records[2]["reference"]["sha256"], "by content, not by place"
    (tmp_path / "real" / "000099.png").unlink()
    run("calc", samples, "real", "--metrics=fd_mnist")
    assert last_record()["reference"]["sha256"] != records[2]["reference"]["sha256"]


def test_statistics_may_be_on_either_side(make_zip: Callable[..., Path]) -> None:
    """The distance is symmetric; metrics follow whichever side has statistics."""
    images = make_zip(80)
    run("calc", FLOOR, images)
    run("calc", images, FLOOR)
    first, second = ledger.read("results/ledger.jsonl")
    assert first["metric"] == second["metric"] == "fd_mnist"
    assert first["value"] == pytest.approx(second["value"], rel=1e-9)
    assert (first["num_images"], second["num_images"]) == (1000, 80)
    assert first["reference"]["num_images"] == 80


def test_the_value_stands_apart_from_a_long_name() -> None:
    np.savez("d.npz", **{"fd_dinov2.mu": np.zeros(1024), "fd_dinov2.sigma": np.zeros((1024, 1024))})
    assert run("calc", "d.npz", "d.npz").stdout == "fd_dinov2@unknown 0.0000\n"


def test_which_side_is_which_is_said_and_options_mean_the_same(make_zip: Callable[..., Path]) -> None:
    images = make_zip(80)
    result = run("calc", images, "mnist16")
    assert f"samples: {images}, 80 images; reference: mnist16-refs, 60,000 images\n" in result.stderr
    found = run("calc", f"--images={images}", "--ref=mnist16")
    assert found.stdout == result.stdout
    assert "the result is in results/ledger.jsonl already (--again computes it once more)" in found.stderr
    assert "samples: " in found.stderr
    assert run("calc", f"--images={images}", "--ref=mnist16", "--again").stdout == result.stdout
    run(f"--gen_zip={images}", "--ref_path=mnist16", "--metric=fd_mnist", "--batch_size=64", "--results_dir=results")
    values = [record["value"] for record in ledger.read("results/ledger.jsonl")]
    assert values == [values[0]] * 3
    assert last_record()["reference"]["source"] == "mnist16-refs"


@pytest.mark.parametrize(
    ("images", "reference"),
    [("mnist16-test-500", "mnist16-refs"), ("pretrained/mnist16-test-500.npz", "pretrained/mnist16-refs.npz")],
)
def test_what_ships_is_found_from_any_folder_and_kept_as_it_was_named(images: str, reference: str) -> None:
    run("calc", images, reference)
    assert last_record()["images"]["path"] == images
    assert last_record()["reference"]["source"] == reference


def test_passwords_and_signatures_of_urls_are_neither_said_nor_stored(
    make_zip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_zip(80)
    monkeypatch.setattr("edm2_guidance.metrics.sides.fetch", lambda source, offline: images)
    url, shown = "https://me:s3cret@host/a.zip?X-Amz-Signature=SIGNED", "https://host/a.zip?..."
    result = run("calc", url, url, "--metrics=fd_mnist")
    assert f"samples: {shown}, 80 images; reference: {shown}, 80 images\n" in result.stderr
    assert f"statistics of {shown} are computed now; calculate_metrics.py ref --images={images} " in result.stderr
    for text in (result.output, Path("results/ledger.jsonl").read_text()):
        assert "s3cret" not in text
        assert "SIGNED" not in text
    assert last_record()["images"]["path"] == last_record()["reference"]["source"] == shown


def test_how_many_images_count_if_nobody_says(make_zip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 of more, said; all of fewer, flagged in the ledger."""
    images = make_zip(80)
    result = calc(f"--images={images}")
    assert "warning: 80 images, where published scores have 50,000" in result.stderr
    assert [flag[:9] for flag in last_record()["flags"]] == ["80 images"]
    for place in ("commands.calculate_metrics", "metrics.ledger"):
        monkeypatch.setattr(f"edm2_guidance.{place}.STANDARD_NUM_IMAGES", 70)
    result = calc(f"--images={images}", "--again")
    assert "note: 70 of the 80 samples are scored, chosen by --seed=0; --num-images=80 takes all" in result.stderr
    assert (last_record()["num_images"], last_record()["images"]["total"], last_record()["flags"]) == (70, 80, [])
    calc(f"--images={images}", "--num=80", "--again")
    assert (last_record()["num_images"], last_record()["flags"]) == (80, [])


def test_a_score_that_the_ledger_has_is_found(make_zip: Callable[..., Path], tmp_path: Path) -> None:
    """By the content of the images, wherever they lie; not with other words beside it, of other images or metrics."""
    images, moved = make_zip(80), make_zip(80, name="moved.zip")
    assert images.read_bytes() == moved.read_bytes()

    def lines(*arguments: object) -> int:
        run("calc", *arguments)
        return len(ledger.read("results/ledger.jsonl"))

    assert lines(images, "mnist16", "--num=40") == 1
    assert lines(moved, "mnist16", "--num=40") == 1
    assert lines(images, "mnist16", "--num=40", "--seed=3") == 2
    assert lines(images, "mnist16", "--num=40", "--seed=3") == 3, "what another seed chose is not looked for"
    assert lines(images, "mnist16", "--num=40", "--note=x") == 4
    assert lines(images, "mnist16", "--num=40", "--note=x") == 4
    assert lines(images, "mnist16", "--num=40", "--metrics=fd_mnist,is/mnist") == 6, "as one of two is not there"
    assert lines(images, "mnist16", "--num=80") == 7
    assert lines(images, FLOOR, "--num=80") == 8
    assert lines(FLOOR, "mnist16") == lines(FLOOR, "mnist16") == 9


def test_a_reference_of_generated_images_is_taken_for_swapped_sides(make_zip: Callable[..., Path]) -> None:
    made = make_zip(80, {"recipe.json": b'{"recipe": {}, "seeds": "0-79"}'}, "made.zip")
    assert "are they swapped? The samples come first" in run("calc", FLOOR, made).stderr
    assert "swapped" in last_record()["flags"][0]
    assert "swapped" not in run("calc", made, FLOOR).stderr
    assert "swapped" not in run("calc", made, made, "--metrics=fd_mnist").stderr


def test_gen_takes_the_reference_of_its_preset_and_images(
    make_zip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for reference in ([], [f"--ref={make_zip(100)}"]):
        run("gen", "--preset=mnist16", "--num=66", "--steps=2", "--batch=66", "--device=cpu", *reference)
    own, images = ledger.read("results/ledger.jsonl")
    assert own["reference"]["source"] == "mnist16-refs"
    assert own["metric"] == images["metric"] == "fd_mnist"
    assert own["moments_sha256"] == images["moments_sha256"]
    assert own["value"] != images["value"]
    assert images["reference"]["num_images"] == 100
    assert str(ROOT) not in json.dumps(own)


# What it refuses, before any work: exit code 2 and one line


def refused(*arguments: object) -> str:
    before = sorted(Path().rglob("*"))
    line = error(run(*arguments, code=2))
    assert sorted(Path().rglob("*")) == before, "refused, and yet it left something behind"
    return line


def test_too_few_images_say_what_to_do() -> None:
    arguments = ["calc", f"--images={DIGITS}", f"--ref={REFERENCE}", "--metrics=fd_mnist"]
    assert "holds 200 images, fewer than the 201 to score: give --num-images=200" in refused(*arguments, "--num=201")
    assert "--num=1: give a whole number of at least 2" in refused(*arguments, "--num=1")


def test_reference_problems_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither images nor networks nor weights are looked at: they do not even exist here."""
    np.savez("fid.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez("odd.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.savez("1.npz", arr_0=np.zeros((1, 16, 16, 3), dtype=np.uint8))
    np.savez("32.npz", arr_0=np.zeros((4, 32, 32, 3), dtype=np.uint8))
    for command in (["calc", "--images=nowhere"], ["gen", f"--net={DIGITS}"]):
        line = refused(*command, f"--ref={REFERENCE}", "--metrics=fid")
        assert "no statistics for fid, only for fd_mnist: use the metric fd_mnist" in line
        assert "fid.npz has no statistics for fd_dinov2" in refused(*command, "--ref=fid.npz", "--metrics=fd_dinov2")
        assert "5 features, its detector 2048" in refused(*command, "--ref=odd.npz", "--metrics=fid")
        assert "nowhere.npz" in refused(*command, "--ref=nowhere.npz", "--metrics=fid")
        assert "1.npz holds 1 image" in refused(*command, "--ref=1.npz", "--metrics=fd_mnist")
        assert "16x16, these are 32x32" in refused(*command, "--ref=32.npz", "--metrics=fd_mnist")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images=nowhere.zip"], "nowhere.zip"),
        (["--images=32.npz", "--num=2"], "16x16, these are 32x32"),
        (["--images=d.npz", "--num=2", "--weights=fd_mnist"], "give METRIC=PATH"),
        (["--images=d.npz", "--num=2", "--weights=fd_mnist=nowhere.pth"], "there is no file nowhere.pth"),
        (["--images=d.npz", "--num=2", "--weights=fid=d.npz"], "fid is not scored here, only fd_mnist"),
        (["--images=d.npz", "--num=2", *["--weights=fd_mnist=d.npz"] * 2], "given twice"),
        (["--images=1.npz"], "1.npz holds 1 image: statistics need at least 2"),
        (["--images=1.npz", "--num=5"], "1.npz holds 1 image: statistics need at least 2"),
        (["--images=d.npz", "--num=2", "--weights=kid=x.pth"], "one of fid, fd_dinov2, fd_mnist"),
        (["--images=d.npz", "--num=2", "--device=tpu"], "tpu"),
        (["--images=d.npz", "--num=2", "--batch=0"], "--batch"),
        (["--images=d.npz", "--num=2", "--metrics=fd_mnist,kit"], "'kit' is not one of"),
        (
            ["--images=d.npz", "--num=2", "--metrics=fd_dinov2", "--ref=few.npz", "--offline"],
            "dinov2_vitl14_pretrain.pth is not in",
        ),
        (["--images=d.npz", "--num=2", "--ledger=d.npz/ledger.jsonl"], "d.npz"),
        ([f"--images={FLOOR}", "--num=500"], "made of 1000 images, not of 500"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], words: str) -> None:
    np.savez("d.npz", arr_0=np.zeros((4, 16, 16, 3), dtype=np.uint8))
    np.savez("1.npz", arr_0=np.zeros((1, 16, 16, 3), dtype=np.uint8))
    np.savez("32.npz", arr_0=np.zeros((4, 32, 32, 3), dtype=np.uint8))
    if "--ref=few.npz" in arguments:
        np.savez("few.npz", mu=np.zeros(1024), sigma=np.zeros((1024, 1024)))  # of constant features: quickly checked
    assert words in refused("calc", *last_of_each([f"--ref={REFERENCE}", "--metrics=fd_mnist", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ref", f"--data={DIGITS}", "--dest=stats.txt"], "stats.txt"),
        (["ref", f"--data={DIGITS}", "--dest=a.npz", "--num=500", "--metrics=fd_mnist"], "fewer than the 500"),
        (["gen", f"--ref={REFERENCE}", "--metrics=fd_mnist"], "--net"),
        (["gen", f"--ref={REFERENCE}", "--metrics=fd_mnist", "--net=nowhere.pkl"], "nowhere.pkl"),
        (["table", "nowhere.jsonl"], "there is no ledger nowhere.jsonl yet: reproduce.py run, "),
        (["table"], "there is no ledger results/ledger.jsonl yet"),
        (["ref", f"--data={DIGITS}", f"--dest={DIGITS}/a.npz", "--metrics=fd_mnist"], "is a file"),
        (
            ["gen", f"--ref={REFERENCE}", "--metrics=fd_mnist", f"--net={DIGITS}", "--seed=4294967200", "--num=97"],
            "seeds up to 4294967296: they go up to 4294967295",
        ),
        (["ref", "--data=https://me:pw@host/a.zip", "--dest=a.npz"], "https:/host/a.zip is a URL: download it, and"),
        (["ref", "--data=https://me:pw@host/a.npz", "--dest=a.npz"], "https:/host/a.npz is a URL: download it, and"),
        ([f"--gen_zip={DIGITS}"], "give both --images and --ref"),
        (["calc", DIGITS, "--ref=mnist16"], "not a mixture: SAMPLES=" + str(DIGITS) + ", --ref=mnist16"),
        (["calc", DIGITS, REFERENCE, "--images=x"], "--images=x"),
        (["calc", DIGITS], "no reference: write calc SAMPLES REFERENCE"),
        (["calc", f"--ref={REFERENCE}"], "no samples: write calc SAMPLES REFERENCE"),
        (["calc", "mnist16", DIGITS], "'mnist16' names a reference, and samples come first"),
        (["calc", DIGITS, "img-512"], "there is no reference 'img-512' (did you mean img512?)"),
        (["calc", DIGITS, "list"], "img64: ImageNet at 64x64"),
        (["calc", FLOOR, "fid.npz"], "no metric of this program is in all of the statistics"),
        (["gen", f"--net={DIGITS}"], "which reference? Give --ref"),
        ([f"--gen_zip={DIGITS}", "calc", f"--images={DIGITS}", f"--ref={REFERENCE}"], "--gen_zip belongs to the form"),
        (["--metric=fd_mnist", "table"], "--metric belongs to the form"),
    ],
)
def test_other_commands_refuse_too(arguments: list[str], words: str) -> None:
    np.savez("fid.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    assert words in refused(*arguments)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("fd_mnist", "give METRIC=PATH"),
        ("fd_mnist=nowhere.pth", "there is no file nowhere.pth"),
        (f"fid={DIGITS}", "fid is not scored here"),
    ],
)
def test_weights_are_checked_before_any_network_opens(
    weights: str, words: str, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.network_io.network_file", None)
    monkeypatch.setattr("edm2_guidance.metrics.reference.fetch", None)
    common = [f"--weights={weights}", "--metrics=fd_mnist"]
    assert words in refused("gen", f"--net={network}", f"--ref={REFERENCE}", *common)
    assert words in refused("calc", f"--images={DIGITS}", f"--ref={REFERENCE}", *common)
    assert words in refused("ref", f"--data={DIGITS}", "--dest=new.npz", *common)


def test_networks_of_another_image_size_are_refused_before_sampling(
    tiny_networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edm2_guidance.sampling.generation.GeneratedImages.__iter__", None)
    arguments = [f"--net={tiny_networks['cond']}", f"--ref={REFERENCE}", "--metrics=fd_mnist", "--num=2"]
    assert "fd_mnist is defined for images of 16x16, these are 8x8" in refused("gen", *arguments)


def test_statistics_are_not_replaced_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["ref", f"--data={DIGITS}", "--dest=own.npz", "--metrics=fd_mnist"]
    run(*arguments, "--num=100")
    before = Path("own.npz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            "edm2_guidance.metrics.extractors.networks.mnist.DigitClassifier.forward", None
        )  # no feature may be computed
        assert "own.npz exists: take another name, or --overwrite" in refused(*arguments)
    assert Path("own.npz").read_bytes() == before
    run(*arguments, "--overwrite")
    assert open_statistics("own.npz").moments["fd_mnist"].num_images == 200


# What fails during the work: exit code 1, one line that names the image, nothing in the ledger


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png("L"), "'000050.png' in {path} is a grey image"),
        (png("RGBA"), "'000050.png' in {path} is an image with transparency"),
        (png(size=8), "mixes sizes: '000000.png' has 16x16 pixels, '000050.png' 8x8"),
        (digit_png(0)[:-20], "'000050.png' in {path} is truncated"),
    ],
)
def test_bad_images_are_named(data: bytes, words: str, make_zip: Callable[..., Path]) -> None:
    path = make_zip(80, {"000050.png": data})
    line = error(calc(f"--images={path}", "--num=80", code=1))
    assert words.format(path=path) in line
    assert not Path("results").exists()


def test_non_finite_features_name_the_first_image(
    make_zip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edm2_guidance.metrics.extractors.networks.mnist import DigitClassifier

    plain = DigitClassifier.forward

    def overflow(self: DigitClassifier, images: torch.Tensor) -> torch.Tensor:
        features = plain(self, images)
        features[images.flatten(1).float().mean(dim=1) == 0] = torch.inf
        return features

    monkeypatch.setattr(DigitClassifier, "forward", overflow)
    path = make_zip(80, {"000050.png": png(), "000060.png": png()})
    line = error(calc(f"--images={path}", "--num=80", "--batch=32", code=1))
    assert "fd_mnist: the features of image '000050.png' are not finite" in line


def test_record_is_json_that_anyone_reads() -> None:
    calc(f"--images={DIGITS}", "--num=200")
    (line,) = Path("results/ledger.jsonl").read_text().splitlines()
    record: dict[str, Any] = json.loads(line)
    assert record["schema"] == 2
    assert record["software"]["torch"] == torch.__version__
    assert {"edm2-guidance", "commit"} <= record["software"].keys()
    assert record["software"]["diffusers"] is None


def test_a_zip_is_opened_once_from_path_to_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50,000 members each list is long to read."""
    with zipfile.ZipFile("digits.zip", "w") as file:
        for index in range(20):
            file.writestr(f"{index:06d}.png", digit_png(index))
    listed, plain = [], zipfile.ZipFile._RealGetContents  # type: ignore[attr-defined]
    monkeypatch.setattr(
        zipfile.ZipFile, "_RealGetContents", lambda file: listed.append(Path(file.filename).name) or plain(file)
    )
    calc("--images=digits.zip")
    assert listed.count("digits.zip") == 1
    listed.clear()
    run("calc", f"--images={DIGITS}", "--ref=digits.zip", "--metrics=fd_mnist")
    assert listed.count("digits.zip") == 1
