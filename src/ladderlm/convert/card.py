"""The model card of an exported folder.

Owns the text of its README.md: shape, how to load it, where it came from.
"""

from ladderlm.convert.weights import Source
from ladderlm.model.accounting import count_params

__all__ = ["model_card"]


def model_card(source: Source, dtype: str) -> str:
    """Return a Hugging Face model card."""
    config, count = source.config, count_params(source.config)
    scaling = config.rope_scaling_factor
    rows = {
        "parameters": f"{count.total:,}",
        "of these in matrix products": f"{count.n_matmul:,}",
        "width": config.dim,
        "layers": config.n_layers,
        "heads, of keys and values": f"{config.n_heads}, {config.kv_heads}",
        "MLP width": config.ffn_width,
        "vocabulary": config.vocabulary,
        "context": f"{config.max_seq_len:,} tokens",
        "rotary base": f"{config.rope_theta:g}" + (f", scaled by {scaling:g}" if scaling else ""),
        "head tied to the embedding": "yes" if config.tied_head else "no",
        "stored as": dtype,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- llama
- ladderlm
---

# A LLaMA-style language model

Converted by ladderlm from a folder of kind `{source.kind}`.

| | |
|---|---|
{table}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

What it was trained on, what it is good for and under which licence it may be used is for its
authors to say here.
"""
