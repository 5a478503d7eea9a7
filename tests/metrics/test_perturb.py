"""Changes made on purpose: each against a direct computation, and what a study says, records and refuses."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageFilter

from edm2_guidance.commands.calculate_metrics import main
from edm2_guidance.images.changes import Change, ChangedImages, rows_of, with_controls
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.metrics import ledger, perturb, scoring
from edm2_guidance.papers import report, tables

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "tests" / "data" / "mnist16-200.npz"
with np.load(DIGITS) as file:
    IMAGES, LABELS = file["arr_0"], file["arr_1"]


def changed(text: str, batch: int = 64) -> np.ndarray:
    """The digits under a change of pixels, uint8 [N, H, W, 3]."""
    source = ChangedImages(StoredImages(DIGITS, batch), Change.parse(text))
    batches = list(source)
    assert all(each.images.dtype == torch.uint8 for each in batches)
    assert source.num_images == sum(map(len, batches))
    return torch.cat([each.images for each in batches]).permute(0, 2, 3, 1).numpy()


def rows(text: str) -> np.ndarray:
    return rows_of(Change.parse(text), StoredImages(DIGITS))


def by_pillow(change) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in IMAGES])


def reencoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image.resize(size, resample).resize(image.size, resample)


def test_changes_of_pixels_are_those_of_pillow() -> None:
    assert np.array_equal(changed("blur:sigma=0.7"), by_pillow(lambda x: x.filter(ImageFilter.GaussianBlur(0.7))))
    assert np.array_equal(changed("jpeg:quality=30"), by_pillow(lambda x: reencoded(x, 30)))
    for name, filter in {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}.items():
        direct = by_pillow(lambda x, filter=filter: resized(x, (6, 6), filter))
        assert np.array_equal(changed(f"resize:scale=0.4:{name}"), direct)
    assert np.array_equal(changed("shift:by=3")[:, :, 3:], IMAGES[:, :, :-3])
    assert np.array_equal(changed("shift:by=3")[:, :, :3], IMAGES[:, :, :1].repeat(3, axis=2))
    assert np.array_equal(changed("quantise:levels=2"), np.where(IMAGES > 127, 255, 0))
    assert np.array_equal(changed("quantise:levels=256"), IMAGES)


def test_noise_has_the_spread_asked_for_and_is_a_function_of_the_place_alone() -> None:
    noisy = changed("noise:sigma=20", batch=7)
    assert np.array_equal(noisy, changed("noise:sigma=20"))
    middle = (IMAGES > 70) & (IMAGES < 185)  # where nothing is clipped
    added = (noisy.astype(int) - IMAGES)[middle]
    assert abs(added.mean()) < 4 * 20 / np.sqrt(middle.sum())
    assert added.std() == pytest.approx(20, rel=0.05)
    assert not np.array_equal(noisy[0].astype(int) - IMAGES[0], noisy[1].astype(int) - IMAGES[1])


def test_changes_of_the_set_choose_images() -> None:
    assert np.array_equal(rows("drop:classes=3+5"), np.flatnonzero((LABELS != 3) & (LABELS != 5)))
    assert np.array_equal(rows("drop:last=2"), np.flatnonzero(LABELS < 8))
    counts = np.bincount(LABELS)
    assert np.array_equal(np.bincount(LABELS[rows("balance")]), np.full(10, counts.min()))
    assert len(set(rows("balance"))) == 10 * counts.min()
    fewer = rows("fewer:num=50")
    assert len(set(fewer)) == len(fewer) == 50
    copies = rows("duplicate:share=0.25")
    assert len(copies) == 200
    own = copies == np.arange(200)
    assert own.sum() == len(set(copies)) == 150
    for text in ("balance", "fewer:num=50", "duplicate"):
        assert np.array_equal(rows(text), rows(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop:classes=3:last=2", "give classes or last, not both"),
        ("drop:classes=3+11", "no image is of class 11"),
        ("drop:last=10", "leaves 0 of 200 images"),
        ("fewer:num=201", "there are 200 images"),
        ("resize:cubic", "resize has no 'cubic'"),
        ("blur:sigma=0", "must be above 0"),
        ("fade", "there is no change 'fade'"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows(text)


def test_fewer_images_are_held_against_as_many_at_random() -> None:
    changes = [Change.parse(text) for text in ("blur", "drop:classes=1", "duplicate", "fewer:num=60")]
    found = with_controls(changes, StoredImages(DIGITS))
    left = int((LABELS != 1).sum())
    control = Change.parse(f"fewer:num={left}")
    assert list(found) == [changes[0], control, *changes[1:]]
    assert {change: held for change, held in found.items() if held is not None} == {changes[1]: control}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    """A study and a plain score of the same images, the ledger of both, and what was printed."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "l.jsonl"
    usual = [str(DIGITS), "mnist16", "--num-images=200", f"--ledger={path}"]
    calculated = CliRunner().invoke(main, ["calc", *usual])
    arguments = ["perturb", *usual, "--change=blur", "--change=drop:classes=1", "--change=quantise:levels=256"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return calculated, done, ledger.read(path), path


def test_the_unchanged_row_is_the_score_of_calc(study) -> None:
    calculated, done, records, _ = study
    header, unchanged, blur, fewer, dropped, same = done.stdout.splitlines()
    assert header.split() == ["change", "images", "fd_mnist"]
    assert unchanged.split() == ["unchanged", "200", calculated.stdout.split()[1]]
    assert len(records) == 5, "the unchanged score was there"
    value = records[0]["value"]
    assert blur.split() == ["blur", "200", f"{records[1]['value']:.4f}", f"+{records[1]['value'] - value:.4f}", "*"]
    assert fewer.split()[0] == f"fewer:num={(LABELS != 1).sum()}"
    moved = records[3]["value"] - records[2]["value"]
    assert dropped.split()[3] == f"+{moved:.4f}", "held against as many images at random"
    assert same.split() == ["quantise:levels=256", "200", f"{value:.4f}", "+0.0000"]
    assert records[4]["value"] == value, "levels as they are: the same pixels"
    assert "no metric here notices quantise:levels=256" in done.stderr


def test_a_dropped_class_is_scored_as_a_set_without_it(study, tmp_path: Path) -> None:
    *_, records, _ = study
    np.savez(tmp_path / "some.npz", arr_0=IMAGES[LABELS != 1])
    given = [str(tmp_path / "some.npz"), "mnist16", f"--ledger={tmp_path / 'l.jsonl'}"]
    assert CliRunner().invoke(main, ["calc", *given]).exit_code == 0
    (alone,) = ledger.read(tmp_path / "l.jsonl")
    assert records[3]["value"] == pytest.approx(alone["value"], rel=1e-6)


def test_no_score_of_changed_images_is_taken_for_one_of_the_images(study) -> None:
    *_, records, path = study
    for record in records[1:]:
        assert scoring.keys_of(record) == []
        assert record["flags"][-1] == f"the images were changed on purpose ({record['images']['change']})"
        assert record["images"]["path"] is record["recipe_hash"] is None
        assert record["images"]["of"]["path"] == str(DIGITS)
        assert record["images"]["of"]["content_sha256"] == records[0]["images"]["content_sha256"]
    again = CliRunner().invoke(main, ["calc", str(DIGITS), "mnist16", "--num-images=200", f"--ledger={path}"])
    assert again.stdout.split()[1] == f"{records[0]['value']:.4f}"
    plain = CliRunner().invoke(main, ["table", str(path)])
    assert len(plain.stdout.splitlines()) == 2
    assert "4 scores of changed images left out (--changed shows them)" in plain.stderr
    shown = CliRunner().invoke(main, ["table", str(path), "--changed"]).stdout
    assert "mnist16-200.npz, drop:classes=1" in shown
    assert len([line for line in shown.splitlines() if not line.startswith("!")]) == 5


def test_a_report_has_the_images_before_alone(study) -> None:
    """A row of real images finds its scores by the name of the file, which changed images do not have."""
    records = copy.deepcopy(study[2])
    for record in records:
        record["images"].get("of", record["images"])["path"] = "mnist16-test-200.npz"
    (row,) = tables.find("mnist16-floor")
    assert report.scores_of(row, records) == records[:1]
    left = {"of images that were changed on purpose": [record["images"]["change"] for record in records[1:]]}
    assert report.left_out([row], records) == left


def test_marks_and_pieces_of_the_table() -> None:
    def line(metric: str, value: float, half: float | None) -> dict:
        known = None if half is None else {"low": value - half, "high": value + half, "error": half / 2}
        return {"metric": metric, "value": value, "num_images": 7, "interval": known}

    metrics = ["fd_mnist", "kid_mnist", "vendi", "mind", "authpct", "precision"]
    before = perturb.Row("unchanged", [line(name, 1.0, None if name == "vendi" else 0.5) for name in metrics])
    after = perturb.Row(
        "blur", [line(name, 1.0 - 0.3 * place, 0.1) for place, name in enumerate(metrics)], before.records
    )
    assert after.noticed == [False, False, None, True, True, True]
    first, _, second = perturb.table([before, after]).partition("\n\n")
    assert first.splitlines()[0].split()[2:] == metrics[:5]
    assert second.splitlines()[0].split() == ["change", "images", "precision"]
    assert "0.4000  -0.6000 ?" in first
    assert second.splitlines()[2].split() == ["blur", "7", "-0.5000", "-1.5000", "*"]
    assert any(note.startswith("? is where") for note in perturb.notes([after]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist16-test-500", "mnist16", "--change=blur"], "holds statistics, and changes are of images"),
        ([DIGITS, "mnist16"], "which change? Give --change=KIND"),
        ([DIGITS, "mnist16", "--num-images=200", "--change=fade"], "there is no change 'fade'"),
        (["plain.npz", "mnist16", "--change=drop"], "goes by the classes of the images, which these do not have"),
        ([DIGITS, DIGITS, "--change=fewer:num=3", "--metrics=is/mnist"], "3 images of fewer:num=3 are too few for 10"),
    ],
)
def test_the_command_refuses_before_any_work(arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("plain.npz", arr_0=IMAGES)
    done = CliRunner().invoke(main, ["perturb", *map(str, arguments)])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "samples:" not in done.stderr
    assert not Path("results").exists()
