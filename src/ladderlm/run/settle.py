"""The options of a run that depend on its machine, settled before its first step.

Owns `settle`: the rule that a resumed run keeps the execution it began with, the probe of float32
matrix multiplications, whether layers are compiled. `resolve.py`, which needs no torch, fills in
what follows from config and data.
"""

import logging
from dataclasses import replace
from typing import Any, Literal

import torch

from ladderlm.dist import ALONE, Processes
from ladderlm.errors import ConfigError
from ladderlm.model.accounting import train_flops_per_token
from ladderlm.model.precision import FLOAT32_ERROR, Float32Matmul, float32_matmul_error
from ladderlm.run.micro_batch import fit_micro_batch
from ladderlm.training.compute import find_cpp_compiler
from ladderlm.training.config import ExecutionConfig
from ladderlm.training.run_config import RunConfig

__all__ = ["probe_matmul", "settle", "settle_compile"]

COMPILE_FROM_FLOPS = 1e14  # of one process: compiling, a minute or less, saves several times more
_HALF = ("bf16", "bf16-autocast", "fp16")
_log = logging.getLogger(__name__)


def settle(
    config: RunConfig, processes: Processes = ALONE, began: RunConfig | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """Fill in the options that depend on this machine.

    1. A resumed run keeps the execution that it began with: it must end with the same bytes.
    2. Float32 matrix multiplications use the fastest setting that a probe finds exact.
    3. Layers are compiled if the run is long enough.
    4. `execution.fit_micro_batch` finds the largest micro-batch that the GPU's memory holds.
    5. A precision that this CPU emulates causes a warning.

    Args:
        config: resolved.
        began: config in the run folder; None: the run is new.

    Returns:
        The config to write as config.json, and the measurements of step 2.

    Raises:
        ConfigError: this machine does not support an option.
    """
    if began is not None:
        config = _keep_execution(config, began)
    matmul = probe_matmul(config.execution)
    execution = replace(
        config.execution,
        float32_matmul=matmul["setting"],
        compile=settle_compile(config, processes.world_size),
        micro_batch_seqs=fit_micro_batch(config, processes),
        fit_micro_batch=False,
    )
    _warn_of_emulation(config)
    return replace(config, execution=execution), matmul


def _keep_execution(config: RunConfig, old: RunConfig) -> RunConfig:
    """Return the config with the execution that the run began with."""
    began, ours = old.execution, config.execution
    if (began.n_threads, began.micro_batch_seqs) != (ours.n_threads, ours.micro_batch_seqs):
        _log.warning(
            "resuming with %s threads and micro-batches of %s rows, as the run began",
            began.n_threads,
            began.micro_batch_seqs,
        )
    kept = replace(
        ours,
        n_threads=began.n_threads,
        micro_batch_seqs=began.micro_batch_seqs,
        fit_micro_batch=False,
        # a run older than this option used PyTorch's default
        float32_matmul="highest" if began.float32_matmul == "auto" else began.float32_matmul,
        compile="off" if began.compile == "auto" else began.compile,
    )
    # likewise PyTorch's attention
    attention = "sdpa" if old.model.attention == "auto" else old.model.attention
    return replace(config, execution=kept, model=replace(config.model, attention=attention))


def probe_matmul(execution: ExecutionConfig) -> dict[str, Any]:
    """Choose the setting of float32 matrix multiplications, and measure its error.

    On a CPU `medium` uses oneDNN, which on some CPUs is twice as fast as the default and on others
    rounds to bfloat16. So `auto` chooses it only if one multiplication of 512-wide matrices is
    exact in float32, and never on a GPU, where it means TF32 or less.

    Returns:
        {"setting", "relative_error"}: the chosen `float32_matmul`, and its error relative to
        float64 if it was measured.

    Raises:
        ConfigError: the config or the resumed run has `medium`, which is not exact here.
    """
    asked = execution.float32_matmul
    if asked == "highest" or (asked == "auto" and execution.device != "cpu"):
        return {"setting": "highest"}
    error = float32_matmul_error("medium")
    exact = execution.device == "cpu" and error < FLOAT32_ERROR
    if asked == "medium" and not exact:
        raise ConfigError(
            "execution.float32_matmul = 'medium' is not float32 on this machine: multiplying "
            f"512-wide matrices has an error of {error:.1e} on the CPU, and a GPU rounds to TF32",
            "the run would train in another precision than its config states",
            "set execution.float32_matmul to 'highest' (of a resumed run: in its config.json)",
        )
    setting: Float32Matmul = "medium" if exact else "highest"
    return {"setting": setting, "relative_error": float32_matmul_error(setting)}


def settle_compile(config: RunConfig, world_size: int) -> Literal["on", "off"]:
    """Decide whether the layers are compiled, by length and precision and never by a cache.

    Compiled float32 code is no faster, so `auto` compiles only long runs of half precision that
    nothing below prevents.

    Raises:
        ConfigError: execution.compile is on and something prevents it.
    """
    execution, dropout = config.execution, config.model.dropout
    off = "set execution.compile to 'off'"
    no_compiler = execution.device == "cpu" and find_cpp_compiler() is None
    problems = [
        (
            bool(dropout),
            f"with model.dropout = {dropout:g}",
            "compiled code draws other random numbers, so the run would depend on its execution",
            off,
        ),
        (
            config.train.first_batch_tokens is not None,
            "with train.first_batch_tokens",
            "code is compiled for one shape, and every batch of the rise has another",
            off,
        ),
        (
            execution.shard == "weights" and world_size > 1,
            "with execution.shard = 'weights'",
            "each layer is compiled whole, but FSDP2 gathers its weights when it begins",
            f"{off}, or execution.shard to 'optimizer'",
        ),
        (
            no_compiler,
            "on a CPU, with no C++ compiler found",
            "",
            f"install g++ or clang++ (or name one in the variable CXX), or {off}",
        ),
    ]
    found = next((message for holds, *message in problems if holds), None)
    if execution.compile == "auto":
        n_positions = config.positions_after(config.train.n_steps)
        flops = train_flops_per_token(config.model, config.data.seq_len) * n_positions / world_size
        long = config.train.precision in _HALF and flops >= COMPILE_FROM_FLOPS
        return "on" if long and found is None else "off"
    if execution.compile == "on" and found is not None:
        what, why, fix = found
        raise ConfigError(f"execution.compile = 'on' {what}", why, fix)
    return execution.compile


def _warn_of_emulation(config: RunConfig) -> None:
    """Warn if the CPU emulates half precision, which is slower than float32."""
    precision = config.train.precision
    if precision == "float32" or config.execution.device != "cpu":
        return
    probe = "fp16" if precision == "fp16" else "bf16"
    supported: bool = getattr(torch.ops.mkldnn, f"_is_mkldnn_{probe}_supported")()
    if not supported:
        _log.warning(
            "train.precision = %r: this CPU has no %s matrix multiplications and emulates them, "
            "many times slower than float32; set train.precision to 'float32' to train faster",
            precision,
            probe,
        )
