"""Meta's `ModelArgs` and `Transformer` around our model.

Owns the cache between calls, and the loading of a model from a source of any format.
"""

from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from ladderlm.config import require
from ladderlm.convert.weights import EMBEDDING, HEAD, Source, beyond_llama
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.model.attention import LayerCache
from ladderlm.model.config import ModelConfig
from ladderlm.model.rope import rope_table
from ladderlm.model.transformer import Transformer as OwnTransformer

__all__ = ["ModelArgs", "Transformer", "load_model"]


@dataclass
class ModelArgs:
    """Meta's options of a model with Meta's defaults, and the options of LLaMA 3.1 and 3.2."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    vocab_size: int = -1
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    max_batch_size: int = 32
    max_seq_len: int = 2048
    rope_theta: float = 10000.0
    rope_scaling_factor: float | None = None
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_seq_len: int = 8192
    ffn_dim: int | None = None  # for a width that Meta's rule cannot give
    tied_head: bool = False

    def config(self) -> ModelConfig:
        """Return the same shape as our config. A shape that is not allowed is a `ConfigError`."""
        fix = "set it to the n_words of the tokenizer"
        require("vocab_size", self.vocab_size, self.vocab_size >= 1, "be at least 1", fix)
        values = asdict(self)
        del values["max_batch_size"]
        return ModelConfig(**values)


class Transformer(OwnTransformer):
    """Meta's model: `model(tokens, start_pos)`, which keeps the keys and values of earlier calls.

    Args:
        params: shape, and size of the cache: max_batch_size texts of max_seq_len tokens.
    """

    def __init__(self, params: ModelArgs) -> None:
        super().__init__(params.config())
        self.params = params
        self.vocab_size, self.n_layers = params.vocab_size, params.n_layers
        self._caches: list[LayerCache] = []

    @torch.inference_mode()
    def forward(self, tokens: Tensor, start_pos: int) -> Tensor:  # type: ignore[override]
        """Return float32 logits (B, T, V) of tokens (B, T) at positions from start_pos.

        Raises:
            ConfigError: there are more texts or positions than the cache holds.
        """
        n_rows, end = tokens.shape[0], start_pos + tokens.shape[1]
        most, longest = self.params.max_batch_size, self.params.max_seq_len
        if n_rows > most or end > longest:
            raise ConfigError(
                f"{n_rows} texts up to position {end} do not fit in the cache of {most} texts of "
                f"{longest} tokens",
                fix="build the model with a larger max_batch_size or max_seq_len",
            )
        weight = self.tok_embeddings.weight
        if not self._caches or self._caches[0].keys.device != weight.device:
            self._caches = self.make_caches(most, longest)
        rows = [LayerCache(c.keys[:n_rows], c.values[:n_rows]) for c in self._caches]
        return self.step(tokens, rows, start_pos)


def load_model(
    source: Source, max_seq_len: int, max_batch_size: int, device: str, dtype: torch.dtype
) -> Transformer:
    """Load a model a tensor at a time, without initialising it first.

    Raises:
        CheckpointError: the model is not of the LLaMA architecture, or is damaged.
    """
    config = source.config
    if option := beyond_llama(config):
        raise CheckpointError(
            f"{source.folder} has {option}, which Meta's interface does not support",
            fix="open it with `ladderlm.load`",
        )
    names = {field.name for field in fields(ModelArgs)} - {"max_batch_size"}
    values = {name: getattr(config, name) for name in names}
    args = ModelArgs(**values | {"max_seq_len": max_seq_len, "max_batch_size": max_batch_size})
    with torch.device("meta"):
        model = Transformer(args)
    state = {name: source.read(name).to(device, dtype) for name in source.dtypes}
    if config.tied_head:
        state[HEAD] = state[EMBEDDING]
    model.load_state_dict(state, strict=True, assign=True)
    if config.tied_head:
        model.output.weight = model.tok_embeddings.weight
    model.angles = rope_table(
        config.head_dim, max_seq_len, config.rope_theta, config.rope_scaling
    ).to(device)
    return model.eval()
