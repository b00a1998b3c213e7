"""Progress of files on their way: speed and remaining time in plain lines, bars on a terminal."""

import io
import sys
import threading

import pytest

from ladderlm.cli import transfers
from ladderlm.cli.transfers import Transfers, show_transfers


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_speed_counts_what_arrived_now_and_the_rest_is_estimated_from_it(clock):
    seen = Transfers(clock)
    seen.update("a", 400_000_000, 1_000_000_000)  # was there from an earlier call
    clock.seconds += 10
    seen.update("a", 500_000_000, 1_000_000_000)
    assert seen.line() == "500 MB of 1 GB, 10 MB/s, 50s left"


def test_several_files_are_added_up(clock):
    seen = Transfers(clock)
    for name in "abc":
        seen.update(name, 0, 1_000_000)
    clock.seconds += 2
    seen.update("a", 1_000_000, 1_000_000)
    seen.update("b", 500_000, 1_000_000)
    assert seen.line() == "1.5 MB of 3 MB, 750 kB/s, 2.0s left, 1 of 3 files done"


def test_without_a_length_no_rest_is_claimed(clock):
    seen = Transfers(clock)
    seen.update("a", 0, None)
    clock.seconds += 4
    seen.update("a", 2_000_000, None)
    assert seen.line() == "2 MB, 500 kB/s"


def test_a_file_that_is_begun_anew_gives_no_negative_speed(clock):
    seen = Transfers(clock)
    seen.update("a", 900, 1000)
    clock.seconds += 1
    seen.update("a", 100, 1000)
    assert seen.line() == "100 B of 1 kB"


def test_nothing_yet_is_said_as_nothing():
    assert Transfers().line() == "0 B of 0 B"


def test_lines_come_now_and_then_when_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(transfers, "SECONDS_BETWEEN_LINES", 0.0)
    with show_transfers() as (progress, say):
        say("a: 10 B")
        progress("a", 5, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a: 10 B"
    assert lines[1].startswith("fetch: 5 B of 10 B")
    monkeypatch.setattr(transfers, "SECONDS_BETWEEN_LINES", 5.0)
    with show_transfers() as (progress, say):
        progress("a", 5, 10)
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_for_each_file_from_any_thread(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with show_transfers() as (progress, say):
        say("[b]plan[/b]")
        threads = [
            threading.Thread(target=progress, args=(name, 1_000_000, 2_000_000)) for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shown = screen.getvalue()
    assert "[b]plan[/b]" in shown
    assert shown.count("1.0/2.0 MB") >= 2
