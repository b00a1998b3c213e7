"""Shape of a model.

Owns `ModelConfig` and its derived properties. `accounting.py` counts parameters and FLOPs.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.changes import MetaChange
from ladderlm.config import added_later, execution_field, require
from ladderlm.errors import ConfigError

__all__ = ["MODEL_CHANGES", "AttentionBackend", "ModelConfig", "RopeScaling"]

AttentionBackend = Literal["auto", "sdpa", "blocked", "flex", "reference"]

_LARGEST = 2**31


@dataclass(frozen=True)
class RopeScaling:
    """Parameters of LLaMA 3.1's context extension.

    Args:
        factor: slow pairs of channels rotate this many times slower.
        low_freq_factor: waves longer than original_seq_len / this are slowed by the whole factor.
        high_freq_factor: waves shorter than original_seq_len / this stay as they are.
        original_seq_len: context of the model before the extension, in tokens.
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

    dim: int = 128
    """Width of the residual stream, in channels."""
    n_layers: int = 4
    """Number of transformer blocks."""
    n_heads: int = 4
    """Number of query heads. Each head has dim / n_heads channels."""
    n_kv_heads: int | None = None
    """Number of key/value heads; several query heads share one (grouped-query attention: Ainslie et
    al. 2023, 2305.13245). Default: as many as `n_heads`."""
    vocab_size: int | None = None
    """Number of tokens in the vocabulary. Default: taken from the data's tokenizer."""
    max_seq_len: int = 256
    """Longest context the model is built for, in tokens."""
    mlp: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    """Kind of MLP. swiglu: LLaMA's gated MLP with three matrices (Shazeer 2020, equation 6). gelu:
    two matrices with GELU between them. relu2: two matrices with squared ReLU (So et al. 2021,
    section 4.2). The width of the last two is 4 dim."""
    ffn_dim: int | None = None
    """Hidden width of the MLP, in channels. Default: by Meta's rule for swiglu, 4 dim for the
    others."""
    multiple_of: int = 32
    """Meta's rule rounds the hidden width of swiglu up to a multiple of this."""
    ffn_dim_multiplier: float | None = None
    """Factor on the hidden width in Meta's rule, before rounding. LLaMA 2 70B uses 1.3. Default: no
    factor."""
    norm_eps: float = 1e-5
    """Number added to the mean square under the root of RMSNorm."""
    rope_theta: float = 10000.0
    """Base of the angles of rotary position embeddings (Su et al. 2021). LLaMA 3 uses 500000."""
    rope_scaling_factor: float | None = added_later(None)
    """Factor by which LLaMA 3.1 stretches the context: slow pairs of channels rotate this many
    times slower. LLaMA 3.1 uses 8, LLaMA 3.2 uses 32. Default: no scaling."""
    rope_low_freq_factor: float = added_later(1.0)
    """Waves longer than rope_original_seq_len / this are slowed by the whole factor."""
    rope_high_freq_factor: float = added_later(4.0)
    """Waves shorter than rope_original_seq_len / this stay unchanged."""
    rope_original_seq_len: int = added_later(8192)
    """Context of the model before it was stretched, in tokens."""
    tied_head: bool = added_later(False)
    """Use the embedding table as the output head too, as LLaMA 3.2 does."""
    logit_softcap: float | None = added_later(None)
    """Limit logits to cap * tanh(logit / cap) (Gemma Team 2024, 2408.00118, section 2). Default: no
    limit."""
    qk_norm: bool = added_later(False)
    """Apply RMSNorm to each query and key head before the rotary embedding (Henry et al. 2020;
    Dehghani et al. 2023, section 2)."""
    value_embeddings: int = added_later(0)
    """Number of per-token embedding tables that are added to the attention values. The layers use
    the tables in turn. 0: none."""
    dropout: float = 0.0
    """Probability of dropout on each residual branch. LLaMA uses none."""
    init_std: float | None = None
    """Standard deviation of the initial weights of matrices that read the residual stream. Default:
    1 / sqrt(dim)."""
    attention: AttentionBackend = execution_field("auto")
    """Implementation of attention; all compute the same function. auto: blocked on a CPU for long
    rows and wide heads, sdpa otherwise. sdpa: PyTorch's fused kernel. blocked: blocks of queries
    that skip masked keys, for CPUs. flex: PyTorch's FlexAttention, on a GPU only. reference: Meta's
    explicit order of operations, slow."""

    def __post_init__(self) -> None:
        counts = ("dim", "n_layers", "n_heads", "max_seq_len", "multiple_of")
        for name in (*counts, "rope_original_seq_len", "n_kv_heads", "ffn_dim", "vocab_size"):
            value = getattr(self, name)
            valid = value is None or 1 <= value < _LARGEST
            require(f"model.{name}", value, valid, "be at least 1 and below 2^31")
        if self.dim % (2 * self.n_heads):
            fitting = _divisors(self.dim // 2)
            fix = "choose an even dim" if self.dim % 2 else f"choose n_heads among {fitting}"
            rule = f"split into model.n_heads = {self.n_heads} heads of equal and even width"
            require("model.dim", self.dim, False, rule, fix)
        if self.n_heads % self.kv_heads:
            fix = f"choose n_kv_heads among {_divisors(self.n_heads)}"
            rule = f"be a multiple of model.n_kv_heads = {self.kv_heads}"
            require("model.n_heads", self.n_heads, False, rule, fix)
        positive = ("norm_eps", "rope_theta", "ffn_dim_multiplier", "init_std", "logit_softcap")
        for name in positive:
            value = getattr(self, name)
            require(f"model.{name}", value, value is None or value > 0, "be positive")
        factor = self.rope_scaling_factor
        low, high = self.rope_low_freq_factor, self.rope_high_freq_factor
        valid, fix = factor is None or factor >= 1, "leave it out for no scaling"
        require("model.rope_scaling_factor", factor, valid, "be at least 1", fix)
        rule = f"be above 0 and below model.rope_high_freq_factor = {high}"
        require("model.rope_low_freq_factor", low, 0 < low < high, rule)
        tables, rule = self.value_embeddings, f"be between 0 and model.n_layers = {self.n_layers}"
        require("model.value_embeddings", tables, 0 <= tables <= self.n_layers, rule)
        require("model.dropout", self.dropout, 0 <= self.dropout < 1, "be at least 0 and below 1")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, with the default filled in."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Number of channels of one head."""
        return self.dim // self.n_heads

    @property
    def rope_scaling(self) -> RopeScaling | None:
        """The four options of LLaMA 3.1's context extension, or None if it is off."""
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

        SwiGLU follows Meta's rule with both truncations: int(2 * 4 dim / 3), times the multiplier
        and truncated again, rounded up to `multiple_of`. The others use 4 dim. Source:
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
        """`vocab_size`; raises ConfigError if it has not been taken from a tokenizer yet."""
        if self.vocab_size is None:
            fix = "set model.vocab_size, or name prepared data, whose tokenizer determines it"
            raise ConfigError("model.vocab_size is not set", fix=fix)
        return self.vocab_size


def _divisors(n: int) -> list[int]:
    return [divisor for divisor in range(1, min(n, 4096) + 1) if n % divisor == 0]


MODEL_CHANGES = (
    MetaChange(
        "Loss and backward pass",
        "none: forward runs under inference_mode",
        "token_nats gives nats per token; sums over micro-batches and processes are divided once "
        "by the global count of targets",
        "model/loss.py, training/step.py",
        {"model.logit_softcap": "bounds the logits by a tanh"},
    ),
    MetaChange(
        "Starting weights",
        "none: weights are always loaded",
        "seeded normal weights; matrices that write to the residual stream are scaled by "
        "1/sqrt(2 n_layers)",
        "model/init.py",
        {"model.init_std": "for matrices that read it"},
    ),
    MetaChange(
        "Layers",
        "column and row parallel layers of fairscale, one shard per GPU",
        "plain torch layers with the same parameter names",
        "model/transformer.py",
        {
            "model.tied_head": "the embedding table is the head, as in LLaMA 3.2",
            "model.dropout": "on each residual branch",
        },
    ),
    MetaChange(
        "Attention",
        "explicit matrix multiplications, causal over the whole row",
        "causal within each document of a packed row, where positions restart",
        "model/attention.py, model/blocked.py, model/flex.py",
        {
            "model.attention": {
                "auto": "blocked or sdpa",
                "sdpa": "PyTorch's fused kernel",
                "blocked": "blocks of queries on a CPU",
                "flex": "FlexAttention on a GPU, which skips masked blocks",
                "reference": "Meta's order of operations, which tests compare with",
            },
            "model.qk_norm": "RMSNorm of queries and keys",
            "model.value_embeddings": "per-token tables, added to the values",
        },
    ),
    MetaChange(
        "MLP",
        "SwiGLU",
        "one of three",
        "model/mlp.py",
        {
            "model.mlp": {
                "swiglu": "with Meta's rounding of the width",
                "gelu": "two matrices, 4 dim wide",
                "relu2": "the same with squared ReLU",
            },
            "model.ffn_dim": "sets the width",
        },
    ),
    MetaChange(
        "Norm",
        "RMSNorm",
        "the same numbers, with a custom backward pass that reads memory fewer times",
        "model/norm.py",
    ),
    MetaChange(
        "Rotary positions",
        "complex numbers; base fixed at 10,000",
        "pairs of real numbers, equal within rounding",
        "model/rope.py",
        {
            "model.rope_theta": "the base",
            "model.rope_scaling_factor": "context extension of LLaMA 3.1, with "
            "rope_low_freq_factor, rope_high_freq_factor and rope_original_seq_len",
        },
    ),
    MetaChange(
        "Key/value cache",
        "allocated on the GPU in every constructor",
        "allocated for generation and passed in",
        "model/attention.py, generation/engine.py",
    ),
)
