"""How fast one training step is on this machine, and what each way of carrying it out is worth.

    python benchmarks/step.py [--shape quickstart|384] [--rounds 5] [--ways plain,blocked,...]

Measures whole updates (forward, backward, clipping, optimizer) on made-up tokens, every way in
turn with a large float32 matrix product, so that all see the same machine in the same minute.
Ratios are medians over rounds against the first way: of wall time, and of CPU time, which a busy
machine spoils less. FLOPs are the model's (causal attention counted, recomputation and optimizer
not).
"""
# ruff: noqa: T201

import argparse
import os
import statistics
import time
from typing import Any, cast

import numpy as np
import torch

from ladderlm.data.batch import Batch
from ladderlm.dist import Processes
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.precision import float32_matmul
from ladderlm.model.transformer import Transformer
from ladderlm.optim.config import OptimConfig
from ladderlm.optim.groups import build_optimizer
from ladderlm.run.environment import describe_hardware
from ladderlm.train.compute import Compute
from ladderlm.train.step import train_step
from ladderlm.units import format_count, format_flops

MATMUL_SIZE = 2048


def make_batch(n_rows: int, seq_len: int, vocab_size: int) -> Batch:
    """Give rows of random tokens, two documents in each."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab_size, (n_rows, seq_len + 1), dtype=np.int64)
    half = seq_len // 2
    positions = np.concatenate([np.arange(half), np.arange(seq_len - half)])
    segments = np.repeat([0, 1], [half, seq_len - half])
    shape = (n_rows, seq_len)
    return Batch(
        tokens=ids[:, :-1],
        targets=ids[:, 1:],
        loss_mask=np.ones(shape, dtype=bool),
        segment_ids=np.broadcast_to(segments, shape).copy(),
        positions=np.broadcast_to(positions, shape).copy(),
        document_ids=np.broadcast_to(segments, shape).copy(),
    )


def measure_matmul(seconds: float) -> float:
    """Give FLOP/s of a square float32 matrix product."""
    a, b = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE)
    rates = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ b
        rates.append(2 * MATMUL_SIZE**3 / (time.perf_counter() - began))
    return statistics.median(rates)


WAYS = {  # float32_matmul, attention, precision, compiled
    "plain": ("highest", "sdpa", "float32", False),
    "onednn": ("medium", "sdpa", "float32", False),
    "blocked": ("medium", "blocked", "float32", False),
    "compiled": ("medium", "blocked", "float32", True),
    "bf16": ("medium", "blocked", "bf16", False),
    "bf16-compiled": ("medium", "blocked", "bf16", True),
}
SHAPES = {  # dim, layers, heads, vocabulary, tokens of a row, rows
    "quickstart": (64, 2, 8, 2048, 128, 16),
    "192": (192, 4, 3, 8192, 512, 8),
    "384": (384, 6, 6, 8192, 512, 8),
}


class Stepper:
    """A model carried out in one way, its optimizer and one batch."""

    def __init__(self, shape: str, way: str, optimizer: OptimConfig, mask_documents: bool) -> None:
        dim, n_layers, n_heads, vocab_size, seq_len, n_rows = SHAPES[shape]
        self.matmul, attention, precision, compiled = WAYS[way]
        config = ModelConfig(
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            vocab_size=vocab_size,
            max_seq_len=seq_len,
            attention=cast("Any", attention),
        )
        self.model = Transformer(config)
        init_weights(self.model, 1)
        self.optimizer = build_optimizer(self.model, optimizer)
        self.compute = Compute(self.model, cast("Any", precision), compiled)
        self.batch = make_batch(n_rows, seq_len, vocab_size)
        self.mask_documents = mask_documents
        self.flops = train_flops_per_token(config, seq_len) * n_rows * seq_len

    def step(self) -> tuple[float, float, float]:
        """Make one update; give its wall seconds, CPU seconds and loss."""
        began, spent = time.perf_counter(), time.process_time()
        with float32_matmul(cast("Any", self.matmul)):
            done = train_step(
                self.model,
                self.optimizer,
                self.batch,
                self.batch.n_targets,
                step=1,
                micro_batch_seqs=self.batch.n_rows,
                mask_documents=self.mask_documents,
                grad_clip=1.0,
                processes=Processes(),
                compute=self.compute,
            )
        return time.perf_counter() - began, time.process_time() - spent, done.loss


def main() -> None:
    """Measure every way in turn and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shape", default="quickstart", choices=list(SHAPES))
    parser.add_argument("--ways", default="plain,onednn,blocked")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--optimizer", default="muon", choices=["adamw", "muon"])
    parser.add_argument("--no-document-masks", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    optim = OptimConfig(name=options.optimizer)
    ways = options.ways.split(",")
    steppers = {
        way: Stepper(options.shape, way, optim, not options.no_document_masks) for way in ways
    }
    one = steppers[ways[0]]
    print(
        f"{options.shape}: {format_count(count_params(one.model.config).total)} parameters, "
        f"{one.batch.tokens.size:,} tokens a step, {options.threads} threads, "
        f"torch {torch.__version__}, {describe_hardware('cpu')}"
    )
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        print(f"load average {os.getloadavg()[0]:.1f}: other programs slow this down")
    first = {}
    for way, stepper in steppers.items():
        began = time.perf_counter()
        stepper.step()
        first[way] = time.perf_counter() - began
    peaks: list[float] = []
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for _ in range(options.rounds):  # in turn, so that a busy minute hurts all
        peaks.append(measure_matmul(0.3))
        for way, stepper in steppers.items():
            found[way].append(stepper.step())
    print(f"float32 matrix product: {format_flops(statistics.median(peaks))}/s")
    print(
        f"{'way':<14} {'tokens/s':>9} {'FLOP/s':>15} {'wall':>6} {'CPU':>6} {'first step':>11} "
        f"{'loss':>8}"
    )
    for way, rows in found.items():
        wall = statistics.median(row[0] for row in rows)
        ratios = [
            statistics.median(a[i] / b[i] for a, b in zip(rows, found[ways[0]], strict=True))
            for i in (0, 1)
        ]
        print(
            f"{way:<14} {one.batch.tokens.size / wall:>9,.0f} "
            f"{format_flops(one.flops / wall):>13}/s {ratios[0]:>6.2f} {ratios[1]:>6.2f} "
            f"{first[way]:>9.1f} s {rows[-1][2]:>8.4f}"
        )


if __name__ == "__main__":
    main()
