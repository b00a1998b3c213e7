"""Processes that encode several parts at once.

Owns their start, what they are told and what they answer. What a part is is in `parts.py`.
"""

import contextlib
import functools
import gc
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ladderlm.config import from_dict, to_dict
from ladderlm.data.parts import PartJob, encode_part
from ladderlm.errors import DataError, ExecutorError, LadderError
from ladderlm.tokenizer.base import Tokenizer, load_tokenizer

__all__ = ["Process", "encode_here", "encode_parts", "started_workers"]

Process = subprocess.Popen[bytes]


def encode_parts(
    workers: Sequence[tuple[Process, list[PartJob]]],
    report: Callable[[int, int], None] = lambda _, __: None,
) -> None:
    """Do lists of jobs at once, each list in a process of its own.

    Args:
        workers: processes from `started_workers`, and the jobs of each, which share a tokenizer.
        report: told (number of the job in its list, documents encoded since the last call).

    Raises:
        DataError: what any of them ran into; the others go on until they are ended.
        ExecutorError: one of them died.
    """
    said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    for number, (process, jobs) in enumerate(workers):
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # dead already: its exit code says so below
            process.stdin.write(json.dumps([to_dict(job) for job in jobs]).encode() + b"\n")
            process.stdin.flush()
        threading.Thread(target=_listen, args=(number, process, said), daemon=True).start()
    running = set(range(len(workers)))
    while running:
        number, message = said.get()
        if message is None:
            running.discard(number)
            code = workers[number][0].wait()
            if code != 0:
                raise ExecutorError(
                    f"a process that encodes ended with code {code}",
                    "its pieces are not complete",
                    "run the same command again: it goes on; less --workers need less memory",
                )
        elif "error" in message:
            raise DataError(*message["error"])
        else:
            report(*message["documents"])


def encode_here(
    jobs: list[PartJob], tokenizer: Tokenizer, report: Callable[[int, int], None]
) -> None:
    """Do a list of jobs in this process. See `encode_parts`."""
    for number, job in enumerate(jobs):
        encode_part(job, tokenizer, functools.partial(report, number))


@contextlib.contextmanager
def started_workers(n: int) -> Iterator[list[Process]]:
    """Start processes that wait for their jobs; whatever still runs at the end is killed."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with contextlib.ExitStack() as children:
        processes = []
        for _ in range(n):
            process = subprocess.Popen(
                [sys.executable, "-c", "from ladderlm.data.workers import work; work()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | threads | {"PYTHONPATH": path},
            )
            children.callback(_end, process)
            processes.append(process)
        yield processes


def _end(process: Process) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _listen(
    number: int,
    process: Process,
    said: "queue.Queue[tuple[int, dict[str, Any] | None]]",
) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed because another one failed
        for line in process.stdout:
            said.put((number, json.loads(line)))
    said.put((number, None))


def work() -> None:
    """Be a worker: read a list of `PartJob` from standard input, answer in JSON lines.

    Ends as soon as the one who started it is gone, which closes standard input.
    """
    told = sys.stdin.buffer.readline()
    if not told.endswith(b"\n"):
        return  # the one who started it is gone already
    jobs = [from_dict(PartJob, job) for job in json.loads(told)]
    gc.disable()  # records are trees: looking for cycles among them takes time and finds none
    threading.Thread(target=_die_with_parent, daemon=True).start()
    out, sys.stdout = sys.stdout, sys.stderr

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        encode_here(
            jobs,
            load_tokenizer(jobs[0].tokenizer),
            lambda number, n: say({"documents": [number, n]}),
        )
    except LadderError as error:
        say({"error": [error.what, error.why, error.fix]})
    except BrokenPipeError:
        os._exit(1)


def _die_with_parent() -> None:
    os.read(0, 1)  # not through `sys.stdin`, whose lock would stand in the way of a normal end
    os._exit(1)
