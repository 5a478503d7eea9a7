"""generate_images.py as its user runs it: folders, resuming, grids, refusals."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands.generate_images import main
from edm2_guidance.images import grid
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.sampling.generation import GeneratedImages
from edm2_guidance.work.status import images_status
from tests.digits_network import save_digits_network
from tests.words import last_of_each


@pytest.fixture
def run(tiny_networks):
    def run(*args):
        words = last_of_each(["--net=@cond.pkl", *args])
        words = [word.replace("@", str(tiny_networks["cond"].parent) + "/") for word in words]
        return CliRunner().invoke(main, words)

    return run


def test_destinations_are_checked_before_any_network_opens(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty.pkl").write_bytes(b"")
    for line in ("--outdir=@file", "--outdir=@file/x", "--grid=@file/x.png"):
        args = [f"--net={tmp_path}/empty.pkl", line.replace("@", f"{tmp_path}/")]
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 2
        assert "is a file" in result.stderr


def pixels(path):
    return np.asarray(Image.open(path))


def test_pngs_by_seed_and_their_recipe(run, tmp_path):
    out = tmp_path / "out"
    result = run(f"--outdir={out}", "--steps=3", "--gnet=@uncond.pkl", "--guidance=1.5", "--seeds=0,7-8")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["000000.png", "000007.png", "000008.png", "recipe.json"]
    assert pixels(out / "000007.png").shape == (8, 8, 3)
    assert json.loads((out / "recipe.json").read_text())["recipe"]["guides"][0]["weight"] == "constant:w=1.5"
    assert "15 main + 15 guide 1 = 30" in result.output.replace("\r", "\n")


def test_subdirs(run, tmp_path):
    assert run(f"--outdir={tmp_path}", "--steps=2", "--subdirs", "--seeds=1000,2001").exit_code == 0
    assert (tmp_path / "001000" / "001000.png").exists()
    assert (tmp_path / "002000" / "002001.png").exists()


def test_run_again_it_goes_on_and_overwrites_when_asked(run, tmp_path):
    args = [f"--outdir={tmp_path}", "--steps=2"]
    assert run(*args, "--seeds=0-2").exit_code == 0
    (tmp_path / "000001.png").unlink()
    (tmp_path / "000002.png").write_bytes(b"")  # as an interrupted copy leaves it
    stamp = (tmp_path / "000000.png").stat().st_mtime_ns
    more = run(*args, "--seeds=0-3")
    assert more.exit_code == 0
    assert "note: 1 of the images was there" in more.stderr
    assert more.stdout.startswith(f"3 images in {tmp_path}")
    assert (tmp_path / "000000.png").stat().st_mtime_ns == stamp
    assert pixels(tmp_path / "000002.png").shape == pixels(tmp_path / "000003.png").shape == (8, 8, 3)
    for again in (run(*args, "--seeds=0-3"), run(*args, "--seeds=0-3", "--resume")):
        assert (again.exit_code, again.stdout) == (0, f"{tmp_path}: all 4 images were there, of the same recipe\n")
    assert run(*args, "--seeds=0-3", "--overwrite").exit_code == 0
    assert (tmp_path / "000000.png").stat().st_mtime_ns != stamp


def test_a_folder_knows_all_that_was_asked_of_it(run, tmp_path):
    """Of one recipe, in any order; another that replaces it begins anew."""
    asked = []
    for more in (["0-3"], ["2,4-5"], ["0-1", "--overwrite"], ["0-7", "--overwrite", "--class=3"]):
        assert run(f"--outdir={tmp_path}", "--steps=2", "--seeds", *more).exit_code == 0
        asked.append(json.loads((tmp_path / "recipe.json").read_text())["asked"])
        assert images_status(tmp_path).total == images_status(tmp_path).done == len(list(tmp_path.glob("*.png")))
    assert asked == ["0-3", "0-3,4-5", "0-3,4-5", "0-7"]


@pytest.mark.parametrize(
    ("first", "second", "advice"),
    [
        ("--subdirs", "--batch=4", "000000/000000.png is there: add --subdirs"),
        ("--batch=4", "--subdirs", "000000.png is there: leave out --subdirs"),
    ],
)
def test_a_folder_keeps_its_layout(run, tmp_path, first, second, advice):
    assert run(f"--outdir={tmp_path}", "--steps=2", "--seeds=0-1", first).exit_code == 0
    for more in ("--seeds=0-1", "--seeds=7", "--overwrite"):
        refused = run(f"--outdir={tmp_path}", "--steps=2", second, more)
        assert refused.exit_code == 2
        assert advice in refused.stderr
    assert len(list(tmp_path.rglob("*.png"))) == 2


@pytest.mark.parametrize(
    ("more", "again"),
    [([], "the same command goes on"), (["--overwrite"], "the same command without --overwrite")],
)
def test_an_interrupt_tells_what_is_kept(run, tmp_path, monkeypatch, more, again):
    make = GeneratedImages._make

    def interrupted(self, seeds):
        if 2 in seeds:
            raise KeyboardInterrupt
        return make(self, seeds)

    args = [f"--outdir={tmp_path}", "--steps=2", "--seeds=0-3", "--batch=1"]
    with monkeypatch.context() as patch:
        patch.setattr(GeneratedImages, "_make", interrupted)
        ended = run(*args, *more)
    assert ended.exit_code == 130
    assert f"Error: interrupted: 2 of 4 images are in {tmp_path}; {again}" in ended.stderr
    assert run(*args).stdout.startswith("2 images in")


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["--seed=5", "--num=2"], [5, 6]),
        (["--num_images=2"], [0, 1]),
        (["--seed=3"], [3, 4, 5, 6]),
        ([], [16, 17, 18, 19]),
        (["--seeds=9"], [9]),
    ],
)
def test_seeds_are_said_as_in_the_other_scripts(run, tmp_path, words, seeds):
    assert run(f"--outdir={tmp_path}", "--steps=1", *words).exit_code == 0
    assert sorted(int(path.stem) for path in tmp_path.glob("*.png")) == seeds


def test_another_recipe_does_not_mix_in(run, tmp_path):
    assert run(f"--outdir={tmp_path}", "--steps=2", "--seeds=0").exit_code == 0
    other = run(f"--outdir={tmp_path}", "--steps=2", "--seeds=1", "--class=0")
    assert other.exit_code == 2
    assert "labels: random | 0" in other.stderr
    assert not (tmp_path / "000001.png").exists()


def test_overwriting_some_images_by_another_recipe_is_refused(run, tmp_path):
    args = [f"--outdir={tmp_path}", "--steps=2"]
    assert run(*args, "--seeds=0-3").exit_code == 0
    before = pixels(tmp_path / "000000.png")
    some = run(*args, "--seeds=0-1", "--class=0", "--overwrite")
    assert some.exit_code == 2
    assert "another recipe" in some.stderr
    assert "asked:" not in some.stderr
    assert (pixels(tmp_path / "000000.png") == before).all()
    assert run(*args, "--seeds=0-3", "--class=0", "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"]["labels"] == 0


@pytest.mark.parametrize("option", ["--resume", "--batch=2", "--overwrite"])
def test_images_of_unknown_origin_are_not_claimed(run, tmp_path, option):
    Image.new("RGB", (8, 8)).save(tmp_path / "000009.png")
    result = run(f"--outdir={tmp_path}", "--steps=2", "--seeds=0-1", option)
    assert result.exit_code == 2
    assert "unknown origin" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000009.png"]


def test_a_run_that_fails_claims_nothing(run, tmp_path):
    out = tmp_path / "out"
    failed = run(f"--outdir={out}", "--steps=2", "--gnet=@weak.pkl", "--guidance=1e39")
    assert failed.exit_code == 1
    assert not (out / "recipe.json").exists()
    assert run(f"--outdir={out}", "--steps=2").exit_code == 0


def test_evaluations_of_whole_batches_are_said_to_be(run, tmp_path):
    args = (f"--outdir={tmp_path}", "--steps=2", "--seeds=0-9", "--batch=4")
    assert f"10 images in {tmp_path}; evaluations: 30 main" in run(*args).stdout
    (tmp_path / "000002.png").unlink()
    assert f"1 image in {tmp_path}; evaluations for 4 in whole batches: 12 main" in run(*args).stdout


def test_weights_beyond_all_use_are_said(run, tmp_path):
    args = ("--steps=2", "--seeds=0-3", "--batch=1", "--gnet=@weak.pkl")
    with pytest.warns(RuntimeWarning, match="sampling gave values beyond 1000, .* the weight may be far too large"):
        far = run(f"--outdir={tmp_path}/far", *args, "--guidance=1e30")
    assert far.exit_code == 0
    assert "note: w = 1e+30 is beyond all use" in far.stderr
    assert "beyond" not in run(f"--outdir={tmp_path}/near", *args, "--guidance=20").stderr


def test_images_equal_those_of_a_zip(run, tmp_path, tiny_networks):
    import zipfile

    from edm2_guidance.commands.generate_zip import main as zip_main

    assert run(f"--outdir={tmp_path}/png", "--steps=3", "--seeds=0-3", "--batch=4").exit_code == 0
    args = [f"--net={tiny_networks['cond']}", "--steps=3", "--seeds=0-3", "--batch=4", f"--out={tmp_path}/a.zip"]
    assert CliRunner().invoke(zip_main, args).exit_code == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        for seed in range(4):
            assert file.read(f"{seed:06d}.png") == (tmp_path / "png" / f"{seed:06d}.png").read_bytes()


@pytest.mark.parametrize("columns", [["--weights=1,2,3", "--gnet=@weak.pkl"], ["--classes=0,9"], []])
def test_grids_are_pictures(run, tmp_path, columns):
    picture = tmp_path / "grid.png"
    result = run(f"--grid={picture}", "--steps=2", "--seeds=0-1", *columns)
    assert result.exit_code == 0, result.output
    image = pixels(picture)
    assert image.shape[0] > 64
    assert image.shape[1] > 128
    assert len(np.unique(image)) > 16
    again = run(f"--grid={picture}", "--steps=2", "--seeds=0-1", *columns)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize("where", ["network", "file"])
def test_captions_of_a_grid_have_class_names(tmp_path, monkeypatch, where):
    """Columns of classes, and rows of them beside weights; by the network's names, or by those of a file."""
    names = [f"digit {i}" for i in range(10)]
    network = save_digits_network(
        tmp_path / "net.safetensors", **({"class_names": names} if where == "network" else {})
    )
    (tmp_path / "names.txt").write_text("\n".join(names))
    drawn = []
    draw = grid.compose_grid
    monkeypatch.setattr(grid, "compose_grid", lambda cells, *captions: drawn.append(captions) or draw(cells, *captions))
    args = [f"--net={network}", "--classes=digit-3,0", f"--grid={tmp_path}/grid.png", "--steps=1", "--overwrite"]
    args += [f"--class-names={tmp_path}/names.txt"] if where == "file" else []
    for more in ([], [f"--gnet={network}", "--weights=1,2"]):
        result = CliRunner().invoke(main, [*args, "--seeds=0", *more])
        assert result.exit_code == 0, result.output
    assert drawn == [
        (["unguided"], ["class 3, digit 3", "class 0, digit 0"], None, None),
        (["guided, class 3, digit 3", "guided, class 0, digit 0"], ["w = 1", "w = 2"], None, None),
    ]


def test_a_grid_is_transposed_at_will(run, tmp_path, monkeypatch):
    drawn = []
    draw = grid.compose_grid
    monkeypatch.setattr(grid, "compose_grid", lambda *given: drawn.append(given) or draw(*given))
    args = ["--steps=1", "--seeds=0-3", "--classes=0,9", "--enlarge=3"]
    for name, sides in (
        ("a.jpg", ["--rows=class", "--columns=seed", "--cell=1x2"]),
        ("b.pdf", ["--rows=seed", "--cell=1x2"]),
    ):
        result = run(f"--grid={tmp_path / name}", *args, *sides)
        assert result.exit_code == 0, result.output
    (cells, *captions), (turned, *turned_captions) = drawn
    assert captions == [["class 0", "class 9"], ["seeds 0-1", "seeds 2-3"], "unguided", 3 * 8]
    assert turned_captions == [captions[1], captions[0], "unguided", 3 * 8]
    assert [[turned[j][i] for j in range(2)] for i in range(2)] == cells
    assert [len(line) for line in cells[0][0]] == [1, 1], "one across, two down"
    tiles = {tile.tobytes() for line in cells for cell in line for (tile,) in cell}
    assert len(tiles) == 8, "every class and seed once"
    content = json.loads(Image.open(tmp_path / "a.jpg").getexif().get_ifd(0x8769)[0x9286].removeprefix(b"ASCII\0\0\0"))
    assert (content["seeds"], [recipe["labels"] for recipe in content["recipes"]]) == ([0, 1, 2, 3], [0, 9])
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "--outdir"),
        (["--outdir=x", "--seeds=5-2"], "5-2"),
        (["--outdir=x", "--seeds=5", "--num=2"], "leave out --seed and --num-images"),
        (["--outdir=x", "--seed=4294967290", "--num=9"], "up to 4294967295"),
        (["--outdir=x", "--weights=1,2"], "--grid"),
        (["--grid=x.png", "--weights=1,2", "--classes=3"], "one guide"),
        (["--grid=x.png", "--weights=1,2"], "one guide"),
        (["--grid=x.png", "--gnet=@weak.pkl", "--weights=1,2", "--weight=linear:w=3"], "w is what --weights says"),
        (["--grid=x.png", "--gnet=@weak.pkl", "--weights=1,2", "--guidance=3"], "w is what --weights says"),
        (["--figs=fig5", "--gnet=@uncond.pkl", "--weight=linear:w=3"], "leave out --weight"),
        (["--grid=x.png", "--classes=11"], "classes 0 to 9"),
        (["--outdir=x", "--gnet=@larger.pkl", "--guidance=2"], "resolution 16"),
        (
            ["--outdir=x", "--gnet=@fewer-classes.pkl", "--guidance=2"],
            "fewer-classes.pkl 4: take networks",
        ),
        (["--outdir=x", "--gnet=@weak.pkl"], "a guide needs a weight"),
        (["--grid=x.png", "--gnet=@weak.pkl"], "a guide needs a weight"),
        (["--outdir=x", "--figs=fig5"], "leave out --outdir"),
        (["--figs=fig5"], "one guide"),
        (["--figs=fig5", "--gnet=@uncond.pkl", "--guidance=2"], "leave out --guidance"),
        (["--figs=fig5", "--gnet=@uncond.pkl", "--gnet=@weak.pkl"], "one guide"),
        (["--figs=fig5,fig7", "--gnet=@uncond.pkl"], "'fig7'; there are: all, fig5, fig6"),
        (["--figs=fig5", "--gnet=@larger.pkl"], "resolution 16"),
        (["--figs=fig5", "--net=@uncond.pkl", "--gnet=@uncond.pkl"], "unconditional"),
        (["--figs=fig5", "--preset=mnist16-autog,mnist16-cfg"], "one preset"),
        (["--figs=fig5", "--preset=edm2-img512-xxl-fid"], "one guide"),
        (["--outdir=x", "--preset=mnist16,mnist16-cfg"], "name one preset, or add --grid=FILE.png"),
        (["--alphas=0,1", "--outdir=x"], "--grid"),
        (["--grid=x.png", "--alphas=0,1", "--weights=2", "--gnet=@uncond.pkl"], "--gnet twice"),
        (["--grid=x.png", "--alphas=0,2", "--weights=2", "--gnet=@uncond.pkl", "--gnet=@weak.pkl"], "from 0 to 1"),
        (["--grid=x.png", "--alphas=0,1", "--gnet=@uncond.pkl", "--gnet=@weak.pkl"], "--weights=W"),
        (["--grid=x.png", "--alphas=0,1", "--weights=2", "--gnet=@weak.pkl", "--gnet=@uncond.pkl"], "before"),
        (["--grid=x.png", "--alphas=0,1", "--weights=2", "--classes=0"], "--class"),
        (["--outdir=x", "--grid=x.png"], "--outdir"),
        (["--outdir=x", "--class=cat"], "--class=cat: give a class number from 0 to 9, or leave it out for random"),
        (["--outdir=x", "--class=1e2"], "--class=1e2: give a class number of 0 or more"),
        (["--grid=x.gif"], "x.gif: give a name that ends in .png, .jpg, .jpeg, .pdf"),
        (
            ["--grid=x.png", "--weights=1,2", "--preset=mnist16-classifier"],
            "has 0: leave out one of the two",
        ),
        (["--outdir=x", "--rows=class"], "--rows, --columns, --cell and --enlarge are of a grid: add --grid=FILE.png"),
        (["--grid=x.png", "--rows=claas"], "'claas' is not one of method, weight, scale, alpha, class, seed"),
        (["--grid=x.png", "--rows=weight"], "the grid has no weight: give --weights"),
        (["--grid=x.png", "--rows=class,seed", "--columns=seed", "--classes=0"], "seed is in --rows and in --columns"),
        (
            ["--grid=x.png", "--rows=class", "--columns=seed", "--gnet=@weak.pkl", "--weights=1,2", "--classes=0"],
            "weight is neither in --rows nor in --columns",
        ),
        (["--grid=x.jpg", "--seeds=0-199", "--enlarge=64"], "x.jpg would have 102400x512 pixels or more"),
        (["--grid=x.png", "--cell=3x1"], "4 seeds do not fill cells of 3"),
        (["--grid=x.png", "--cell=0x1"], "1 or more each"),
        (["--grid=x.png", "--cell=2x1", "--classes=0,1"], "cells of 2 seeds, and there are 4: add --columns=seed"),
        (["--grid=dirx/"], ".png"),
        (["--grid=x.png", "--classes=0-2", "--class=7"], "--class"),
        (["--outdir=x", "--net=@latent.pkl"], "4 channels"),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_list_presets():
    result = CliRunner().invoke(main, ["--list-presets"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == len(all_presets())
    assert "edm2-img512-xxl-autog-dino" in result.stdout
    assert "published fd_dinov2 24.18" in result.stdout
