"""Measure the speed of a training step, and compare it with others and with the machine's peak.

Owns the workloads, the implementations of a step (ours and those of `peers.py`), and the rounds in
which they take turns, so that a busy machine slows all of them equally. Whole updates on random
tokens are measured: forward, backward, clipping, optimizer.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ladderlm.bench.config import Shape
from ladderlm.bench.peers import PlainGPT, PlainLlama
from ladderlm.config import require
from ladderlm.data.batch import Batch
from ladderlm.data.config import DataConfig
from ladderlm.model.accounting import train_flops_per_token
from ladderlm.model.config import AttentionBackend, ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.precision import Float32Matmul, float32_matmul
from ladderlm.model.transformer import Transformer
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.run.peak import matmul_dtype
from ladderlm.run.resolve import resolve_attention
from ladderlm.run.settle import probe_matmul
from ladderlm.training.compute import Compute
from ladderlm.training.config import ExecutionConfig, Precision, TrainConfig
from ladderlm.training.run_config import RunConfig
from ladderlm.training.state import TrainState
from ladderlm.training.step import train_step
from ladderlm.training.throughput import matmul_rate

__all__ = [
    "SHAPES",
    "WAYS",
    "Measured",
    "Workload",
    "build",
    "compare_ways",
    "describe",
    "measure_speed",
]


@dataclass(frozen=True)
class Workload:
    """Model shape, random rows and device that all contenders train with."""

    model: ModelConfig  # with a known vocabulary
    seq_len: int
    n_rows: int  # of a step
    optim: OptimConfig = field(default_factory=OptimConfig)  # ours; the others use AdamW
    mask_documents: bool = False  # two documents per row, for ours only
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def n_tokens(self) -> int:
        """Tokens of a step."""
        return self.seq_len * self.n_rows

    @property
    def flops(self) -> float:
        """Nominal causal FLOPs of a step, equal for all contenders."""
        return train_flops_per_token(self.model, self.seq_len) * self.n_tokens


def _shape(dim: int, n_layers: int, n_heads: int, vocab: int, seq_len: int, rows: int) -> Workload:
    model = ModelConfig(
        dim=dim, n_layers=n_layers, n_heads=n_heads, vocab_size=vocab, max_seq_len=seq_len
    )
    return Workload(model, seq_len, rows)


SHAPES: dict[Shape, Workload] = {
    "quickstart": _shape(64, 2, 8, 2048, 128, 16),
    "192": _shape(192, 4, 3, 8192, 512, 8),
    "384": _shape(384, 6, 6, 8192, 512, 8),
    "124m": _shape(768, 12, 12, 32768, 1024, 32),
}


@dataclass(frozen=True)
class Way:
    """Implementation of the step with its settings."""

    kind: Literal["ladderlm", "gpt", "llama"]  # gpt and llama are those of `peers.py`
    precision: Precision = "float32"
    compiled: bool = False
    plain: bool = False  # ours with PyTorch's default attention and matmul, not a run's choice


WAYS = {
    "gpt": Way("gpt"),
    "gpt-compiled": Way("gpt", compiled=True),
    "gpt-autocast": Way("gpt", "bf16-autocast"),
    "gpt-autocast-compiled": Way("gpt", "bf16-autocast", True),
    "llama": Way("llama"),
    "llama-compiled": Way("llama", compiled=True),
    "llama-autocast": Way("llama", "bf16-autocast"),
    "llama-autocast-compiled": Way("llama", "bf16-autocast", True),
    "ours-plain": Way("ladderlm", plain=True),
    "ours": Way("ladderlm"),
    "ours-compiled": Way("ladderlm", compiled=True),
    "ours-bf16": Way("ladderlm", "bf16"),
    "ours-bf16-compiled": Way("ladderlm", "bf16", True),
    "ours-autocast": Way("ladderlm", "bf16-autocast"),
    "ours-fp16": Way("ladderlm", "fp16"),
}


@dataclass(frozen=True)
class Contender:
    """Model with one way of updating it."""

    name: str
    way: Way
    update: Callable[
        [], float
    ]  # performs one update and returns the loss, so it waits for the device


def build(name: str, work: Workload) -> Contender:
    """Build a contender by the name of its way.

    Raises:
        ConfigError: there is no such way.
    """
    require("a way", repr(name), name in WAYS, f"be one of {', '.join(WAYS)}")
    way = WAYS[name]
    return Contender(name, way, (_ours if way.kind == "ladderlm" else _plain)(way, work))


def _make_batch(work: Workload) -> Batch:
    """Return rows of random tokens, two documents in each."""
    n_rows, seq_len = work.n_rows, work.seq_len
    ids = np.random.default_rng(0).integers(0, work.model.vocabulary, (n_rows, seq_len + 1))
    half, shape = seq_len // 2, (n_rows, seq_len)
    positions = np.concatenate([np.arange(half), np.arange(seq_len - half)])
    segments = np.broadcast_to(np.repeat([0, 1], [half, seq_len - half]), shape).copy()
    return Batch(
        tokens=ids[:, :-1],
        targets=ids[:, 1:],
        loss_mask=np.ones(shape, dtype=bool),
        segment_ids=segments,
        positions=np.broadcast_to(positions, shape).copy(),
        document_ids=segments,
    )


def _ours(way: Way, work: Workload) -> Callable[[], float]:
    """Return the update that runs make."""
    setting: Float32Matmul = "highest"
    attention: AttentionBackend = "sdpa"
    if not way.plain:
        attention = resolve_attention(work.model, work.seq_len, work.device)
        setting = probe_matmul(ExecutionConfig(device=work.device))["setting"]
    model = Transformer(replace(work.model, attention=attention))
    init_weights(model, 1)
    model.to(work.device)
    optimizer = build_optimizer(model, work.optim)
    compute = Compute(model, way.precision, way.compiled)
    batch, state = _make_batch(work), TrainState(model, optimizer, compute, "bench")
    config = RunConfig(
        model=model.config,
        data=DataConfig(seq_len=work.seq_len, mask_documents=work.mask_documents),
        train=TrainConfig(global_batch_tokens=batch.n_rows * work.seq_len),
        optim=replace(work.optim, grad_clip=1.0),
    )

    def update() -> float:
        with float32_matmul(setting):
            return train_step(state, batch, batch.n_targets, config).loss

    return update


def _plain(way: Way, work: Workload) -> Callable[[], float]:
    """Return the update of a model of `peers.py` with AdamW."""
    torch.manual_seed(1)
    model: nn.Module = {"gpt": PlainGPT, "llama": PlainLlama}[way.kind](work.model).to(work.device)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, (0.9, 0.95), weight_decay=0.1)
    if way.compiled:
        model.compile()
    batch = _make_batch(work)
    tokens, targets = (torch.from_numpy(a).to(work.device) for a in (batch.tokens, batch.targets))
    half = way.precision == "bf16-autocast"

    def update() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(work.device, torch.bfloat16, enabled=half):
            loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return update


def measure_speed(work: Workload, n_threads: int) -> float:
    """Return the FLOPs per second of the update that runs make, over about one second."""
    torch.set_num_threads(n_threads)
    update = build("ours", work).update
    seconds: list[float] = []
    while sum(seconds[1:]) < 1.0 or len(seconds) < 4:
        began = time.monotonic()
        update()
        seconds.append(time.monotonic() - began)
    return work.flops / statistics.median(seconds[1:])


@dataclass
class Measured:
    """Measurements of one contender."""

    first_seconds: float  # of the first update, with compilation
    wall: list[float] = field(default_factory=list)  # seconds of each later update
    cpu: list[float] = field(default_factory=list)  # seconds of all threads of this process
    losses: list[float] = field(default_factory=list)  # after each later update


def compare_ways(
    names: list[str], work: Workload, n_rounds: int, probe_seconds: float = 0.2
) -> tuple[dict[str, Measured], dict[str, float]]:
    """Measure several of `WAYS`, which take turns.

    Args:
        n_rounds: updates of each way after its first.
        probe_seconds: time for each ceiling in each round.

    Returns:
        Measurements and ceiling of each way. A ceiling is the median over rounds of the FLOP/s of
        square matrix multiplications in its precision.
    """
    contenders = {name: build(name, work) for name in names}
    found: dict[str, Measured] = {}
    for name, contender in contenders.items():
        began = time.perf_counter()
        contender.update()
        found[name] = Measured(time.perf_counter() - began)
    kinds = {name: matmul_dtype(one.way.precision) for name, one in contenders.items()}
    rates: dict[torch.dtype, list[float]] = {kind: [] for kind in kinds.values()}
    setting = probe_matmul(ExecutionConfig(device=work.device))["setting"]
    for _ in range(n_rounds):
        for dtype, seen in rates.items():
            with float32_matmul(setting):
                seen.append(matmul_rate(work.device, dtype, probe_seconds))
        for name, contender in contenders.items():
            began, spent = time.perf_counter(), time.process_time()
            loss = contender.update()
            found[name].wall.append(time.perf_counter() - began)
            found[name].cpu.append(time.process_time() - spent)
            found[name].losses.append(loss)
    return found, {name: statistics.median(rates[kind]) for name, kind in kinds.items()}


def describe(
    found: Mapping[str, Measured], ceilings: Mapping[str, float], work: Workload
) -> list[dict[str, Any]]:
    """Return one row of numbers per way. Ratios to the first way are medians over rounds.

    A `times_first` above 1 is faster. `of_ceiling` is model FLOP/s divided by the ceiling.
    """
    first = next(iter(found.values()))
    rows = []
    for name, one in found.items():
        pairs = zip(first.wall, one.wall, first.cpu, one.cpu, strict=True)
        ratios = [(a / b, c / d) for a, b, c, d in pairs]
        seconds = statistics.median(one.wall)
        rows.append(
            {
                "way": name,
                "tokens_per_second": work.n_tokens / seconds,
                "slowest": work.n_tokens / max(one.wall),
                "fastest": work.n_tokens / min(one.wall),
                "flops_per_second": work.flops / seconds,
                "ceiling_flops_per_second": ceilings[name],
                "of_ceiling": work.flops / seconds / ceilings[name],
                "times_first": statistics.median(wall for wall, _ in ratios),
                "times_first_cpu": statistics.median(cpu for _, cpu in ratios),
                "cpu_over_wall": statistics.median(
                    c / w for c, w in zip(one.cpu, one.wall, strict=True)
                ),
                "first_step_seconds": one.first_seconds,
                "loss": one.losses[-1],
            }
        )
    return rows
