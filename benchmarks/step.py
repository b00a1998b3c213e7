"""How fast one training step is on this machine, and how much of the machine it uses.

    python benchmarks/step.py [--preset llama] [--seq-len 256] [--seconds 4]

Measures whole updates (forward, backward, clipping, AdamW) of a preset on made-up tokens, in turn
with a large float32 matrix product, so that both see the same machine at the same minute. The
ratio is the model's FLOPs (causal attention counted, recomputation and optimizer not) by that peak.
"""
# ruff: noqa: T201

import argparse
import os
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from ladderlm.data.batch import Batch
from ladderlm.dist import Processes
from ladderlm.model.accounting import count_params, train_flops_per_token
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer
from ladderlm.optim.groups import build_optimizer
from ladderlm.run.config import RunConfig
from ladderlm.run.presets import PRESETS, preset
from ladderlm.train.step import train_step
from ladderlm.units import format_count, format_flops

N_ROUNDS = 5
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


class Stepper:
    """A model, its optimizer and one batch."""

    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        self.model = Transformer(config.model)
        init_weights(self.model, 1)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.clip = config.optim.grad_clip
        n_rows = config.train.global_batch_tokens // config.data.seq_len
        self.batch = make_batch(n_rows, config.data.seq_len, config.model.vocabulary)

    def measure(self, seconds: float) -> float:
        """Give tokens per second of whole updates."""
        rates: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not rates:
            began = time.perf_counter()
            train_step(
                self.model,
                self.optimizer,
                self.batch,
                self.batch.n_targets,
                step=1,
                micro_batch_seqs=self.batch.n_rows,
                mask_documents=True,
                grad_clip=self.clip,
                processes=Processes(),
            )
            rates.append(self.batch.tokens.size / (time.perf_counter() - began))
        return statistics.median(rates)


def main() -> None:
    """Measure one thread and all threads, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--preset", default="llama", choices=list(PRESETS))
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each line of the table")
    options = parser.parse_args()

    base = preset(options.preset)
    model: ModelConfig = replace(
        base.model, vocab_size=options.vocab_size, max_seq_len=options.seq_len
    )
    n_tokens = max(base.train.global_batch_tokens // options.seq_len, 1) * options.seq_len
    config = replace(
        base,
        model=model,
        data=replace(base.data, seq_len=options.seq_len),
        train=replace(base.train, global_batch_tokens=n_tokens),
        eval=replace(base.eval, context=options.seq_len),
    )
    flops_per_token = train_flops_per_token(model, options.seq_len)
    print(
        f"{options.preset}: {format_count(count_params(model).total)} parameters, "
        f"{n_tokens:,} tokens a step in rows of {options.seq_len}, torch {torch.__version__}"
    )
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        print(f"load average {os.getloadavg()[0]:.1f}: other programs slow this down")
    print(f"{'threads':>7} {'tokens/s':>10} {'step':>15} {'matmul peak':>15} {'ratio':>6}")
    stepper = Stepper(config)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    for n_threads in sorted({1, min(2, n_cores), n_cores}):
        torch.set_num_threads(n_threads)
        stepper.measure(0.5)  # memory and caches warm up
        peaks, rates = [], []
        for _ in range(N_ROUNDS):  # in turn, so that a busy minute hurts both
            peaks.append(measure_matmul(0.3 * options.seconds / N_ROUNDS))
            rates.append(stepper.measure(0.7 * options.seconds / N_ROUNDS))
        rate, peak = statistics.median(rates), statistics.median(peaks)
        flops = rate * flops_per_token
        print(
            f"{n_threads:>7} {rate:>10,.0f} {format_flops(flops):>13}/s {format_flops(peak):>13}/s "
            f"{flops / peak:>6.2f}"
        )


if __name__ == "__main__":
    main()
