"""The peak speed of matrix multiplications on this machine, measured once.

Owns the cache of these measurements, one for each hardware, dtype and number of threads. Steps are
compared with them; no choice and no number of a run depends on them.
"""

import contextlib
import os
from pathlib import Path

import torch

from ladderlm.errors import LadderError
from ladderlm.files import publish_json, read_json
from ladderlm.training.compute import HALF_COPIES
from ladderlm.training.config import Precision
from ladderlm.training.throughput import matmul_rate

__all__ = ["matmul_dtype", "measured_peak"]

PROBE_SECONDS = 0.3
_HALF = HALF_COPIES | {"bf16-autocast": torch.bfloat16}


def matmul_dtype(precision: Precision) -> torch.dtype:
    """Return the dtype of matrix multiplications."""
    return _HALF.get(precision, torch.float32)


def measured_peak(hardware: str, device: str, precision: Precision) -> float:
    """Return the FLOP/s of large square matrix multiplications, measured now or read from a file.

    Delete the file to measure again, for example if the machine was busy at that time.
    """
    dtype = str(matmul_dtype(precision)).removeprefix("torch.")
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    setting = torch.get_float32_matmul_precision() if dtype == "float32" else ""
    key = f"{hardware}{threads}, {dtype} {setting}, torch {torch.__version__}"
    file = _cache_folder() / "peaks.json"
    known: dict[str, float] = {}
    try:
        known = dict(read_json(file)) if file.is_file() else {}
        if key in known:
            return float(known[key])
    except (LadderError, OSError, TypeError, ValueError):
        known = {}
    found = matmul_rate(device, matmul_dtype(precision), PROBE_SECONDS)
    with contextlib.suppress(LadderError, OSError):  # a home that cannot be written to
        publish_json(file, known | {key: found})
    return found


def _cache_folder() -> Path:
    """Return the cache folder, which the variable LADDERLM_CACHE can change."""
    if named := os.environ.get("LADDERLM_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ladderlm"
