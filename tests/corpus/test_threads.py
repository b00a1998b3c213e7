"""A few threads for many items; an error or an interrupt ends all."""

import threading
import time

import pytest

from ladderlm.corpus.threads import run_in_threads


def test_every_item_is_done_once_by_at_most_so_many_at_a_time():
    done, at_once, lock, most = [], 0, threading.Lock(), 0

    def work(item):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1
            done.append(item)

    run_in_threads(work, range(20), 3, threading.Event())
    assert sorted(done) == list(range(20))
    assert most == 3


def test_the_first_error_stops_the_rest_and_is_raised():
    seen, stop = [], threading.Event()

    def work(item):
        seen.append(item)
        if item == 1:
            raise ValueError("one")
        stop.wait(10)  # the other thread is told at once

    began = time.monotonic()
    with pytest.raises(ValueError, match="one"):
        run_in_threads(work, range(10), 2, stop)
    assert sorted(seen) == [0, 1]
    assert time.monotonic() - began < 5


def test_an_interrupt_does_not_wait_for_a_thread_that_hangs(monkeypatch):
    monkeypatch.setattr("ladderlm.corpus.threads.GRACE_SECONDS", 0.1)
    hang, stop = threading.Event(), threading.Event()
    join, calls = threading.Thread.join, []

    def interrupted(self, timeout=None):
        calls.append(timeout)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_in_threads(lambda item: hang.wait(20), [1], 4, stop)
    assert stop.is_set()
    assert time.monotonic() - began < 5
    hang.set()


def test_no_items_are_no_work():
    run_in_threads(lambda item: 1 / 0, [], 4, threading.Event())
