"""Processes that encode several parts at once.

Owns their start, what they are told and what they answer. What a part is is in `encoding.py`.
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
from ladderlm.errors import DataError, ExecutorError, LadderError
from ladderlm.prepare.encoding import PartJob, encode_part
from ladderlm.prepare.estimate import SampleJob, Sums, take_samples
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.load import load_tokenizer

__all__ = ["Process", "encode_here", "encode_parts", "sample_elsewhere", "started_workers"]

Process = subprocess.Popen[bytes]
# Each worker has one core; a second thread of fastokens would fill a cache of words of its own.
_THREADS = (
    "FASTOKENS_BPE_THREADS",
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)


def encode_parts(
    workers: Sequence[tuple[Process, list[PartJob]]],
    report: Callable[[int, int], None] = lambda _, __: None,
) -> None:
    """Do lists of jobs at once, each list in a process of its own.

    Args:
        workers: processes from `started_workers`, and the jobs of each, which share a tokenizer.
        report: told (number of the job in its list, documents encoded since the last call).

    Raises:
        DataError: the error of any worker; the others continue until they are ended.
        ExecutorError: one of them died.
    """
    said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    for number, (process, jobs) in enumerate(workers):
        _tell(process, "encode", jobs)
        threading.Thread(target=_listen, args=(number, process, said), daemon=True).start()
    running = set(range(len(workers)))
    while running:
        number, message = said.get()
        if message is None:
            running.discard(number)
            code = workers[number][0].wait()
            if code != 0:
                raise _died(code)
        elif "error" in message:
            raise DataError(*message["error"])
        else:
            report(*message["documents"])


def sample_elsewhere(workers: Sequence[Process], jobs: list[SampleJob]) -> list[Sums]:
    """Have workers do `take_samples`; each does some.

    Raises:
        DataError: what any of them ran into.
        ExecutorError: one of them died.
    """
    shares = [jobs[i :: len(workers)] for i in range(min(len(workers), len(jobs)))]
    for process, share in zip(workers, shares, strict=False):
        _tell(process, "sample", share)
    sums: list[Sums] = [[] for _ in jobs]
    for i, process in enumerate(workers[: len(shares)]):
        assert process.stdout is not None
        line = process.stdout.readline()
        message = json.loads(line) if line.endswith(b"\n") else None
        if message is None:
            raise _died(process.wait())
        if "error" in message:
            raise DataError(*message["error"])
        sums[i :: len(workers)] = message["sums"]
    return sums


def _tell(process: Process, what: str, jobs: Sequence[PartJob] | Sequence[SampleJob]) -> None:
    line = json.dumps({what: [to_dict(job) for job in jobs]}).encode() + b"\n"
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # dead already: its exit code will say so
        process.stdin.write(line)
        process.stdin.flush()


def _died(code: int) -> ExecutorError:
    return ExecutorError(
        f"a process that encodes ended with code {code}",
        "its pieces are not complete",
        "run the same command again: it resumes; fewer --workers need less memory",
    )


def encode_here(
    jobs: list[PartJob], tokenizer: Tokenizer, report: Callable[[int, int], None]
) -> None:
    """Do a list of jobs in this process. See `encode_parts`."""
    for number, job in enumerate(jobs):
        encode_part(job, tokenizer, functools.partial(report, number))


@contextlib.contextmanager
def started_workers(n: int) -> Iterator[list[Process]]:
    """Start processes that wait for their jobs; processes that still run at the end are killed."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(_THREADS, "1")
    with contextlib.ExitStack() as children:
        processes = []
        for _ in range(n):
            process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import work; work()"],
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
    """Be a worker: read jobs from standard input, answer in JSON lines.

    Told are a list of `SampleJob`, or nothing, then a list of `PartJob`. Ends as soon as the one
    who started it is gone, which closes standard input.
    """
    gc.disable()  # records are trees: looking for cycles among them takes time and finds none
    out, sys.stdout = sys.stdout, sys.stderr

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        told = _hear()
        if "sample" in told:
            samples = [from_dict(SampleJob, job) for job in told["sample"]]
            tokenizer = load_tokenizer(samples[0].tokenizer)
            say({"sums": take_samples(samples, tokenizer)})
            told = _hear()
            jobs = [from_dict(PartJob, job) for job in told["encode"]]
        else:
            jobs = [from_dict(PartJob, job) for job in told["encode"]]
            tokenizer = load_tokenizer(jobs[0].tokenizer)
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        encode_here(jobs, tokenizer, lambda number, n: say({"documents": [number, n]}))
    except LadderError as error:
        say({"error": [error.what, error.why, error.fix]})
    except BrokenPipeError:
        os._exit(1)


def _hear() -> dict[str, Any]:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        os._exit(1)  # the one who started it is gone already
    told: dict[str, Any] = json.loads(line)
    return told


def _exit_with_parent() -> None:
    os.read(0, 1)  # not through `sys.stdin`, whose lock would stand in the way of a normal end
    os._exit(1)
