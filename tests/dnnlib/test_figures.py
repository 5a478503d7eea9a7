"""Figures as files: formats, styles, texts, and the same bytes every time."""

import re
import zlib

import pytest

from dnnlib import figures

pytest.importorskip("matplotlib")


def drawn():
    figure = figures.new_figure((2, 1))
    axes = figure.subplots()
    axes.plot([0, 1], [1, 0])
    axes.set_xlabel("some words")
    return figure


def test_only_known_formats_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"figure\.gif: give a name that ends in \.png, \.pdf, \.svg"):
        figures.check_target(tmp_path / "figure.gif")


@pytest.mark.parametrize("suffix", figures.SUFFIXES)
def test_files_say_no_time_are_the_same_every_time_and_keep_texts(tmp_path, monkeypatch, suffix):
    for time, name in (("0", "a"), ("86400", "b")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)  # what matplotlib takes for now
        figures.save(drawn(), tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert b"1970" not in first
    if suffix == ".svg":
        assert b">some words</text>" in first
    if suffix == ".pdf":
        assert b"/Subtype /CIDFontType2" in first, "TrueType, which editors of PDFs take"
        assert b"/Type3" not in first
        assert any(b"Tj" in part or b"TJ" in part for part in streams(first)), "shown as text"


def streams(pdf):
    packed = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
    return [zlib.decompress(part) for part in packed if part[:1] == b"\x78"]


def test_a_style_holds_inside_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with figures.styled("print"):
        assert matplotlib.rcParams["font.size"] == 8
        cycle = list(matplotlib.rcParams["axes.prop_cycle"])
        assert [look["color"] for look in cycle] == [*figures.COLOURS]
        assert len({look["marker"] for look in cycle}) == len(cycle)
    (tmp_path / "mine.mplstyle").write_text("font.size: 5.5\n")
    with figures.styled(str(tmp_path / "mine.mplstyle")):
        assert matplotlib.rcParams["font.size"] == 5.5
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ValueError, match="style pront: there is none of that name; near it: print"):
        figures.check_style("pront")
