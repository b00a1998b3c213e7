"""Shape of a model.

Owns `ModelConfig` and everything derived from it. Does not count parameters or FLOPs
(`accounting.py`) and builds nothing.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.config import added_later, execution_field
from ladderlm.errors import ConfigError

__all__ = ["AttentionBackend", "ModelConfig", "RopeScaling"]

AttentionBackend = Literal["auto", "sdpa", "blocked", "flex", "reference"]

_LARGEST = 2**31


@dataclass(frozen=True)
class RopeScaling:
    """LLaMA 3.1's way of stretching the context: which waves are slowed, and by how much.

    Args:
        factor: slow pairs turn this many times slower.
        low_freq_factor: waves longer than original_seq_len / this are slowed by the whole factor.
        high_freq_factor: waves shorter than original_seq_len / this stay as they are.
        original_seq_len: tokens; the context of the model before it was stretched.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_seq_len: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of one decoder-only transformer of the LLaMA family; everything derived is a property.

    Names are Meta's. `None` means "derived" for a width and "off" for a feature.
    """

    dim: int = 128  # width of the residual stream
    n_layers: int = 4  # transformer blocks
    n_heads: int = 4  # query heads
    n_kv_heads: int | None = None  # key/value heads; None: as many as n_heads
    vocab_size: int | None = None  # None: taken from the data's tokenizer before the run starts
    max_seq_len: int = 256  # tokens; the longest context the model is built for
    mlp: Literal["swiglu", "gelu", "relu2"] = (
        "swiglu"  # swiglu: LLaMA's three matrices; the others: two, 4x wide
    )
    ffn_dim: int | None = None  # hidden width of the MLP; None: Meta's rule, see ffn_width
    multiple_of: int = 32  # Meta's rule rounds the SwiGLU width up to a multiple of this
    ffn_dim_multiplier: float | None = None  # Meta's rule, as in LLaMA 2 70B
    norm_eps: float = 1e-5  # inside the root of RMSNorm
    rope_theta: float = 10000.0  # base of the rotary angles
    rope_scaling_factor: float | None = added_later(None)  # LLaMA 3.1: 8, 3.2: 32; None: off
    rope_low_freq_factor: float = added_later(1.0)  # waves longer than original / this: all scaled
    rope_high_freq_factor: float = added_later(4.0)  # waves shorter than original / this: untouched
    rope_original_seq_len: int = added_later(8192)  # tokens; context before the angles were scaled
    tied_head: bool = added_later(False)  # the head is the embedding table, as in LLaMA 3.2
    logit_softcap: float | None = added_later(None)  # logits are cap * tanh(x / cap); None: off
    qk_norm: bool = added_later(False)  # RMSNorm of every query and key, before they are turned
    value_embeddings: int = added_later(0)  # tables by token that layers, in turn, add to values
    dropout: float = 0.0  # on each residual branch; LLaMA has none
    init_std: float | None = None  # of input matrices; None: 1 / sqrt(dim)
    attention: AttentionBackend = execution_field(
        "auto"
    )  # auto: blocked for long rows on a CPU, else sdpa; flex: GPU; reference: Meta's order

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "max_seq_len", "multiple_of"):
            _check_count(f"model.{name}", getattr(self, name))
        _check_count("model.rope_original_seq_len", self.rope_original_seq_len)
        for name in ("n_kv_heads", "ffn_dim", "vocab_size"):
            if getattr(self, name) is not None:
                _check_count(f"model.{name}", getattr(self, name))
        if self.dim % self.n_heads or (self.dim // self.n_heads) % 2:
            most = min(self.dim // 2, 4096)
            fitting = [h for h in range(1, most + 1) if self.dim % (2 * h) == 0]
            raise ConfigError(
                f"model.dim = {self.dim} does not split into model.n_heads = {self.n_heads} heads",
                "each head needs an equal and even width: RoPE turns pairs of channels",
                f"choose n_heads among {fitting}" if fitting else "choose an even dim",
            )
        if self.n_heads % self.kv_heads:
            most = min(self.n_heads, 4096)
            divisors = [k for k in range(1, most + 1) if self.n_heads % k == 0]
            raise ConfigError(
                f"model.n_heads = {self.n_heads} is not a multiple of n_kv_heads = {self.kv_heads}",
                "each key/value head serves an equal share of the query heads",
                f"choose n_kv_heads among {divisors}",
            )
        for name, low in (("norm_eps", 0.0), ("rope_theta", 0.0)):
            if getattr(self, name) <= low:
                raise ConfigError(f"model.{name} = {getattr(self, name)}", "it must be positive")
        if self.rope_scaling_factor is not None and self.rope_scaling_factor < 1:
            raise ConfigError(
                f"model.rope_scaling_factor = {self.rope_scaling_factor}",
                "it divides the angles of slow pairs, so it is at least 1",
                "leave it out for no scaling",
            )
        if not 0 < self.rope_low_freq_factor < self.rope_high_freq_factor:
            raise ConfigError(
                f"model.rope_low_freq_factor = {self.rope_low_freq_factor}, "
                f"model.rope_high_freq_factor = {self.rope_high_freq_factor}",
                "between the two the scaling is blended, so the first is positive and smaller",
            )
        for name in ("ffn_dim_multiplier", "init_std", "logit_softcap"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"model.{name} = {value}", "it must be positive")
        if not 0 <= self.value_embeddings <= self.n_layers:
            raise ConfigError(
                f"model.value_embeddings = {self.value_embeddings}",
                f"each of the {self.n_layers} layers uses one table",
                f"choose 0 (none), 1 (shared by all) .. {self.n_layers} (one a layer)",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"model.dropout = {self.dropout}", "it is a probability below 1")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, with the default filled in."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.n_heads

    @property
    def rope_scaling(self) -> RopeScaling | None:
        """The four options of scaled rotary angles together; None: not scaled."""
        if self.rope_scaling_factor is None:
            return None
        return RopeScaling(
            self.rope_scaling_factor,
            self.rope_low_freq_factor,
            self.rope_high_freq_factor,
            self.rope_original_seq_len,
        )

    @property
    def ffn_width(self) -> int:
        """Hidden width F of the MLP.

        SwiGLU follows Meta's rule, both truncations included: int(2 * 4 dim / 3), times the
        multiplier and truncated again, rounded up to `multiple_of`. The others use 4 dim. Source:
        facebookresearch/llama, FeedForward.
        """
        if self.ffn_dim is not None:
            return self.ffn_dim
        if self.mlp != "swiglu":
            return 4 * self.dim
        width = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return self.multiple_of * ((width + self.multiple_of - 1) // self.multiple_of)

    @property
    def vocabulary(self) -> int:
        """`vocab_size`, once it is known.

        Raises:
            ConfigError: the config has not been resolved against a tokenizer.
        """
        if self.vocab_size is None:
            raise ConfigError(
                "model.vocab_size is not set",
                "the embedding and the head have one row per token of the vocabulary",
                "name prepared data (it brings its tokenizer) or set model.vocab_size",
            )
        return self.vocab_size


def _check_count(name: str, value: int) -> None:
    if not 1 <= value < _LARGEST:
        raise ConfigError(f"{name} = {value}", "it must be at least 1 and below 2^31")
