"""Clusters of this machine alone: Ray's and Slurm's, each started once."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ladderlm.executors.base import Executor

SECONDS = 60
SLURM_DAEMONS = ("munged", "slurmctld", "slurmd")


@pytest.fixture(scope="session")
def on_ray() -> Iterator[Callable[[Path], Executor]]:
    """Return the maker of an executor on a Ray cluster of two cores."""
    pytest.importorskip("ray", reason="[ray] Ray is not installed")
    import ray

    from ladderlm.executors.ray import RayExecutor

    executor = RayExecutor(2)
    yield lambda folder: executor
    ray.shutdown()


SLURM_CONF = """\
ClusterName=ladder
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


@pytest.fixture(scope="session")
def on_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Executor]]:
    """Return the maker of an executor on a Slurm cluster of two cores."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # where daemons lie
    programs = {name: shutil.which(name, path=path) for name in SLURM_DAEMONS}
    if None in programs.values():
        pytest.skip("[slurm] Slurm is not installed")
    pytest.importorskip("submitit", reason="[slurm] submitit is not installed")
    from ladderlm.executors.slurm import SlurmExecutor

    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    values = {"host": host, "user": getpass.getuser(), "folder": folder, "ports": free_ports(2)}
    conf.write_text(SLURM_CONF.format(**values))
    munge = ["--key-file", key, "--socket", folder / "munge.socket"]
    munge += ["--pid-file", folder / "munge.pid", "--seed-file", folder / "munge.seed"]
    munge += ["--log-file", folder / "munge.log"]
    options = [["--foreground", "--force", *munge], ["-D", "-f", conf], ["-D", "-f", conf]]
    daemons = []
    os.environ["SLURM_CONF"] = str(conf)
    try:
        for name, words in zip(SLURM_DAEMONS, options, strict=True):
            with open(folder / f"{name}.out", "wb") as log:
                argv = [str(word) for word in (programs[name], *words)]
                daemons.append(subprocess.Popen(argv, stdout=log, stderr=log))
            if name == "munged":
                wait_for((folder / "munge.socket").exists)
        wait_for(lambda: "idle" in subprocess.run("sinfo", capture_output=True, text=True).stdout)
        yield lambda place: SlurmExecutor(place, poll_seconds=0.2)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(SECONDS)
        del os.environ["SLURM_CONF"]


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for own in sockets:
        own.bind(("127.0.0.1", 0))
    ports = [own.getsockname()[1] for own in sockets]
    for own in sockets:
        own.close()
    return ports


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for a condition, at most a minute."""
    end = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()
