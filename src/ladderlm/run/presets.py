"""Named starting points for `--preset` and study files.

Owns the table. Each preset is a plain `RunConfig`; options override it.
"""

from ladderlm.config import from_dict, nearest
from ladderlm.errors import ConfigError
from ladderlm.run.config import RunConfig

__all__ = ["PRESETS", "preset"]

# Found by trying rates, batches and row lengths at 5e11 and 4e12 FLOPs on source code.
_SMALL_OPTIM: dict[str, object] = {
    "name": "muon",
    "learning_rate": 0.03,
    "embedding_lr_scale": 10.0,
    "beta1": 0.8,
}

PRESETS: dict[str, dict[str, object]] = {
    # Made for minutes on two cores with a vocabulary of 1,024 to 4,096.
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
}


def preset(name: str) -> RunConfig:
    """Give the named config.

    Raises:
        ConfigError: no such preset; offers the nearest.
    """
    if name not in PRESETS:
        close = nearest(name, PRESETS)
        raise ConfigError(
            f"unknown preset {name!r}",
            f"there are {', '.join(PRESETS)}",
            f"did you mean {close}?" if close else "choose one of those",
        )
    return from_dict(RunConfig, PRESETS[name], f"preset {name}")
