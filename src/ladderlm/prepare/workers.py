"""Processes that encode several parts at once.

Owns their start, and the messages to and from them. Parts are defined in `encoding.py`.
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
# Each worker has one core; a second thread of fastokens would fill its own cache of words.
_N_THREADS = dict.fromkeys(
    ("FASTOKENS_BPE_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)


def encode_parts(
    workers: Sequence[tuple[Process, list[PartJob]]],
    report: Callable[[int, int], None] = lambda _, __: None,
) -> None:
    """Run lists of jobs at once, each list in its own process.

    Args:
        workers: processes from `started_workers`, and the jobs of each, which share a tokenizer.
        report: called with the number of the job in its list, and the documents encoded since
            the last call.

    Raises:
        DataError: the error of any worker; the others continue until they are killed.
        ExecutorError: a process died.
    """
    messages: queue.Queue[tuple[Process, dict[str, Any] | None]] = queue.Queue()
    for process, jobs in workers:
        _send_jobs(process, "encode", jobs)
        threading.Thread(target=_listen, args=(process, messages), daemon=True).start()
    n_running = len(workers)
    while n_running:
        process, message = messages.get()
        if message is not None:
            report(*_check_answer(message, "documents"))
        elif code := process.wait():
            raise _died(code)
        else:
            n_running -= 1


def sample_elsewhere(workers: Sequence[Process], jobs: list[SampleJob]) -> list[Sums]:
    """Run `take_samples` in worker processes.

    Raises:
        DataError: the error of any worker.
        ExecutorError: a process died.
    """
    shares = [jobs[i :: len(workers)] for i in range(min(len(workers), len(jobs)))]
    for process, share in zip(workers, shares, strict=False):
        _send_jobs(process, "sample", share)
    sums: list[Sums] = [[] for _ in jobs]
    for i, process in enumerate(workers[: len(shares)]):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _died(process.wait())
        sums[i :: len(workers)] = _check_answer(json.loads(line), "sums")
    return sums


def _check_answer(message: dict[str, Any], key: str) -> Any:
    if "error" in message:
        raise DataError(*message["error"])
    return message[key]


def _send_jobs(process: Process, what: str, jobs: Sequence[PartJob] | Sequence[SampleJob]) -> None:
    line = json.dumps({what: [to_dict(job) for job in jobs]}).encode() + b"\n"
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead; its exit code is checked later
        process.stdin.write(line)
        process.stdin.flush()


def _died(code: int) -> ExecutorError:
    return ExecutorError(
        f"a process that encodes ended with code {code}",
        fix="run the same command again: it resumes; fewer --workers need less memory",
    )


def encode_here(
    jobs: list[PartJob], tokenizer: Tokenizer, report: Callable[[int, int], None]
) -> None:
    """Run a list of jobs in this process. See `encode_parts`."""
    for number, job in enumerate(jobs):
        encode_part(job, tokenizer, functools.partial(report, number))


@contextlib.contextmanager
def started_workers(n: int) -> Iterator[list[Process]]:
    """Start processes that wait for their jobs, and kill those that still run at the end."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.ExitStack() as children:
        processes = []
        for _ in range(n):
            process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import work; work()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | _N_THREADS | {"PYTHONPATH": path},
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
    process: Process, messages: "queue.Queue[tuple[Process, dict[str, Any] | None]]"
) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed because another one failed
        for line in process.stdout:
            messages.put((process, json.loads(line)))
    messages.put((process, None))


def work() -> None:
    """Read jobs from standard input, and answer in JSON lines: the program of a worker.

    Reads a list of `SampleJob`, or none, then a list of `PartJob`. Ends as soon as the parent
    process is gone, which closes standard input.
    """
    gc.disable()  # records are trees: the search for cycles takes time and finds none
    out, sys.stdout = sys.stdout, sys.stderr

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        told = _hear()
        (first, *_) = told.get("sample") or told["encode"]
        tokenizer = load_tokenizer(first["tokenizer"])
        if "sample" in told:
            samples = [from_dict(SampleJob, job) for job in told["sample"]]
            say({"sums": take_samples(samples, tokenizer)})
            told = _hear()
        jobs = [from_dict(PartJob, job) for job in told["encode"]]
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        encode_here(jobs, tokenizer, lambda number, n: say({"documents": [number, n]}))
    except LadderError as error:
        say({"error": [error.what, error.why, error.fix]})
    except BrokenPipeError:
        os._exit(1)


def _hear() -> Any:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        os._exit(1)  # the parent process is gone
    return json.loads(line)


def _exit_with_parent() -> None:
    os.read(0, 1)  # not through `sys.stdin`, whose lock would block a normal exit
    os._exit(1)
