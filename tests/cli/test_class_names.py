"""--class, --classes and --class-names: what parses, and which index a name becomes before a network is opened."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from edm2_guidance.cli.class_names import Class, index_of, known_class, read_names
from edm2_guidance.cli.grid import Classes
from edm2_guidance.papers.imagenet import SHARED_WORDS, imagenet_classes, is_published
from edm2_guidance.recipe.class_names import ClassName

XS = "https://example.org/edm2/edm2-img512-xs-2147483-0.135.pkl"


def test_the_names_of_imagenet() -> None:
    names = imagenet_classes()
    assert (len(names), len(set(names))) == (1000, 1000)
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 483: "castle", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
    for word, pair in SHARED_WORDS.items():
        assert [names[index].split()[0] for index in pair] == [word, word]


@pytest.mark.parametrize(
    ("source", "published"),
    [
        (XS, True),
        ("nets/edm2-img64-xl-0671088-0.040.pkl", True),
        ("edm2-img512-xxl-0939524-0.015.safetensors", True),
        ("edm2-img512-xs-uncond-2147483-0.135.pkl", False),
        ("network-snapshot-0002147-0.100.pkl", False),
        ("hf://facebook/DiT-XL-2-512", True),
        ("hf://DeepFloyd/IF-I-XL-v1.0", False),
        ("pretrained/mnist16-cond.pkl", False),
    ],
)
def test_which_networks_are_published(source: str, published: bool) -> None:
    assert is_published(source) == published


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("007", 7), ("cat", ClassName("cat")), (" tiger cat ", ClassName("tiger cat"))]
)
def test_a_class_is_an_index_or_a_name(text: str, value: Any) -> None:
    assert Class().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "-1", "1.5", "3.0", "1e3", "+2", "1,2", "9999999999"])
def test_what_is_neither_is_told_what_to_give(text: str) -> None:
    with pytest.raises(click.BadParameter, match="give a class number of 0 or more, or a name, or leave it out"):
        Class().convert(text, None, None)


def test_lists_mix_indices_and_names() -> None:
    assert Classes().convert("2-4,cat, 7", None, None) == [2, 3, 4, ClassName("cat"), 7]
    for text in ("1,0-3", "cat,cat"):
        with pytest.raises(click.BadParameter, match=f"{text[0]}.* stands there more than once"):
            Classes().convert(text, None, None)


def test_published_networks_know_imagenet(capsys: pytest.CaptureFixture[str]) -> None:
    assert known_class(ClassName("Golden Retriever"), None, XS) == 207
    assert "note: --class=Golden Retriever is class 207" in capsys.readouterr().err
    assert index_of(ClassName("crane bird"), XS, None) == 134
    with pytest.raises(click.UsageError, match=r"crane bird \(134\) and crane \(517\); give the index"):
        index_of(ClassName("Crane"), XS, None)
    with pytest.raises(click.UsageError, match=r"no class of that name; near it: tiger cat \(282\), Persian cat"):
        index_of(ClassName("cat"), XS, None)
    assert index_of(ClassName("cat"), "own.pkl", None) == ClassName("cat")  # its own names are in the file


def test_names_from_a_file(tmp_path: Path) -> None:
    lines, listed = tmp_path / "names.txt", tmp_path / "dataset.json"
    lines.write_text("\ufeffcat\ndog \n\N{SNOWMAN}\n", encoding="utf-8")
    listed.write_text(json.dumps({"labels": None, "class_names": ["cat", "dog", "\N{SNOWMAN}"]}))
    for path in (lines, listed):
        assert read_names(str(path)) == ("cat", "dog", "\N{SNOWMAN}")
        assert index_of(ClassName("DOG"), XS, str(path)) == 1
    with pytest.raises(click.UsageError, match=r"names\.txt has no class of that name"):
        index_of(ClassName("goldfish"), XS, str(lines))
    with pytest.raises(click.UsageError, match="No such file"):
        known_class(3, str(tmp_path / "none"), XS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"labels": null}', "has no list of names: need one name per line, or JSON"),
        (b"[1]", "has no list of names"),
        (b"", "has no list of names"),
        (b"{", "is not valid JSON"),
        (b"[" * 2000 + b"]" * 2000, "nested too deeply"),
        (b"cat\n \ndog\n", "has no name in line 2"),
        (b"cat\n" + b"x" * 201, "has 201 characters in line 2: a name has at most 200"),
        ("cat\ndog".encode("utf-16"), "is not UTF-8 text: save it as UTF-8"),
        ("cat\ndog".encode("utf-16-le"), "is not UTF-8 text: save it as UTF-8"),
        (b"<!DOCTYPE html>\n<p>Sign in</p>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
    ],
)
def test_files_without_names_say_what_they_are(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"--class-names=.*names\.txt .*{words}"):
        read_names(str(tmp_path / "names.txt"))
