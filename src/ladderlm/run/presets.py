"""Named starting points for `--preset` and study files.

Owns the table; `model/published.py` owns the shapes of published models. Options override a preset.
"""

from ladderlm.config import from_dict, nearest
from ladderlm.errors import ConfigError
from ladderlm.model.published import PUBLISHED_SHAPES
from ladderlm.training.run_config import RunConfig

__all__ = ["PRESETS", "preset"]

# From a search over rates, batches and row lengths at 5e11 and 4e12 FLOPs on source code.
_SMALL_OPTIM: dict[str, object] = {
    "name": "muon",
    "learning_rate": 0.03,
    "embedding_lr_scale": 10.0,
    "beta1": 0.8,
    "final_lr_fraction": 0.0,
}

# Batch of 4M tokens, 2,000 updates of warm-up, weight decay 0.1 and a last rate of a tenth: Touvron
# et al. 2023 (LLaMA 1, section 2.2; LLaMA 2, section 2.2). Rates and tokens of each size: LLaMA 1,
# table 2; LLaMA 2, section 2.2; Llama 3: Grattafiori et al. 2024, table 3. Those of 3.2 are not
# published; here they have the rate of Llama 3's smallest model.
_PUBLISHED_BATCH_TOKENS = 2**22
_PUBLISHED_TRAINING: dict[str, tuple[float, float, int]] = {  # prefix: rate, tokens, row length
    "llama-1-7b": (3e-4, 1.0e12, 2048),
    "llama-1-13b": (3e-4, 1.0e12, 2048),
    "llama-1-33b": (1.5e-4, 1.4e12, 2048),
    "llama-1-65b": (1.5e-4, 1.4e12, 2048),
    "llama-2-7b": (3e-4, 2.0e12, 4096),
    "llama-2-13b": (3e-4, 2.0e12, 4096),
    "llama-2-70b": (1.5e-4, 2.0e12, 4096),
    "llama-3-8b": (3e-4, 15e12, 8192),
    "llama-3-70b": (1.5e-4, 15e12, 8192),
    "llama-3.1-8b": (3e-4, 15e12, 8192),
    "llama-3.1-70b": (1.5e-4, 15e12, 8192),
    "llama-3.2-1b": (3e-4, 9e12, 8192),
    "llama-3.2-3b": (3e-4, 9e12, 8192),
}


def _published(name: str) -> dict[str, object]:
    """Return the published shape with the published training, as far as it is known."""
    learning_rate, n_tokens, seq_len = _PUBLISHED_TRAINING[name]
    n_steps = round(n_tokens / _PUBLISHED_BATCH_TOKENS)
    return {
        "model": PUBLISHED_SHAPES[name],
        "data": {"seq_len": seq_len},
        "train": {"n_steps": n_steps, "global_batch_tokens": _PUBLISHED_BATCH_TOKENS},
        "optim": {"learning_rate": learning_rate, "warmup_fraction": 2000 / n_steps},
    }


# Everything that the paper states (section 2.2, tables 1 and 2) is written out, so that no later
# default can change it. Shape and length are those of 7B; see docs/llama-paper.md for the others.
_LLAMA_PAPER: dict[str, object] = {
    **_published("llama-1-7b"),
    "optim": {
        "name": "adamw",
        "learning_rate": 3e-4,
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.1,
        "grad_clip": 1.0,
        "schedule": "cosine",
        "warmup_fraction": 2000 / round(1.0e12 / _PUBLISHED_BATCH_TOKENS),
        "final_lr_fraction": 0.1,
    },
}

PRESETS: dict[str, dict[str, object]] = {
    # Minutes on two cores with a vocabulary of 1,024 to 4,096.
    "llama": {
        "model": {"dim": 64, "n_layers": 2, "n_heads": 8, "max_seq_len": 256, "multiple_of": 8},
        "data": {"seq_len": 128},
        "train": {"n_steps": 1000, "global_batch_tokens": 2048},
        "optim": _SMALL_OPTIM,
    },
    # About 5M parameters with a vocabulary of 8,192: a few minutes on two cores.
    "llama-5m": {
        "model": {"dim": 192, "n_layers": 4, "n_heads": 6, "max_seq_len": 512},
        "data": {"seq_len": 256},
        "train": {"n_steps": 600, "global_batch_tokens": 4096},
        "optim": _SMALL_OPTIM | {"learning_rate": 0.01},
    },
    # GPT-2 small's size, for one GPU.
    "llama-124m": {
        "model": {
            "dim": 768,
            "n_layers": 12,
            "n_heads": 12,
            "max_seq_len": 1024,
            "multiple_of": 256,
        },
        "data": {"seq_len": 1024},
        "train": {"n_steps": 5000, "global_batch_tokens": 491520},
        "optim": {"learning_rate": 6e-4, "warmup_fraction": 0.02},
    },
    "llama-paper": _LLAMA_PAPER,
    **{name: _published(name) for name in PUBLISHED_SHAPES},
}


def preset(name: str) -> RunConfig:
    """Return the named config.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        close = nearest(name, PRESETS)
        raise ConfigError(
            f"the preset must be one of {', '.join(PRESETS)}, got {name!r}",
            fix=f"did you mean {close}?" if close else "",
        )
    return from_dict(RunConfig, PRESETS[name], f"preset {name}")
