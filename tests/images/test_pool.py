import threading
import time
from collections.abc import Callable

import pytest

from edm2_guidance.images.pool import OrderedPool, usable_cores


def wait_until(condition: Callable[[], object]) -> None:
    """Or for a minute: what is asserted afterwards fails then."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)


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
        gate.wait()

    before = threading.active_count()
    with OrderedPool[None](1) as pool:
        for number in range(5):
            pool.submit(wait, number)
        wait_until(lambda: started)
        threading.Thread(target=lambda last: (wait_until(last.cancelled), gate.set()), args=[pool._futures[-1]]).start()
    assert started == [0]
    assert len(pool) == 0
    assert threading.active_count() == before


def test_threads_by_default() -> None:
    with OrderedPool[None]() as pool:
        assert pool.threads == min(usable_cores(), 8)
    assert usable_cores() >= 1


class Gauge:
    """Reserves bytes in calls of a pool, and knows the most that were held at once."""

    def __init__(self, pool: OrderedPool[int]) -> None:
        self.pool, self.held, self.most, self.lock = pool, 0, 0, threading.Lock()

    def call(self, num_bytes: int, seconds: float = 0.0) -> int:
        time.sleep(seconds)
        self.pool.reserve(num_bytes)
        with self.lock:
            self.held += num_bytes
            self.most = max(self.most, self.held)
        return num_bytes

    def pop(self) -> int:
        taken = self.pool.pop()
        with self.lock:
            self.held -= taken
        return taken


def test_bytes_ahead_are_bounded_and_order_stays() -> None:
    """Sizes from nothing to more than the bound: what is too large goes alone, and nobody waits for ever."""
    sizes = [[10, 40, 0, 250, 90, 5][i % 6] for i in range(120)]
    with OrderedPool[int](4, max_bytes=100) as pool:
        gauge = Gauge(pool)
        for index, size in enumerate(sizes):
            pool.submit(gauge.call, size, 0.001 if index % 5 == 0 else 0)
        assert [gauge.pop() for _ in sizes] == sizes
    # A popped result is counted here until after the pool let the next ones in: the two largest that fit, and it.
    assert 250 <= gauge.most <= 250 + 250


def test_with_a_slow_reader_the_bound_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    with OrderedPool[int](4, max_bytes=100) as pool:
        gauge, fits, held = Gauge(pool), pool._room._fits, list[int]()

        def fits_as_noted(num_bytes: int) -> bool:
            if not (found := fits(num_bytes)):
                held.append(sum(pool._room._held.values()))
            return found

        monkeypatch.setattr(pool._room, "_fits", fits_as_noted)
        for _ in range(12):
            pool.submit(gauge.call, 40)
        wait_until(lambda: gauge.most >= 80 and held)
        assert set(held) == {80}, "the third was let in, or asked for no room"
        assert gauge.most == 80
        assert [gauge.pop() for _ in range(12)] == [40] * 12


def test_calls_that_fail_or_ask_for_nothing_hold_up_no_one() -> None:
    def call(number: int) -> int:
        if number % 3 == 1:
            raise ValueError(str(number))
        if number % 3 == 2:
            pool.reserve(90)
        return number

    with OrderedPool[int](3, max_bytes=100) as pool:
        for number in range(30):
            pool.submit(call, number)
        for number in range(30):
            if number % 3 == 1:
                with pytest.raises(ValueError, match=f"^{number}$"):
                    pool.pop()
            else:
                assert pool.pop() == number


def test_leaving_frees_those_who_wait_for_room() -> None:
    with OrderedPool[int](3, max_bytes=100) as pool:
        gauge = Gauge(pool)
        for _ in range(3):
            pool.submit(gauge.call, 100)
        assert gauge.pop() == 100
    assert len(pool) == 0
