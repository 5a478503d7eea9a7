"""The ledger: appended whole, read back, printed as a table that says what its rows mix."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edm2_guidance.metrics import ledger

ROOT = Path(__file__).resolve().parents[2]


def record(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "time": "2026-01-02T03:04:05+00:00",
        "name": "fid",
        "metric": "fid",
        "value": 1.98766,
        "images": {"path": "runs/a.zip"},
        "labels": "random",
        "detector": {"weights_sha256": "67268250aa", "resize": "tf1-bilinear-299"},
        "reference": {"source": "https://host/refs/img512.pkl", "sha256": "0123456789"},
        "flags": [],
        **changes,
    }


def test_append_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ledger.jsonl"
    ledger.append(path, record())
    ledger.append(path, record(value=2, note="größer\nzwei"))
    assert ledger.read(path) == [record(), record(value=2, note="größer\nzwei")]
    assert len(path.read_text().splitlines()) == 2


def test_a_torn_line_does_not_swallow_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"schema": 1, "metr')
    ledger.append(path, record())
    assert json.loads(path.read_text().splitlines()[1]) == record()
    with pytest.raises(ValueError, match="line 1, is not valid JSON"):
        ledger.read(path)


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of it: the ledger stays as it was, and no claim stays behind."""
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, record(value=1.0))
    before, plain, calls = path.read_bytes(), os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(descriptor, data[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*ledger\.jsonl"):
        ledger.append(path, record(value=2.0))
    assert path.read_bytes() == before
    monkeypatch.setattr(os, "write", lambda descriptor, data: plain(descriptor, data[:20]))  # slowly is fine
    ledger.append(path, record(value=3.0))
    assert [line["value"] for line in ledger.read(path)] == [1.0, 3.0]
    assert [each.name for each in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_processes_may_share_a_ledger(tmp_path: Path) -> None:
    """Three writers of 300 records of 3 kB: every line is whole and none is lost."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from edm2_guidance.metrics import ledger\n"
        "for i in range(300):\n"
        "    ledger.append(sys.argv[2], {'schema': 1, 'metric': sys.argv[3], 'value': i, 'pad': 'x' * 3000})\n"
    )
    path = tmp_path / "ledger.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(path), name], cwd=tmp_path) for name in "abc"
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 3
    records = ledger.read(path)
    for name in "abc":
        assert [each["value"] for each in records if each["metric"] == name] == list(range(300))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_only_finite_plain_data_is_written(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain finite JSON"):
        ledger.append(tmp_path / "ledger.jsonl", record(value=value))
    assert not (tmp_path / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json}", "line 2, is not valid JSON"),
        ("[1, 2]", "line 2, is not a result"),
        ('{"schema": 1}', "line 2, is not a result"),
        (json.dumps(record(schema=99)), "line 2, has schema 99, this version reads 2"),
        (json.dumps(record(value="x")), "line 2, has \"x\" for 'value', not a finite number"),
        (json.dumps(record(value=True)), "line 2, has true for 'value'"),
        (json.dumps(record()).replace("1.98766", "1e999"), "line 2, is not valid JSON: the number 1e999"),
        (json.dumps(record(value=float("nan"))), "line 2, is not valid JSON: NaN"),
        (json.dumps(record(value=float("-inf"))), "line 2, is not valid JSON: -Infinity"),
        (json.dumps(record(row=3)), "line 2, has 3 for 'row', not an object"),
        (json.dumps(record(search=3)), "line 2, has 3 for 'search', not an object"),
        (json.dumps(record(search={"name": "a"})), "line 2, has a 'search' without a name and a point"),
        (json.dumps(record(search={"name": "a", "point": {"weight": "x"}})), "line 2, has a 'search' without"),
        (json.dumps(record(interval=[1, 2])), "line 2, has \\[1, 2\\] for 'interval', not an object"),
        (json.dumps(record(interval={"low": 1, "high": 2})), "line 2, has an 'interval' without ends and error"),
        (json.dumps(record(metric=3)), "line 2, has 3 for 'metric', not a text"),
        (json.dumps(record(metric=None)), "line 2, has null for 'metric', not a text"),
        (json.dumps(record(recipe_hash={})), "line 2, has {} for 'recipe_hash', not a text"),
        (json.dumps(record(num_images="x")), "line 2, has \"x\" for 'num_images', not an integer"),
        (json.dumps(record(num_images=True)), "line 2, has true for 'num_images'"),
        (json.dumps(record(flags=3)), "line 2, has 3 for 'flags', not a list"),
        ("\udcff\udc80\x00", "line 2, is not UTF-8"),
        ("[" * 100_000 + "]" * 100_000, "line 2, is not valid JSON: nested too deeply"),
        (json.dumps(record()).replace("1.98766", "9" * 400), "line 2, is not valid JSON: an integer of 400 digits"),
        (json.dumps(record(row="x" * 10_000)), "line 2, has \"x{76}... for 'row'"),
    ],
)
def test_foreign_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(f"{json.dumps(record())}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"ledger\.jsonl, {message}"):
        ledger.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(record(schema=3)).encode(), "line 1, has schema 3.*newer version of this program wrote it"),
        (
            json.dumps(record()).encode("utf-16"),
            "line 1, is UTF-16 text, as PowerShell's > writes it: save it as UTF-8",
        ),
        (json.dumps(record()).encode("utf-16-le"), "line 1, is UTF-16 text"),
        (b"\n<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> branch\n", "line 2, is a conflict mark of git.*take out the marks"),
        (b"\n=======\n", "line 2, is a conflict mark of git"),
        (b'{"metric": "f', "line 1, is not valid JSON.*: mend that line, or move it to another file"),
    ],
)
def test_what_may_be_good_is_not_to_be_deleted(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        ledger.read(path)
    assert "delete" not in str(caught.value)
    assert path.read_bytes() == data


def test_a_byte_order_mark_is_skipped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record()).encode())
    ledger.append(path, record(value=3.0))
    with pytest.warns(RuntimeWarning, match=r"ledger\.jsonl, line 1, begins with a byte-order mark"):
        assert ledger.read(path) == [record(), record(value=3.0)]


def test_utf16_is_noticed_before_hours_of_work(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(json.dumps(record()).encode("utf-16"))
    with pytest.raises(ValueError, match=r"ledger\.jsonl is UTF-16 text: save it as UTF-8"):
        ledger.check_writable(path)


def test_missing_ledger_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl yet: reproduce.py run, .* calc and gen start one"):
        ledger.read(tmp_path / "none.jsonl")


def test_writability_is_checked_without_making_anything(tmp_path: Path) -> None:
    ledger.check_writable(tmp_path / "x" / "y" / "ledger.jsonl")
    (tmp_path / "file").write_text("as it was")
    ledger.check_writable(tmp_path / "file")
    for path in (tmp_path / "file" / "ledger.jsonl", tmp_path):
        with pytest.raises(OSError, match=path.name):
            ledger.check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "as it was"


def test_names_carry_the_count_unless_it_is_the_published_one() -> None:
    assert ledger.result_name("fid", 50000) == "fid"
    assert ledger.result_name("fid", 5000) == "fid@5000"
    assert ledger.result_name("fd_dinov2", None) == "fd_dinov2@unknown"


def test_a_folder_that_takes_no_claim_is_noticed_beforehand(tmp_path, monkeypatch):
    """The ledger itself may be written, but a line is added under a claim beside it."""
    ledger.append(tmp_path / "l.jsonl", record())
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match="not writable"):
        ledger.check_writable(tmp_path / "l.jsonl")


# The index.


def by_note(record: dict[str, Any]) -> list[str]:
    return [str(record.get("note"))]


def appended(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def found(index: ledger.Index, note: str) -> list[float]:
    return [record["value"] for record in index.find(note)]


def test_an_index_reads_what_was_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line once; of what another process is just writing, nothing yet."""
    path = tmp_path / "l.jsonl"
    index = ledger.Index(path, by_note)
    assert found(index, "a") == []
    read = []
    plain = ledger._record
    monkeypatch.setattr(ledger, "_record", lambda line: read.append(line) or plain(line))
    for value, note in ((1, "a"), (2, "b"), (3, "a")):
        appended(path, ledger.checked_line(record(value=value, note=note)))
        read.clear()
        assert found(index, note)[-1] == value
        assert len(read) == 1
    assert (found(index, "a"), found(index, "b")) == ([1, 3], [2])
    line = ledger.checked_line(record(value=4, note="b"))
    appended(path, line[:50])
    assert found(index, "b") == [2]
    appended(path, line[50:])
    assert found(index, "b") == [2, 4]


def test_an_index_reads_a_file_anew_that_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    for value in (1, 2):
        ledger.append(path, record(value=value, note="a"))
    index = ledger.Index(path, by_note)
    assert found(index, "a") == [1, 2]
    path.write_bytes(ledger.checked_line(record(value=2, note="a")).rstrip())
    assert found(index, "a") == [2]
    ledger.append(path, record(value=3, note="a"))
    assert found(index, "a") == [2, 3]
    appended(path, b"{}\n")
    with pytest.raises(ValueError, match="line 3, is not a result"):
        index.find("a")


def test_an_index_hides_what_is_to_be_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    ledger.append(path, record(value=1, note="a"))
    index = ledger.Index(path, by_note, again=True)
    assert found(index, "a") == []
    ledger.append(path, record(value=2, note="a"))
    assert found(index, "a") == [2]
