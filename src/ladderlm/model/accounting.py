"""Count parameters and FLOPs from a config alone, without building the model or torch.

Owns the counting conventions of the project. Tests compare the formulas with the built model and
with PyTorch's FLOP counter.
"""

from dataclasses import dataclass

from ladderlm.model.config import ModelConfig

__all__ = [
    "ParamCount",
    "count_params",
    "forward_flops_per_token",
    "recomputed_flops_per_token",
    "train_flops_6nd",
    "train_flops_per_token",
]


@dataclass(frozen=True)
class ParamCount:
    """Number of parameters by kind.

    Args:
        matrices: attention and MLP matrices of all layers.
        head: output matrix, also if it is tied to the embedding table.
        embedding: lookup tables, except one that is tied to the head.
        norms: gains of RMSNorm.
    """

    matrices: int
    head: int
    embedding: int
    norms: int

    @property
    def total(self) -> int:
        """Number of all trained parameters."""
        return self.matrices + self.head + self.embedding + self.norms

    @property
    def n_matmul(self) -> int:
        """N of the ladders: parameters of all multiplied matrices, without lookup tables."""
        return self.matrices + self.head


def count_params(model: ModelConfig) -> ParamCount:
    """Count the parameters of a config with a known vocabulary."""
    attention = model.dim * model.head_dim * (2 * model.n_heads + 2 * model.kv_heads)
    n_mlp_matrices = 3 if model.mlp == "swiglu" else 2
    mlp = n_mlp_matrices * model.dim * model.ffn_width
    value_tables = model.value_embeddings * model.vocabulary * model.kv_heads * model.head_dim
    norm_gains = (2 * model.n_layers + 1) * model.dim
    if model.qk_norm:
        norm_gains += 2 * model.n_layers * model.head_dim
    return ParamCount(
        matrices=model.n_layers * (attention + mlp),
        head=model.vocabulary * model.dim,
        embedding=value_tables + (0 if model.tied_head else model.vocabulary * model.dim),
        norms=norm_gains,
    )


def forward_flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """Count forward FLOPs per position of a full causal sequence of `seq_len` positions.

    Two per weight of `n_matmul`, plus attention scores and mixing: 2 * 2 * n_heads * head_dim *
    mean span per layer, where a causal position sees (seq_len + 1) / 2 keys on average. Norms,
    softmax and activations are not counted, as is usual. Source: Kaplan et al. 2020, table 1, with
    the causal mean instead of the full context.
    """
    mean_span = (seq_len + 1) / 2
    attention = 4.0 * model.n_heads * model.head_dim * mean_span * model.n_layers
    return 2.0 * count_params(model).n_matmul + attention


def train_flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """Count the FLOPs of training per position: three times those of the forward pass.

    Recomputation (which would be hardware FLOPs) and the optimizer are not counted.
    """
    return 3.0 * forward_flops_per_token(model, seq_len)


def recomputed_flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """Count the FLOPs of a second forward pass through the layers, without the head."""
    return forward_flops_per_token(model, seq_len) - 2.0 * count_params(model).head


def train_flops_6nd(model: ModelConfig, n_tokens: int) -> float:
    """Return the 6ND estimate with N = `n_matmul`, for comparison with the exact count."""
    return 6.0 * count_params(model).n_matmul * n_tokens
