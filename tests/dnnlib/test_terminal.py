"""What reaches a terminal: texts and line ends, and of progress bars all they need."""

import io
import re
import sys
import threading
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tqdm import tqdm

from dnnlib.terminal import counted, guard, log, printable, unguarded, unlocking
from edm2_guidance.cli.command import Command
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.say import say
from edm2_guidance.library import _bar

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m \u202e\u2066 \r\x00\x7f \udcff end"
SHOWN = r"\x1b]0;title\x07\x1b[2J\x9b31m \u202e\u2066 \r\x00\x7f \udcff end"


def test_a_guarded_stream_shows_control_characters() -> None:
    stream = io.StringIO()
    guarded = guard(stream)
    assert guarded.write(f"a\tb\n{HOSTILE}\n") > 0
    guarded.writelines(["x\r", "y\n"])
    print("é µ", HOSTILE, file=guarded)
    assert stream.getvalue() == f"a\tb\n{SHOWN}\nx\\ry\né µ {SHOWN}\n"
    assert guard(guarded) is guarded
    assert unguarded(guarded) is unguarded(stream) is stream
    assert guard(None) is None
    with pytest.raises(TypeError):
        guarded.write(b"bytes")


def test_a_stream_of_ascii_neither_fails_nor_is_gone_past() -> None:
    buffer = io.BytesIO()
    stream = guard(io.TextIOWrapper(buffer, encoding="ascii"))
    sys.stdout, before = stream, sys.stdout
    try:
        click.echo(f"é {HOSTILE}")
    finally:
        sys.stdout = before
    assert buffer.getvalue().decode() == f"é {SHOWN}\n".replace(r"\x1b[2J", "")  # click's doing, without a terminal


@click.command(cls=Command)
@click.argument("way")
def show(way: str) -> None:
    if way == "echo":
        click.echo(HOSTILE)
        click.echo(HOSTILE, err=True)
    elif way == "print":
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
    elif way == "raise":
        raise ValueError(HOSTILE)
    elif way == "usage":
        raise click.UsageError(HOSTILE)


@pytest.mark.parametrize("way", ["echo", "print", "raise", "usage", HOSTILE])
@pytest.mark.parametrize("color", [False, True])
def test_no_way_out_of_a_command_lets_control_characters_pass(way: str, color: bool) -> None:
    done = CliRunner().invoke(show, [way], color=color)
    assert all(line.isprintable() for line in done.output.splitlines()), done.output
    assert "\r" not in done.output
    assert ("title" in done.output) is (way != HOSTILE)


def test_bars_are_drawn_past_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go back to the line's start; what they quote is still written out."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", guard(stream))
    with progress_bar(3, f"name{HOSTILE}") as advance:
        advance(3)
    assert stream.getvalue().startswith("\r")
    assert set(stream.getvalue()) & set("\x1b\x9b\u202e\x00\udcff") == set()


class Full(io.StringIO):
    """A disk without space, after the first line of a bar."""

    def write(self, text: str) -> int:
        if self.tell():
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_bar_that_cannot_be_drawn_in_a_thread_can_be_closed() -> None:
    bar, free = unlocking(tqdm)(total=3, file=Full()), threading.Event()

    def draw() -> None:
        with pytest.raises(OSError, match="No space"):
            bar.refresh()

    def close() -> None:
        with pytest.raises(OSError, match="No space"):
            bar.close()
        free.set()

    for act in (draw, close):
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(5)
    assert free.is_set()


@pytest.mark.parametrize("bar", [progress_bar(3, "images"), _bar(3, shown=True)], ids=["command", "library"])
def test_who_asks_whether_to_end_draws_nothing(bar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(tqdm, "update", lambda self, count: drawn.append(count))
    with bar as advance:
        advance(0)
        advance(2)
    assert drawn == [2]


def test_printable_lines_hold_no_escape_sequences():
    assert printable("Größe 3 µm \\") == "Größe 3 µm \\"
    assert printable("\x1b[2J\n\udcff\u202e") == r"\x1b[2J\n\udcff\u202e"


def test_one_of_a_thing_is_no_plural():
    assert [counted(number, "image", ",") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [counted(number, noun) for number, noun in ((2, "class"), (3, "batch"))] == ["2 classes", "3 batches"]


@pytest.fixture
def log_file(tmp_path):
    """A file as it stands behind `2>log.txt`, and what is in it, each time as "T"."""
    with open(tmp_path / "log.txt", "w", encoding="utf-8") as file:
        yield file, lambda: re.sub(r"(?m)^\d\d:\d\d:\d\d ", "T ", (tmp_path / "log.txt").read_text())


def test_lines_of_a_log_begin_with_the_time(log_file) -> None:
    file, content = log_file
    stream = log(guard(file))
    print("a", 1, file=stream)
    stream.write("b")
    stream.write(f"c\n    of c\n\n{HOSTILE}\n")
    assert guard(stream) is log(stream) is stream
    with pytest.raises(TypeError):
        stream.write(b"bytes")
    file.flush()
    assert content() == f"T a 1\nT bc\n    of c\n\nT {SHOWN}\n"


def test_what_is_no_log_has_no_times() -> None:
    of_a_notebook = guard(io.StringIO())
    assert log(of_a_notebook) is of_a_notebook
    assert log(guard(None)) is None


def test_a_command_writes_a_log(log_file, monkeypatch) -> None:
    """Its bar in lines; what it fails for is the first word of its line, for whoever looks for it."""

    @click.command(cls=Command)
    def fail():
        say("begins")
        with progress_bar(2, "images") as progress:
            progress(2)
        raise OSError("broken")

    file, content = log_file
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", file)
    with pytest.raises(SystemExit):
        fail.main([])
    file.flush()
    first, *bar, last = content().splitlines()
    assert (first, last) == ("T begins", "Error: broken")
    assert [re.match(r"T images: +\d+% \d/2 \[00:0", line) is not None for line in bar] == [True, True]
