"""Find the cores, memory and devices that this process may use.

Owns these answers (within cgroups, as in a container) and the names of the hardware. Imports torch
and psutil inside its functions, so that torch-free rooms may import this module.
"""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from ladderlm.errors import ConfigError

__all__ = [
    "count_busy_cores",
    "count_cores",
    "count_free_bytes",
    "describe_hardware",
    "find_device",
    "has_bfloat16",
    "list_gpus",
]

_ROOT = Path("/")  # root of the kernel's files


def count_cores() -> int:
    """Return the number of cores that this process may use, by affinity and CPU quota."""
    known = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    for folder in _control_groups("cpu", _ROOT):
        numbers = _numbers(folder / "cpu.max") or (
            *_numbers(folder / "cpu.cfs_quota_us"),  # -1: no quota
            *_numbers(folder / "cpu.cfs_period_us"),
        )
        if len(numbers) == 2 and min(numbers) > 0:
            n_cores = min(n_cores, max(numbers[0] // numbers[1], 1))
    return n_cores


def count_busy_cores(seconds: float) -> tuple[float, int]:
    """Return the mean number of busy cores over some seconds, and the number of all cores."""
    import psutil

    n_cores = psutil.cpu_count() or 1
    return psutil.cpu_percent(interval=seconds) / 100 * n_cores, n_cores


def count_free_bytes() -> int:
    """Return the memory in bytes that the machine and its cgroups still allow this process."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in _control_groups("memory", _ROOT):
        limit = _numbers(folder / "memory.max") or _numbers(folder / "memory.limit_in_bytes")
        used = _numbers(folder / "memory.current") or _numbers(folder / "memory.usage_in_bytes")
        if limit and used:
            free = min(free, limit[0] - used[0] + _reclaimable_bytes(folder))
    return max(free, 0)


def list_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return tuple(name for name in allowed.split(",") if name and name != "-1")
    known = Path("/proc/driver/nvidia/gpus")
    return tuple(map(str, range(len(list(known.iterdir()))))) if known.is_dir() else ()


def find_device(asked: str = "auto", option: str = "--device") -> str:
    """Return the device to compute on.

    Args:
        asked: auto (a CUDA device if there is one), cpu, cuda, or one of several as cuda:1.
        option: name of the option, for the error.

    Raises:
        ConfigError: there is no such device, or this PyTorch cannot use it.
    """
    kind, _, number = asked.partition(":")
    if asked not in ("auto", "cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        raise ConfigError(
            f"{option} must be auto, cpu, cuda or cuda:1, got {asked!r}",
            fix=f"set {option} to auto",
        )
    if asked == "cpu":
        return asked
    import torch

    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if n_devices else "cpu"
    if int(number or 0) >= n_devices:
        raise ConfigError(
            f"{option} {asked}: PyTorch {torch.__version__} sees {n_devices} CUDA devices here",
            fix=f"set {option} to cpu, or install a CUDA build of torch and a driver",
        )
    return asked


def has_bfloat16(device: str) -> bool:
    """Return whether a device has instructions for bfloat16 matrix multiplication."""
    if device != "cpu":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = _text(Path("/proc/cpuinfo")).split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def describe_hardware(device: str) -> str:
    """Return the GPU's name, or the CPU's with its cores and memory, in one line."""
    if device != "cpu":
        import torch

        return str(torch.cuda.get_device_name())
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    model = next(named, platform.processor() or platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup of a controller and of its parents.

    Source: cgroups(7). Version 2 has one tree, version 1 one for each controller. A container may
    see its own folder as the top of the tree, although /proc has the name outside the container.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / name.strip("/")
        yield top
        while inner != top:
            yield inner
            inner = inner.parent


def _reclaimable_bytes(folder: Path) -> int:
    """Return the bytes of cached files in a cgroup's memory that the kernel would drop."""
    pairs = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
    return int(pairs.get("total_inactive_file", pairs.get("inactive_file", 0)))


def _numbers(file: Path) -> tuple[int, ...]:
    """Return the numbers in a file of the kernel; none if it is missing or holds "max"."""
    try:
        return tuple(int(word) for word in _text(file).split())
    except ValueError:
        return ()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
