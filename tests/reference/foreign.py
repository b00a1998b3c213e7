"""Folders as Meta and Hugging Face write them, made in the plainest way and without our writers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ladderlm.model.transformer import Transformer

__all__ = ["hf_tensors", "hf_values", "meta_shards", "write_hf_folder", "write_meta_folder"]


def in_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder rows head by head: even channels first, then odd ones."""
    width = len(weight) // n_heads
    order = []
    for head in range(n_heads):
        order += [head * width + i for i in range(0, width, 2)]
        order += [head * width + i for i in range(1, width, 2)]
    return weight[order].clone()


def hf_tensors(model: Transformer) -> dict[str, Tensor]:
    """Return the weights under Hugging Face's names."""
    config, found = model.config, {}
    weights = {name: p.detach() for name, p in model.named_parameters()}
    found["model.embed_tokens.weight"] = weights["tok_embeddings.weight"]
    found["model.norm.weight"] = weights["norm.weight"]
    if not config.tied_head:
        found["lm_head.weight"] = weights["output.weight"]
    for i in range(config.n_layers):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        wq, wk = (weights[f"{ours}attention.w{x}.weight"] for x in "qk")
        found[f"{theirs}self_attn.q_proj.weight"] = in_halves(wq, config.n_heads)
        found[f"{theirs}self_attn.k_proj.weight"] = in_halves(wk, config.kv_heads)
        for a, b in {"attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
                     "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
                     "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
                     "ffn_norm": "post_attention_layernorm"}.items():  # fmt: skip
            found[f"{theirs}{b}.weight"] = weights[f"{ours}{a}.weight"]
    return found


def hf_values(model: Transformer) -> dict[str, Any]:
    """Return `config.json` in the dialect of transformers 4."""
    config = model.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocabulary,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
    }


def write_hf_folder(folder: Path, model: Transformer, **changes: Any) -> Path:
    """Write config and one safetensors file; `changes` replace options of the config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(hf_tensors(model), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_values(model) | changes))
    return folder


def meta_shards(model: Transformer, n_shards: int, embedding_axis: int) -> list[dict[str, Tensor]]:
    """Cut the weights as the processes of fairscale hold them."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(n_shards)]
    weights = {name: p.detach() for name, p in model.named_parameters()}
    weights.setdefault("output.weight", weights["tok_embeddings.weight"])
    for name, weight in weights.items():
        part = name.split(".")[-2]
        for rank in range(n_shards):
            if part in ("wq", "wk", "wv", "w1", "w3", "output"):
                step = weight.shape[0] // n_shards
                cut = weight[rank * step : (rank + 1) * step]
            elif part in ("wo", "w2") or (part == "tok_embeddings" and embedding_axis == 1):
                step = weight.shape[1] // n_shards
                cut = weight[:, rank * step : (rank + 1) * step]
            elif part == "tok_embeddings":
                step = weight.shape[0] // n_shards
                cut = weight[rank * step : (rank + 1) * step]
            else:
                cut = weight
            shards[rank][name] = cut.clone()
            shards[rank]["rope.freqs"] = torch.ones(model.config.head_dim // 2)
    return shards


def write_meta_folder(
    folder: Path, model: Transformer, n_shards: int = 1, embedding_axis: int = 1, **changes: Any
) -> Path:
    """Write `consolidated.NN.pth` and `params.json`; `changes` replace options or add some."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, shard in enumerate(meta_shards(model, n_shards, embedding_axis)):
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    config = model.config
    params = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.kv_heads,
        "multiple_of": config.multiple_of,
        "norm_eps": config.norm_eps,
        "vocab_size": -1,
    }
    (folder / "params.json").write_text(json.dumps(params | changes))
    return folder
