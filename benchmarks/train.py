"""How fast an update is here, beside nanoGPT, litgpt and transformers from their own code.

    python benchmarks/train.py --nanogpt nanoGPT/model.py --shape 384 --rounds 5

Every contender trains the same shape on the same random tokens in a process of its own, and the
processes take turns. What is not installed is left out. All are counted with one formula,
6 x (parameters in matrix products) + 12 x layers x length x width FLOPs a token.
"""
# ruff: noqa: T201

import argparse
import contextlib
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SHAPES = {  # width, layers, heads, width of the MLP
    "384": (384, 6, 6, 1024),
    "192": (192, 4, 3, 512),
}
VOCABULARY, LENGTH, ROWS = 8192, 512, 8
N_WARMUP, N_STEPS = 2, 6
NANOGPT = "nanogpt"
WAYS = {  # name: (implementation, compiled, bfloat16)
    "nanogpt": (NANOGPT, False, False),
    "nanogpt compiled, as its train.py has it": (NANOGPT, True, False),
    "litgpt": ("litgpt", False, False),
    "litgpt compiled": ("litgpt", True, False),
    "transformers": ("transformers", False, False),
    "transformers compiled": ("transformers", True, False),
    "ladderlm": ("ladderlm", False, False),
    "ladderlm compiled": ("ladderlm", True, False),
    "nanogpt bf16 autocast, compiled": (NANOGPT, True, True),
    "litgpt bf16 autocast, compiled": ("litgpt", True, True),
    "transformers bf16 autocast, compiled": ("transformers", True, True),
    "ladderlm bf16, compiled": ("ladderlm", True, True),
}
Step = Callable[[Any, Any], Any]


def adamw(parameters: Any) -> Any:
    """Return PyTorch's AdamW as it comes."""
    import torch

    return torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)


def plain_step(model: Any, loss_of: Callable[[Any, Any], Any], optimizer: Any, bf16: bool) -> Step:
    """Return forward, backward, clipping and update, in the order that all peers have."""
    import torch

    def step(tokens: Any, targets: Any) -> Any:
        context = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        with context:
            loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def by_nanogpt(args: argparse.Namespace, compiled: bool, bf16: bool) -> Step:
    """Build nanoGPT's GPT from its model.py, with its own choice of AdamW."""
    import torch

    spec = importlib.util.spec_from_file_location("nanogpt_model", args.nanogpt)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    dim, n_layers, n_heads, _ = SHAPES[args.shape]
    with contextlib.redirect_stdout(sys.stderr):
        spec.loader.exec_module(module)
        config = module.GPTConfig(
            block_size=LENGTH,
            vocab_size=VOCABULARY,
            n_layer=n_layers,
            n_head=n_heads,
            n_embd=dim,
            dropout=0.0,
            bias=False,
        )
        model = module.GPT(config)
        optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), "cpu")
    run = torch.compile(model) if compiled else model
    return plain_step(model, lambda x, y: run(x, y)[1], optimizer, bf16)


def by_litgpt(args: argparse.Namespace, compiled: bool, bf16: bool) -> Step:
    """Build litgpt's LLaMA and its loss."""
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    dim, n_layers, n_heads, mlp = SHAPES[args.shape]
    config = Config(
        name="bench",
        block_size=LENGTH,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        n_layer=n_layers,
        n_head=n_heads,
        n_embd=dim,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=1e-5,
        mlp_class_name="LLaMAMLP",
        intermediate_size=mlp,
    )
    model = GPT(config)
    run = torch.compile(model) if compiled else model
    loss = lambda x, y: chunked_cross_entropy(run(x), y, chunk_size=0)  # noqa: E731
    return plain_step(model, loss, adamw(model.parameters()), bf16)


def by_transformers(args: argparse.Namespace, compiled: bool, bf16: bool) -> Step:
    """Build transformers' LLaMA, which shifts its labels itself."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    dim, n_layers, n_heads, mlp = SHAPES[args.shape]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=dim,
        intermediate_size=mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    run = torch.compile(model) if compiled else model
    loss = lambda x, _: run(input_ids=x, labels=x).loss  # noqa: E731
    return plain_step(model, loss, adamw(model.parameters()), bf16)


def by_ladderlm(args: argparse.Namespace, compiled: bool, bf16: bool) -> Step:
    """Build the update that our runs make, document masks off unless they are asked for."""
    from dataclasses import replace

    from ladderlm.bench.step import SHAPES as OURS
    from ladderlm.bench.step import build

    name = "ours" + ("-bf16" if bf16 else "") + ("-compiled" if compiled else "")
    work = replace(OURS[args.shape], n_rows=ROWS, mask_documents=args.documents)
    update = build(name, work).update
    return lambda *_: update()


BUILDERS = {
    NANOGPT: by_nanogpt,
    "litgpt": by_litgpt,
    "transformers": by_transformers,
    "ladderlm": by_ladderlm,
}


def flops_per_token(shape: str) -> int:
    """Count the FLOPs of a token, head included and embedding not; see the module."""
    dim, n_layers, _, mlp = SHAPES[shape]
    n_matmul = n_layers * (4 * dim * dim + 3 * dim * mlp) + VOCABULARY * dim
    return 6 * n_matmul + 12 * n_layers * LENGTH * dim


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Make a few updates of one contender and time them."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    implementation, compiled, bf16 = WAYS[args.way]
    stream = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (N_WARMUP + N_STEPS, ROWS, LENGTH + 1), generator=stream)
    step = BUILDERS[implementation](args, compiled, bf16)
    began = time.perf_counter()
    loss = float(step(ids[0, :, :-1].contiguous(), ids[0, :, 1:].contiguous()))
    first = time.perf_counter() - began
    seconds, processor = [], []
    for batch in ids[1:]:
        began, cpu = time.perf_counter(), time.process_time()
        step(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - cpu)
    seconds, processor = seconds[N_WARMUP - 1 :], processor[N_WARMUP - 1 :]
    return {
        "tokens_per_second": ROWS * LENGTH / median(seconds),
        "first_step_seconds": first,
        "cpu_over_wall": sum(processor) / sum(seconds),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "loss": loss,
    }


def main() -> None:
    """Measure all contenders in turn and print a table, the fastest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="384")
    parser.add_argument("--nanogpt", type=Path, help="its model.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", action="store_true", help="ours: two documents a row")
    parser.add_argument("--bf16", action="store_true", help="with the ways in bfloat16")
    parser.add_argument("--way", choices=WAYS, help="measure one, print JSON")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(args.rounds):
        for way, (implementation, _, bf16) in WAYS.items():
            there = args.nanogpt if implementation == NANOGPT else is_installed(implementation)
            if not there or (bf16 and not args.bf16):
                continue
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{way}: {done.stderr[-2000:]}")
            found.setdefault(way, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(turn + 1, way, found[way][-1], file=sys.stderr, flush=True)
    print_table(found, args)


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def print_table(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Print medians over rounds; ratios are medians of those inside a round."""
    base = found.get("nanogpt compiled, as its train.py has it") or next(iter(found.values()))
    per_token = flops_per_token(args.shape)
    print("| way | tokens/s (range) | times nanoGPT | GFLOP/s | CPU over wall | first step | GB |")
    print("|---|---|---|---|---|---|---|")

    def speed(way: str) -> float:
        return median(row["tokens_per_second"] for row in found[way])

    for way in sorted(found, key=speed, reverse=True):
        rows = found[way]
        rates = [row["tokens_per_second"] for row in rows]
        pairs = zip(rows, base, strict=True)
        ratio = median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs)
        cells = [
            way,
            f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
            f"{ratio:.2f}",
            f"{median(rates) * per_token / 1e9:.0f}",
            f"{median(row['cpu_over_wall'] for row in rows):.2f}",
            f"{median(row['first_step_seconds'] for row in rows):.1f} s",
            f"{max(row['peak_gb'] for row in rows):.2f}",
        ]
        print("| " + " | ".join(cells) + " |")
    print(
        f"\n{args.rounds} rounds of {N_STEPS} updates, {args.threads} threads, shape {args.shape}"
    )


if __name__ == "__main__":
    main()
