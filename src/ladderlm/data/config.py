"""Options of the training data.

Owns `DataConfig`. The path of the data is execution; its content is part of a run's meaning.
"""

from dataclasses import dataclass
from typing import Literal

from ladderlm.changes import MetaChange
from ladderlm.config import added_later, execution_field
from ladderlm.errors import ConfigError

__all__ = ["DATA_CHANGES", "DataConfig", "Packing"]

Packing = Literal["concat", "padded", "best-fit"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data, row length, packing and order.

    The fingerprints are None in a config written by hand. They are filled in from the manifests
    before the run starts, are part of its id, and are checked at every resume.
    """

    path: str | None = execution_field(None)
    """Folder that `ladderlm prepare` wrote."""
    split: str = "train"
    """Name of the split to train on."""
    seq_len: int = 256
    """Length of a row, in tokens."""
    packing: Packing = "concat"
    """How documents are put into rows. concat: documents are laid end to end and cut into rows.
    padded: each document begins a row of its own. best-fit: short documents share rows, and only
    documents longer than a row are cut (Ding et al. 2024)."""
    mask_documents: bool = True
    """Let a token attend only to tokens of its own document."""
    n_lanes: int = 4096
    """Number of places of an epoch that are read in turn, so that a batch mixes documents. 1: no
    mixing."""
    order_seed: int = 1
    """Seed of the order of documents. The order does not depend on tokenizer and packing."""
    subset_weights: tuple[tuple[str, float], ...] = added_later(())
    """Pairs of a subset's name and its weight: rows are drawn from the subsets in proportion to the
    weights. Default: no weights, each document once per epoch."""
    fingerprint: str | None = None
    """Hash of the training split's tokens. Default: taken from the data."""
    tokenizer_fingerprint: str | None = None
    """Hash of the tokenizer. Default: taken from the data."""

    def __post_init__(self) -> None:
        if not 2 <= self.seq_len < 2**24:
            raise ConfigError(f"data.seq_len must be in [2, 2^24), got {self.seq_len}")
        if not 1 <= self.n_lanes < 2**31:
            raise ConfigError(f"data.n_lanes must be in [1, 2^31), got {self.n_lanes}")
        if not 0 <= self.order_seed < 2**32:
            raise ConfigError(f"data.order_seed must be in [0, 2^32), got {self.order_seed}")
        names = [name for name, _ in self.subset_weights]
        if len(set(names)) < len(names) or any(weight <= 0 for _, weight in self.subset_weights):
            raise ConfigError(
                "data.subset_weights must name each subset once, with a weight above 0, got "
                f"{self.subset_weights!r}",
                fix="leave out subsets that are not trained on",
            )


DATA_CHANGES = (
    MetaChange(
        "Data",
        "none",
        "readers, verified shards, rows as a pure function of data, seed and step, inspection",
        "data/",
        {
            "data.packing": {
                "concat": "documents laid end to end",
                "best-fit": "only documents longer than a row are cut",
                "padded": "one document per row",
            }
        },
    ),
)
