"""Runs on two gloo processes, started as torchrun would."""

import json
import socket
import subprocess
from collections.abc import Sequence

from ladderlm.config import to_dict
from ladderlm.training.run_config import RunConfig

__all__ = ["run_on_two"]

_WORKER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from ladderlm.config import from_dict
from ladderlm.errors import Stopped
from ladderlm.training.run_config import RunConfig
from ladderlm.run.execute import execute

for port, stop, values in json.loads(sys.stdin.read()):
    os.environ["MASTER_PORT"] = str(port)

    def observe(row):
        if row["kind"] == "train" and row["step"] == stop:
            os.kill(os.getpid(), signal.SIGUSR1)

    try:
        execute(from_dict(RunConfig, values), observe=observe)
    except Stopped:
        print("stopped")
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_on_two(
    python: str, environment: dict[str, str], jobs: Sequence[tuple[RunConfig, int | None]]
) -> None:
    """Carry out runs one after another on the same two processes.

    Args:
        jobs: each with the step at which it is stopped by a signal, or None.
    """
    work = json.dumps([(_free_port(), stop, to_dict(config)) for config, stop in jobs])
    shared = {**environment, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    children = [
        subprocess.Popen(
            [python, "-c", _WORKER],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write(work)
            child.stdin.close()
            child.stdin = None
        for child in children:
            _, errors = child.communicate(timeout=120)
            assert child.returncode == 0, errors[-3000:]
    finally:
        for child in children:
            child.kill()
            child.wait()
