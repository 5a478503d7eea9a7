import threading
import time

import pytest

from images.pool import OrderedPool, usable_cores


def test_results_come_in_the_order_of_submission() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    with OrderedPool[int](4) as pool:
        for number in range(40):
            pool.submit(slow_first, number)
        assert [pool.pop() for _ in range(len(pool))] == list(range(40))


def test_an_error_comes_in_its_turn() -> None:
    def fail(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        return number

    with OrderedPool[int](2) as pool:
        for number in range(3):
            pool.submit(fail, number)
        assert pool.pop() == 0
        with pytest.raises(ValueError, match="one"):
            pool.pop()
        assert pool.pop() == 2


def test_leaving_drops_what_has_not_started() -> None:
    gate = threading.Event()
    started: list[int] = []

    def wait(number: int) -> None:
        started.append(number)
        gate.wait(10)

    before = threading.active_count()
    with OrderedPool[None](1) as pool:
        for number in range(5):
            pool.submit(wait, number)
        while not started:
            time.sleep(0.001)
        threading.Timer(0.1, gate.set).start()
    assert started == [0]
    assert len(pool) == 0
    assert threading.active_count() == before


def test_threads_by_default() -> None:
    with OrderedPool[None]() as pool:
        assert pool.threads == usable_cores()
    assert 1 <= usable_cores() <= 8
