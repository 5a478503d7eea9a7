"""From a class name that somebody typed to its index."""

import pytest

from edm2_guidance.recipe.class_names import ClassName, checked_names, class_text, find_class

NAMES = ("tench", "Golden_Retriever", "tiger cat", "cardigan", "Cardigan")


@pytest.mark.parametrize(
    ("typed", "index"),
    [("tench", 0), ("TENCH", 0), ("golden retriever", 1), ("golden-retriever", 1)],
)
def test_case_and_separators_do_not_count(typed: str, index: int) -> None:
    assert find_class(typed, NAMES, "net.pkl") == index


@pytest.mark.parametrize(
    ("typed", "names", "message"),
    [
        ("cat", NAMES, r"--class=cat: net\.pkl has no class of that name; near it: tiger cat \(2\)"),
        ("tensh", NAMES, r"near it: tench \(0\)"),
        ("zzz", NAMES, r"its first is 'tench', its last 'Cardigan'"),
        ("cardigan", NAMES, r"several of that name, cardigan \(3\), Cardigan \(4\); give the index"),
        (
            "cat",
            None,
            r"=cat: give a class number from 0 to 0, .*; net\.pkl has no class names \(--class-names=FILE",
        ),
    ],
)
def test_what_is_no_one_class_is_refused(typed: str, names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_class(typed, names, "net.pkl")


def test_accents_match_however_they_are_written() -> None:
    """macOS takes them apart in names of files; keyboards do not."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert find_class(composed, ("cat", apart), "net.pkl") == find_class(apart, ("cat", composed), "net.pkl") == 1


def test_captions() -> None:
    assert class_text(2, NAMES) == "class 2, tiger cat"
    assert class_text(2, None) == class_text(2, NAMES[:2]) == "class 2"
    assert class_text(ClassName("cat"), NAMES) == "class cat"


def test_lone_surrogates_are_written_out() -> None:
    assert checked_names(["caf\udce9"]) == ("caf\\udce9",)
