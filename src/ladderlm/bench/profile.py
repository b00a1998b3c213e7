"""Record a few training steps with PyTorch's profiler.

Owns the kinds of operations and the time spent in each. The trace is for chrome://tracing and
Perfetto.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ladderlm.files import publish

__all__ = ["KINDS", "profile_steps"]

# An operation belongs to the first kind of which its name contains a part.
KINDS = {
    "attention": ("scaled_dot_product", "flash", "efficient_attention", "bmm", "baddbmm"),
    "matrix multiplications": ("mm", "gemm", "linear", "matmul", "cutlass", "nvjet"),
    "optimizer": ("adam", "lerp", "_foreach_mul", "linalg_vector_norm"),
    "softmax and loss": ("softmax", "cross_entropy", "nll", "logsumexp", "gather", "scatter"),
    "copies and casts": ("copy", "cat", "clone", "contiguous", "memcpy", "memset", "fill", "zero"),
    "communication": ("nccl", "gloo", "c10d", "all_reduce", "all_gather", "reduce_scatter"),
}
_OTHER = "elementwise and the rest"


def _kind_of(name: str) -> str:
    lower = name.lower()
    return next((k for k, parts in KINDS.items() if any(p in lower for p in parts)), _OTHER)


def profile_steps(
    update: Callable[[], object], n_steps: int, device: str, trace: Path
) -> dict[str, Any]:
    """Record updates after one that is not recorded, and write the trace as JSON.

    Args:
        update: performs one update.

    Returns:
        `seconds` of one update in operations; `kinds` and `operations` (the 20 slowest) with name,
        seconds per update in the operation itself, share and calls per update.
    """
    update()
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device == "cuda")]
    with warnings.catch_warnings():  # the profiler warns about settings of its own
        warnings.simplefilter("ignore")
        with profile(activities=activities) as recorded:
            for _ in range(n_steps):
                update()
            if device == "cuda":
                torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(written))
            publish(trace, lambda stream: stream.write(written.read_bytes()))
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    operations = [
        {"name": e.key, "seconds": getattr(e, own) / 1e6 / n_steps, "calls": e.count / n_steps}
        for e in recorded.key_averages()
    ]
    total = sum(o["seconds"] for o in operations) or 1.0
    kinds = [
        _row(kind, [o for o in operations if _kind_of(o["name"]) == kind], total)
        for kind in (*KINDS, _OTHER)
    ]
    operations.sort(key=lambda o: -o["seconds"])
    return {
        "seconds": total,
        "kinds": sorted((k for k in kinds if k["seconds"]), key=lambda k: -k["seconds"]),
        "operations": [_row(o["name"], [o], total) for o in operations[:20]],
    }


def _row(name: str, members: list[dict[str, Any]], total: float) -> dict[str, Any]:
    seconds = sum(o["seconds"] for o in members)
    calls = sum(o["calls"] for o in members)
    return {"name": name, "seconds": seconds, "share": seconds / total, "calls": calls}
