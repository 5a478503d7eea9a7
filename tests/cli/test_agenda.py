"""Parts of a run: what is left of all, at the pace of what this process made."""

import pytest

from edm2_guidance.cli.progress import Agenda


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def agenda(clock):
    """Two parts of 10 images, and one of 10 that weigh three times as much."""
    return Agenda(50, quiet=True, clock=clock)


def make(agenda, clock, count, seconds, there=0):
    with agenda.bar(10, "part", there) as made:
        clock.now += seconds
        made(count)


def test_left_is_by_weight_and_by_what_was_made_here(agenda, clock):
    agenda.begin(10)
    assert agenda.left() == agenda.left_of_all() == ""  # nobody knows
    make(agenda, clock, 10, 20)
    agenda.begin(10)
    assert agenda.left() == "about 80 s left in all"  # 40 at 2 s
    make(agenda, clock, 10, 20)
    agenda.begin(10, 3)
    assert agenda.left_of_all() == " (about 60 s left in all)"
    make(agenda, clock, 5, 60)
    assert agenda.left() == "about 43 s left in all"  # 15 of weight, at 35 in 100 s
    make(agenda, clock, 5, 0, there=5)
    agenda.begin(0)
    assert agenda.left() == "about 0 s left in all"


def test_what_was_there_before_is_done_but_no_pace(agenda, clock):
    agenda.begin(10)  # in the ledger: no bar
    agenda.begin(10)
    make(agenda, clock, 2, 8, there=8)
    agenda.begin(10, 3)
    assert agenda.left() == "about 2 min left in all"  # 30 at 4 s


def test_time_between_the_bars_is_no_pace(agenda, clock):
    agenda.begin(10)
    make(agenda, clock, 10, 10)
    clock.now += 1000  # opening networks, or waiting for others
    agenda.begin(10)
    assert agenda.left() == "about 40 s left in all"


def test_the_bar_shows_it(clock, capsys):
    agenda = Agenda(20, clock=clock)
    agenda.begin(10)
    make(agenda, clock, 10, 20)
    assert "about 20 s left in all" in capsys.readouterr().err
