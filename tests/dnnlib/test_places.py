"""Names on a command line: the current folder first, then what ships, and what a ledger keeps of them."""

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dnnlib.download import fetch
from dnnlib.places import EMBEDDED, embedded, find_file, python_function, recorded_place, short_name
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.commands import generate_images
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.opening import open_recipe

NAME = "pretrained/mnist16-cond.pkl"


def test_the_current_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file(NAME) == fetch(NAME) == EMBEDDED.parent / NAME
    Path("pretrained").mkdir()
    Path(NAME).write_bytes(b"mine")
    assert find_file(NAME) == fetch(NAME) == Path(NAME)


def test_what_is_nowhere_stays_as_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nowhere.pkl", "/nowhere.pkl", "images"):  # the last is a folder of code in the project
        assert find_file(name) == Path(name)
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.pkl"):
        fetch("nowhere.pkl")
    assert not find_file("").is_file()


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_file("~/net.pkl") == tmp_path / "net.pkl"


def test_short_names_find_the_same_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_name(EMBEDDED.parent / NAME) == "mnist16-cond"
    assert short_name(EMBEDDED / "toy" / "main.pkl") == "toy/main"
    assert short_name(tmp_path / "sub" / "net.pkl") == "sub/net.pkl"
    assert short_name("/elsewhere/net.pkl") == "/elsewhere/net.pkl"
    assert short_name("https://host/net.pkl") == "https://host/net.pkl"
    Path("mnist16-cond").write_bytes(b"mine")
    assert short_name(EMBEDDED / "mnist16-cond.pkl") == str(EMBEDDED / "mnist16-cond.pkl"), "that name is taken here"


def test_what_ships_here_has_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("mnist16-cond") == fetch("mnist16-cond") == EMBEDDED / "mnist16-cond.pkl"
    assert find_file("mnist16-test-500") == EMBEDDED / "mnist16-test-500.npz"
    assert find_file("toy/main") == EMBEDDED / "toy" / "main.pkl"
    for name in ("mnist16", "README", "cond", "toy", "mnist16-cond*", "../pretrained/mnist16-cond", "..", ""):
        assert find_file(name) == Path(name)
    assert find_file("../edm2_guidance/pretrained/mnist16-cond.pkl") == Path(
        "../edm2_guidance/pretrained/mnist16-cond.pkl"
    )
    Path("mnist16-cond").write_bytes(b"mine")
    assert find_file("mnist16-cond") == Path("mnist16-cond")
    assert {file.suffix for file in EMBEDDED.rglob("*") if file.is_file()} - {".py", ".pyc", ".md", ".json"} == {
        file.suffix for file in embedded().values()
    }, "all that ships, but texts, has a name"


def test_the_place_where_it_lay_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = EMBEDDED.parents[1] / "pretrained"
    assert (
        find_file(before / "mnist16-cond.pkl")
        == fetch(str(before / "mnist16-cond.pkl"))
        == EMBEDDED / "mnist16-cond.pkl"
    )
    assert find_file(before / "toy" / "main.pkl") == EMBEDDED / "toy" / "main.pkl"
    for name in ("/elsewhere/pretrained/mnist16-cond.pkl", EMBEDDED.parents[1] / "mnist16-cond.pkl"):
        assert find_file(name) == Path(name)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("generate_images", "--net=@mnist16-cnd --outdir=out"),
        ("generate_zip", "--net=mnist16-cond --gnet=@mnist16-cnd --guidance=2"),
        ("calculate_metrics", "calc @mnist16-cnd mnist16"),
        ("calculate_metrics", "calc mnist16-test-500 @mnist16-cnd"),
        ("calculate_metrics", "ref --data=@mnist16-cnd --dest=a.npz"),
        ("calculate_metrics", "gen --preset=mnist16 --metrics=fd_mnist --weights=fd_mnist=@mnist16-cnd"),
        ("network_tool", "inspect @mnist16-cnd"),
        ("network_tool", "convert @mnist16-cnd --to=safetensors"),
        ("count_flops", "@mnist16-cnd"),
        ("reproduce", "search --net=@mnist16-cnd --over=weight --weights=1,2"),
    ],
)
def test_a_name_of_nothing_is_told_with_those_near_it(command, args, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"edm2_guidance.commands.{command}").main
    done = CliRunner().invoke(main, args.replace("@", "").split())
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert "mnist16-cnd" in line
    assert "mnist16-cond" in line
    assert not list(tmp_path.iterdir())


def test_functions_that_make_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert python_function("sub/net.py:make") == (Path("sub/net.py"), "make")
    assert python_function("~/net.py:make") == (Path("/home/me/net.py"), "make")
    assert python_function("C:\\my nets\\net.py:make") == (Path("C:\\my nets\\net.py"), "make")
    assert python_function("a.py:b.py:make") == (Path("a.py:b.py"), "make")
    for other in ("net.pkl", "net.pkl:make", "net.pyc:make", "mnist16-cond", "https://host/net.py:make", "net:make"):
        assert python_function(other) is None
    for name in ("net.py", "net.py:", "net.py:2", "net.py:a b", "C:\\net.py"):
        with pytest.raises(ValueError, match=r"name the function of it that makes the network, such as .*net\.py:make"):
            python_function(name)


def test_a_recipe_does_not_depend_on_the_folder_it_was_typed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = []
    kept = lambda *args: recipes.append(recipe_from(*args)) or 1 / 0  # noqa: E731
    monkeypatch.setattr("edm2_guidance.commands.generate_images.recipe_from", kept)
    for folder in (EMBEDDED.parent, tmp_path):
        monkeypatch.chdir(folder)
        CliRunner().invoke(generate_images.main, [f"--net={NAME}", "--outdir=out", "--seeds=0"])
    assert recipes == [recipes[0]] * 2
    assert recipes[0].net.source == NAME
    assert recipes[0].hash == Recipe(NetworkRef(NAME), noise_device="device").hash


def test_files_count_by_content_whatever_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy.pkl").write_bytes((EMBEDDED / "mnist16-weak.pkl").read_bytes())
    opened = [open_recipe(Recipe(NetworkRef(name)), "cpu").recipe for name in ("mnist16-weak", "copy.pkl")]
    assert opened[0].hash == opened[1].hash
    assert [recipe.to_json()["net"]["source"] for recipe in opened] == ["mnist16-weak", "copy"]


def test_what_is_recorded_of_a_place_says_nothing_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source, recorded in {
        "mnist16-cond": "mnist16-cond",
        str(EMBEDDED / "mnist16-cond.pkl"): "mnist16-cond",
        "pretrained/toy/main.pkl": "toy/main",
        "adm-64": "adm-64",
        "https://me:secret@host/a/b.pkl?X-Amz-Signature=secret": "https://host/a/b.pkl?...",
        "nets/a.pkl": "nets/a.pkl",
        tmp_path / "nets" / "a.pkl": "nets/a.pkl",
        "nets/../../elsewhere/a.pkl": "a.pkl",
        "/somewhere/a.pkl": "a.pkl",
        "nets/mine.py:make": "nets/mine.py:make",
        "/somewhere/mine.py:make": "mine.py:make",
    }.items():
        assert recorded_place(source) == recorded
