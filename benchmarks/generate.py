"""How fast texts are written on this machine, beside transformers where it is installed.

    python benchmarks/generate.py [--threads 2] [--rounds 5] [--batch 1 16]

A model of random weights (384 wide, 6 layers, vocabulary 8192) continues prompts of 64 tokens by
200, greedily. The same weights are given to `transformers`, whose dynamic and static caches are
both measured. With `--llama-cpp TOKENIZER` and `llama-cpp-python`, llama.cpp reads them from a GGUF
file, one text at a time, since the binding's texts are single. Contenders take turns, so that all
see the same machine; the best round of each counts. Processor time stands beside wall time: other
programs disturb it less. In float32, 20 texts are compared with the likeliest tokens of whole
forward passes.
"""
# ruff: noqa: T201

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ladderlm.convert.gguf import write_gguf
from ladderlm.convert.weights import Source
from ladderlm.generation.config import SamplingConfig
from ladderlm.generation.decoder import Decoder
from ladderlm.generation.engine import GenerationRequest, generate_tokens
from ladderlm.generation.kernel import CompiledDecoder
from ladderlm.model.config import ModelConfig
from ladderlm.model.init import init_weights
from ladderlm.model.transformer import Transformer

N_PROMPT, N_NEW, N_CHECKED = 64, 200, 20
SHAPE = ModelConfig(
    dim=384, n_layers=6, n_heads=6, ffn_dim=1024, vocab_size=8192, max_seq_len=N_PROMPT + N_NEW
)
GREEDY = SamplingConfig(temperature=0.0)


def make_model() -> Transformer:
    """Return random weights whose head is scaled up, so that the likeliest token stands out."""
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    init_weights(model, 1)
    with torch.no_grad():
        model.output.weight.normal_(0, 0.2)
    return model.eval()


def make_prompts(n: int) -> list[list[int]]:
    """Return random prompts."""
    stream = torch.Generator().manual_seed(7)
    rows: list[list[int]] = torch.randint(0, 8192, (n, N_PROMPT), generator=stream).tolist()
    return rows


def to_transformers(model: Transformer, dtype: torch.dtype) -> Any:
    """Return the same weights as a `LlamaForCausalLM`; None where transformers is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    config = LlamaConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.dim,
        intermediate_size=SHAPE.ffn_width,
        num_hidden_layers=SHAPE.n_layers,
        num_attention_heads=SHAPE.n_heads,
        num_key_value_heads=SHAPE.kv_heads,
        max_position_embeddings=SHAPE.max_seq_len,
        rms_norm_eps=SHAPE.norm_eps,
    )
    names = {
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    own, state = model.state_dict(), {}
    for i in range(SHAPE.n_layers):
        for theirs, ours in names.items():
            weight = own[f"layers.{i}.{ours}.weight"]
            if theirs.endswith(("q_proj", "k_proj")):  # its rotation pairs channel i with i + E/2
                pairs = weight.view(-1, SHAPE.head_dim // 2, 2, SHAPE.dim)
                weight = pairs.transpose(1, 2).reshape(-1, SHAPE.dim)
            state[f"model.layers.{i}.{theirs}.weight"] = weight
    state["model.embed_tokens.weight"] = own["tok_embeddings.weight"]
    state["model.norm.weight"] = own["norm.weight"]
    state["lm_head.weight"] = own["output.weight"]
    other = LlamaForCausalLM(config)
    other.load_state_dict(state)
    return other.to(dtype).eval()


def ask_transformers(other: Any, prompts: Sequence[Sequence[int]], cache: str) -> list[list[int]]:
    """Continue prompts with `transformers.generate`."""
    ids = torch.tensor(prompts)
    options = {"cache_implementation": "static"} if cache == "static" else {}
    with torch.inference_mode():
        found = other.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=N_NEW,
            min_new_tokens=N_NEW,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
    rows: list[list[int]] = found[:, N_PROMPT:].tolist()
    return rows


def to_llama_cpp(model: Transformer, dtype: str, tokenizer: Path, n_threads: int) -> Any:
    """Give the same weights as a `Llama` of llama-cpp-python, which keeps its cache in float16."""
    from llama_cpp import Llama

    weights = model.state_dict()
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        read, out = weights.__getitem__, Path(folder)
        source = Source("native", out, SHAPE, dtypes, read, (), tokenizer, read)
        (path,) = write_gguf(source, out, dtype)
        return Llama(
            str(path), n_ctx=N_PROMPT + N_NEW, n_threads=n_threads, n_threads_batch=n_threads,
            verbose=False,
        )  # fmt: skip


def ask_llama_cpp(llama: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Continue prompts with llama.cpp, one after the other."""
    rows = []
    for prompt in prompts:
        llama.reset()
        rows.append(list(islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), N_NEW)))
    return rows


def ask_own(stepper: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Continue prompts with ladderlm."""
    request = GenerationRequest(max_new_tokens=N_NEW, sampling=GREEDY, stop_ids=frozenset())
    return [c.tokens for c in generate_tokens(stepper, prompts, request)]


def count_equal(model: Transformer, stepper: Any, prompts: Sequence[Sequence[int]]) -> int:
    """Count texts of a decoder equal to those of whole forward passes, in float32."""
    equal = 0
    for prompt, found in zip(prompts, ask_own(stepper, prompts), strict=True):
        with torch.inference_mode():  # teacher-forced: each token is the likeliest after the others
            whole = torch.tensor([[*prompt, *found]])
            likeliest = model(whole[:, :-1])[0, N_PROMPT - 1 :].argmax(-1)
        equal += likeliest.tolist() == found
    return equal


def measure(
    contenders: dict[str, Callable[[], Any]], n_tokens: int, n_rounds: int
) -> dict[str, tuple[float, float]]:
    """Return tokens per second of wall time and of processor time, best round of each."""
    best = dict.fromkeys(contenders, (0.0, 0.0))
    for _ in range(n_rounds + 1):  # the first warms up, and counts if it is the best
        for name, run in contenders.items():
            began, cpu = time.perf_counter(), time.process_time()
            run()
            rates = n_tokens / (time.perf_counter() - began), n_tokens / (time.process_time() - cpu)
            best[name] = max(best[name][0], rates[0]), max(best[name][1], rates[1])
    return best


def main() -> None:
    """Measure every batch and dtype and print a line for each contender."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--llama-cpp", type=Path, metavar="TOKENIZER", help="measure llama.cpp too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = make_model()
    print(f"torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    checked = make_prompts(N_CHECKED)
    n_equal = count_equal(model, Decoder(model), checked)
    compiled = CompiledDecoder(model)
    n_compiled = sum(count_equal(model, compiled, [prompt]) for prompt in checked)
    print(
        f"float32 texts equal to those of whole passes: {n_equal} of {N_CHECKED}, "
        f"compiled {n_compiled} of {N_CHECKED}"
    )
    print(f"{'dtype':<9} {'batch':>5} {'':<22} {'tokens/s':>9} {'per CPU-second':>15}")
    for dtype in options.dtype:
        decoder = Decoder(model, getattr(torch, dtype))
        compiled = CompiledDecoder(model, getattr(torch, dtype))
        other = to_transformers(model, getattr(torch, dtype))
        for batch in options.batch:
            prompts = make_prompts(batch)
            contenders = {
                "ladderlm": lambda d=decoder, p=prompts: ask_own(d, p),
                "ladderlm --compile": lambda d=compiled, p=prompts: ask_own(d, p),
            }
            if options.llama_cpp and batch == 1:
                ways = [dtype, "q8_0"] if dtype == options.dtype[-1] else [dtype]
                for way in ways:
                    llama = to_llama_cpp(model, way, options.llama_cpp, options.threads)
                    contenders[f"llama.cpp {way}"] = lambda m=llama, p=prompts: ask_llama_cpp(m, p)
            if other is not None:
                for cache in ("dynamic", "static"):
                    contenders[f"transformers {cache}"] = lambda o=other, p=prompts, c=cache: (
                        ask_transformers(o, p, c)
                    )
            rates = measure(contenders, batch * N_NEW, options.rounds)
            for name, (wall, cpu) in rates.items():
                print(f"{dtype:<9} {batch:>5} {name:<22} {wall:>9,.0f} {cpu:>15,.0f}", flush=True)


if __name__ == "__main__":
    main()
