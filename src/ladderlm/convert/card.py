"""The model card of an exported folder.

Owns the text of its README.md: shape, origin, and how to load the model.
"""

from ladderlm.convert.weights import Source
from ladderlm.model.accounting import count_params

__all__ = ["model_card"]


def model_card(source: Source, dtype: str) -> str:
    """Return a Hugging Face model card."""
    config, count = source.config, count_params(source.config)
    scaling = config.rope_scaling_factor
    base = f"{config.rope_theta:g}" + (f", scaled by {scaling:g}" if scaling else "")
    rows = {
        "parameters": f"{count.total:,}",
        "of these in matrix multiplications": f"{count.n_matmul:,}",
        "width": config.dim,
        "layers": config.n_layers,
        "heads, of keys and values": f"{config.n_heads}, {config.kv_heads}",
        "MLP width": config.ffn_width,
        "vocabulary": config.vocabulary,
        "context": f"{config.max_seq_len:,} tokens",
        "RoPE base": base,
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

Its authors describe here what it was trained on, its intended use and its licence.
"""
