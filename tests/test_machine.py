import os

import psutil
import pytest
import torch

from ladderlm import machine
from ladderlm.errors import ConfigError

GIB = 2**30


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Put the kernel's files below a folder, on a machine of 8 cores and 64 GiB free memory."""
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    memory = type("Memory", (), {"available": 64 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


def test_without_cgroups_all_allowed_cores_and_the_free_memory_count(kernel):
    assert machine.count_cores() == 8
    assert machine.count_free_bytes() == 64 * GIB


def test_the_tightest_cgroup_above_the_process_limits_cores_and_memory(kernel):
    group = "sys/fs/cgroup/batch/job"
    kernel(
        {
            "proc/self/cgroup": "0::/batch/job\n",
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": "max\n",
            "sys/fs/cgroup/batch/cpu.max": "350000 100000\n",
            "sys/fs/cgroup/batch/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/batch/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/batch/memory.stat": f"anon {3 * GIB}\ninactive_file {2 * GIB}\n",
        }
    )
    assert machine.count_cores() == 3
    assert machine.count_free_bytes() == 5 * GIB


def test_cgroups_of_version_1_are_read_as_a_container_sees_them(kernel):
    kernel(
        {
            "proc/self/cgroup": "4:memory:/docker/a1\n1:cpu,cpuacct:/docker/a1\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert machine.count_cores() == 1
    assert machine.count_free_bytes() == GIB


def test_no_quota_and_a_group_over_its_limit_are_understood(kernel):
    kernel(
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert machine.count_cores() == 8
    assert machine.count_free_bytes() == 0


def test_gpus_are_those_that_the_environment_allows(monkeypatch):
    for allowed, wanted in (("", ()), ("-1", ()), ("2,5", ("2", "5")), ("GPU-ab", ("GPU-ab",))):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert machine.list_gpus() == wanted


@pytest.mark.parametrize(
    ("n_devices", "asked", "found"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cpu", "cpu"),
        (2, "cuda:2", None),
        (0, "cuda", None),
        (2, "gpu", None),
        (2, "cuda:x", None),
    ],
)
def test_a_device_is_found_or_refused_by_the_name_of_its_option(
    n_devices, asked, found, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
    if found is not None:
        assert machine.find_device(asked) == found
        return
    with pytest.raises(ConfigError, match=r"execution\.device.*" + asked):
        machine.find_device(asked, "execution.device")
