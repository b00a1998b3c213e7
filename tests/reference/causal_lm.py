"""Small random models of transformers with their tokenizers, and their loss the plain way."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

__all__ = ["END", "plain_nats", "write_causal_lm", "write_tokenizer"]

END = "<|endoftext|>"
_CORPUS = ["def f(x): return the loss of a batch\n" * 4, "the model of a layer, 12 345 tokens"]


def write_tokenizer(folder: Path, bos: str | None, eos: str | None, normalizer: Any = None) -> int:
    """Write a byte-level BPE as GPT-2 has it; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=sorted({name for name in (bos, eos) if name}),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return int(tokenizer.get_vocab_size())


def write_causal_lm(
    folder: Path,
    kind: str,
    bos: str | None = END,
    eos: str | None = END,
    normalizer: Any = None,
    n_positions: int = 64,
) -> Path:
    """Write a random GPT-2 or GPT-NeoX of two layers, far from any symmetry."""
    import transformers

    n_tokens = write_tokenizer(folder, bos, eos, normalizer)
    shape = {"vocab_size": n_tokens, "max_position_embeddings": n_positions, "hidden_size": 16}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    else:
        shape["intermediate_size"] = 32
        model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**shape))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def plain_nats(folder: Path, ids: Sequence[int], context: int, stride: int) -> list[float]:
    """Return the nats of ids[1:], each by a forward pass of its own over what it may look back on.

    The first `context` targets see everything before them. The others stand in runs of `stride`,
    and a run sees at most `context` tokens, counted from its last one.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    nats = []
    for place in range(1, len(ids)):
        n_runs = max(0, -(-(place - context) // stride))
        end = min(len(ids) - 1, context + n_runs * stride)
        start = max(0, end - context) if n_runs else 0
        with torch.inference_mode():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1]
        nats.append(-float(logits.log_softmax(-1)[ids[place]]))
    return nats
