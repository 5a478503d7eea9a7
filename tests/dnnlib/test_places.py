"""Names on a command line: the current folder first, then the project's, and what a ledger keeps of them."""

from pathlib import Path

import pytest

from dnnlib.download import fetch
from dnnlib.places import EMBEDDED, PROJECT, find_file, python_function, short_name
from edm2_guidance.cli.recipe_args import recipe_from
from edm2_guidance.recipe.recipe import NetworkRef, Recipe

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
    assert short_name(EMBEDDED.parent / NAME) == NAME
    assert short_name(tmp_path / "sub" / "net.pkl") == "sub/net.pkl"
    assert short_name("/elsewhere/net.pkl") == "/elsewhere/net.pkl"
    assert short_name("https://host/net.pkl") == "https://host/net.pkl"
    Path("pretrained").mkdir()
    Path(NAME).write_bytes(b"mine")
    assert short_name(EMBEDDED.parent / NAME) == f"edm2_guidance/{NAME}", "the shorter name is another file here"


def test_what_ships_here_has_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("mnist16-cond") == EMBEDDED / "mnist16-cond.pkl"
    assert find_file("mnist16-test-500") == EMBEDDED / "mnist16-test-500.npz"
    for name in ("mnist16", "README.", "cond", "toy", "mnist16-cond*", "../pretrained/mnist16-cond"):
        assert find_file(name) == Path(name)
    Path("mnist16-cond").write_bytes(b"mine")
    assert find_file("mnist16-cond") == Path("mnist16-cond")


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
    from click.testing import CliRunner

    from edm2_guidance.commands import generate_images

    recipes = []
    kept = lambda *args: recipes.append(recipe_from(*args)) or 1 / 0  # noqa: E731
    monkeypatch.setattr("edm2_guidance.commands.generate_images.recipe_from", kept)
    for folder in (PROJECT, tmp_path):
        monkeypatch.chdir(folder)
        CliRunner().invoke(generate_images.main, [f"--net={NAME}", "--outdir=out", "--seeds=0"])
    assert recipes == [recipes[0]] * 2
    assert recipes[0].net.source == NAME
    assert recipes[0].hash == Recipe(NetworkRef(NAME), noise_device="device").hash
