"""The speed of a step.

Owns model FLOPs utilisation and the two peaks that a step is compared with: the one measured here
and the data sheet's, which may be unknown.
"""

import resource
import sys
import time
from dataclasses import dataclass

import torch

__all__ = ["Peaks", "matmul_rate", "peak_flops_per_second", "peak_memory_bytes", "throughput"]

_PROBE_SECONDS = 0.02  # about the duration of one matrix multiplication of a probe
_LARGEST_PROBE = 8192

# Dense TFLOP/s by device name: float32 outside the tensor cores, and half precision on them with
# float32 accumulation and without sparsity. Source: NVIDIA's data sheets; for the GeForce cards the
# white papers of Ampere GA102 and Ada.
_PEAKS = {
    "Tesla T4": (8.1, 65),
    "Tesla V100-SXM2-16GB": (15.7, 125),
    "Tesla V100-SXM2-32GB": (15.7, 125),
    "NVIDIA GeForce RTX 3090": (35.6, 71),
    "NVIDIA GeForce RTX 4090": (82.6, 165.2),
    "NVIDIA A10": (31.2, 125),
    "NVIDIA L4": (30.3, 121),
    "NVIDIA L40S": (91.6, 362),
    "NVIDIA A100-PCIE-40GB": (19.5, 312),
    "NVIDIA A100 80GB PCIe": (19.5, 312),
    "NVIDIA A100-SXM4-40GB": (19.5, 312),
    "NVIDIA A100-SXM4-80GB": (19.5, 312),
    "NVIDIA H100 PCIe": (51, 756),
    "NVIDIA H100 80GB HBM3": (66.9, 989.4),
    "NVIDIA H200": (66.9, 989.4),
}


def peak_flops_per_second(hardware: str, precision: str) -> float | None:
    """Return the data sheet's peak of one device, equal for both half precisions.

    Returns:
        None if the device is not in the table.
    """
    if hardware not in _PEAKS:
        return None
    return _PEAKS[hardware][precision != "float32"] * 1e12


def matmul_rate(device: str, dtype: torch.dtype, seconds: float) -> float:
    """Return the FLOP/s of the fastest of many square matrix multiplications.

    The size doubles from 256 until one multiplication takes 20 ms or is 8,192 wide.
    """
    size, best = 256, 0.0
    end = time.perf_counter() + seconds
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    while True:
        _wait(device)
        began = time.perf_counter()
        a @ b
        _wait(device)
        now = time.perf_counter()
        best = max(best, 2 * size**3 / (now - began))
        if now > end:
            return best
        if now - began < _PROBE_SECONDS and size < _LARGEST_PROBE:
            size *= 2
            a, b = torch.randn(2, size, size, device=device).to(dtype)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Peaks:
    """Peak FLOPs per second of all devices together."""

    measured: float  # by `matmul_rate` on this machine
    datasheet: float | None = None  # None: not known

    def times(self, n_devices: int) -> "Peaks":
        """Return the peaks of several such devices together."""
        datasheet = self.datasheet * n_devices if self.datasheet else None
        return Peaks(self.measured * n_devices, datasheet)


def throughput(
    step_seconds: float, n_positions: int, flops: float, peaks: Peaks, recomputed: float = 0.0
) -> dict[str, float | None]:
    """Return the speed of one step, as it is logged.

    Args:
        n_positions: row positions of the global batch.
        flops: nominal causal FLOPs of the step.
        recomputed: FLOPs repeated to save memory, which count in `hfu` only.
    """
    rate = flops / step_seconds
    speed = {
        "step_seconds": step_seconds,
        "tokens_per_second": n_positions / step_seconds,
        "flops_per_second": rate,
        "mfu": rate / peaks.measured,
        "mfu_datasheet": rate / peaks.datasheet if peaks.datasheet else None,
    }
    if recomputed:
        speed["hfu"] = (flops + recomputed) / step_seconds / peaks.measured
    return speed


def peak_memory_bytes(device: str) -> int:
    """Return the peak memory of this process: GPU memory, or resident memory on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024  # there it is bytes
