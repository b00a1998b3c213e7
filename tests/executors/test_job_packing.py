"""Which job starts next: by rank, then in order, as far as there is room, and nobody overtakes."""

from ladderlm.executors.base import Resources
from ladderlm.executors.job_packing import Packing


def start_all(room):
    return list(iter(room.start, None))


def test_lower_ranks_start_first_and_equal_ones_as_they_came():
    room = Packing(1, 100, 0)
    for name, rank in (("a", (1, 0)), ("b", (0, 5)), ("c", (0, 2)), ("d", (0, 5))):
        room.add(name, Resources(), rank)
    order = []
    for _ in range(4):
        (name,) = start_all(room)
        order.append(name)
        room.end(name)
    assert order == ["c", "b", "d", "a"]


def test_threads_memory_and_devices_all_bound_what_runs_side_by_side():
    for room, needs in (
        (Packing(3, 1000, 9), Resources(n_threads=1, memory_bytes=10)),
        (Packing(9, 30, 9), Resources(n_threads=1, memory_bytes=10)),
        (Packing(9, 1000, 3), Resources(n_threads=1, n_devices=1, memory_bytes=10)),
    ):
        for name in "abcde":
            room.add(name, needs)
        assert start_all(room) == ["a", "b", "c"]
        room.end("b")
        assert start_all(room) == ["d"]


def test_a_job_larger_than_the_machine_waits_for_an_empty_one_and_is_not_overtaken():
    room = Packing(2, 100, 0)
    for name, n_threads in (("a", 1), ("large", 8), ("b", 1)):
        room.add(name, Resources(n_threads))
    assert start_all(room) == ["a"]
    room.end("a")
    assert start_all(room) == ["large"]
    room.drop(["b"])
    room.end("large")
    assert start_all(room) == []
