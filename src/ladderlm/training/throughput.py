"""How fast a step was.

Owns the two peaks that a step is held against, the one measured here and the data sheet's, and
model FLOPs utilisation. A device without a known data sheet has the measured peak alone: an MFU
against a guessed peak says nothing.
"""

import resource
import sys
import time
from dataclasses import dataclass

import torch

__all__ = ["Peaks", "matmul_rate", "peak_flops_per_second", "peak_memory_bytes", "throughput"]

_PROBE_SECONDS = 0.02  # one product of a probe takes about this long
_LARGEST_PROBE = 8192

# Dense TFLOP/s by device name: of float32 outside the tensor cores, and of half precision on them
# with sums in float32 and without sparsity. Source: NVIDIA's data sheets of each; of the GeForce
# cards the white papers of Ampere GA102 and Ada.
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
    """Give the data sheet's peak of one device; None if it is not in the table.

    Tensor cores multiply both half precisions at one rate.
    """
    if hardware not in _PEAKS:
        return None
    whole, half = _PEAKS[hardware]
    return (whole if precision == "float32" else half) * 1e12


def matmul_rate(device: str, dtype: torch.dtype, seconds: float) -> float:
    """Give the FLOP/s of the best of many square matrix products.

    The size doubles from 256 until one product takes 20 ms or is 8,192 wide.
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
    """What steps are held against, FLOPs per second of all devices together.

    Args:
        measured: by `matmul_rate` on this machine.
        datasheet: of the vendor; None: not known.
    """

    measured: float
    datasheet: float | None = None

    def times(self, n_devices: int) -> "Peaks":
        """Return the peaks of several such devices together."""
        datasheet = self.datasheet * n_devices if self.datasheet else None
        return Peaks(self.measured * n_devices, datasheet)


def throughput(
    step_seconds: float, n_positions: int, flops: float, peaks: Peaks, recomputed: float = 0.0
) -> dict[str, float | None]:
    """Describe the speed of one step.

    Args:
        step_seconds: wall time.
        n_positions: row positions of the global batch.
        flops: of the step, nominal causal.
        recomputed: FLOPs that were done a second time to save memory; they count in `hfu` alone.
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
    """Give the most memory that this process has had: of the GPU, or resident on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024  # there it is bytes
