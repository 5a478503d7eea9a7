"""calculate_metrics.py rank: the order, what is said of each image, the pictures on the sheet, and what is refused."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.metrics.measures.base import Measure
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.ranking import Ranking
from tests.pictures import encoded

DIGITS = Path(__file__).resolve().parents[1] / "data" / "mnist16-200.npz"
SAMPLES = range(100, 112)  # the seeds in the names of the images to be ranked; the last is a copy


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["rank", *arguments])
    assert result.exit_code == code, f"exit {result.exit_code}: {result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, the last a copy of one of 80 others, which are there as images and as statistics."""
    place = tmp_path_factory.mktemp("rank")
    with np.load(DIGITS) as file:
        pixels, labels = file["arr_0"], file["arr_1"]
    chosen = np.concatenate([pixels[:11], pixels[150:151]])
    chosen[3] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))  # no digit
    members = {f"{seed:06d}.png": encoded(image) for seed, image in zip(SAMPLES, chosen, strict=True)}
    listed = [[name, int(label)] for name, label in zip(members, [*labels[:11], labels[150]], strict=True)]
    with zipfile.ZipFile(place / "samples.zip", "w") as file:
        for name, data in {**members, "dataset.json": json.dumps({"labels": listed}).encode()}.items():
            file.writestr(name, data)
    np.savez(place / "samples.npz", arr_0=chosen)
    with zipfile.ZipFile(place / "others.zip", "w") as file:
        for number, image in enumerate(pixels[120:]):
            file.writestr(f"digit-{number:02d}.png", encoded(image))
    for name, more in (("kept", ["--keep-features"]), ("alone", [])):
        arguments = ["ref", f"--images={place}/others.zip", f"--out={place}/{name}.npz", "--metrics=fd_mnist", *more]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    return place


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def read(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_all_images_with_what_is_known_of_each(folder: Path) -> None:
    rows = read(run("samples.zip", "others.zip", "--format=csv"))
    scores = [float(row["realism"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert sorted(int(row["seed"]) for row in rows) == [*SAMPLES]
    assert [int(row["rank"]) for row in rows] == [*range(1, 13)]
    assert rows[-1]["name"] == "000103.png", "noise is the worst"
    assert float(rows[-1]["distance"]) == max(float(row["distance"]) for row in rows)
    copy = next(row for row in rows if row["seed"] == "111")
    assert copy["nearest"] == "digit-30.png"
    assert float(copy["distance"]) == pytest.approx(0, abs=1e-4), "in another place of another batch"
    with np.load(DIGITS) as file:
        assert copy["label"] == str(file["arr_1"][150])
    assert not (folder / "results").exists(), "nothing goes to the ledger"


def test_a_file_of_features_serves_as_the_images_do() -> None:
    by_images, by_features, as_json = (
        run("samples.zip", ref, f"--format={form}")
        for ref, form in (("others.zip", "csv"), ("kept.npz", "csv"), ("kept.npz", "json"))
    )
    expected = read(by_images)
    for row in expected:
        row["nearest"] = str(int(row["nearest"].removeprefix("digit-").removesuffix(".png")))
    assert read(by_features) == expected
    assert [str(row["realism"]) for row in json.loads(as_json.stdout)] == [row["realism"] for row in expected]


def test_an_array_has_numbers_for_names_of_the_whole_set() -> None:
    rows = read(run("samples.npz", "kept.npz", "--format=csv", "--num-images=8"))
    zipped = {row["name"]: row["realism"] for row in read(run("samples.zip", "kept.npz", "--format=csv"))}
    assert [row["realism"] for row in rows] == [zipped[f"{100 + int(row['name']):06d}.png"] for row in rows]
    assert {row["seed"] for row in rows} == {row["label"] for row in rows} == {""}


def test_the_order_is_what_is_asked_for() -> None:
    by_distance = read(run("samples.zip", "kept.npz", "--sort=distance", "--format=csv"))
    distances = [float(row["distance"]) for row in by_distance]
    assert distances == sorted(distances)
    assert by_distance[0]["seed"] == "111", "the copy is nearest"
    by_density = read(run("samples.zip", "kept.npz", "--sort=density:k=3", "--format=csv"))
    assert sorted(float(row["density:k=3"]) for row in by_density)[::-1] == [
        float(row["density:k=3"]) for row in by_density
    ]


def test_the_table_shows_the_best_and_the_worst_and_the_mean() -> None:
    result = run("samples.zip", "kept.npz", "--best=2", "--worst=3", "--features=mnist")
    best, worst, mean = result.stdout.strip().split("\n\n")
    rows = read(run("samples.zip", "kept.npz", "--format=csv"))
    assert [line.split()[1] for line in best.splitlines()[2:]] == [row["name"] for row in rows[:2]]
    assert [line.split()[1] for line in worst.splitlines()[2:]] == [row["name"] for row in rows[:-4:-1]]
    assert mean == f"realism/mnist@12 {np.mean([float(row['realism']) for row in rows]):.4f}"


def test_the_sheet_holds_the_images_that_are_named(folder: Path) -> None:
    rows = read(run("samples.zip", "kept.npz", "--format=csv", "--best=3", "--worst=2", "--out=sheet.png", "--tile=64"))
    with np.load("samples.npz") as file:
        pixels = dict(zip(SAMPLES, file["arr_0"].repeat(4, axis=1).repeat(4, axis=2), strict=True))
    with Image.open("sheet.png") as picture:
        sheet = np.asarray(picture)
    places = [place(sheet, pixels[int(row["seed"])]) for row in rows]
    assert [found is not None for found in places] == [True] * 3 + [False] * 7 + [True] * 2
    shown = [places[at] for at in (0, 1, 2, -1, -2)]
    assert len({row for row, _ in shown[:3]}) == len({row for row, _ in shown[3:]}) == 1, "a row each"
    assert shown[0][0] < shown[3][0], "the best above the worst"
    assert [column for _, column in shown] == sorted(column for _, column in shown[:3]) + sorted(
        column for _, column in shown[3:]
    ), "the extreme ones first"
    refused = run("samples.zip", "kept.npz", "--out=sheet.png", code=2)
    assert "sheet.png exists: take another name, or --overwrite" in refused.stderr


def place(sheet: np.ndarray, tile: np.ndarray) -> tuple[int, int] | None:
    """(top, left) of a tile on a sheet, if it is there."""
    height, width = tile.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (height, width, 3))[:, :, 0]
    corners = (windows[:, :, ::21, ::21] == tile[::21, ::21]).all(axis=(2, 3, 4))  # a few pixels first
    for top, left in np.argwhere(corners):
        if (windows[top, left] == tile).all():
            return int(top), int(left)
    return None


def test_equals_stay_in_the_order_of_the_set() -> None:
    rows = np.array([[0.0], [1.0], [2.0], [4.0]])
    moments = Moments(rows.mean(0), np.cov(rows.T).reshape(1, 1), 4, rows)
    assert Ranking.of(Measure.parse("density:k=1"), moments, moments).order("distance").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["samples.zip", "alone.npz"],
            "alone.npz holds mean and covariance alone, and realism/mnist needs the",
        ),
        (["kept.npz", "others.zip"], "kept.npz holds statistics, and single images are ranked: give these"),
        (["samples.zip", "absent.zip"], "absent.zip"),
        (
            ["samples.zip", "kept.npz", "--sort=recall"],
            "'recall' is not one of realism, density,",
        ),
        (["samples.zip", "kept.npz", "--sort=realsm"], "which score single images"),
        (["samples.zip", "kept.npz", "--sort=realism:k=80"], "80 reference images are too few for the 80 nearest"),
        (["samples.zip", "kept.npz", "--out=a.txt"], "a.txt: give a name that ends in .png"),
        (["samples.zip", "kept.npz", "--out=a.png", "--best=0", "--worst=0"], "nothing is left for a.png"),
        (["samples.zip", "kept.npz", "--out=a.pdf", "--best=5000", "--columns=1"], "pixels or more, too many for PDF"),
        (["samples.zip", "kept.npz", "--best=5001"], "--best=5001: give a whole number from 0 to 5000"),
        (["samples.zip", "kept.npz", "--features=mnist-ae"], "no statistics for fd_mnist_ae"),
    ],
)
def test_refused_in_one_line_before_any_work(arguments: list[str], message: str) -> None:
    result = run(*arguments, code=2)
    assert message in result.stderr.splitlines()[-1]
    assert not Path("a.png").exists()


def test_what_sets_apart_both_sides_is_said() -> None:
    with np.load("kept.npz") as file:
        arrays = dict(file)
    arrays["provenance"] = np.array(str(arrays["provenance"]).replace('"resize": "none"', '"resize": "other"'))
    np.savez("other.npz", **arrays)
    result = run("samples.zip", "other.npz")
    assert "warning: the detector's resize is none for the images, other for the reference" in result.stderr
