"""One thread begins what another finishes: what overlaps, how far, and what becomes of errors. Events, no clocks."""

import os
import signal
import sys
import threading
import traceback
from contextlib import nullcontext

import pytest

from dnnlib.workers import Workers
from edm2_guidance.cli.progress import progress_bar
from edm2_guidance.cli.signals import Terminated, termination
from edm2_guidance.work import zip_output
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.follower import Follower
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.png_output import PngOutput
from edm2_guidance.work.zip_output import ZipOutput
from tests.works import Generated, Stated

LIMIT = 20  # seconds, after which a wait has failed


def wait(event):
    assert event.wait(LIMIT)


def test_tasks_get_their_items_in_order():
    done = []
    with Follower() as follower:
        for name, items in (("a", [1, 2, 3]), ("b", []), ("c", [4])):
            follower.run(lambda given, name=name: done.append((name, list(given))), items)
    assert done == [("a", [1, 2, 3]), ("b", []), ("c", [4])]


@pytest.mark.parametrize("tasks", [[[0, 1, 2, 3]], [[0], [1], [2], [3]]], ids=["of one task", "of many"])
def test_the_next_item_is_made_while_one_is_worked_on_and_no_more_than_two_wait(tasks):
    begun, ahead = [threading.Event() for _ in range(5)], []

    def made(items):
        for item in items:
            begun[item].set()
            yield item

    def task(items):
        for item in items:
            if item < 3:
                wait(begun[item + 1])  # never set if both took turns
            ahead.append(sum(map(threading.Event.is_set, begun)) - item - 1)

    with Follower() as follower:
        for items in tasks:
            follower.run(task, made(items))
    assert max(ahead) <= 2


def test_an_error_of_a_task_is_raised_where_the_next_item_is_made():
    made, failed = [], threading.Event()

    def items():
        made.append(0)
        yield 0
        wait(failed)
        made.append(1)
        yield 1
        made.append(2)

    def task(given):
        next(given)
        try:
            raise OSError("the disk is full")
        finally:
            failed.set()

    with pytest.raises(OSError, match="disk is full") as caught, Follower() as follower:
        follower.run(task, items())
    assert made == [0, 1]
    lines = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert lines[-1] == "task"
    assert "follower" not in [thread.name for thread in threading.enumerate()]


def test_an_error_of_the_last_task_is_raised_at_the_end():
    def task(items):
        raise RuntimeError(f"after {list(items)}")

    with pytest.raises(RuntimeError, match=r"after \[1, 2\]"), Follower() as follower:
        follower.run(task, [1, 2])


@pytest.mark.parametrize("error", [ValueError("no more"), KeyboardInterrupt()])
def test_what_ends_the_block_reaches_the_task_after_what_was_made(error):
    got = []

    def task(items):
        try:
            got.extend(items)
        except BaseException as seen:
            got.append(seen)
            raise

    def items():
        yield from (1, 2)
        raise error

    with pytest.raises(type(error)) as caught, Follower() as follower:
        follower.run(task, items())
    assert caught.value is error
    lines = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert lines[-1] == "items"
    assert "_take" not in lines  # the thread's


def test_a_task_that_wraps_what_ended_the_block_changes_nothing():
    def task(items):
        try:
            list(items)
        except KeyboardInterrupt:
            raise RuntimeError("while cleaning up") from None

    def items():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Follower() as follower:
        follower.run(task, items())


def steps_of_the_follower(raises_at):
    """A trace function that raises at this step of the follower's code, in bytecodes; and the steps until then."""
    steps = []

    def trace(frame, event, arg):
        if frame.f_code.co_filename != Follower.run.__code__.co_filename:
            return None
        frame.f_trace_opcodes = True
        steps.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        if len(steps) == raises_at:
            raise Terminated(signal.SIGTERM)
        return trace

    return trace, steps


@pytest.mark.parametrize("ends_by", [None, KeyboardInterrupt()], ids=["first", "second"])
def test_a_signal_at_any_step_ends_the_block_and_the_thread(ends_by):
    """Also a second one, as the first ends the block; and what is at work is finished by then."""
    started = []

    def task(items):
        started.append(0)
        try:
            for _ in items:
                pass
        finally:
            started.pop()

    def items():
        yield from (1, 2, 3)
        if ends_by is not None:
            raise ends_by

    def block(number):
        trace, steps = steps_of_the_follower(number)
        sys.settrace(trace)
        try:
            with Follower() as follower, follower:
                follower.run(task, items())
        except (Terminated, KeyboardInterrupt):
            pass
        finally:
            sys.settrace(None)
        assert not started, steps[-1]
        for thread in threading.enumerate():
            if thread.name == "follower":
                thread.join(LIMIT)
                assert not thread.is_alive(), steps[-1]
        return len(steps) == number

    passed = []

    def blocks():
        while block(len(passed) + 1):
            passed.append(0)
        passed.append("all")

    caller = threading.Thread(target=blocks, daemon=True)  # of which a test that fails can wait for no end
    caller.start()
    caller.join(LIMIT)
    assert passed[-1] == "all"
    assert len(passed) > 50


# Of whole works.


def outputs(folder):
    """A ZIP of six shards of two batches, and a folder of twelve."""
    yield ZipOutput(folder / "a.zip", ShardPlan(tuple(range(24)), 4), Stated("hash"), Run(2))
    png = PngOutput(folder / "a", range(24), Run(2))
    png.state(Stated("hash"))
    yield png


@pytest.mark.parametrize("number", [0, 1], ids=["zip", "folder"])
def test_the_next_part_is_sampled_while_one_is_being_finished(tmp_path, monkeypatch, number):
    output, begun = list(outputs(tmp_path))[number], [threading.Event() for _ in range(25)]
    work, parts = output.work, len(output.work.plan)
    last = {part: work.plan.shard(part)[-1] for part in range(parts)}

    class Source(Generated):
        def __iter__(self):
            for batch in super().__iter__():
                begun[batch.seeds[0]].set()
                yield batch

    plain = work.has

    def has(part):
        if part < parts - 1 and threading.current_thread() is not threading.main_thread():
            wait(begun[last[part] + 1])  # the last thing about a part; its successor's first batch is there
        return plain(part)

    monkeypatch.setattr(work, "has", has)
    assert complete(output, lambda seeds: Source(seeds, 2))
    assert not list(tmp_path.rglob("*.claim"))


def test_a_disk_that_fills_up_ends_the_work_at_the_next_batch(tmp_path, monkeypatch):
    """The shard before stays, that one is told of, and nothing is leased."""
    output, failed, begun = next(outputs(tmp_path)), threading.Event(), []
    plain = zip_output.ZipWriter.add

    def add(self, name, *pieces):
        if name == "000005.png":
            failed.set()
            raise OSError(28, "No space left on device")
        return plain(self, name, *pieces)

    class Source(Generated):
        def __iter__(self):
            for batch in super().__iter__():
                if batch.seeds[0] >= 8:
                    wait(failed)
                begun.append(batch.seeds[0])
                yield batch

    monkeypatch.setattr(zip_output.ZipWriter, "add", add)
    with pytest.raises(OSError, match="No space left") as caught:
        complete(output, lambda seeds: Source(seeds, 2))
    assert begun in ([0, 2, 4, 6, 8], [0, 2, 4, 6, 8, 10])  # one waits, one is made while the thread cleans up
    assert caught.value.__notes__ == [f"1 of 6 shards are kept in {output.work.folder}; the same command goes on"]
    left = sorted(path.name for path in output.work.folder.iterdir())
    assert left == ["plan.json", "shard-00000.zip", "shard-00001.failed"]
    monkeypatch.undo()
    assert complete(output, lambda seeds: Generated(seeds, 2)) == output.path


def test_a_signal_while_the_next_part_is_sampled_loses_no_finished_one(tmp_path, monkeypatch):
    """The thread goes on with what was sampled, though the progress bar asks whether a signal came."""
    output, told = next(outputs(tmp_path)), threading.Event()  # the main thread is told, the other has done nothing

    class Source(Generated):
        def __iter__(self):
            for batch in super().__iter__():
                try:
                    if batch.seeds[0] == 4:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch
                except Terminated:
                    told.set()
                    raise

    plain = zip_output.pixels_of
    monkeypatch.setattr(
        zip_output, "pixels_of", lambda batch: plain(batch) if batch.seeds[0] == 0 else wait(told) or plain(batch)
    )
    bar = progress_bar(24, "images", quiet=True)
    with pytest.raises(Terminated) as caught, termination(), bar as advance:
        complete(output, lambda seeds: Source(seeds, 2), lambda total, done: nullcontext(advance))
    assert caught.value.__notes__ == [f"1 of 6 shards are kept in {output.work.folder}; the same command goes on"]


def test_the_thread_that_finishes_tells_of_all_parts(tmp_path):
    """Of those that others made meanwhile too: the other thread asks, with 0, and never draws."""
    plan, told = ShardPlan(tuple(range(24)), 4), []

    def output(workers):
        return ZipOutput(tmp_path / "a.zip", plan, Stated("hash"), Run(2, workers=workers))

    def source(seeds):
        if seeds[0] == 0:
            complete(output(Workers(3, 6)), lambda seeds: Generated(seeds, 2))
        return Generated(seeds, 2)

    def advance(count):
        told.append((count, threading.current_thread() is threading.main_thread()))

    assert complete(output(Workers(steal=True)), source, lambda total, done: nullcontext(advance))
    assert sum(count for count, _ in told) == 24
    assert {count for count, asks in told if asks} == {0}
