"""Hostile and damaged files given to the commands: one line, an exit code of 1 or 2, and nothing else on the disk."""

import json
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics, network_tool
from edm2_guidance.images import npy
from tests.fuzz.formats import all_formats
from tests.fuzz.mutations import Member, build_png, build_zip, mutate, png_chunks
from tests.pictures import encoded, picture

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "edm2_guidance" / "pretrained" / "mnist16-refs.npz"


MEMBERS = [Member(f"{i:06d}.png", encoded(picture(i, 16))) for i in range(4)]


def with_member(name: str, data: bytes = b"x") -> bytes:
    """The four images, and one member more or, if it has the name of an image, other content for that."""
    others = [member for member in MEMBERS if member.name != name]
    return build_zip([*others, Member(name, data)])


def labelled(*labels: object) -> bytes:
    return with_member("dataset.json", json.dumps({"labels": labels}).encode())


def patched(data: bytes, signature: bytes, offset: int, value: int) -> bytes:
    """Another number in the last record of that kind."""
    at = data.rindex(signature) + offset
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def flipped() -> bytes:
    """One bit of the pixels of the third image; the directory knows nothing of it."""
    data = bytearray(build_zip(MEMBERS))
    data[data.index(MEMBERS[2].data) + 200] ^= 1
    return bytes(data)


def twice() -> bytes:
    return build_zip([*MEMBERS, MEMBERS[1]])


def overlapping() -> bytes:
    """A bomb of few bytes: the last two members are one."""
    data = build_zip(MEMBERS)
    offset = data.index(b"PK\3\4", data.index(MEMBERS[1].data))
    return patched(data, b"PK\1\2", 42, offset)


def resized(width: int, height: int) -> bytes:
    (kind, header), *rest = png_chunks(MEMBERS[1].data)
    return build_png([(kind, struct.pack(">II", width, height) + header[8:]), *rest])


def deflated_bomb() -> bytes:
    """An image of 1 kB that says that it takes 2 GB when inflated."""
    data = build_zip([*MEMBERS, Member("000009.png", b"\0" * 1_000_000)], zipfile.ZIP_DEFLATED)
    return patched(data, b"PK\1\2", 24, 2_000_000_000)


ALL = [[member.name, 1] for member in MEMBERS]
SETS: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbing": (lambda: with_member("../evil.png"), "unsafe name '../evil.png'"),
    "climbing on Windows": (lambda: with_member("..\\evil.png"), "unsafe name"),
    "absolute": (lambda: with_member("/tmp/evil.png"), "unsafe name '/tmp/evil.png'"),
    "drive": (lambda: with_member("C:evil.png"), "unsafe name 'C:evil.png'"),
    "escape sequence": (lambda: with_member("\x1b[2J.png"), r"unsafe name '\x1b[2J.png'"),
    "escape sequence in a label": (lambda: labelled(*ALL, ["\x1b[2J", 1]), r"a label for '\x1b[2J', which is not in"),
    "twice": (twice, "two members named '000001.png'"),
    "overlapping": (overlapping, "'000002.png' and '000003.png' in {path} share bytes"),
    "size beyond the file": (
        lambda: patched(patched(build_zip(MEMBERS), b"PK\1\2", 20, 10**9), b"PK\1\2", 24, 10**9),
        "'000003.png' in {path} claims 1000000000 bytes",
    ),
    "size beyond deflate": (deflated_bomb, "'000009.png' in {path} claims 2000000000 bytes"),
    "flipped bit": (flipped, "'000002.png' in {path} is damaged"),
    "large picture": (
        lambda: with_member("000001.png", resized(10_000, 10_000)),
        "'000001.png' in {path} has 10000x10000 pixels, more than the 67108864 allowed",
    ),
    "huge picture": (
        lambda: with_member("000001.png", resized(60_000, 60_000)),
        "'000001.png' in {path} has more than the 67108864 pixels allowed",
    ),
    "few pixels": (lambda: with_member("000001.png", resized(8000, 8000)), "'000001.png' in {path} is truncated"),
    "one label too few": (lambda: labelled(*ALL[:3]), "dataset.json of {path} has no label for '000003.png'"),
    "one label too many": (lambda: labelled(*ALL, ["000004.png", 1]), "a label for '000004.png', which is not in"),
    "two labels": (lambda: labelled(*ALL, ALL[2]), "two labels for '000002.png'"),
    "labels of two kinds": (lambda: labelled(*ALL[:3], ["000003.png", [1.0]]), "'000003.png' a vector of 1"),
    "no class": (lambda: labelled(*ALL[:3], ["000003.png", -1]), "the label of '000003.png' in"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failure(command: click.Command, *arguments: object) -> str | None:
    """The one line that a command fails with, None if it succeeds. It must leave the folder as it was."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is printed as a warning is a second line
        warnings.filterwarnings("ignore", message="Image size", category=RuntimeWarning)  # as cli.settings does
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exit_code == 0:
        return None
    assert result.exit_code in (1, 2), (result.exit_code, result.exception)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors[0].isprintable()
    assert not any("Traceback" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    return errors[0]


@pytest.mark.parametrize("name", SETS)
def test_hostile_sets_are_refused_with_the_name_of_the_member(name: str) -> None:
    make, words = SETS[name]
    path = Path("set.zip")
    path.write_bytes(make())
    said = failure(
        calculate_metrics.main, "calc", f"--images={path}", f"--ref={REFERENCE}", "--metrics=fd_mnist", "--num=4"
    )
    assert said is not None
    assert words.format(path=path) in said


def test_pixels_that_inflate_without_end_are_read_no_further_than_the_picture() -> None:
    """More pixels than the picture has are no harm, as long as nobody takes memory for them."""
    chunks = [(kind, data) for kind, data in png_chunks(MEMBERS[1].data) if kind != b"IDAT"]
    pixels = zlib.compress(bytes(16 * 49) + b"\0" * 100_000_000, 9)
    Path("set.zip").write_bytes(with_member("000001.png", build_png([chunks[0], (b"IDAT", pixels), *chunks[1:]])))
    arguments = ("calc", "--images=set.zip", f"--ref={REFERENCE}", "--metrics=fd_mnist", "--num=4", "--ledger=scores")
    assert CliRunner().invoke(calculate_metrics.main, arguments).exit_code == 0


def test_an_array_that_announces_terabytes() -> None:
    header = npy.to_bytes(np.zeros((1, 16, 16, 3), np.uint8)).replace(b"(1, 16", b"(9999999, 16")
    Path("set.npz").write_bytes(build_zip([Member("arr_0.npy", header)]))
    said = failure(
        calculate_metrics.main, "calc", "--images=set.npz", f"--ref={REFERENCE}", "--metrics=fd_mnist", "--num=4"
    )
    assert said is not None
    assert "arr_0 in set.npz has 7" in said


COMMANDS: dict[str, tuple[click.Command, list[str]]] = {
    "network pickle": (network_tool.main, ["inspect", "{path}"]),
    "network safetensors": (network_tool.main, ["inspect", "{path}", "--json"]),
    "statistics pickle": (
        calculate_metrics.main,
        ["calc", "--images={path}", f"--ref={REFERENCE}", "--metrics=fd_mnist"],
    ),
    "statistics npz": (calculate_metrics.main, ["calc", f"--images={REFERENCE}", "--ref={path}", "--metrics=fd_mnist"]),
    "ledger": (calculate_metrics.main, ["table", "{path}"]),
    "image zip, compared": (
        calculate_metrics.main, ["compare", "{path}", "{path}", str(REFERENCE), "--metrics=fd_mnist", "--num=3"]
    ),
    "image npz, by class": (calculate_metrics.main, ["classes", "{path}", "{path}", "--features=mnist", "--num=4"]),
    "ledger, compared": (calculate_metrics.main, ["compare", "1", "2", "--ledger={path}"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_mutants_end_a_command_in_one_line(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    form = all_formats(tmp_path_factory.mktemp("originals"))[name.split(", ")[0]]
    command, arguments = COMMANDS[name]
    failures = 0
    for number in range(40):
        rng = random.Random(f"command line {name} {number}")
        path = Path(form.file)
        path.write_bytes(mutate(rng.choice(form.originals), form.kind, rng).data)
        said = failure(command, *(argument.format(path=path) for argument in arguments))
        assert said is None or path.name in said or path.parent.name in said, said
        failures += said is not None
    assert failures > 0 or "inspect" in arguments, "inspect shows what it can of anything"
