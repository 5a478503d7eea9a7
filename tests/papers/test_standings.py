"""How the entries of an arena stand, out of lines of a ledger."""

from dataclasses import replace

import pytest

from edm2_guidance.papers.arena import Final
from edm2_guidance.papers.arena_lines import Lines, lines_of
from edm2_guidance.papers.arena_plots import curves, front_of
from edm2_guidance.papers.standings import (
    differences,
    how_kinds_fared,
    known_pair,
    pair_key,
    pairs_of,
    read_pairs,
    standings,
    table,
    write_lines,
)
from tests.arenas import ARENA, METRICS, scores_of
from tests.papers.ledger_lines import line


def stand(arena, records, **more):
    return standings(arena, lines_of(arena, records), **more)


def test_the_best_first_in_each_group():
    records = [
        *scores_of("linear/weak", 2.0),
        *scores_of("fdg/weak", 1.0),
        *scores_of("fdg/weak", 1.4, block=1),
        *scores_of("linear/weak/euler/4", 3.0),
        line(0.1),
    ]
    found = stand(ARENA, records)
    assert [each.entry.name for each in found] == ["fdg/weak", "linear/weak", "linear/weak/euler/4"]
    assert found[0].values("fd_mnist") == [1.0, 1.4]
    assert (found[0].mean("fd_mnist"), found[0].blocks, found[1].blocks) == (pytest.approx(1.2), 2, 1)
    assert found[0].evaluations == {"main": 3, "guide 1": 3}
    assert stand(ARENA, records, blocks=1)[0].values("fd_mnist") == [1.0]


def test_what_lacks_a_metric_is_left_out_and_the_last_setting_counts():
    halves = scores_of("linear/weak", 2.0)[:1]
    assert stand(ARENA, halves) == []
    records = [*scores_of("linear/weak", 2.0), *scores_of("linear/weak", 2.5, w=3.0)]
    assert stand(ARENA, records)[0].point == {"weight": 3.0}
    assert stand(ARENA, records)[0].mean("fd_mnist") == 2.5


def test_ties_by_lines_and_by_pairs(tmp_path):
    """Of the same seeds a difference is known better than by the intervals of both."""
    records = [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.9)]
    found = stand(ARENA, records)
    named = [(a.entry.name, b.entry.name) for a, b in pairs_of(found)]
    assert named == [("fdg/weak", "linear/weak"), ("linear/weak", "fdg/weak")]
    by_lines = differences(found, {})
    assert by_lines["linear/weak", "fdg/weak"]["fd_mnist"].word == "inconclusive"
    marks = [row[0] for row in table(ARENA, found, by_lines, {}, "methods")]
    assert marks == ["", "1", "="]

    fdg, linear = found
    made = {m: {"low": k * 0.05, "high": k * 0.15, "error": 0.025} for k, m in enumerate(METRICS, 1)}
    pair = {"a": linear.entry.name, "b": fdg.entry.name, "of": pair_key(linear, fdg), "metrics": made}
    path = tmp_path / "pairs.jsonl"
    write_lines(path, [pair])
    known = differences(found, read_pairs(path))
    assert known["linear/weak", "fdg/weak"]["fd_mnist"].word == "higher"
    times = {("fdg/weak", fdg.recipe_hash): 1.234, ("linear/weak", "of another recipe"): 1.0}
    rows = table(ARENA, found, known, times, "methods")
    assert [row[0] for row in rows] == ["", "1", ""]
    assert [row[rows[0].index("time")] for row in rows] == ["time", "1.23", ""]
    others = stand(ARENA, [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.8)])
    assert differences(others, read_pairs(path)) == differences(others, {})  # that pair is of other scores


def test_lines_of_runs_with_other_numbers_of_images_are_left_out():
    records = [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.9)]
    assert len(stand(ARENA, records)) == 2
    assert stand(replace(ARENA, final=Final(20, 1000, 2)), records) == []


def test_lines_that_lack_what_tells_them_apart_are_passed_over():
    bare = [{**line, "arena": {"name": "small"}} for line in scores_of("fdg/weak", 1.9)]
    unseeded = [{**line, "images": None} for line in scores_of("fdg/weak", 1.9)]
    assert [each.entry.name for each in stand(ARENA, [*bare, *unseeded, *scores_of("linear/weak", 2.0)])] == [
        "linear/weak"
    ]


def test_without_intervals_nobody_knows_who_is_tied():
    records = [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.9)]
    for record in records:
        del record["interval"]
    found = stand(ARENA, records)
    assert [row[0] for row in table(ARENA, found, differences(found, {}), {}, "methods")] == ["", "1", "?"]


def test_a_pair_is_of_the_blocks_that_both_have():
    records = [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.9), *scores_of("fdg/weak", 1.5, block=1)]
    fdg, linear = stand(ARENA, records)
    metrics = {m: {"low": 0.05 * k, "high": 0.15 * k, "error": 0.025} for k, m in enumerate(METRICS, 1)}
    assert known_pair(linear, fdg, {pair_key(linear, fdg): {"metrics": metrics}}) == metrics
    assert known_pair(fdg, linear, {pair_key(fdg, linear): {"metrics": metrics}}) is None  # of the other sign


def test_a_setting_that_another_metric_found_does_not_count():
    first, other = scores_of("linear/weak", 2.0)[:1], scores_of("linear/weak", 2.5, w=3.0)[1:]
    (found,) = stand(replace(ARENA, metrics=METRICS[:1]), [*first, *other])
    assert (found.point, found.mean("fd_mnist")) == ({"weight": 1.5}, 2.0)


def test_how_kinds_fared():
    records = [*scores_of("linear/weak", 2.0), *scores_of("fdg/weak", 1.9), *scores_of("linear/weak/euler/4", 3.0)]
    found = stand(ARENA, records)
    lines = how_kinds_fared(ARENA, found, differences(found, {}))
    assert lines["rule", "fdg"] == [
        "`fdg/weak` at w = 1.5: fd_mnist 1.9000 [1.8000, 2.0000], place 1 of 2, beside linear/weak -0.2414 to +0.0414"
    ]
    assert lines["rule", "linear"] == lines["reference", "network"]
    assert lines["sampler", "euler"] == ["`linear/weak/euler/4`: fd_mnist 3.0000 [2.9000, 3.1000], place 1 of 1"]
    assert ("weight", "constant") in lines
    assert ("rule", "apg") not in lines


def test_a_file_that_holds_no_differences_is_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    assert read_pairs(path) == {}
    for text in ('{"a": 1}', '{"of": ["a", "b", 1]}', '{"of": ["a", "b", 1], "metrics": {"fd": {"low": 1}}}'):
        path.write_text(text + "\n")
        with pytest.raises(ValueError, match=r"does not hold differences of an arena: see line 1"):
            read_pairs(path)


@pytest.mark.filterwarnings("error")
def test_shares_are_drawn_as_they_are():
    """Of distances an axis of ratios tells more; a share may be 0, and its best is 1."""
    shares, distances = (replace(ARENA, metrics=(metric,)) for metric in ("recall/mnist", "fd_mnist"))
    for arena, scale in ((shares, "linear"), (distances, "log")):
        (entry,) = arena.chosen(["fdg/weak"])
        searches = [{"search": {"point": {"weight": w}}, "value": w - 1.5} for w in (1.5, 2.0)]
        if scale == "log":
            searches = searches[1:]
        figure = curves(arena, [entry], Lines({"fdg/weak": searches}, {}, {}))
        figure.canvas.draw()
        assert figure.axes[0].get_yscale() == scale
        low, high = figure.axes[0].get_ylim()
        assert all(low <= each["value"] <= high for each in searches)


def test_the_front_is_what_no_other_beats():
    values = {"heun/4": 5.0, "euler/4": 4.0, "heun/8": 2.0, "euler/8": 4.5}
    records = [each for name, value in values.items() for each in scores_of(f"linear/weak/{name}", value)]
    front = front_of(stand(ARENA, records), "fd_mnist")
    # Heun's four evaluations are three.
    assert [each.entry.name.removeprefix("linear/weak/") for each in front] == ["heun/4", "euler/4", "heun/8"]
