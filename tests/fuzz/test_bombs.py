"""Small files that unpack to large ones, for every reader: refused, or read, before memory is taken.

The limits are lowered, so that files of a few megabytes do for those of gigabytes.
"""

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest

from edm2_guidance.images import unzip
from edm2_guidance.metrics import reference
from tests.fuzz.formats import Format, all_formats
from tests.fuzz.mutations import Member, build_zip, zip_members

LIMIT = 1 << 16
UNPACKED = 1 << 22
ZIPS = ["statistics npz", "image zip", "image npz", "latents zip", "image shard", "feature shard"]
TEXTS = ["dataset.json", "recipe.json", "ledger", "image shard plan", "download record", "partial download"]


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    before = os.environ.get("DNNLIB_CACHE_DIR")
    try:
        return all_formats(tmp_path_factory.mktemp("originals"))
    finally:
        os.environ.pop("DNNLIB_CACHE_DIR", None)
        if before is not None:
            os.environ["DNNLIB_CACHE_DIR"] = before


def peak_of(kind: Format, data: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that Python and numpy take at most while a file is read, or refused by an error of ours."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {**kind.others, kind.file: data}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(folder))
    tracemalloc.start()
    try:
        kind.read(folder)
    except (ValueError, OSError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ZIPS)
def test_members_that_unpack_to_far_more(
    name: str, formats: dict[str, Format], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each member of each original in turn, and a labels file or recipe where there is none."""
    kind = formats[name]
    for check in (unzip.check_zip, unzip.check_zip_member):
        monkeypatch.setattr(check, "__defaults__", (LIMIT,))
    monkeypatch.setattr(unzip, "_MAX_JSON_BYTES", LIMIT)
    monkeypatch.setattr(reference, "MAX_FEATURES", 64)
    monkeypatch.setattr(reference, "_MAX_TEXT_BYTES", LIMIT)
    members = zip_members(kind.originals[0])
    names = dict.fromkeys([*(member.name for member in members), "dataset.json", "recipe.json"])
    for bomb in names:
        kept = [member for member in members if member.name != bomb]
        data = build_zip([*kept, Member(bomb, bytes(UNPACKED))], 8)
        assert peak_of(kind, data, tmp_path / "set", monkeypatch) < UNPACKED // 2, bomb


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "text",
    [b'{"labels": [' + b"[]," * 20_000 + b"[]]}", b'{"a":' * 20_000, b"[" * 20_000, b'{"a": %b}' % (b"9" * 100_000)],
    ids=["many", "deep objects", "deep lists", "a long number"],
)
def test_texts_of_many_values_or_great_depth(
    name: str, text: bytes, formats: dict[str, Format], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert peak_of(formats[name], text, tmp_path / "set", monkeypatch) < 40 * len(text) + (1 << 21)
