"""How fast a step was.

Owns the table of peaks and model FLOPs utilisation. A device whose peak is not known gets none:
an MFU against a guessed peak says nothing.
"""

__all__ = ["peak_flops_per_second", "throughput"]

# Dense FLOPs per second by device name and precision of the products. Source: NVIDIA's data sheets
# of the H100 and H200 SXM and the A100 SXM: row FP32 (outside the tensor cores), and row BFLOAT16
# without sparsity.
_PEAKS = {
    ("NVIDIA H100 80GB HBM3", "float32"): 66.9e12,
    ("NVIDIA H200", "float32"): 66.9e12,
    ("NVIDIA A100-SXM4-80GB", "float32"): 19.5e12,
    ("NVIDIA A100-SXM4-40GB", "float32"): 19.5e12,
    ("NVIDIA H100 80GB HBM3", "bf16"): 989.4e12,
    ("NVIDIA H200", "bf16"): 989.4e12,
    ("NVIDIA A100-SXM4-80GB", "bf16"): 312e12,
    ("NVIDIA A100-SXM4-40GB", "bf16"): 312e12,
}


def peak_flops_per_second(hardware: str, precision: str) -> float | None:
    """Give the peak of one device; None if it is not in the table."""
    return _PEAKS.get((hardware, precision))


def throughput(
    step_seconds: float, n_positions: int, flops: float, peak: float | None
) -> dict[str, float | None]:
    """Describe the speed of one step.

    Args:
        step_seconds: wall time.
        n_positions: row positions of the global batch.
        flops: of the step, nominal causal.
        peak: of all devices together, FLOPs per second.
    """
    return {
        "step_seconds": step_seconds,
        "tokens_per_second": n_positions / step_seconds,
        "flops_per_second": flops / step_seconds,
        "mfu": flops / step_seconds / peak if peak else None,
    }
